"""State files."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import pytest
from serving.test_plan import H100, VLLM

from magistral_nb import errors
from magistral_nb.processes import Process
from magistral_nb.serving import registry, server
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes


@pytest.fixture
def state():
    return registry.ServerState(
        name="default",
        status="ready",
        plan=make_plan(H100, RELEASES["2506"], Wishes(), VLLM),
        api_key="k" * 43,
        log_path="/tmp/x.log",
        base_url="http://127.0.0.1:1/v1",
        price_per_hour=2.5,
        stages=(("Starting vLLM", 0.0), ("Loading", 1.5)),
        engine=Process.of(os.getpid()),
    )


def test_round_trip(state):
    path = registry.path_of("default")
    registry.save(path, state)
    assert registry.load("default") == state
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["default.json"], "no temporary file stays"


def test_a_file_from_before_there_were_prices_is_read(state):
    raw = json.loads(state.to_json())
    del raw["price_per_hour"]
    assert registry.ServerState.from_json(json.dumps(raw)) == state.with_(price_per_hour=None)


def test_another_price_counts_for_this_process_and_this_server(state):
    registry.save(registry.path_of("default"), state)
    assert server.Server().endpoint.price_per_hour == 2.5
    server.set_price(state, 3)
    assert server.Server().endpoint.price_per_hour == 3
    assert registry.load("default").price_per_hour == 2.5
    registry.save(registry.path_of("default"), state.with_(created=state.created + 60))  # replaced by another process
    assert server.Server().endpoint.price_per_hour == 2.5


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 2, "name": "default"}'])
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
