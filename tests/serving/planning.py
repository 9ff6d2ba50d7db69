"""What the tests of plans share: to plan as a user does, and what holds of every plan and every refusal."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest
from machines import flag, vllm

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, find_profile
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.planner import default_profile, make_plan
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.plan import Choice, Plan

_FIELDS = {field.name.replace("_", "-"): field for field in fields(Wishes)}
_SEATS = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")


def plan_on(
    hardware: Hardware, name: str | None = None, wishes: Wishes | None = None, version: str = VLLM_VERSION
) -> Plan:
    """As `%magistral_serve NAME` plans."""
    wishes = replace(wishes or Wishes(), model=name)
    profile = find_profile(name) if name else default_profile(hardware, wishes, vllm(version))
    return make_plan(hardware, profile, wishes, vllm(version))


def refusal(
    hardware: Hardware, name: str | None = None, wishes: Wishes | None = None, version: str = VLLM_VERSION
) -> str:
    """What is said where it does not plan."""
    with pytest.raises(PlanRefused) as caught:
        plan_on(hardware, name, wishes, version)
    return str(caught.value)


def told(plan: Plan, what: str) -> Choice | None:
    """A choice of the plan by its name."""
    return next((choice for choice in plan.choices if choice.what == what), None)


def check_plan(plan: Plan, hardware: Hardware) -> None:
    """It takes no more memory than is free and allowed, holds its context, and names as many GPUs as it takes."""
    taken = [gpu for gpu in hardware.gpus if gpu.uuid in plan.devices]
    share = float(flag(plan, "--gpu-memory-utilization"))
    assert 0 < share <= 0.90
    assert all(share * gpu.total <= gpu.free for gpu in taken)
    assert int(flag(plan, "--max-model-len")) == plan.context
    tokens = re.search(r"([\d,]+) tokens", told(plan, "KV cache").why)[1]
    assert int(tokens.replace(",", "")) >= plan.context
    seats = 1
    for name in _SEATS:
        seats *= int(flag(plan, name) or 1)
    assert taken
    assert len(taken) == seats or "ray" in plan.argv


def changes(
    message: str, name: str | None, wishes: Wishes, version: str = VLLM_VERSION
) -> Iterator[tuple[str | None, Wishes, str]]:
    """Model, wishes and vLLM that each way out of a refusal leads to; what it does not name stays as it was."""
    for way in message.rpartition(": ")[2].removesuffix(".").split("; "):
        changed = wishes
        for option, value in re.findall(r"--(context|gpus|data-parallel|pipeline-parallel) (\d+)", way):
            changed = replace(changed, **{option.replace("-", "_"): int(value)})
        if away := re.search("(?:without|leave) (.+?)(?: away| its)", way):
            options = re.findall(r"--([\w-]+)", away[1])
            changed = replace(changed, **{_FIELDS[option].name: _FIELDS[option].default for option in options})
        if "below 1" in way:
            sizes = (changed.pipeline_parallel, changed.data_parallel)
            pipeline, data = (max(1, size) for size in sizes)
            changed = replace(changed, gpus=changed.gpus or None, pipeline_parallel=pipeline, data_parallel=data)
        if re.search("instead|leave (it|them) away", way):
            changed = replace(changed, engine_args=())
        words = set(re.findall(r"[\w.-]+\w", re.sub(r"--[\w-]+ \d+|vLLM [\d.]+", "", way)))
        named = words & {*CATALOGUE, *(profile.name for profile in CATALOGUE.values()), "abacus"}
        assert len(named) < 2, way
        engine = re.search(r"vLLM ([\d.]+\d)", way)
        after = (named.pop() if named else name, changed, engine[1] if engine else version)
        if after != (name, wishes, version):
            yield after


def check_refusal(message: str, hardware: Hardware, name: str | None, wishes: Wishes, version: str) -> None:
    """It is one line with a way out, and what it names plans at once. Where memory is short, its figures say so."""
    assert "\n" not in message
    assert message.endswith(".")
    ways = list(changes(message, name, wishes, version))
    assert ways or "%magistral_connect" in message or "--ray" in message
    for model, changed, engine in ways:
        plan = plan_on(hardware, model, changed, engine)
        if hardware.gpus:
            check_plan(plan, hardware)
    if "does not fit" in message:
        sizes, _, budget = message.partition("against")
        needed = sum(float(size) for size in re.findall(r"([\d.]+) GiB", sizes))
        assert needed > float(re.search(r"([\d.]+) GiB", budget)[1]) - 0.2, "each is rounded to 0.1 GiB"
