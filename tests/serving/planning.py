"""What the tests of plans share: to plan as a user does, and what holds of every plan and every refusal."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from machines import flag, vllm

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, find_profile
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.planner import default_profile, make_plan
from magistral_nb.serving.wishes import Wishes


def plan_on(hardware, name=None, wishes=None, version=VLLM_VERSION):
    """As `%magistral_serve NAME` plans."""
    wishes = replace(wishes or Wishes(), model=name)
    profile = find_profile(name) if name else default_profile(hardware, wishes, vllm(version))
    return make_plan(hardware, profile, wishes, vllm(version))


def refusal(hardware, name=None, wishes=None, version=VLLM_VERSION):
    with pytest.raises(PlanRefused) as caught:
        plan_on(hardware, name, wishes, version)
    return str(caught.value)


def told(plan, what):
    return next((choice for choice in plan.choices if choice.what == what), None)


def check_plan(plan, hardware):
    """No more memory than is free, and no more than is allowed."""
    taken = [gpu for gpu in hardware.gpus if gpu.uuid in plan.devices]
    share = float(flag(plan, "--gpu-memory-utilization"))
    assert taken
    assert 0 < share <= 0.90
    for gpu in taken:
        assert share * gpu.total <= gpu.free
    kv_cache = told(plan, "KV cache")
    if kv_cache:
        assert int(re.search(r"([\d,]+) tokens", kv_cache.why)[1].replace(",", "")) >= plan.context
    assert int(flag(plan, "--max-model-len")) == plan.context
    seats = int(flag(plan, "--tensor-parallel-size") or 1) * int(flag(plan, "--pipeline-parallel-size") or 1)
    seats *= int(flag(plan, "--data-parallel-size") or 1)
    assert len(taken) == seats or "ray" in plan.argv


def changes(message, name, wishes):
    """What a refusal names: for each way out, the model and the wishes that it leads to."""
    ways = message.rpartition(": ")[2].split("; ")
    for way in ways:
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


def check_refusal(message, hardware, name, wishes, version):
    """One line, with a way out; what does not fit tells figures that say so, and names what plans at once."""
    assert "\n" not in message
    assert message.endswith(".")
    found = list(changes(message, name, wishes))
    assert found or "%magistral_connect" in message or "--ray" in message
    if "does not fit" not in message:
        return
    assert "%magistral_connect" in message
    sizes, _, budget = message.partition("against")
    needed = sum(float(size) for size in re.findall(r"([\d.]+) GiB", sizes))
    assert needed > float(re.search(r"([\d.]+) GiB", budget)[1]) - 0.2, "rounded to 0.1 GiB each"
    for model, changed in found:
        check_plan(plan_on(hardware, model, changed, version), hardware)


