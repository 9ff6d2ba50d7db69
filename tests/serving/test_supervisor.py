"""What a supervisor does besides its engine, in this process; whole lives of servers: test_boot.py and tests/faults."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from machines import MACHINES
from planning import plan_on

from magistral_nb.processes import Process
from magistral_nb.serving import launch, orphans, registry
from magistral_nb.serving.registry import ServerState
from magistral_nb.serving.supervisor import Supervisor


@pytest.fixture
def booting(tmp_path):
    """A supervisor of a server that boots, and its state file."""
    log, path = tmp_path / "default.log", registry.path_of("default")
    log.touch()
    plan = plan_on(MACHINES["H100 80"], "2506")
    state = ServerState(name="default", status="booting", plan=plan, api_key="k", log_path=str(log))
    registry.save(path, state)
    return Supervisor(path, state), path


def test_it_gives_signs_of_life_whatever_else_it_waits_for(booting, monkeypatch):
    """Or a boot of minutes, and a download of an hour, would look dead to another machine that shares the home."""
    monkeypatch.setattr(registry, "BEAT_SECONDS", 0.01)
    supervisor, path = booting
    os.utime(path, (0, 0))
    beating = threading.Thread(target=supervisor._keep_beating)
    beating.start()
    deadline = time.monotonic() + 5
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    supervisor._stop.set()
    beating.join(5)
    assert path.stat().st_mtime > 0
    assert not beating.is_alive()


def test_its_engine_ends_also_where_the_proxy_cannot_be_ended(booting, monkeypatch):
    supervisor, path = booting
    ended = []
    monkeypatch.setattr(supervisor, "_end_engine", lambda: ended.append("engine"))
    monkeypatch.setattr(supervisor._proxy, "end", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        supervisor._guarded(lambda: None)
    assert ended == ["engine"]
    assert not path.exists()


def test_a_download_that_ends_because_the_server_is_stopped_has_not_failed(booting, monkeypatch):
    """A stand-in for the download's process; a batch system ends it and its supervisor together, in any order."""
    supervisor, _ = booting
    supervisor._state = supervisor._state.with_(downloads=("m",))
    child = SimpleNamespace(process=None, code=-signal.SIGTERM, has_ended=lambda: True, end=lambda: None)
    monkeypatch.setattr(launch.EngineGroup, "start", lambda *_: child)
    threading.Timer(0.1, supervisor._stop.set).start()
    assert not supervisor._download()
    assert supervisor._state.status == "booting"


def test_what_a_supervisor_starts_is_marked_and_is_no_supervisor(booting):
    supervisor, path = booting
    own = {orphans.SUPERVISES: str(path), "PATH": "/bin"}
    state = supervisor._state.with_(starter=Process(815, 1.0))
    found = launch.child_environment(state, own, path)
    assert found == {"PATH": "/bin", orphans.MARK: f"815 1.0 {path}"}
    assert orphans.SUPERVISES not in launch.engine_environment(state, own, path)


def test_who_takes_a_server_over_reads_its_log_from_where_its_engine_began(booting):
    supervisor, path = booting
    log = Path(supervisor._state.log_path)
    log.write_text("OSError: [Errno 98] Address already in use\n")
    supervisor._write(log_begun=log.stat().st_size)
    with log.open("a") as end:
        end.write("RuntimeError: the engine before was robbed, this one is not\n")
    successor = Supervisor(path, registry.read(path))
    assert successor._log() == ["RuntimeError: the engine before was robbed, this one is not"]
