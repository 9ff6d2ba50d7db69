"""Advice on a running server over time, with the planner's own plans (metrics made up; real ones: tests/engine)."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st
from machines import CARDS, GIB, MACHINES, gpus, machine, one
from planning import plan_on

from magistral_nb.errors import Unreachable
from magistral_nb.options import serve_options, split_raw, split_words
from magistral_nb.serving import watching
from magistral_nb.serving.metrics import Metrics
from magistral_nb.serving.registry import ServerState
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes

CALM = Metrics(
    when=0.0, running=2, waiting=0, kv_cache_share=0.1, generated_tokens=0, prompt_tokens=0, finished=0, preemptions=0
)
FULL = replace(CALM, running=20, waiting=5, kv_cache_share=0.92)
EIGHT = MACHINES["8 x H100 80"]


@pytest.fixture
def readings(monkeypatch):
    """What servers will tell; nothing answers where the list is empty."""
    monkeypatch.setattr(watching, "_APART", 0)
    monkeypatch.setattr(watching, "_seen", type(watching._seen)(watching._seen.default_factory))
    told = []

    def read(_endpoint):
        if not told:
            raise Unreachable("nothing there")
        return told.pop(0)

    monkeypatch.setattr(watching.metrics, "read", read)
    return told


@pytest.fixture
def served(monkeypatch, readings):
    """A ready server that was planned for a machine as a line says."""

    def start(line="2509", here=MACHINES["H100 80"], **state):
        words, raw = split_raw(split_words(line))
        wishes = Wishes.typed(serve_options("%magistral_serve").parse_args(words), raw)
        plan = plan_on(here, wishes.model, wishes)
        monkeypatch.setattr(watching.hardware, "detect", lambda: running_on(here, plan))
        own = {"name": "default", "status": "ready", "plan": plan, "api_key": "k", "log_path": "/tmp/x.log"}
        one_state = ServerState(**own | state)
        return SimpleNamespace(state=lambda: one_state, endpoint=None)

    return start


def running_on(here, plan):
    """The machine while the server holds its memory."""
    return replace(here, gpus=tuple(replace(g, free=GIB) if g.uuid in plan.devices else g for g in here.gpus))


def lines(advice, what=""):
    """What stands in brackets behind a remedy."""
    return re.findall(rf"{what} \((%magistral_serve [^)]+)\)", "\n".join(each.text for each in advice))


# When


def test_a_calm_server_needs_no_advice(served, readings):
    readings += [CALM, replace(CALM, when=0.5)]
    assert watching.advise(served()) == ()
    assert not readings, "a first look takes two readings"


def test_an_idle_one_is_read_once(served, readings):
    readings += [replace(CALM, running=0), CALM]
    assert watching.advise(served()) == ()
    assert len(readings) == 1


def test_a_preemption_between_two_looks_is_told(served, readings):
    server = served()
    readings += [CALM, replace(CALM, when=0.5), replace(CALM, when=30.0, preemptions=3)]
    assert watching.advise(server) == ()
    (told,) = watching.advise(server)
    assert told.id == "preemptions"


def test_what_lies_minutes_back_is_forgotten(served, readings):
    server = served()
    readings += [CALM, replace(CALM, when=0.5), replace(CALM, when=500.0, preemptions=3)]
    watching.advise(server)
    assert watching.advise(server) == ()


def test_a_server_without_metrics_or_still_booting_is_left_alone(served, readings):
    assert watching.advise(served()) == ()
    readings.append(FULL)
    assert watching.advise(served(status="booting")) == ()
    assert readings


# How many at once


@pytest.mark.parametrize(
    ("flags", "at_once"),
    [
        ("", 64),
        ("-- --max-num-seqs 18", 18),
        ("-- --max_num_seqs 18", 18),
        ("-- --max-num-seqs=18", 18),
        ("-- --max_num_seqs=9 --seed 3 --max-num-seqs 18", 18),
        ("-- --max-num-seqs many", None),
        ("-- --max-num-seqs", None),
        ("-- --max-num-batched-tokens 18", 64),
    ],
)
def test_as_many_run_at_once_as_vllm_reads_on_its_command_line(served, flags, at_once):
    assert watching._max_num_seqs(served(f"2509 {flags}").state().plan.argv) == at_once


def test_on_a_cpu_vllm_chooses_unless_it_is_told():
    here = MACHINES["no GPU"]
    assert watching._max_num_seqs(plan_on(here, "abacus").argv) is None
    assert watching._max_num_seqs(plan_on(here, "abacus", Wishes(engine_args=("--max-num-seqs", "4"))).argv) == 4


def test_who_followed_the_advice_is_advised_by_the_places_that_there_are_now(served, readings):
    readings += [FULL, replace(FULL, when=0.5)]
    line = lines(watching.advise(served()))[0]
    assert line == "%magistral_serve 2509 --replace -- --max-num-seqs 18"
    queue = replace(CALM, running=18, kv_cache_share=0.2)
    readings += [replace(queue, waiting=1), replace(queue, waiting=9, when=0.5)]
    (told,) = watching.advise(served(line.removeprefix("%magistral_serve"), created=2.0))
    assert told.text.startswith("The queue grew from 1 to 9 requests in 0.5 s: all 18 places are taken")
    assert lines([told]) == ["%magistral_serve 2509 --replace -- --max-num-seqs 36"]


# What to type


def test_a_line_keeps_name_port_and_price_and_all_that_was_wished_for(served, readings):
    readings += [FULL, FULL]
    state = {"name": "second", "wished_port": 8000, "terms": Terms(price_per_hour=2.5)}
    told = watching.advise(served("2509 --kv-cache auto -- --seed 3", **state))
    kept = "--name second --port 8000 --price-per-hour 2.5"
    assert lines(told) == [
        f"%magistral_serve 2509 --kv-cache auto {kept} --replace -- --seed 3 --max-num-seqs 18",
        f"%magistral_serve 2509 --kv-cache auto {kept} --context 20480 --replace -- --seed 3",
    ]


H100 = CARDS["H100 80"]
TAKEN = 30 * 10**9


@pytest.mark.parametrize(
    ("line", "here", "wished"),
    [
        ("2509", one("H100 80"), None),
        ("2509", one("H100 80", 2), 2),
        ("2509", machine(gpus(H100), gpus(CARDS["A100 80"], first=1)), None),
        ("2509", machine(gpus(H100), gpus(H100, held=TAKEN, first=1)), None),
        ("2509 --data-parallel 4", one("H100 80", 4), None),
        ("2509 --data-parallel 4", EIGHT, 2),
        ("2509 --data-parallel 2 --gpus 2", EIGHT, 4),
        ("2509 --gpus 4 --pipeline-parallel 2", EIGHT, 8),
        ("2509 --gpus 8", EIGHT, None),
        ("2509 --gpus 2 --ray", EIGHT, None),
        ("ministral-3b", machine(gpus(H100, 2, mig=True)), None),
    ],
)
def test_more_gpus_are_offered_where_the_machine_has_them_free(served, readings, line, here, wished):
    readings += [FULL, FULL]
    told = lines(watching.advise(served(line, here)), "more GPUs")
    assert len(told) == (wished is not None)
    assert all(f"--gpus {wished} " in each for each in told)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.integers(0, 8))
def test_a_line_with_more_gpus_plans_on_the_machine_that_it_was_made_for(count, copies, each, held):
    count = max(count, copies * each)
    free = max(0, count - max(held, 0))
    taken = gpus(H100, count - free, held=TAKEN, first=free) if free < count else ()
    here = machine(gpus(H100, free), taken) if free else machine(taken)
    plan = plan_on(here, "2509", Wishes(gpus=each, data_parallel=copies))
    state = ServerState(name="default", status="ready", plan=plan, api_key="k", log_path="x")
    capacity = watching._capacity(state, running_on(here, plan).gpus)
    for line in lines(watching.advice.advise([FULL], capacity), "more GPUs"):
        chosen = serve_options("%magistral_serve").parse_args(split_words(line)[1:])
        again = plan_on(here, "2509", Wishes.typed(chosen, ()))
        assert len(again.devices) == 2 * len(plan.devices)
