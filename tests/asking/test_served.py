"""What becomes of questions whose server goes down: the real supervisor, and a stand-in engine that dies on demand.

(The real vLLM: tests/engine/test_crashes.py.)
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

import magistral_nb
from magistral_nb import errors
from magistral_nb.asking.endpoint import Question
from magistral_nb.asking.events import Noted
from magistral_nb.asking.running import Running
from magistral_nb.asking.served import Served
from magistral_nb.serving import boot, hardware, supervisor

pytestmark = pytest.mark.engine

NOTE = "The server ended and is started again; the question is asked anew."
THOUGHT = "1 2 3 4 5 6 7 8 9 10 11 12"
ANSWER = "I counted to twelve."


class Recorder:
    """A view that keeps what it is shown, and calls somebody at the first event."""

    def __init__(self, when_it_begins=lambda: None):
        self.events, self.waited_for, self.closed = [], set(), None
        self._when_it_begins = when_it_begins

    def update(self, events, progress):
        if events and not self.events:
            self._when_it_begins()
        self.events += events
        if progress.waits_for:
            assert progress.state == "waiting"
            self.waited_for.add(progress.waits_for)

    def close(self, answer):
        self.closed = answer


@pytest.fixture
def behave(checkpoint):
    return (checkpoint / "behaviour").write_text


@pytest.fixture
def serve(fake_engine, checkpoint):
    def call(**options):
        return magistral_nb.serve(str(checkpoint), engine=fake_engine, **options)

    yield call
    for server in magistral_nb.servers():
        server.stop()


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU, without which no plan lets a server sleep."""
    real, card = boot.find_engine, hardware.Gpu("NVIDIA H100 80GB HBM3", 80 << 30, 80 << 30, (9, 0))
    monkeypatch.setattr(boot, "find_engine", lambda *a, **k: replace(real(*a, **k), build="cuda"))
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Hardware("Linux", "x86_64", 8, gpus=(card,)))


def kill(server):
    os.kill(server.state().engine.pid, signal.SIGKILL)


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Without a restart: the partial Answer, why, and how to go on


def test_a_crash_in_mid_stream_keeps_the_answer_and_tells_what_the_log_says(serve, behave):
    behave("once 3")
    serve()
    view = Recorder()
    answer = magistral_nb.reason("2+2?", views=[view])
    assert (answer.finish_reason, answer.thinking, answer.text) == ("error", "1 2 3", "")
    assert answer.error.startswith("Server 'default' has died: ")
    assert "made of cheese" in answer.error
    assert "To start it again: %magistral_serve " in answer.error
    assert "\n" not in answer.error
    assert view.closed == answer
    assert magistral_nb.recall(answer.id) == answer


def test_a_kill_in_mid_stream_is_told_within_three_seconds(serve):
    server = serve()
    killed = []

    def begun():
        kill(server)
        killed.append(time.monotonic())

    answer = magistral_nb.reason("2+2?", views=[Recorder(begun)])
    assert time.monotonic() - killed[0] < 3
    assert answer.finish_reason == "error"
    assert "was killed (SIGKILL)" in answer.error


def test_before_the_first_token_the_question_itself_fails_and_says_as_much(serve, behave):
    behave("always 0")
    serve()
    with pytest.raises(errors.ServerDied, match=r"made of cheese.* %magistral_serve ") as caught:
        magistral_nb.reason("2+2?")
    assert isinstance(caught.value.__cause__, errors.Unreachable)
    with pytest.raises(errors.ServerDied, match=r"made of cheese.* %magistral_serve "):
        magistral_nb.reason("and then?")


def test_a_preemption_is_told_as_one(serve):
    server = serve()
    answer = magistral_nb.reason(
        "2+2?", views=[Recorder(lambda: os.kill(server.state().supervisor.pid, signal.SIGTERM))]
    )
    assert answer.finish_reason == "error"
    assert answer.error.startswith("Server 'default' has ended: the system told it to end (SIGTERM)")
    assert "To start it again: %magistral_serve " in answer.error


def test_a_stop_by_somebody_is_told_as_one(serve):
    server = serve(restart="on-failure")
    answer = magistral_nb.reason("2+2?", views=[Recorder(lambda: threading.Thread(target=server.stop).start())])
    assert answer.finish_reason == "error"
    assert answer.error.startswith("Server 'default' was stopped, here or in another notebook.")
    assert "--restart on-failure" in answer.error, "as it was served"
    assert not answer.notes


def test_another_server_of_the_same_name_is_not_the_one_that_was_asked(serve, behave):
    behave("once 3")
    serve(restart="on-failure")
    view = Recorder(lambda: serve(context=512, replace=True))
    answer = magistral_nb.reason("2+2?", views=[view])
    assert answer.finish_reason == "error"
    assert "was stopped" in answer.error


def test_a_refusal_by_a_server_that_is_well_is_told_at_once(serve):
    server = serve(restart="on-failure")
    stranger = replace(server.endpoint, api_key="another")
    began = time.monotonic()
    with pytest.raises(errors.Unauthorized, match="refused the key"):
        Running(stranger, Question(text="2+2?"), keeper=Served.by(server)).follow([])
    assert time.monotonic() - began < 1


# With a restart


def test_a_crash_in_mid_stream_says_that_it_comes_back(serve, behave):
    behave("once 3")
    server = serve(restart="on-failure")
    answer = magistral_nb.reason("2+2?")
    assert (answer.finish_reason, answer.thinking) == ("error", "1 2 3")
    assert "made of cheese" in answer.error
    assert "is being started again: ask again then" in answer.error
    server.wait(20)
    assert magistral_nb.reason("2+2?").text == ANSWER


def test_a_question_without_a_token_is_asked_again_by_itself(serve, behave):
    behave("once 0")
    server = serve(restart="on-failure")
    first, view = server.state().engine, Recorder()
    answer = magistral_nb.reason("2+2?", views=[view])
    assert (answer.finish_reason, answer.thinking, answer.text) == ("stop", THOUGHT, ANSWER)
    assert answer.notes == (NOTE,)
    assert view.closed == answer
    assert view.waited_for == {"the server starts again"}
    assert answer.time_to_first_token > 1, "the restart is part of the wait"
    assert server.state().engine != first
    assert len(magistral_nb.history()) == 1
    assert magistral_nb.recall(answer.id) == answer


def test_awaited_samples_are_asked_again_too(serve, behave):
    behave("once 0")
    serve(restart="on-failure")
    answers = asyncio.run(magistral_nb.areason("2+2?", samples=4))
    assert [(answer.text, answer.notes) for answer in answers] == [(ANSWER, (NOTE,))] * 4


@pytest.mark.parametrize("budget", [0, 3, 100])
def test_with_a_budget_too(serve, behave, budget):
    behave("answer 0" if budget == 0 else "once 0")
    serve(restart="on-failure")
    answer = magistral_nb.reason("2+2?", thinking_budget=budget)
    assert answer.finish_reason == ("stop" if budget == 100 else "budget")
    assert (answer.thinking, answer.text) == (" ".join(THOUGHT.split()[:budget]), ANSWER)
    assert answer.notes == (NOTE,)


def test_between_thought_and_answer_the_thought_is_kept(serve, behave):
    behave("answer 0")
    serve(restart="on-failure")
    answer = magistral_nb.reason("2+2?", thinking_budget=3)
    assert (answer.finish_reason, answer.thinking, answer.text) == ("budget", "1 2 3", ANSWER)
    assert answer.notes == (NOTE,)
    assert answer.usage.thinking_tokens == 3
    assert answer.seconds < 1.5, "the restart alone takes longer, and is nobody's thinking"


def test_an_answer_that_has_begun_is_not_asked_again(serve, behave):
    behave("answer 1")
    serve(restart="on-failure")
    answer = magistral_nb.reason("2+2?", thinking_budget=3)
    assert (answer.finish_reason, answer.thinking, answer.text) == ("error", "1 2 3", "I counted")
    assert not answer.notes


def test_a_question_asked_during_the_restart_waits_for_it(serve):
    server = serve(restart="on-failure")
    kill(server)
    wait_for(lambda: server.status() == "booting")
    answer = magistral_nb.reason("2+2?")
    assert (answer.finish_reason, answer.text, answer.notes) == ("stop", ANSWER, (NOTE,))


def test_a_question_in_the_moment_after_the_death_waits_too(serve):
    server = serve(restart="on-failure")
    kill(server)
    assert magistral_nb.reason("2+2?").text == ANSWER


def test_a_question_asked_during_the_first_boot_is_refused(serve, behave):
    behave("mute")
    serve(restart="on-failure", wait=False)
    with pytest.raises(errors.ServerNotFound, match="still booting"):
        magistral_nb.reason("2+2?")


def test_a_question_that_ends_the_server_is_asked_anew_once_and_does_not_end_it_for_everybody(serve, behave):
    behave("always 0")
    server = serve(restart="on-failure")
    with pytest.raises(errors.ServerDied, match=r"made of cheese.* is being started again"):
        magistral_nb.reason("2+2?")
    (row,) = magistral_nb.history().to_dict("records")
    assert magistral_nb.recall(row["id"]).notes == (NOTE,)
    assert server.wait(20).state().restarts == 2 < supervisor.MOST_RESTARTS


def test_stopping_ends_the_wait_at_once(serve, behave):
    behave("once 0")
    serve(restart="on-failure")
    stopped = []

    class Impatient(Recorder):
        def update(self, events, progress):
            super().update(events, progress)
            if any(isinstance(event, Noted) for event in events):
                stopped.append(time.monotonic())
                raise KeyboardInterrupt

    with pytest.raises(errors.Interrupted) as caught:
        magistral_nb.reason("2+2?", views=[Impatient()])
    assert time.monotonic() - stopped[0] < 0.5
    assert caught.value.answer.finish_reason == "interrupted"


def test_cancelling_ends_the_wait_at_once(serve, behave):
    behave("once 0")
    server = serve(restart="on-failure")

    async def ask_and_cancel():
        task = asyncio.create_task(magistral_nb.areason("2+2?"))
        await asyncio.to_thread(wait_for, lambda: server.status() == "booting")
        await asyncio.sleep(0.2)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(ask_and_cancel()) < 0.3
    wait_for(lambda: "magistral_nb stream" not in [thread.name for thread in threading.enumerate()], 1)


@pytest.mark.usefixtures("gpu")
def test_a_server_that_can_sleep_comes_back_on_another_socket(serve, behave):
    behave("once 0")
    server = serve(restart="on-failure", sleepable=True)
    before = server.base_url
    assert before.startswith("unix:")
    answer = magistral_nb.reason("2+2?")
    assert (answer.text, answer.notes) == (ANSWER, (NOTE,))
    assert server.base_url != before


@pytest.mark.usefixtures("gpu")
def test_a_sleeping_server_is_woken_by_a_question(serve):
    server = serve(sleepable=True)
    server.sleep()
    assert server.status() == "sleeping"
    answer = magistral_nb.reason("2+2?")
    assert answer.text == ANSWER
    assert [note.startswith("The server slept; it took ") for note in answer.notes] == [True]
    assert server.status() == "ready"
