"""A thinking budget, kept by the client: a scripted server (no engine; the real one: tests/engine)."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from stand_in import StandIn, answer, content, deltas, done, finish, reasoning, refuse, usage

import magistral_nb
from magistral_nb import errors
from magistral_nb.asking.endpoint import Abilities, Question
from magistral_nb.asking.running import Running

THOUGHT = [reasoning(word, [n]) for n, word in enumerate(("one", " two", " three", " four"), start=1)]
REST = [content("4", [9]), finish("stop"), usage(prompt=12, completion=3, reasoning=0), done()]


@pytest.fixture
def server(stand_in):
    return magistral_nb.connect(stand_in.url)


def closed(request):
    """The thought that a request continues from."""
    (chunk,) = request.json["messages"][-1]["content"]
    assert (chunk["type"], chunk["closed"]) == ("thinking", True)
    assert (request.json["continue_final_message"], request.json["add_generation_prompt"]) == (True, False)
    return chunk["thinking"]


@pytest.mark.parametrize(("budget", "thought"), [(1, "one"), (2, "one two"), (3, "one two three")])
def test_the_thought_is_cut_and_the_answer_follows(stand_in, server, budget, thought):
    stand_in.enqueue(deltas(THOUGHT, ending="hang"), deltas(REST))
    result = magistral_nb.reason("2+2?", thinking_budget=budget)
    assert (result.thinking, result.text, result.finish_reason) == (thought, "4", "budget")
    assert closed(stand_in.requests[1]) == thought
    assert stand_in.requests[0].disconnected.wait(2), "the first request goes on for nobody"
    assert (result.usage.thinking_tokens, result.usage.completion_tokens) == (budget, budget + 3)


def test_zero_skips_the_thinking(stand_in, server):
    stand_in.enqueue(deltas(REST))
    result = magistral_nb.reason("2+2?", thinking_budget=0)
    assert (result.thinking, result.text, result.finish_reason) == ("", "4", "budget")
    assert closed(stand_in.requests[0]) == ""
    assert len(stand_in.requests) == 1


@pytest.mark.parametrize("budget", [4, 5, 1000, None])
def test_a_budget_that_is_not_reached_changes_nothing(stand_in, server, budget):
    stand_in.enqueue(deltas([*THOUGHT, content("4", [9]), finish("stop"), usage(9, 6, 4), done()]))
    result = magistral_nb.reason("2+2?", thinking_budget=budget)
    assert (result.thinking, result.text, result.finish_reason) == ("one two three four", "4", "stop")
    assert (result.usage.thinking_tokens, result.usage.completion_tokens) == (4, 6)
    assert len(stand_in.requests) == 1


def test_a_piece_of_several_tokens_is_cut_inside(stand_in, server):
    stand_in.pages["/detokenize"] = answer({"prompt": "one two th\N{REPLACEMENT CHARACTER}"})
    stand_in.enqueue(deltas([THOUGHT[0], reasoning(" two three", [2, 3, 4, 5])], ending="hang"), deltas(REST))
    result = magistral_nb.reason("2+2?", thinking_budget=3)
    assert result.thinking == closed(stand_in.requests[1]) == "one two th"
    assert result.usage.thinking_tokens == 3


@pytest.mark.parametrize(("budget", "thought"), [(3, "one"), (1, "one"), (5, "one two three")])
def test_where_nobody_tells_the_text_of_tokens_whole_pieces_are_kept(stand_in, server, budget, thought):
    """As behind a class's proxy, which has no /detokenize."""
    pieces = [THOUGHT[0], reasoning(" two three", [2, 3, 4, 5]), reasoning(" four", [6])]
    stand_in.enqueue(deltas(pieces, ending="hang"), deltas(REST))
    endpoint = replace(server.endpoint, can=replace(server.endpoint.can, tokenize=False))
    result = Running(endpoint, Question(text="2+2?", thinking_budget=budget)).follow([])
    assert result.thinking == closed(stand_in.requests[1]) == thought
    assert result.usage.thinking_tokens == (5 if budget == 5 else 1)
    assert result.finish_reason == "budget"


def test_nor_where_the_helper_fails(stand_in, server):
    stand_in.pages["/detokenize"] = refuse(404, "Not Found")
    stand_in.enqueue(deltas([reasoning("one two", [1, 2])], ending="hang"), deltas(REST))
    result = magistral_nb.reason("2+2?", thinking_budget=1)
    assert (result.thinking, result.text, result.usage.thinking_tokens) == ("", "4", 0)


def test_max_tokens_hold_for_both_requests_together(stand_in, server):
    stand_in.enqueue(deltas(THOUGHT, ending="hang"), deltas(REST))
    magistral_nb.reason("2+2?", thinking_budget=2, max_tokens=100)
    assert [request.json["max_tokens"] for request in stand_in.requests] == [100, 98]


def test_what_the_context_does_not_leave_is_not_asked_for(stand_in, server):
    """40,960 less a few of prompt: with the thought taken off, the wish would still be too much by the marks."""
    stand_in.enqueue(deltas(THOUGHT, ending="hang"), deltas([content("4", [9]), finish("length"), done()]))
    answer = magistral_nb.reason("2+2?", thinking_budget=2, max_tokens=10**6)
    first, second = (request.json.get("max_tokens") for request in stand_in.requests)
    assert first < 40_960
    assert second is None, "the server takes what there is"
    assert answer.notes[0].startswith("Cut by the context")


def test_an_endpoint_that_is_no_vllm_refuses_clearly():
    with StandIn(owned_by="library") as ollama:
        magistral_nb.connect(ollama.url)
        with pytest.raises(errors.Rejected, match="cannot keep a thinking budget"):
            magistral_nb.reason("2+2?", thinking_budget=5)


def own_budget(endpoint, field="thinking_token_budget"):
    return replace(endpoint, can=replace(endpoint.can, continuation=False, budget_field=field))


@pytest.mark.parametrize(("thought", "reason"), [(2, "budget"), (1, "stop")])
def test_a_budget_that_the_endpoint_keeps_itself(stand_in, server, thought, reason):
    stand_in.enqueue(deltas([*THOUGHT[:thought], content("4"), finish("stop"), usage(9, thought + 1, thought), done()]))
    running = Running(own_budget(server.endpoint), Question(text="2+2?", thinking_budget=2))
    answer = running.follow([])
    assert stand_in.requests[0].json["thinking_token_budget"] == 2
    assert (answer.finish_reason, answer.text) == (reason, "4")


def test_the_context_s_cut_is_noted_there_too(stand_in, server):
    stand_in.enqueue(deltas([*THOUGHT[:1], finish("length"), done()]))
    answer = Running(own_budget(server.endpoint), Question(text="2+2?", thinking_budget=2)).follow([])
    assert answer.finish_reason == "length"
    assert answer.notes[0].startswith("Cut by the context")


def test_no_effort_is_a_budget_of_nothing(stand_in, server):
    endpoint = replace(server.endpoint, can=Abilities(), reasoning_effort="high")
    stand_in.enqueue(deltas(REST))
    assert Running(endpoint, Question(text="2+2?", thinking_budget=0)).follow([]).finish_reason == "budget"
    assert stand_in.requests[0].json["reasoning_effort"] == "none"


def test_a_server_that_does_not_count_refuses_clearly(stand_in, server):
    stand_in.enqueue(deltas([reasoning("one")], ending="hang"))
    with pytest.raises(errors.Rejected, match="does not count"):
        magistral_nb.reason("2+2?", thinking_budget=5)


def test_a_negative_budget():
    with pytest.raises(errors.InvalidOption, match="thinking_budget"):
        magistral_nb.reason("2+2?", thinking_budget=-1)


@pytest.mark.parametrize("before", [0, 2])
def test_answer_now_at_any_moment_of_the_thinking(stand_in, server, before):
    stand_in.enqueue(deltas(THOUGHT[:before], ending="hang"), deltas(REST))
    running = Running(server.endpoint, Question(text="2+2?"))
    stand_in.wait_for(1)
    time.sleep(0.1)
    began = time.monotonic()
    assert running.answer_now()
    result = running.follow([])
    assert time.monotonic() - began < 1
    assert (result.text, result.finish_reason) == ("4", "budget")
    assert result.thinking == closed(stand_in.requests[1]) == "one two"[: 7 * (before > 0)]
    assert not running.answer_now(), "it has answered"


def test_answer_now_once_it_answers_does_nothing(stand_in, server):
    stand_in.enqueue(deltas([*THOUGHT, content("4", [9]), content("2", [9]), finish("stop"), done()], delay=0.06))
    running = Running(server.endpoint, Question(text="2+2?"))
    refused = []

    class WhenItAnswers:
        def update(self, _events, progress):
            if progress.state == "answering":
                refused.append(running.answer_now())

        def close(self, _answer):
            pass

    result = running.follow([WhenItAnswers()])
    assert (result.text, result.finish_reason) == ("42", "stop")
    assert refused
    assert not any(refused)


def test_stop_during_the_second_request(stand_in, server):
    stand_in.enqueue(deltas(THOUGHT, ending="hang"), deltas([content("4", [9])], ending="hang"))
    running = Running(server.endpoint, Question(text="2+2?", thinking_budget=2))
    stand_in.wait_for(2)
    threading.Timer(0.1, running.stop).start()
    result = running.follow([])
    assert (result.thinking, result.text, result.finish_reason) == ("one two", "4", "interrupted")
    assert stand_in.requests[1].disconnected.wait(2)


def test_the_second_request_may_fail(stand_in, server):
    stand_in.enqueue(deltas(THOUGHT, ending="hang"), deltas([], ending="die"))
    result = magistral_nb.reason("2+2?", thinking_budget=2)
    assert (result.thinking, result.finish_reason) == ("one two", "error")
