"""A question that waits for its turn at a class's proxy, which says so in comments (a scripted server, no engine)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st
from stand_in import content, deltas, done, event, finish, reasoning, recut

from magistral_nb import errors
from magistral_nb.asking.draft import Draft
from magistral_nb.asking.endpoint import VLLM, Endpoint, Limits, Question
from magistral_nb.asking.events import Finished, Noted, Queued, Said, Thinking
from magistral_nb.asking.running import Running
from magistral_nb.asking.wire import Wire

GOOD = [reasoning("one", [1]), content("2", [2]), finish("stop"), done()]


def place(number, waiting=12):
    return f": magistral_nb queue {number} of {waiting}\n\n".encode()


def asked(stand_in, thinking_budget=None, **limits):
    endpoint = Endpoint(stand_in.url, "m", can=VLLM, limits=Limits(**limits))
    return Running(endpoint, Question(text="1+1?", thinking_budget=thinking_budget))


def read(data):
    wire = Wire()
    return [event for piece in data for event in wire.feed(piece)] + list(wire.close())


@given(st.lists(st.tuples(st.integers(1, 999_999), st.integers(1, 999_999))), st.integers(1, 40))
def test_the_places_are_read_wherever_the_bytes_are_cut(places, size):
    events = read(recut([*(place(*each) for each in places), *GOOD], size))
    assert [each for each in events if isinstance(each, Queued)] == [Queued(*each) for each in places]
    assert events[-1] == Finished("stop")


@pytest.mark.parametrize(
    "line",
    [
        ": keep-alive",
        ": magistral_nb queue",
        ": magistral_nb queue 0 of 3",
        ": magistral_nb queue -1 of 3",
        ": magistral_nb queue 3",
        ": magistral_nb queue 3 of 12 or so",
        f": magistral_nb queue {'9' * 5000} of 1",
        ": magistral_nb queue ٣ of ٤",
        "magistral_nb queue 3 of 12",
    ],
)
def test_other_comments_are_none(line):
    assert read([line.encode() + b"\n\n", *GOOD[1:]]) == [Said("2", 1), Finished("stop")]


def test_the_limit_for_the_first_token_does_not_run_out_in_the_queue(stand_in):
    stand_in.enqueue(deltas([*(place(9 - each) for each in range(8)), *GOOD], delay=0.1))
    result = asked(stand_in, first_token=0.7).follow([])  # all of them take longer, none of them alone
    assert (result.text, result.finish_reason, result.notes) == ("2", "stop", ())
    assert 0.7 < result.time_to_first_token <= result.seconds


def test_it_does_once_the_queue_is_silent(stand_in):
    stand_in.enqueue(deltas([place(2), place(1)], delay=0.05, ending="hang"))
    with pytest.raises(errors.Unreachable, match=r"no token within 0\.8 s"):
        asked(stand_in, first_token=0.8).follow([])


def test_an_error_while_it_waits_is_told_as_the_proxy_words_it(stand_in):
    refusal = event({"error": {"message": "Your key was revoked.", "type": "revoked"}})
    stand_in.enqueue(deltas([place(1), refusal, done()]))
    with pytest.raises(errors.Rejected, match="Your key was revoked"):
        asked(stand_in).follow([])


def test_stopping_leaves_the_queue_at_once(stand_in):
    stand_in.enqueue(deltas([place(3)], ending="hang"))
    running = asked(stand_in)
    while running.draft.progress.waits_for != "place 3 of 12":
        time.sleep(0.01)
    running.stop()
    assert running.outcome().finish_reason == "interrupted"
    assert stand_in.requests[0].disconnected.wait(2), "the proxy keeps the place for nobody"


def test_the_answer_may_have_to_wait_as_well_and_that_is_not_thinking(stand_in):
    """With a budget there are two requests, and the proxy lets others go first in between."""
    thought = deltas([reasoning("one", [1]), reasoning(" two", [2])], delay=0.05, ending="hang")
    stand_in.enqueue(thought, deltas([*[place(1)] * 6, content("2", [3]), finish("stop"), done()], delay=0.05))
    result = asked(stand_in, thinking_budget=1).follow([])
    assert (result.thinking, result.text, result.finish_reason) == ("one", "2", "budget")
    assert result.seconds - result.time_to_first_token < 0.3


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as the draft sees them."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_place_is_no_token(clock):
    draft = Draft("?", model="m", server="s")
    clock[0] += 5
    draft.add(Queued(2, 3))
    assert not draft.began
    assert (draft.progress.state, draft.progress.waits_for) == ("waiting", "place 2 of 3")
    clock[0] += 5
    draft.add(Thinking("one", 1))
    assert (draft.progress.state, draft.progress.waits_for) == ("thinking", "")
    clock[0] += 1
    draft.add(Said("2", 1))
    answer = draft.answer("stop")
    assert (answer.time_to_first_token, answer.seconds, answer.tokens_per_second) == (10, 11, 1)
    assert not answer.notes


@pytest.mark.parametrize("event", [Queued(2, 3), Noted("It starts again.", "the server starts again")])
def test_a_wait_between_tokens_slows_nothing_down(clock, event):
    draft = Draft("?", model="m", server="s")
    draft.add(Thinking("one", 1))
    clock[0] += 1
    draft.add(Thinking(" two", 1))
    draft.add(event)
    clock[0] += 60
    draft.add(event)
    clock[0] += 60
    assert (draft.progress.state, draft.progress.seconds, draft.progress.tokens_per_second) == ("waiting", 121, 2)
    draft.add(Said("2", 1))
    assert (draft.progress.state, draft.progress.tokens_per_second) == ("answering", 3)
    clock[0] += 1
    draft.add(Said("!", 1))
    answer = draft.answer("stop")
    assert (answer.time_to_first_token, answer.seconds, answer.tokens_per_second) == (0, 2, 1.5)
