"""Faults of the supervisor: killed, stopped and told to end at every moment of its life.

Real supervisors, which do all that is tested here; the engine is the talking stand-in. Real vLLM: test_vllm_faults.py.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from faults.harness import engine_of, is_running, kept_answers, send, supervisor_of, until

import magistral_nb
from magistral_nb import cli, errors
from magistral_nb.serving import boot, orphans, registry, tending
from magistral_nb.serving.download import Fetch
from magistral_nb.serving.wishes import Wishes

pytestmark = pytest.mark.engine


# Killed


def test_killed_while_ready_the_next_status_adopts_its_server(serve, status):
    server = serve()
    engine = engine_of(server)
    send(signal.SIGKILL, supervisor_of(server))
    assert "has a new one" in status()
    assert engine_of(server) == engine
    assert server.reason("count 5").text == "Done."
    assert "has a new one" not in status(), "once"


@pytest.mark.long
def test_killed_while_ready_the_next_serve_adopts_its_server(serve, engine, checkpoint, capsys):
    server = serve()
    before = engine_of(server)
    send(signal.SIGKILL, supervisor_of(server))
    assert cli.main(["serve", str(checkpoint), "--engine", engine]) == 0
    assert "Attached" in capsys.readouterr().out
    assert engine_of(server) == before


def test_killed_in_mid_stream_the_answer_arrives_whole(serve, room, status):
    server = serve()
    asking = room.ask(server, "count 100")
    send(signal.SIGKILL, supervisor_of(server))
    status()
    assert asking.over().answer.finish_reason == "stop"
    assert len(asking.answer.thinking.split()) == 100


def test_killed_while_booting_what_it_began_is_ended(serve, behave, status):
    behave("mute")
    server = serve(wait=False)
    engine = engine_of(server)
    send(signal.SIGKILL, supervisor_of(server))
    assert "has ended" in status()
    assert not is_running(engine.pid)
    assert "supervisor was killed during the boot" in server.state().error


def test_killed_while_downloading_the_download_is_ended(room, engine, checkpoint, monkeypatch, status):
    with socket.create_server(("127.0.0.1", 0)) as hub:  # which takes connections and says nothing
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        prepared = boot.prepare(Wishes(str(checkpoint)), engine=engine)
        server = boot.start(dataclasses.replace(prepared, downloads=(Fetch("mistral", "you/model"),)))
        download = engine_of(server)
        hub.settimeout(20)
        hub.accept()[0].close()
        room.note()
        send(signal.SIGKILL, supervisor_of(server))
        status()
        assert not is_running(download.pid)


def test_killed_while_stopping_the_stop_ends_the_rest(serve, behave):
    behave("slow")
    server = serve()
    victim, engine = supervisor_of(server), engine_of(server)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    time.sleep(0.5)
    assert is_running(engine.pid), "it takes its time"
    send(signal.SIGKILL, victim)
    stopping.join(20)
    assert not is_running(engine.pid)
    assert not magistral_nb.servers()


def test_killed_with_its_engine_what_the_engine_leaves_is_ended(serve, behave, status):
    behave("deaf")
    server = serve()
    (child,) = psutil.Process(engine_of(server).pid).children()
    send(signal.SIGKILL, supervisor_of(server), engine_of(server))
    assert is_running(child.pid), "it ignores SIGTERM, and nobody has sent one"
    assert "has ended" in status()
    assert not is_running(child.pid)


@pytest.mark.long
def test_killed_again_and_again_the_server_goes_on(serve, room, status):
    server = serve()
    engine = engine_of(server)
    asking = room.ask(server, "count 150")
    for _ in range(3):
        send(signal.SIGKILL, supervisor_of(server))
        status()
    assert engine_of(server) == engine
    assert asking.over().answer.finish_reason == "stop"


def test_killed_during_the_back_off_it_is_a_failed_boot(serve, status):
    server = serve(restart="on-failure")
    send(signal.SIGKILL, engine_of(server))
    until(lambda: server.state().restarts == 1, "it is about to start vLLM again")
    send(signal.SIGKILL, supervisor_of(server))
    status()
    assert server.status() == "failed"
    assert serve(restart="on-failure").reason("count 5").text == "Done."


# Stopped and hung up


def test_a_supervisor_that_is_stopped_holds_nobody_up(serve, status):
    server = serve()
    engine = engine_of(server)
    send(signal.SIGSTOP, supervisor_of(server))
    assert "ready" in status()
    assert server.reason("count 5").text == "Done."
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    assert not is_running(engine.pid)


def test_a_supervisor_that_does_not_listen_is_killed(serve, room, monkeypatch):
    """A stand-in for one that waits for a driver; it carries a supervisor's mark."""
    monkeypatch.setattr(tending, "_STOP_SECONDS", 1.0)
    server = serve()
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    marked = os.environ | {orphans.SUPERVISES: str(registry.path_of("default"))}
    with subprocess.Popen([sys.executable, "-c", code], env=marked, stdout=subprocess.PIPE) as deaf:
        deaf.stdout.readline()
        server.stop()
        assert deaf.wait(5) == -signal.SIGKILL


@pytest.mark.long
def test_a_supervisor_that_starts_too_slowly_leaves_no_engine(serve, room, monkeypatch):
    """As on a cold disk: here whoever waits does not see that it has begun."""
    monkeypatch.setattr(tending, "_SUPERVISOR_SECONDS", 2.0)
    monkeypatch.setattr(tending, "_is_owned_by", lambda *_: bool(room.note()) and False)
    with pytest.raises(errors.BootFailed, match="did not start"):
        serve()
    assert room._groups, "an engine was started"
    assert room.ours() == set()


def test_a_terminal_that_closes_does_not_end_it(serve):
    server = serve()
    send(signal.SIGHUP, supervisor_of(server))
    time.sleep(0.3)
    assert server.reason("count 5").text == "Done."


# Told to end by the system: a preemption


def test_a_preemption_ends_an_idle_server_with_a_reason(serve, status):
    server = serve()
    send(signal.SIGTERM, supervisor_of(server))
    until(lambda: server.status() == "ended", "it has ended")
    assert "a preemption, the end of a job, or a shutdown" in status()


def test_a_preemption_in_mid_stream_keeps_the_answer(serve, room):
    server = serve()
    asking = room.ask(server)
    send(signal.SIGTERM, supervisor_of(server))
    assert asking.over().answer.finish_reason == "error"
    assert asking.answer.thinking.startswith(" 0 1 2 3")
    assert kept_answers("count") == [asking.answer]
    until(lambda: server.status() == "ended", "it has ended")


@pytest.mark.parametrize(
    ("first", "restart"),
    [
        ("supervisor", "never"),
        ("engine", "on-failure"),
        pytest.param("supervisor", "on-failure", marks=pytest.mark.long),
        pytest.param("engine", "never", marks=pytest.mark.long),
    ],
)
def test_a_batch_system_ends_both_in_any_order(serve, room, first, restart):
    server = serve(restart=restart)
    asking = room.ask(server)
    both = [supervisor_of(server), engine_of(server)]
    send(signal.SIGTERM, *(both if first == "supervisor" else reversed(both)))
    asking.over()
    until(lambda: server.status() == "ended", "it has ended, and was not started again")
    assert "SIGTERM" in server.state().error


def test_a_preemption_during_a_boot_ends_it(serve, behave):
    behave("mute")
    server = serve(wait=False)
    engine_of(server)
    send(signal.SIGTERM, supervisor_of(server))
    with pytest.raises(errors.BootFailed, match="SIGTERM"):
        server.wait(20)


def test_a_preemption_during_the_back_off_ends_it(serve):
    server = serve(restart="on-failure")
    send(signal.SIGKILL, engine_of(server))
    until(lambda: server.state().restarts == 1, "it is about to start vLLM again")
    send(signal.SIGTERM, supervisor_of(server))
    until(lambda: server.status() == "ended", "it has ended")


# Adopted


def test_an_adopted_server_whose_engine_is_killed_has_failed(serve, room, status):
    server = serve()
    send(signal.SIGKILL, supervisor_of(server))
    status()
    asking = room.ask(server)
    send(signal.SIGKILL, engine_of(server))
    assert asking.over().answer.finish_reason == "error"
    until(lambda: registry.load("default").status == "failed", "its new supervisor has written that down")


@pytest.mark.long
def test_an_adopted_server_is_started_again_where_that_was_wished(serve, status):
    server = serve(restart="on-failure")
    send(signal.SIGKILL, supervisor_of(server))
    status()
    before = engine_of(server)
    send(signal.SIGKILL, before)
    server.wait(20)
    assert engine_of(server) != before
    assert server.reason("count 5").text == "Done."


@pytest.mark.long
def test_an_adopted_server_is_preempted(serve, room, status):
    server = serve()
    send(signal.SIGKILL, supervisor_of(server))
    status()
    asking = room.ask(server)
    send(signal.SIGTERM, supervisor_of(server))
    assert asking.over().answer.finish_reason == "error"
    until(lambda: server.status() == "ended", "it has ended")


# What has left its group


@pytest.mark.parametrize(
    "how",
    ["preemption", "both killed", *(pytest.param(how, marks=pytest.mark.long) for how in ("stop", "engine killed"))],
)
def test_a_child_that_has_left_the_group_is_ended_too(serve, behave, status, how):
    behave("leaver")
    server = serve()
    state = server.state()
    (left,) = orphans.groups(registry.path_of("default")) - {state.engine.pid}  # the first of a group of its own
    if how == "stop":
        server.stop()
    elif how == "preemption":
        send(signal.SIGTERM, state.supervisor)
    elif how == "engine killed":
        send(signal.SIGKILL, state.engine)
    else:
        send(signal.SIGKILL, state.supervisor, state.engine)
        status()
    until(lambda: not is_running(left), "it has ended")
