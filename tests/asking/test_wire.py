"""Bytes to events, cut anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from stand_in import content, delta, done, event, finish, reasoning, role, usage

from magistral_nb.asking.events import Finished, Said, Thinking, UsageReported
from magistral_nb.asking.wire import Wire, error_text
from magistral_nb.errors import Rejected

STREAM = [
    role(),
    reasoning("2 + 2 = ", [5, 6]),
    reasoning("4 é 思", [7]),
    content("The answer", [8, 9]),
    content(" is 4.", [10]),
    finish("stop"),
    usage(prompt=12, completion=7, reasoning=3),
    done(),
]
EVENTS = [
    Thinking("2 + 2 = ", 2),
    Thinking("4 é 思", 1),
    Said("The answer", 2),
    Said(" is 4.", 1),
    Finished("stop"),
    UsageReported(12, 7, 3),
]


def feed(*pieces: bytes):
    wire = Wire()
    return [event for piece in pieces for event in wire.feed(piece)]


def test_whole_stream():
    assert feed(*STREAM) == EVENTS


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_any_cut_gives_the_same_events(sizes):
    data, pieces = b"".join(STREAM), []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    assert feed(*pieces) == EVENTS


def test_older_field_is_read_and_both_fields_are_read_once():
    old = event({"choices": [{"delta": {"reasoning_content": "a"}}]})
    both = event({"choices": [{"delta": {"reasoning_content": "b", "reasoning": "b"}}]})
    assert feed(old, both) == [Thinking("a"), Thinking("b")]


def test_comments_unknown_fields_and_empty_choices_are_passed_over():
    pieces = [b": keep-alive\n\n", event({"choices": [], "x": 1}), event({"choices": [{"delta": None}]}), b"id: 3\n\n"]
    assert feed(*pieces) == []


def test_silent_tokens_are_counted_and_marks_are_not():
    """As vLLM 0.32 streams "[THINK]a→[/THINK]b": marks and the bytes of an arrow come without text."""
    empty = [delta({}, token_ids=[n]) for n in (34, 226, 134, 35, 2)]
    pieces = [empty[0], reasoning("a", [97]), empty[1], empty[2], reasoning("→", [146]), empty[3], content("b", [98])]
    assert feed(*pieces, empty[4]) == [Thinking("a", 1), Thinking("→", 3), Said("b", 1)]


def test_error_in_mid_stream_is_raised_after_what_came_before():
    wire = Wire()
    assert list(wire.feed(reasoning("so far"))) == [Thinking("so far")]
    with pytest.raises(Rejected, match="out of memory"):
        list(wire.feed(event({"error": {"message": "out of memory", "code": 500}})))


def test_what_is_no_json_is_rejected():
    with pytest.raises(Rejected, match="no JSON"):
        feed(b"data: <html>\n\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "a\nb"}}, "a b"),
        ({"message": "c"}, "c"),
        ({"detail": [{"loc": 1}]}, "[{'loc': 1}]"),
        ("plain", "plain"),
        ({"other": 1}, json.dumps({"other": 1})),
    ],
)
def test_error_text_takes_every_shape(body, said):
    assert error_text(body) == said
