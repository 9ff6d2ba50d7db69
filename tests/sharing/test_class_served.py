"""A class from `serve` to `stop`: the real supervisor and the real proxy, with a stand-in engine behind them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil
import pytest

import magistral_nb
from magistral_nb import cli, errors
from magistral_nb.processes import Process
from magistral_nb.serving import orphans, registry
from magistral_nb.sharing import key_ring, usage

pytestmark = pytest.mark.engine

CLASS = magistral_nb.Share(students=("ada", "ben"))


@pytest.fixture
def serve(fake_engine, checkpoint):
    def call(**options):
        return magistral_nb.serve(**({"model": str(checkpoint), "engine": fake_engine, "share": CLASS} | options))

    yield call
    for server in magistral_nb.servers():
        if server.is_ours:
            server.stop()


def until(found, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def report_of(server):
    """What its proxy says of itself, once it runs."""

    def told():
        report = usage.load(usage.path_of(registry.path_of(server.name)))
        return report if report is not None and report.proxy.is_alive() else None

    return until(told)


def student(server, name="ada"):
    ring = key_ring.load(key_ring.path_of(registry.path_of(server.name)))
    url = f"http://127.0.0.1:{report_of(server).port}/v1"
    return magistral_nb.connect(url, api_key=ring.keys[name], name=f"class-{name}")


def test_a_student_is_let_in_and_told_what_the_model_needs(serve):
    server = serve()
    endpoint = student(server).endpoint
    assert (endpoint.model, endpoint.context) == (server.model, 1234)
    assert endpoint.system_prompt == "Think first."
    assert endpoint.api_key != server.api_key


def test_a_proxy_that_was_killed_is_started_again_where_it_was(serve):
    server = serve()
    before = report_of(server)
    os.kill(before.proxy.pid, signal.SIGKILL)
    after = until(lambda: (now := report_of(server)).proxy != before.proxy and now)
    assert after.port == before.port
    until(lambda: server.state().proxy == after.proxy)
    assert student(server).model == server.model


def test_it_stays_while_the_engine_is_started_again(serve):
    server = serve(restart="on-failure")
    proxy, engine = report_of(server).proxy, server.state().engine
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: server.state().engine not in {None, engine} and server.status() == "ready")
    assert server.state().proxy == proxy
    assert proxy.is_alive()


def test_a_new_supervisor_takes_it_over(serve, capsys):
    server = serve()
    proxy = report_of(server).proxy
    until(lambda: server.state().proxy == proxy)
    os.kill(server.state().supervisor.pid, signal.SIGKILL)
    until(lambda: not server.state().supervisor.is_alive())
    assert cli.main(["status"]) == 0
    assert "has a new one: it goes on" in capsys.readouterr().out
    assert server.state().proxy == proxy
    assert proxy.is_alive()


@pytest.mark.parametrize("lost", [(), ("supervisor",), ("supervisor", "engine")])
def test_nothing_of_it_is_left_after_a_stop(serve, lost):
    server = serve()
    port, path = report_of(server).port, registry.path_of(server.name)
    state = until(lambda: (now := server.state()).proxy and now)
    for name in lost:
        os.kill(getattr(state, name).pid, signal.SIGKILL)
    server.stop()
    assert not orphans.groups(path)
    assert not state.proxy.is_alive()
    assert port not in {each.laddr.port for each in psutil.net_connections("tcp") if each.status == "LISTEN"}


def test_a_certificate_that_is_none_does_not_end_the_server(serve, tmp_path):
    (tmp_path / "none.pem").write_text("no certificate")
    share = magistral_nb.Share(students=("ada",), cert=str(tmp_path / "none.pem"))
    server = serve(share=share)
    until(lambda: "cannot be used" in server.logs())
    assert server.status() == "ready"


def test_the_command_shows_keys_only_when_asked(serve, capsys):
    server = serve()
    report_of(server)
    keys = key_ring.load(key_ring.path_of(registry.path_of(server.name))).keys
    assert cli.main(["share"]) == 0
    shown = capsys.readouterr().out
    assert "ada" in shown
    assert "Through a tunnel: ssh -N -L" in shown
    assert not any(key in shown for key in keys.values())
    assert cli.main(["share", "--keys"]) == 0
    assert keys["ada"] in capsys.readouterr().out
    assert cli.main(["share", "--revoke", "ada"]) == 0
    with pytest.raises(errors.Unauthorized):
        magistral_nb.connect(f"http://127.0.0.1:{report_of(server).port}/v1", api_key=keys["ada"], name="again")


def test_a_server_that_is_not_shared_says_how_to(serve):
    serve(share=None)
    assert cli.main(["share"]) == 1


def test_neither_key_is_in_any_command_line_or_log(serve):
    server = serve()
    report_of(server)
    keys = [server.api_key, *key_ring.load(key_ring.path_of(registry.path_of(server.name))).keys.values()]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            assert not any(key in " ".join(process.cmdline()) for key in keys)
    assert not any(key in server.logs(10_000) for key in keys)


def test_the_proxy_carries_the_mark_and_supervises_nothing(serve):
    server = serve()
    state = until(lambda: (now := server.state()).proxy and now)
    path = registry.path_of(server.name)
    assert orphans.supervisors(path) == [state.supervisor]
    assert {state.engine.pid, state.proxy.pid} <= orphans.groups(path)
    assert Process.of(state.proxy.pid) == state.proxy
