"""What the tests of plans share: to plan as a user does, and what holds of every plan and every refusal."""

from __future__ import annotations

import re
from dataclasses import replace
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


def changes(message: str, name: str | None, wishes: Wishes) -> Iterator[tuple[str | None, Wishes]]:
    """The model and the wishes that each way out of a refusal leads to; what it does not name stays as it was."""
    for way in message.rpartition(": ")[2].split("; "):
        named = [profile.name for profile in CATALOGUE.values() if re.search(rf"{profile.name}(?![\w-])", way)]
        changed = wishes
        if context := re.search(r"--context (\d+)", way):
            changed = replace(changed, context=int(context[1]))
        if count := re.search(r"--gpus (\d+)", way):
            changed = replace(changed, gpus=int(count[1]))
        if re.search("(without|leave) --quantization", way):
            changed = replace(changed, quantization=None)
        if "leave --kv-cache" in way:
            changed = replace(changed, kv_cache=None)
        if "leave --images" in way:
            changed = replace(changed, images=False)
        if named or changed != wishes:
            yield (named or [name])[0], changed


def check_refusal(message: str, hardware: Hardware, name: str | None, wishes: Wishes, version: str) -> None:
    """It is one line with a way out. Where memory is short, its figures say so, and what it names plans at once."""
    assert "\n" not in message
    assert message.endswith(".")
    ways = list(changes(message, name, wishes))
    assert ways or "%magistral_connect" in message or "--ray" in message
    if "does not fit" not in message:
        return
    assert "%magistral_connect" in message
    sizes, _, budget = message.partition("against")
    needed = sum(float(size) for size in re.findall(r"([\d.]+) GiB", sizes))
    assert needed > float(re.search(r"([\d.]+) GiB", budget)[1]) - 0.2, "each is rounded to 0.1 GiB"
    for model, changed in ways:
        check_plan(plan_on(hardware, model, changed, version), hardware)
