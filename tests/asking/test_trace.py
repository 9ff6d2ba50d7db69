"""Thinking told from answer: every format, cut anywhere, and every token counted once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from stand_in import content, delta, event, finish, reasoning

from magistral_nb.asking.events import Finished, Said, Thinking
from magistral_nb.asking.trace import MARKS, Trace
from magistral_nb.asking.wire import Wire

HERE = Path(__file__).parent
# Cases of other projects' parsers; each names its source and its licence (MIT or Apache-2.0).
CASES = json.loads((HERE / "parser_cases.json").read_text(encoding="utf-8"))
# What vLLM 0.32 streamed with return_token_ids, as [field, text, token ids], and what it counted itself.
RECORDED = json.loads((HERE / "recorded_streams.json").read_text(encoding="utf-8"))


def read(pieces, **how):
    wire = Wire(**how)
    return [event for piece in pieces for event in wire.feed(piece)] + list(wire.close())


def joined(events):
    """The whole thinking and the whole answer."""
    return tuple("".join(e.text for e in events if isinstance(e, kind)) for kind in (Thinking, Said))


def stream(texts):
    return [content(text) for text in texts]


def pieces_of(text: str, sizes):
    """Cut a text into pieces of these sizes, again and again."""
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    return pieces


# Cases of others


def how_to_read(case):
    marks = MARKS
    if "tags" in case:
        marks = (tuple(case["tags"]),)
    if case.get("parser_off"):
        marks = ()
    return {"begins": "thinking" if case.get("starts_in") == "thinking" else "anyhow", "marks": marks}


def expected(case):
    """Thinking and answer; raw tool calls and JSON fences, which other rooms parse, stay in the answer."""
    thinking, answer = case["reasoning"] or "", case["content"] or ""
    if "tool_calls" in case:
        raw = "".join(case["chunks"]).rpartition("[/THINK]")[2]
        assert raw.startswith(answer)
        answer = raw
    if "response_format" in case:
        answer = f"```json\n{answer}\n```"
    return thinking, answer


def same(case, events):
    thinking, answer = joined(events)
    if case["whitespace"] == "exact":
        return (thinking, answer) == expected(case)
    # Some parsers trim more white space than the newlines that belong to the marks.
    return [thinking.strip(), answer.strip()] == [part.strip() for part in expected(case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case_of_another_parser(case):
    how = how_to_read(case)
    if not case["format"].startswith("mistral_api"):
        text = "".join(case["chunks"])
        streams = [stream(case["chunks"]), stream([text]), stream(text)]
        streams += [stream(pieces_of(text, [size])) for size in (2, 3, 5)]
        streams.append([event({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})])
    else:
        streams = [[event(chunk) for chunk in case["chunks"]]]
    for each in streams:
        assert same(case, read(each, **how))
        assert same(case, read([bytes([byte]) for byte in b"".join(each)], **how))


def test_all_81_cases_are_here_with_source_and_licence():
    assert len(CASES) == 81
    assert {case["source"]["licence"] for case in CASES} == {"MIT", "Apache-2.0"}


# Formats


def thinking_chunk(thinking, **more):
    return {"type": "thinking", "thinking": thinking, **more}


FORMATS = {
    "reasoning": [reasoning("a<b>"), reasoning("\n思"), content("Yes"), content("!\n")],
    "reasoning_content": [
        delta({"reasoning_content": "a<b>\n"}),
        delta({"reasoning_content": "思"}),
        content("Yes!\n"),
    ],
    "both fields": [delta({"reasoning_content": "a<b>\n思", "reasoning": "a<b>\n思"}), content("Yes!\n")],
    "Mistral's lists": [
        delta({"content": [thinking_chunk([{"type": "text", "text": "a<b>"}])], "p": "abc"}),
        delta({"content": [thinking_chunk([{"type": "text", "text": "\n"}, {"type": "reference", "ids": [1]}])]}),
        delta(
            {
                "content": [
                    thinking_chunk([{"type": "text", "text": "思"}], closed=True, signature="x"),
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "Ye"},
                ]
            }
        ),
        content("s!\n"),
    ],
    "lists with strings": [delta({"content": [thinking_chunk("a<b>\n思", closed=True), "Ye"]}), content("s!\n")],
    "<think>": stream(["<think>\n", "a<b>\n", "思\n</thi", "nk>", "\n\nYes", "!\n"]),
    "[THINK]": stream([" \n", "[THI", "NK]a<b>\n思[/TH", "INK]Yes!\n"]),
    "a field with its newlines": [reasoning("\na<b>\n思"), reasoning("\n"), content("\n"), content("\nYes!\n")],
    "thinking and answer in one chunk": [delta({"reasoning": "a<b>\n思", "content": "Yes!\n"})],
    "white space before the field": [content("\n"), reasoning("a<b>\n思"), content("Yes!\n")],
}


@pytest.mark.parametrize("pieces", FORMATS.values(), ids=FORMATS)
def test_every_format_says_the_same(pieces):
    assert joined(read([*pieces, finish()])) == ("a<b>\n思", "Yes!\n")
    assert joined(read([bytes([byte]) for byte in b"".join(pieces)])) == ("a<b>\n思", "Yes!\n")


@pytest.mark.parametrize("pieces", FORMATS.values(), ids=FORMATS)
def test_every_prefix_of_the_bytes_gives_a_prefix_of_the_trace(pieces):
    whole = b"".join(pieces)
    for at in range(len(whole)):
        wire = Wire()
        thinking, answer = joined(list(wire.feed(whole[:at])))
        assert "a<b>\n思".startswith(thinking)
        assert "Yes!\n".startswith(answer) if thinking else not answer
        wire.feed(whole[at:])


# Decided once


@pytest.mark.parametrize(
    ("texts", "thinking", "answer"),
    [
        (["Yes <think>no</think>"], "", "Yes <think>no</think>"),
        (["Yes", "<think>"], "", "Yes<think>"),
        (["Yes[/THINK]no"], "", "Yes[/THINK]no"),
        (["[/THINK]\nYes"], "", "Yes"),
        (["<think>a</think>b</think><think>c</think>"], "a", "b</think><think>c</think>"),
        (["<think>a[/THINK]b</think>c"], "a[/THINK]b", "c"),
        (["[THINK]a</think>b[/THINK]c"], "a</think>b", "c"),
        (["<think><think>a</think>b"], "<think>a", "b"),
        (["<thinking>a"], "", "<thinking>a"),
        (["<<think>a</think>"], "", "<<think>a</think>"),
        (["<think></think>"], "", ""),
        (["  \n"], "", "  \n"),
        (["\xa0<think>a<</think>b"], "a<", "b"),
    ],
)
def test_marks_count_only_at_the_start(texts, thinking, answer):
    assert joined(read(stream(texts))) == (thinking, answer)
    assert joined(read(stream("".join(texts)))) == (thinking, answer)


def test_marks_behind_a_field_are_text():
    marked = "<think>b</think>c[/THINK]"
    assert joined(read([reasoning("a"), content(marked)])) == ("a", marked)
    assert joined(read([reasoning("</think>a"), content("b")])) == ("</think>a", "b")
    assert joined(read([content("<thi"), reasoning("a"), content("nk>")])) == ("a", "<think>")


def test_a_trace_that_comes_as_text_and_in_a_field_is_shown_once():
    """As llama.cpp with --reasoning-format deepseek-legacy, should it send the text first."""
    pieces = [content("<think>a"), delta({"reasoning_content": "a"}), content("b</think>c")]
    assert joined(read([*pieces, delta({"reasoning_content": "b"})])) == ("ab", "c")


def test_thinking_may_come_again():
    pieces = [reasoning("a\n"), content("\nb"), reasoning("\nc"), content("d\n")]
    assert joined(read(pieces)) == ("ac", "bd\n")


def test_a_stream_may_begin_in_the_thought_or_behind_it():
    assert joined(read(stream("a</think>b"), begins="thinking")) == ("a", "b")
    assert joined(read(stream("<think>a[/THINK]b"), begins="thinking")) == ("a[/THINK]b", "")
    assert joined(read(stream(" a"), begins="thinking")) == (" a", "")
    assert joined(read(stream("\n\n<think>b\n"), begins="answer")) == ("", "<think>b\n")


def test_an_end_inside_the_thought_or_a_mark_keeps_what_there_is():
    for held in ("\n", "\n\n</thi", "<", "\n</think"):
        for end in ([finish("length")], []):
            events = read(stream(["<think>\na", *held]) + end)
            assert joined(events) == ("a" + held, "")
            assert events[len(events) - len(end) :] == [Finished("length")] * len(end)
    assert joined(read([reasoning("a\n"), finish("length")])) == ("a\n", "")


def test_no_more_is_held_back_than_could_be_a_mark():
    trace = Trace()
    assert joined(trace.add("", "<think>abc</t", None)) == ("abc", "")
    assert joined(trace.add("", "o<", None)) == ("</to", "")
    assert joined(trace.add("", " b", None)) == ("< b", "")
    assert joined(Trace().add("", " \n<thin", None)) == ("", "")
    assert joined(Trace().add("", " \n<thim", None)) == ("", " \n<thim")


# Properties

PARTS = ("<think>", "</think>", "[THINK]", "[/THINK]", "<th", "ink>", "[/TH", "INK]", "<", "\n", " ", "a", "é", "🤔")
MARKED = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)
SPLIT = re.compile(r"\s*(?:(<think>|\[THINK\])|</think>|\[/THINK\])")


def told_apart(text: str):
    """The same decision on a whole text, in one go."""
    start = SPLIT.match(text)
    if start is None:
        return "", text
    rest = text[start.end() :]
    if not start[1]:
        return "", rest.lstrip("\n")
    thinking, closed, answer = rest.partition(dict(MARKS)[start[1]])
    thinking = thinking.lstrip("\n")
    return (thinking.rstrip("\n") if closed else thinking), answer.lstrip("\n")


@given(MARKED, SIZES)
def test_any_text_is_told_apart_however_it_is_cut(text, sizes):
    trace, thinking, answer = Trace(), "", ""
    whole = told_apart(text)
    for piece in pieces_of(text, sizes):
        more = joined(trace.add("", piece, None))
        thinking, answer = thinking + more[0], answer + more[1]
        assert whole[0].startswith(thinking)
        assert whole[1].startswith(answer)
    more = joined(trace.end())
    assert (thinking + more[0], answer + more[1]) == whole


@given(st.text(min_size=1), MARKED, SIZES)
def test_plain_text_comes_out_as_it_went_in(text, marked, sizes):
    plain = "." + text + marked
    assert joined(read(stream(pieces_of(plain, sizes)))) == ("", plain)


@given(st.text(alphabet="ab<[/ \né思🤔"), st.text(alphabet="ab</] \n🤔"), SIZES, st.sampled_from([*MARKS, None]))
def test_no_mark_stays_in_either_part(thought, said, sizes, marks):
    if marks is None:
        pieces = [reasoning(p) for p in pieces_of(thought, sizes)] + stream(pieces_of(said, sizes))
    else:
        pieces = stream(pieces_of(f"{marks[0]}{thought}{marks[1]}{said}", sizes))
    thinking, answer = joined(read(pieces))
    if marks is None and not thought:
        assert (thinking, answer) == told_apart(said)
        return
    closed = marks is not None or said
    assert thinking == (thought.strip("\n") if closed else thought.lstrip("\n"))
    assert answer == said.lstrip("\n")


@given(MARKED, SIZES, st.booleans())
def test_every_token_is_counted_once_in_text_mode(text, sizes, marked):
    """One token a chunk: those of the thought are exactly the ones that begin in it."""
    text = "<think>" + text if marked else "." + text
    pieces = pieces_of(text, sizes)
    trace, events = Trace(), []
    for i, piece in enumerate(pieces):
        events += trace.add("", piece, [100 + i])
    events += trace.end("length")
    end = text.find("</think>") if marked else 0
    end = len(text) if end < 0 else end
    starts = [sum(map(len, pieces[:i])) for i in range(len(pieces))]
    in_thought = tuple(100 + i for i, at in enumerate(starts) if len("<think>") <= at < end)
    assert sum((e.ids for e in events if isinstance(e, Thinking)), ()) == in_thought
    assert all(e.tokens == len(e.ids) for e in events if isinstance(e, Thinking))


TOKENS = st.lists(
    st.tuples(st.integers(100, 120), st.sampled_from(["", " ", "\n", "a", "b.", "思", "🤔\n"])), max_size=12
)


@given(TOKENS, TOKENS, SIZES)
def test_every_token_is_counted_once_in_field_mode(thought, said, sizes):
    """As vLLM streams: any number of tokens a chunk, white space at the end of the thinking held back."""
    tokens = [
        (34, "", "mark"),
        *((*t, "reasoning") for t in thought),
        (35, "", "mark"),
        *((*t, "content") for t in said),
    ]
    trace, events, held = Trace(), [], ""
    for group in pieces_of(tokens, sizes):
        thinking = held + "".join(text for _, text, kind in group if kind == "reasoning")
        held = thinking[len(thinking.rstrip()) :]
        text = "".join(text for _, text, kind in group if kind == "content")
        events += trace.add(thinking.rstrip(), text, [token for token, *_ in group])
    events += trace.end("length")
    counted = sum((e.ids for e in events if isinstance(e, Thinking)), ())
    if any(text.strip() for _, text in thought):
        assert counted == tuple(token for token, _ in thought)
        if any(text.strip("\n") for _, text in said) and said[-1][1].strip("\n"):
            assert sum(e.tokens for e in events if isinstance(e, Said)) == len(said)


# Counting


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"])
def test_what_vllm_streamed_is_counted_as_vllm_counts(recorded):
    pieces = [delta({field: text} if text else {}, token_ids=ids) for field, text, ids in recorded["chunks"]]
    events = read([*pieces, finish(recorded["finish_reason"])])
    counted = sum(e.tokens for e in events if isinstance(e, Thinking))
    expected = recorded["reasoning_tokens"]
    if recorded["name"] == "a token for each byte":
        assert (counted, expected) == (10, 5), "vLLM 0.32 counts a character of several tokens once"
    elif recorded["name"] == "text marks, split by the server":
        assert (counted, expected) == (12, 11), "the mark shares a chunk with the thought"
    elif expected is not None:
        assert counted == expected
    else:
        assert counted == 11, "as with a parser"


def test_silent_tokens_are_counted_and_marks_are_not():
    """As vLLM 0.32 streams "[THINK]a→[/THINK]b": marks and the bytes of an arrow come without text."""
    empty = [delta({}, token_ids=[n]) for n in (34, 226, 134, 35, 2)]
    pieces = [empty[0], reasoning("a", [97]), empty[1], empty[2], reasoning("→", [146]), empty[3], content("b", [98])]
    assert read([*pieces, empty[4], finish()]) == [
        Thinking("a", 1, (97,)),
        Thinking("→", 3, (226, 134, 146)),
        Said("b", 1),
        Finished("stop"),
    ]


def test_marks_of_another_vocabulary_are_learnt_from_what_is_silent():
    empty = [delta({}, token_ids=[n]) for n in (700, 5, 701, 6)]
    pieces = [empty[0], reasoning("a", [1]), empty[1], empty[2], empty[3], content("é", [7])]
    assert read(pieces) == [Thinking("a", 1, (1,)), Thinking("", 1, (5,)), Said("é", 2)]


def test_marks_in_chunks_of_several_tokens():
    one = [delta({"reasoning": "ab", "content": "cd"}, token_ids=[34, 1, 2, 35, 3, 4, 5])]
    assert read(one) == [Thinking("ab", 2, (1, 2)), Said("cd", 3)]
    two = [reasoning("ab", [34, 1, 2, 35, 3]), content("é", [4])]
    assert read(two) == [Thinking("ab", 2, (1, 2)), Said("é", 2)]
    three = [reasoning("ab", [34, 1]), content("c", [2, 35, 3])]
    assert read(three) == [Thinking("ab", 1, (1,)), Thinking("", 1, (2,)), Said("c", 1)]


def test_an_empty_thought_has_no_tokens():
    pieces = [delta({}, token_ids=[34]), delta({}, token_ids=[35]), content("b", [1])]
    assert read(pieces) == [Said("b", 1)]


@pytest.mark.parametrize(
    ("silent", "reason", "counted"),
    [([5, 6], "length", 3), ([5, 2], "stop", 2), ([5, 35, 9], "length", 2), ([5, 6], None, 3)],
)
def test_tokens_without_text_at_the_end_of_a_thought(silent, reason, counted):
    pieces = [delta({}, token_ids=[34]), reasoning("a", [1]), *(delta({}, token_ids=[n]) for n in silent)]
    events = read(pieces + ([] if reason is None else [finish(reason)]))
    assert sum(e.tokens for e in events if isinstance(e, Thinking)) == counted


def test_a_chunk_of_several_tokens_that_begins_inside_a_mark_counts_behind_it():
    pieces = [content("<think>\nLet", [1, 2, 3, 4]), content(" me\n</think>\nYes", [5, 6, 7, 8]), content("!", [9])]
    assert read(pieces) == [
        Thinking("Let", 4, (1, 2, 3, 4)),
        Thinking(" me", 4, (5, 6, 7, 8)),
        Said("Yes", 0),
        Said("!", 1),
    ]


def test_without_ids_there_is_no_count():
    for pieces in FORMATS.values():
        events = read(pieces)
        assert {(e.tokens, getattr(e, "ids", ())) for e in events} == {(None, ())}
