"""What a supervisor does besides its engine, in this process; whole lives of servers: test_boot.py and tests/faults."""

from __future__ import annotations

import os
import threading
import time

import pytest
from machines import MACHINES
from planning import plan_on

from magistral_nb.serving import registry
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
