"""Bytes to events, cut anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from stand_in import content, delta, done, event, finish, reasoning, recut, role, usage

from magistral_nb.asking.draft import Draft
from magistral_nb.asking.events import Finished, PromptCounted, Said, Thinking, UsageReported
from magistral_nb.asking.wire import Wire, error_text
from magistral_nb.errors import Rejected

STREAM = [
    role([1, 3, 99, 4]),
    reasoning("2 + 2 = ", [5, 6]),
    reasoning("4 é 思 🤔", [7]),
    content("The answer", [8, 9]),
    content(" is 4.", [10]),
    finish("stop"),
    usage(prompt=12, completion=7, reasoning=3),
    done(),
]
EVENTS = [
    PromptCounted(4),
    Thinking("2 + 2 = ", 2, (5, 6)),
    Thinking("4 é 思 🤔", 1, (7,)),
    Said("The answer", 2),
    Said(" is 4.", 1),
    Finished("stop"),
    UsageReported(12, 7, 3),
]
TAGGED = [content(text) for text in ("<th", "ink>\n1 < ", "2 思\n", "</", "think>\n", "Yes\n")]
TAGGED_EVENTS = [Thinking("1 < "), Thinking("2 思"), Said("Yes\n")]


def feed(*pieces: bytes, close=True):
    wire = Wire()
    events = [event for piece in pieces for event in wire.feed(piece)]
    return events + list(wire.close()) if close else events


def escaped(fields: bytes) -> bytes:
    return b'data: {"choices": [{"index": 0, "delta": {' + fields + b"}}]}\n\n"


def test_whole_stream():
    assert feed(*STREAM, close=False) == EVENTS
    assert feed(b"".join(STREAM)) == EVENTS


@pytest.mark.parametrize(("stream", "events"), [(STREAM, EVENTS), (TAGGED, TAGGED_EVENTS)])
def test_every_cut_in_two_gives_the_same_events(stream, events):
    whole = b"".join(stream)
    for at in range(len(whole)):
        assert feed(whole[:at], whole[at:]) == events


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_pieces_of_any_size_give_the_same_events(size):
    assert feed(*recut(STREAM, size)) == EVENTS


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_any_cut_gives_the_same_events(sizes):
    data, pieces = b"".join(STREAM), []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    assert feed(*pieces) == EVENTS


def test_carriage_returns_and_missing_blank_lines_change_nothing():
    whole = b"".join(STREAM)
    assert feed(whole.replace(b"\n", b"\r\n")) == EVENTS
    assert feed(*recut([whole.replace(b"\n", b"\r\n")], 1)) == EVENTS
    assert feed(whole.replace(b"\n\n", b"\n")) == EVENTS
    assert feed(whole.replace(b"data: ", b"data:")) == EVENTS


def test_the_end_mark_may_be_missing_and_so_may_the_last_newline():
    assert feed(*STREAM[:-1]) == EVENTS
    assert feed(b"".join(STREAM[:-1]).rstrip()) == EVENTS


def test_comments_unknown_fields_and_empty_choices_are_passed_over():
    pieces = [
        b": keep-alive\n\n",
        b"event: message\nid: 3\nretry: 100\n\n",
        event({"choices": [], "x": 1}),
        event({"choices": None}),
        event({"choices": [{"delta": None}]}),
        event({"choices": [{"index": 0}]}),
        event([]),
        delta({"role": "assistant", "content": None, "p": "abcdef", "refusal": None}),
        delta({"content": "", "reasoning": "", "reasoning_content": None}),
        delta({"content": 7}),
        b"data:\n\n",
        b"data: null\n\n",
    ]
    assert feed(*pieces) == []


def test_tool_calls_are_passed_over_and_their_tokens_are_no_text():
    call = {"tool_calls": [{"index": 0, "function": {"name": "add", "arguments": "{}"}}]}
    pieces = [reasoning("add", [5]), delta(call, token_ids=[9, 6, 7, 8]), finish("tool_calls")]
    assert feed(*pieces) == [Thinking("add", 1, (5,)), Finished("tool_calls")]


def test_older_field_is_read_and_both_fields_are_read_once():
    old = event({"choices": [{"delta": {"reasoning_content": "a"}}]})
    both = event({"choices": [{"delta": {"reasoning_content": "b", "reasoning": "b"}}]})
    assert feed(old, both) == [Thinking("a"), Thinking("b")]


def test_a_usage_only_chunk_and_running_usage():
    running = delta({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4})
    assert feed(running, usage(3, 2, 1)) == [Said("a"), UsageReported(3, 1, None), UsageReported(3, 2, 1)]


def test_two_choices_interleaved_are_decided_apart_and_a_draft_takes_the_first():
    def say(index, text, reason=None):
        return event({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]})

    events = feed(
        say(1, "<thi"),
        say(0, "<b>"),
        say(1, "nk>hm</think>"),
        say(0, "</think>", "length"),
        event({"choices": [{"index": i, "delta": {"content": "!"}, "finish_reason": "stop"} for i in (1, 0)]}),
    )
    assert [e for e in events if e.choice == 1] == [
        Thinking("hm", choice=1),
        Said("!", choice=1),
        Finished("stop", choice=1),
    ]
    assert "".join(e.text for e in events if isinstance(e, Said) and e.choice == 0) == "<b></think>!"
    draft = Draft("?", model="m", server="s")
    for each in events[:-2]:
        draft.add(each)
    answer = draft.answer()
    assert (answer.thinking, answer.text, answer.finish_reason) == ("", "<b></think>", "length")


def test_a_draft_takes_the_prompt_count_where_no_usage_comes():
    draft = Draft("?", model="m", server="s")
    draft.add(PromptCounted(4))
    assert draft.answer("interrupted").usage.prompt_tokens == 4
    draft.add(UsageReported(prompt_tokens=12))
    assert draft.answer("interrupted").usage.prompt_tokens == 12


def test_the_prompt_is_counted_once():
    assert feed(role([1, 2]), role([1, 2])) == [PromptCounted(2)]
    assert feed(role(None)) == []


def test_characters_escaped_in_halves_are_put_together():
    halves = [escaped(rb'"content": "a\ud83e"'), escaped(rb'"content": "\udd14b"')]
    assert feed(*halves) == [Said("a"), Said("🤔b")]
    thinking = [
        escaped(rb'"reasoning": "\ud83e"'),
        escaped(rb'"reasoning": "\udd14\ud83e"'),
        escaped(rb'"content": "x"'),
    ]
    assert feed(*thinking) == [Thinking("🤔"), Thinking("\ufffd"), Said("x")]
    assert feed(escaped(rb'"content": "a\udd14b\ud83e"')) == [Said("a\ufffdb"), Said("\ufffd")]


def test_bytes_that_are_no_utf_8_do_not_end_the_stream():
    assert feed(b'data: {"choices": [{"delta": {"content": "a\xffb"}}]}\n\n') == [Said("a\ufffdb")]


WHOLE = {
    "id": "x",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "reasoning": "2+2=4.", "content": "4", "tool_calls": []},
            "finish_reason": "stop",
            "token_ids": [34, 5, 6, 35, 7, 2],
        }
    ],
    "prompt_token_ids": [1, 3, 4],
    "usage": {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9, "completion_tokens_details": None},
}
WHOLE_EVENTS = [
    PromptCounted(3),
    Thinking("2+2=4.", 2, (5, 6)),
    Said("4", 2),
    Finished("stop"),
    UsageReported(3, 6, None),
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_reply_that_is_not_streamed(indent, end):
    body = json.dumps(WHOLE, indent=indent) + end
    assert feed(body.encode()) == WHOLE_EVENTS
    assert feed(*recut([body.replace("\n", "\r\n").encode()], 1)) == WHOLE_EVENTS


def test_a_whole_reply_as_an_event():
    assert feed(event(WHOLE), done()) == WHOLE_EVENTS


def test_a_whole_reply_with_marks_has_no_counts():
    """Nobody can tell where in its tokens the text marks are."""
    message = {"content": "<think>\n2+2\n</think>\n4"}
    choices = [{"message": message, "token_ids": [5, 6, 7, 8, 9], "finish_reason": "stop"}]
    assert feed(event({"choices": choices})) == [Thinking("2+2"), Said("4"), Finished("stop")]


def test_a_stream_cut_off_loses_nothing_that_was_whole():
    whole = b"".join(TAGGED)
    text = "".join(e.text for e in feed(whole[: whole.index(b'"</') + 3]))
    assert text == "1 < 2 思\n"
    assert "".join(e.text for e in feed(*TAGGED[:4])) == "1 < 2 思\n</"
    assert feed(TAGGED[0]) == [Said("<th")]
    assert feed(*TAGGED[:1], close=False) == []


def test_closing_twice_yields_nothing_more():
    wire = Wire()
    list(wire.feed(TAGGED[0]))
    assert list(wire.close()) == [Said("<th")]
    assert list(wire.close()) == []


def feed_until_rejected(*pieces: bytes, says: str):
    wire, events = Wire(), []
    with pytest.raises(Rejected, match=says):
        events.extend(each for piece in pieces for each in wire.feed(piece))
    assert list(wire.close()) == []
    return events


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "out of memory", "code": 500}},
        {"object": "error", "message": "out of memory", "code": 500},
        {"choices": [], "error": "out of memory"},
    ],
)
def test_error_in_mid_stream_is_raised_after_what_came_before(error):
    before, after = reasoning("so far"), content("never read")
    assert feed_until_rejected(before, event(error), after, says="out of memory") == [Thinking("so far")]
    assert feed_until_rejected(before + event(error) + after, says="out of memory") == [Thinking("so far")]
    assert feed_until_rejected(content("<thi") + event(error), says="out of memory") == [Said("<thi")]


def test_a_whole_reply_that_is_an_error():
    wire = Wire()
    assert list(wire.feed(b'{"error": {"message": "no such model"}}')) == []
    with pytest.raises(Rejected, match="no such model"):
        list(wire.close())


def test_what_is_no_json_is_rejected():
    with pytest.raises(Rejected, match="no JSON"):
        feed(b"data: <html>\n\n")


def test_a_page_instead_of_a_stream_says_nothing():
    assert feed(b"<html>\n<body>Bad gateway</body>\n</html>") == []
    assert feed(b'{"cut": ') == []


def test_a_long_line_fed_byte_by_byte_takes_linear_time():
    """Quadratic, this would take minutes."""
    text = "x" * 1_000_000
    wire, events = Wire(), []
    for byte in recut([content(text)], 1):
        events += wire.feed(byte)
    assert events == [Said(text)]


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


@pytest.mark.parametrize("body", [{"choices": [None]}, {"choices": 5}, {"choices": [{"delta": 7}]}, {"usage": 3}])
def test_json_of_no_known_shape_is_rejected(body):
    with pytest.raises(Rejected, match="no chat completion"):
        list(Wire().feed(b"data: " + json.dumps(body).encode() + b"\n\n"))
