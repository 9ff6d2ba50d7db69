"""Questions to a server that sleeps, or falls asleep: a stand-in, see `sleeper` (no engine)."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from sleeper import Sleeper
from stand_in import Reply, answer, content, deltas, done, finish, reasoning, refuse, role

from magistral_nb import errors
from magistral_nb.asking import waking
from magistral_nb.asking.endpoint import VLLM, Endpoint, Question
from magistral_nb.asking.running import Running

GOOD = deltas([reasoning("one", [1]), reasoning(" two", [2]), content("2", [3]), finish("stop"), done()])


@pytest.fixture
def sleeper(tmp_path):
    with Sleeper(str(tmp_path / "vllm.sock")) as scripted:
        yield scripted


def asked(sleeper, **how):
    endpoint = Endpoint(sleeper.url, "m", can=replace(VLLM, sleeps=True))
    return Running(endpoint, Question(text="1+1?", **how))


def says_it_slept(result):
    return len(result.notes) == 1 and result.notes[0].startswith("The server slept; it took ")


def test_a_question_wakes_it(sleeper):
    sleeper.sleep()
    sleeper.enqueue(GOOD)
    result = asked(sleeper).follow([])
    assert (result.text, result.finish_reason, sleeper.woken) == ("2", "stop", 1)
    assert says_it_slept(result)


def test_of_one_that_is_awake_nothing_is_said(sleeper):
    sleeper.enqueue(GOOD)
    assert not asked(sleeper).follow([]).notes
    assert not sleeper.woken


def test_many_at_once_wake_it_once(sleeper):
    sleeper.sleep()
    sleeper.enqueue(*[GOOD] * 8)
    running = [asked(sleeper) for _ in range(8)]
    assert [each.follow([]).text for each in running] == ["2"] * 8
    assert sleeper.woken == 1
    assert any(says_it_slept(each.outcome()) for each in running)


def test_where_it_falls_asleep_before_the_question_comes_it_is_woken_all_the_same(sleeper, monkeypatch):
    monkeypatch.setattr(waking, "_LOOK_SECONDS", 0.2)
    sleeper.dozes = True
    sleeper.enqueue(GOOD)
    result = asked(sleeper).follow([])
    assert result.text == "2"
    assert says_it_slept(result)
    assert (sleeper.woken, len(sleeper.requests)) == (1, 1)


def test_where_it_falls_asleep_before_the_first_token_it_is_asked_anew(sleeper):
    sleeper.sleeps_with = role()
    sleeper.enqueue(deltas([role(), reasoning("one", [1])]), GOOD)
    result = asked(sleeper).follow([])
    assert (result.text, result.thinking, result.finish_reason) == ("2", "one two", "stop")
    assert says_it_slept(result)
    assert (sleeper.woken, len(sleeper.requests)) == (1, 2)


def test_where_it_falls_asleep_in_mid_stream_the_answer_is_kept_as_it_is(sleeper):
    sleeper.enqueue(deltas([reasoning("one", [1]), *[reasoning(" and", [2])] * 100, done()]))
    running = asked(sleeper)
    while not running.draft.began:
        time.sleep(0.01)
    sleeper.sleep()
    result = running.follow([])
    assert result.finish_reason == "error"
    assert result.thinking.startswith("one")
    assert "gave the question up" in result.error
    assert not sleeper.woken


def test_between_thought_and_answer_it_is_woken_too(sleeper):
    sleeper.sleeps_with = reasoning(" two", [2])
    sleeper.enqueue(GOOD, deltas([content("2", [3]), finish("stop"), done()]))
    result = asked(sleeper, thinking_budget=1).follow([])
    assert says_it_slept(result)
    assert (result.thinking, result.text, result.finish_reason) == ("one", "2", "budget")


def test_stopping_ends_the_wait_for_it_at_once(sleeper):
    sleeper.sleep()
    sleeper.wakes = Reply(mute=True)
    running = [asked(sleeper) for _ in range(2)]  # one wakes, the other waits for that
    time.sleep(0.3)
    began = time.monotonic()
    for each in running:
        each.stop()
    assert time.monotonic() - began < 0.5
    assert [each.outcome().finish_reason for each in running] == ["interrupted"] * 2
    assert "magistral_nb stream" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("reply", [refuse(500, "CUDA out of memory"), answer({"status": "sleeping", "tags": None})])
def test_one_that_does_not_wake_says_what_may_be_in_the_way(sleeper, reply):
    sleeper.sleep()
    sleeper.wakes = reply
    with pytest.raises(errors.Rejected, match="does not wake: is its GPU's memory free"):
        asked(sleeper).follow([])
    assert not sleeper.requests
