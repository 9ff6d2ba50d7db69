"""The real vLLM (CPU) in its default processes, killed and put to sleep in mid-stream. Minutes, most of them boots."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time

import psutil
import pytest
from scripted_model import write_scripted_model

from magistral_nb.asking.endpoint import VLLM, Endpoint, Question
from magistral_nb.asking.engine_api import EngineApi
from magistral_nb.asking.running import Running
from magistral_nb.asking.served import Served
from magistral_nb.serving import boot
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(600)]

NOTE = "The server ended and is started again; the question is asked anew."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose thought has no end; a budget gets an answer out of it."""
    script = "[THINK]Let me count: one two three four five six[/THINK]I counted for long."
    return str(write_scripted_model(tmp_path_factory.mktemp("counting"), script, loop_from=" one"))


@pytest.fixture
def prepared(model):
    """Its plan for one question at a time, so that a second one has no token yet, with an EngineCore of its own."""
    found = boot.prepare(Wishes(model, engine_args=("--max-num-seqs", "1")), Terms(restart="on-failure"))
    environment = {**dict(found.plan.environment), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    return dataclasses.replace(found, plan=dataclasses.replace(found.plan, environment=tuple(environment.items())))


def asked(server, thinking_budget=None):
    question = Question(text="Count.", thinking_budget=thinking_budget)
    return Running(server.endpoint, question, keeper=Served.by(server))


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def one_that_counts_and_one_that_waits(server):
    first = asked(server)
    until(lambda: first.draft.began)
    second = asked(server, thinking_budget=5)
    time.sleep(0.3)
    assert not second.draft.began
    return first, second


def test_killed_in_mid_stream_it_comes_back_and_answers_who_had_waited(prepared):
    server = boot.start(prepared)
    try:
        server.wait()
        for victim in ("the API server", "EngineCore"):
            first, second = one_that_counts_and_one_that_waits(server)
            api = psutil.Process(server.state().engine.pid)
            dying = api if victim == "the API server" else next(p for p in api.children() if "EngineCore" in p.name())
            dying.kill()
            began = time.monotonic()
            broken = first.follow([])
            assert time.monotonic() - began < 6, victim
            assert broken.finish_reason == "error"
            assert broken.thinking.startswith("Let me count: one two")
            assert "is being started again: ask again then" in broken.error
            answer = second.follow([])
            assert (answer.finish_reason, answer.text, answer.notes) == ("budget", "I counted for long.", (NOTE,))
            assert answer.usage.thinking_tokens == 5
        first, second = one_that_counts_and_one_that_waits(server)
        os.kill(server.state().supervisor.pid, signal.SIGTERM)
        preempted = first.follow([])
        assert preempted.thinking.startswith("Let me count: one two")
        assert preempted.error.startswith("Server 'default' has ended: the system told it to end (SIGTERM)")
    finally:
        server.stop()


def test_asleep_it_is_woken_and_what_it_gave_up_is_asked_anew(prepared, tmp_path):
    """A CPU has no memory to give back, but /sleep, /wake_up and what they do to questions are the real ones."""
    path = tmp_path / "vllm.sock"
    environment = os.environ | dict(prepared.plan.environment)
    environment |= {"VLLM_API_KEY": "k", "VLLM_SERVER_DEV_MODE": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*prepared.plan.argv, "--uds", str(path)], stdout=log, stderr=log, env=environment)
    endpoint = Endpoint(f"unix:{path}", prepared.plan.model, api_key="k", can=dataclasses.replace(VLLM, sleeps=True))
    api = EngineApi(endpoint.base_url, "k")
    try:
        until(api.is_healthy, 180)
        assert api.sleep()
        assert api.is_sleeping()
        first = Running(endpoint, Question(text="Count."))
        until(lambda: first.draft.began)
        assert not api.is_sleeping()
        second = Running(endpoint, Question(text="Count.", thinking_budget=5))
        time.sleep(0.3)
        assert not second.draft.began
        assert api.sleep()
        broken = first.follow([])
        assert broken.finish_reason == "error"
        assert broken.thinking.startswith("Let me count: one two")
        assert "gave the question up" in broken.error
        answer = second.follow([])
        assert (answer.finish_reason, answer.text) == ("budget", "I counted for long.")
        assert answer.notes[0].startswith("The server slept; it took ")
        assert [note[:17] for note in first.outcome().notes] == ["The server slept;"]
    finally:
        process.terminate()
        process.wait(60)
