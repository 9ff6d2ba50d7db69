"""Waiting for a GPU's memory: simulated GPUs, whose driver takes its time."""

from __future__ import annotations

import dataclasses
import re
import time

import pytest
from machines import MACHINES, vllm

from magistral_nb.serving import freeing, hardware
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

H100 = MACHINES["H100 80"]
GIB = 2**30


@pytest.fixture
def plan():
    return make_plan(H100, RELEASES["2506"], Wishes(), vllm(VLLM_VERSION))


def with_free(*gib):
    """In a container, where NVML does not tell whose the memory is."""
    paired = zip(H100.gpus, gib, strict=True)
    gpus = (dataclasses.replace(gpu, free=size * GIB, holders_known=False) for gpu, size in paired)
    return dataclasses.replace(H100, gpus=tuple(gpus))


def looks(monkeypatch, *machines):
    """NVML tells these, one after the other, and the last one for ever."""
    told = list(machines)
    monkeypatch.setattr(hardware, "detect", lambda: told.pop(0) if len(told) > 1 else told[0])
    monkeypatch.setattr(freeing, "_TICK_SECONDS", 0.001)
    return told


def waited(plan):
    """What is told of a server whose processes are gone."""
    return freeing.Freeing.of(plan, {2**22 + 1, 2**22 + 2}).wait()


def test_it_waits_until_the_driver_has_given_the_memory_back(monkeypatch, plan):
    left = looks(monkeypatch, with_free(8), with_free(8), with_free(40), with_free(79))
    assert waited(plan) is None
    assert len(left) == 1, "all but the last was looked at"


def test_it_gives_up_on_memory_that_somebody_else_has_taken(monkeypatch, plan):
    looks(monkeypatch, with_free(8))
    monkeypatch.setattr(freeing, "_PATIENCE_SECONDS", 0.05)
    began = time.monotonic()
    assert re.fullmatch(r".*H100.* has 8\.0 GiB free where \d\d\.\d were expected: nvidia-smi .*", waited(plan))
    assert 0.05 <= time.monotonic() - began < 2


def test_without_a_gpu_nobody_is_asked(monkeypatch, plan):
    monkeypatch.setattr(hardware, "detect", lambda: pytest.fail("NVML was asked"))
    assert waited(dataclasses.replace(plan, devices=())) is None


def test_nothing_is_expected_of_a_server_that_has_no_process_any_more(monkeypatch, plan):
    monkeypatch.setattr(hardware, "detect", lambda: pytest.fail("NVML was asked"))
    assert freeing.Freeing.of(plan, set()).wait() is None
