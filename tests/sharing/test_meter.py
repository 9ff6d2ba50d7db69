"""What a stream counts, and what goes on of it, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from stand_in import content, delta, done, event, finish, reasoning, recut, role, usage

from magistral_nb.sharing.meter import Meter

STREAM = [
    role([1, 2, 3]),
    delta({}, token_ids=[34]),
    reasoning("Zwei + zwei — ", [5, 6]),
    reasoning("4?", [7]),
    content("4 €", [8, 9]),
    finish("stop"),
    usage(prompt=3, completion=7, reasoning=4),
    done(),
]


def fed(pieces, **wants):
    meter = Meter(**{"wants_ids": True, "wants_usage": True} | wants)
    return meter, b"".join(map(meter.feed, pieces))


@given(size=st.integers(1, 400))
def test_a_stream_goes_on_as_it_came_however_it_was_cut(size):
    meter, passed = fed(recut(STREAM, size))
    assert passed == b"".join(STREAM)
    assert (meter.prompt_tokens, meter.completion_tokens, meter.is_done) == (3, 7, True)


def test_tokens_are_counted_on_the_way():
    meter, seen = Meter(wants_ids=False, wants_usage=False), []
    for piece in STREAM:
        meter.feed(piece)
        seen.append(meter.completion_tokens)
    assert seen == [0, 1, 3, 4, 6, 6, 7, 7], "the counts at the end are exact: they know the token that ended it"


def test_what_was_not_asked_for_is_taken_out():
    _, passed = fed(STREAM, wants_ids=False, wants_usage=False)
    assert b"token_ids" not in passed
    assert b"usage" not in passed
    assert "Zwei + zwei — ".encode() in passed
    _, passed = fed(STREAM, wants_ids=False)
    assert b'"completion_tokens":7' in passed


def test_a_vllm_without_token_ids_is_counted_by_pieces():
    pieces = [role(), reasoning("one two"), reasoning("three"), content("four"), finish()]
    meter, _ = fed(pieces)
    assert meter.completion_tokens == 3
    assert not meter.is_done


def test_several_answers_are_counted_together():
    choices = [{"index": n, "text": "x", "token_ids": [1, 2]} for n in range(3)]
    meter, _ = fed([event({"choices": choices})])
    assert meter.completion_tokens == 6


@pytest.mark.parametrize("piece", [b": ping\n\n", b"data: {oh\n\n", b"data: 5\n\n", b"\n\n", b"event: x\n\n"])
def test_what_is_no_part_of_an_answer_stays_behind(piece):
    meter, passed = fed([piece])
    assert passed == b""
    assert meter.completion_tokens == 0


def test_what_the_server_says_of_a_request_goes_on_and_what_it_says_of_itself_does_not():
    piece = event({"error": {"message": "too long", "code": 400}})
    assert fed([piece, done()])[1] == piece + done()
    meter, passed = fed([event({"error": {"message": "out of memory", "code": 500}}), done()])
    assert (meter.has_failed, meter.is_done, passed) == (True, True, b"")
