"""For the tests of this room: a hub, without which whoever asks finds nobody, and processes that stand for vLLM's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest
from machines import MACHINES, vllm
from scripted_hub import NOBODY, ScriptedHub

from magistral_nb.processes import Process
from magistral_nb.serving import orphans, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

DEAD = Process(2**22 + 1, 0.0)


def _point_to(monkeypatch, endpoint):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in ("constants", "file_download"):  # before 1.0 the second has one of its own
        name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(name, template, raising=False)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """The folder of an empty hub's cache. Nobody listens where the hub should be, so nothing leaves this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _point_to(monkeypatch, NOBODY)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    return tmp_path / "cache"


@pytest.fixture
def hub(no_hub, monkeypatch):
    """A scripted hub and an empty cache."""
    with ScriptedHub() as scripted:
        _point_to(monkeypatch, scripted.url)
        yield scripted


@pytest.fixture
def group(monkeypatch):
    """Start a group of two processes, each with this mark: the first one's and the second one's."""
    # A name of its own, so that what other runs have left on this machine is neither found nor ended.
    monkeypatch.setattr(orphans, "MARK", f"MAGISTRAL_NB_TEST_{os.getpid()}")
    leaders = []

    def start(mark=None):
        environment = os.environ | ({} if mark is None else {orphans.MARK: mark.text})
        command = ["sh", "-c", "sleep 60 & echo $!; wait"]
        leader = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True)
        leaders.append(leader)
        child = int(leader.stdout.readline())
        while psutil.Process(child).name() != "sleep":  # the shell has forked, and is about to become it
            time.sleep(0.005)
        return leader, child

    yield start
    for leader in leaders:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        leader.stdout.close()


@pytest.fixture
def started(group):
    """Start such a group as a server's engine; the server's state, the first process and the id of the second."""

    def start(name="second", *, supervisor=DEAD, **more):
        leader, child = group(orphans.Mark(supervisor, registry.path_of(name)))
        state = registry.ServerState(
            name=name,
            status="ready",
            plan=make_plan(MACHINES["H100 80"], RELEASES["2506"], Wishes(), vllm(VLLM_VERSION)),
            api_key="k",
            log_path="/tmp/x.log",
            engine=Process.of(leader.pid),
            starter=supervisor,
            supervisor=supervisor,
        ).with_(**more)
        registry.save(registry.path_of(name), state)
        return state, leader, child

    return start
