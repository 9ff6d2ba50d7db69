"""vLLM's process group and its environment, as far as no process has to be started for that."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from machines import MACHINES
from planning import plan_on

from magistral_nb.processes import Process
from magistral_nb.serving import launch
from magistral_nb.serving.launch import EngineGroup
from magistral_nb.serving.registry import ServerState
from magistral_nb.serving.wishes import Wishes

PATH = Path("/home/ada/servers/default.json")


def state(**wishes) -> ServerState:
    plan = plan_on(MACHINES["H100 80"], "2506", Wishes(**wishes))
    return ServerState(name="default", status="booting", plan=plan, api_key="k", log_path="/dev/null")


def test_only_a_group_that_listens_itself_is_told_the_key():
    ours, theirs = EngineGroup(Process(os.getpgrp(), 0.0)), EngineGroup(Process(2**22 + 1, 0.0))
    with socket.create_server((launch.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        assert ours.listens_on(port)
        assert not theirs.listens_on(port)
    assert not ours.listens_on(port)


def test_a_port_that_is_bound_and_not_listened_on_is_nobody_s():
    with socket.socket() as bound:
        bound.bind((launch.HOST, 0))
        assert not EngineGroup(Process(os.getpgrp(), 0.0)).listens_on(bound.getsockname()[1])


@pytest.mark.parametrize("sleepable", [False, True])
def test_development_mode_is_on_for_a_server_that_sleeps_and_for_no_other(sleepable):
    """Whatever the kernel was started with, and whatever a state file says."""
    found = state(sleepable=sleepable)
    for own in ({}, {"VLLM_SERVER_DEV_MODE": "0"}, {"VLLM_SERVER_DEV_MODE": "1"}):
        environment = launch.engine_environment(found, own, PATH)
        assert environment["VLLM_SERVER_DEV_MODE"] == ("1" if sleepable else "0")


def test_what_opens_doors_does_not_come_from_the_kernel_s_environment():
    names = {"VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"}
    environment = launch.engine_environment(state(), dict.fromkeys(names, "1") | {"HF_HOME": "/hub"}, PATH)
    assert not names & environment.keys()
    assert environment["HF_HOME"] == "/hub"
