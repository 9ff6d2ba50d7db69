"""Faults of a server that can sleep: it listens on a Unix socket, whose file must go with it.

Real supervisors; the engine is the talking stand-in, and the GPU, without which no plan lets a server sleep, is
simulated.
"""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from faults.harness import engine_of, send, supervisor_of, until

from magistral_nb import paths
from magistral_nb.serving import boot, hardware

pytestmark = pytest.mark.engine


@pytest.fixture
def sleepable(serve, monkeypatch):
    """Serve one that can sleep."""
    real, card = boot.find_engine, hardware.Gpu("NVIDIA H100 80GB HBM3", 80 << 30, 80 << 30, (9, 0))
    monkeypatch.setattr(boot, "find_engine", lambda *a, **k: replace(real(*a, **k), build="cuda"))
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Hardware("Linux", "x86_64", 8, gpus=(card,)))
    return lambda **options: serve(sleepable=True, **options)


def sockets() -> list[str]:
    return sorted(path.name for path in paths.sockets().glob("*.sock"))  # state files may lie beside them


def test_stopped(sleepable):
    server = sleepable()
    assert [f"unix:{paths.sockets() / name}" for name in sockets()] == [server.base_url]
    server.stop()
    assert sockets() == []


def test_preempted_in_mid_stream(sleepable, room):
    server = sleepable()
    asking = room.ask(server)
    send(signal.SIGTERM, supervisor_of(server))
    assert asking.over().answer.finish_reason == "error"
    until(lambda: not sockets(), "its socket is gone")


def test_its_engine_is_killed_and_started_again_on_another_socket(sleepable, room):
    server = sleepable(restart="on-failure")
    before = sockets()
    send(signal.SIGKILL, engine_of(server))
    assert server.wait(20).reason("count 5").text == "Done."
    assert len(sockets()) == 1
    assert sockets() != before


@pytest.mark.parametrize(
    "then", ["stop", *(pytest.param(then, marks=pytest.mark.long) for then in ("status", "serve"))]
)
def test_supervisor_and_engine_are_killed(sleepable, status, then):
    server = sleepable()
    send(signal.SIGKILL, supervisor_of(server), engine_of(server))
    if then == "status":
        status()
        server.stop()
    elif then == "stop":
        server.stop()
    else:
        assert sleepable().reason("count 5").text == "Done."
        assert len(sockets()) == 1
        server.stop()
    assert sockets() == []


@pytest.mark.long
def test_its_supervisor_is_killed_and_it_is_adopted_and_stopped(sleepable, status):
    server = sleepable()
    send(signal.SIGKILL, supervisor_of(server))
    assert "has a new one" in status()
    assert server.reason("count 5").text == "Done."
    server.stop()
    assert sockets() == []


@pytest.mark.long
def test_its_socket_is_removed(sleepable, room):
    """By a clean-up of /tmp: it is up, and nobody reaches it; a stop ends it all the same."""
    server = sleepable()
    for name in sockets():
        (paths.sockets() / name).unlink()
    assert server.status() == "ready"
    server.stop()
    assert room.ours() == set()
