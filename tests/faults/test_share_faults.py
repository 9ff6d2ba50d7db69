"""Faults of a server that a class shares: its proxy is one process more that must not be left.

Real supervisors and proxies; the engine is the talking stand-in. More of the proxy's own life: tests/sharing.
"""

from __future__ import annotations

import os
import signal

import pytest
from faults.harness import engine_of, is_listened_on, is_running, send, supervisor_of, until

import magistral_nb
from magistral_nb.serving import registry
from magistral_nb.sharing import usage

pytestmark = pytest.mark.engine


@pytest.fixture
def shared(serve, room):
    """Share a server; with it the proxy's process. In the end both are stopped, and nobody listens any more."""
    ports = []

    def call():
        server = serve(share=magistral_nb.Share(students=("ada", "ben")))
        report = until(lambda: usage.load(usage.path_of(registry.path_of("default"))), "the proxy has begun", 30)
        proxy = until(lambda: server.state().proxy, "its supervisor has written that down")
        room.note()
        assert is_listened_on(report.port)
        ports.append(report.port)
        return server, proxy

    yield call
    for server in magistral_nb.servers():
        server.stop()
    assert not any(map(is_listened_on, ports))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_system_ends_the_supervisor(shared, status, number):
    server, proxy = shared()
    send(number, supervisor_of(server))
    if number == signal.SIGKILL:
        assert "has a new one" in status()
        assert proxy.is_alive()
        assert server.state().proxy == proxy
    else:
        until(lambda: not proxy.is_alive(), "it has ended with its server")


@pytest.mark.long
def test_vllm_is_killed(shared):
    server, proxy = shared()
    send(signal.SIGKILL, engine_of(server))
    until(lambda: not proxy.is_alive(), "it has ended with its server")


def test_supervisor_and_vllm_are_killed(shared, status):
    server, proxy = shared()
    send(signal.SIGKILL, supervisor_of(server), engine_of(server))
    status()
    assert not proxy.is_alive()


@pytest.mark.long
def test_all_of_it_is_killed(shared, status):
    server, proxy = shared()
    send(signal.SIGKILL, supervisor_of(server), engine_of(server), proxy)
    status()
    assert not is_running(proxy.pid)


def test_it_hangs(shared, room):
    """Stopped, as by a debugger."""
    server, proxy = shared()
    os.kill(proxy.pid, signal.SIGSTOP)
    server.stop()
    assert room.ours() == set()
