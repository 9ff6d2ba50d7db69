"""State files."""

from __future__ import annotations

import dataclasses
import os
import stat

import pytest
from serving.test_plan import H100, VLLM

from magistral_nb import errors
from magistral_nb.processes import Process
from magistral_nb.serving import registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.plan import Wishes, make_plan


@pytest.fixture
def state():
    return registry.ServerState(
        name="default",
        status="ready",
        plan=make_plan(H100, RELEASES["2506"], Wishes(), VLLM),
        api_key="k" * 43,
        log_path="/tmp/x.log",
        stages=(("Starting vLLM", 0.0), ("Loading", 1.5)),
        engine=Process.of(os.getpid()),
    )


def test_round_trip(state):
    path = registry.path_of("default")
    registry.save(path, state)
    assert registry.load("default") == state
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["default.json"], "no temporary file stays"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 1, "name": "default"}'])
def test_what_is_no_state_is_passed_over(text):
    registry.path_of("default").write_text(text)
    assert registry.load("default") is None
    assert registry.load_all() == []


def test_a_process_is_told_by_when_it_started():
    me = Process.of(os.getpid())
    assert me.is_alive()
    assert not dataclasses.replace(me, started=me.started - 60).is_alive(), "a reused process id"
    assert not Process(2**22 + 1, 0.0).is_alive()


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 65, "é"])
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(errors.InvalidOption):
        registry.path_of(name)


def test_key_is_in_no_repr(state):
    assert "kkk" not in repr(state)
