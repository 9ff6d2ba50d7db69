"""Whether anybody asks. Pure."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, strategies as st

from magistral_nb.serving.idling import Idleness, seconds_of, typed_of
from magistral_nb.serving.metrics import Metrics

QUIET = Metrics(
    when=0.0,
    running=0,
    waiting=0,
    kv_cache_share=0.0,
    generated_tokens=100,
    prompt_tokens=10,
    finished=3,
    preemptions=0,
)
CHANGES = st.sampled_from(
    [
        {},
        {},
        {},
        {"running": 1},
        {"waiting": 1},
        {"finished": 4},
        {"prompt_tokens": 11},
        {"generated_tokens": 101},
        None,
    ]
)


def test_time_runs_from_the_last_sign_of_a_question():
    idleness = Idleness(now=0.0)
    assert idleness.look(QUIET, 10.0) == 0.0, "what was asked before is not known"
    assert idleness.look(QUIET, 70.0) == 60.0
    assert idleness.look(dataclasses.replace(QUIET, running=1), 80.0) == 0.0
    assert idleness.look(QUIET, 90.0) == 10.0, "it was at work ten seconds ago, and has finished nothing since"


def test_a_question_that_came_and_went_between_two_looks_counts():
    idleness = Idleness(now=0.0)
    idleness.look(QUIET, 10.0)
    assert idleness.look(dataclasses.replace(QUIET, finished=4), 70.0) == 0.0
    assert idleness.look(dataclasses.replace(QUIET, finished=4), 75.0) == 5.0


def test_a_server_that_does_not_tell_is_never_idle():
    idleness = Idleness(now=0.0)
    assert [idleness.look(None, now) for now in (10.0, 10_000.0, 10_001.0)] == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(st.floats(0, 100), CHANGES), max_size=20))
def test_it_is_never_idle_for_longer_than_since_the_last_change(steps):
    now, busy, idleness, before = 0.0, 0.0, Idleness(now=0.0), None
    for passed, change in steps:
        now += passed
        metrics = None if change is None else dataclasses.replace(QUIET, **change)
        counts = None if metrics is None else (metrics.finished, metrics.prompt_tokens, metrics.generated_tokens)
        if metrics is None or metrics.running or metrics.waiting or counts != before:
            busy = now
        before = counts
        assert idleness.look(metrics, now) <= now - busy


@pytest.mark.parametrize("text", ["", "60", "m", "-5m", "0m", "5 weeks", "nan", "1e3s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is no duration, such as 60m"):
        seconds_of(text)


@given(st.integers(1, 10**7))
def test_what_is_typed_comes_back(seconds):
    assert seconds_of(typed_of(float(seconds))) == seconds
