"""Plans over simulated machines: pure, no engine. tests/engine takes their command lines through vLLM itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from magistral_nb import errors
from magistral_nb.serving.catalogue import RELEASES, abacus, find_profile
from magistral_nb.serving.engine import Engine
from magistral_nb.serving.hardware import Gpu, Hardware
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from magistral_nb.serving.plan import Plan

GIB = 2**30
VLLM = Engine(("vllm",), "0.32.0", "cuda", "a test")
CPU = Hardware("Linux", "x86_64", 2)


def machine(name="NVIDIA H100 80GB HBM3", gib=79.6, capability=(9, 0), free=None):
    return Hardware("Linux", "x86_64", 8, gpus=(Gpu(name, int(gib * GIB), int((free or gib) * GIB), capability),))


H100 = machine()
T4 = machine("Tesla T4", 15, (7, 5))
A100 = machine("NVIDIA A100-SXM4-40GB", 39.4, (8, 0))


def value(plan: Plan, flag: str) -> str | None:
    return plan.argv[plan.argv.index(flag) + 1] if flag in plan.argv else None


def test_magistral_on_an_h100_is_fp8_with_a_capped_context():
    plan = make_plan(H100, RELEASES["2509"], Wishes(), VLLM)
    assert plan.argv[:3] == ("vllm", "serve", "mistralai/Magistral-Small-2509")
    assert value(plan, "--quantization") == "fp8_per_tensor"
    assert value(plan, "--kv-cache-dtype") == "fp8"
    assert value(plan, "--max-model-len") == "40960"
    for flag in ("--tokenizer-mode", "--config-format", "--load-format", "--reasoning-parser"):
        assert value(plan, flag) == "mistral"
    assert "--dtype" not in plan.argv, "fp8 is no dtype"
    assert value(plan, "--limit-mm-per-prompt") == '{"image":0}'


def test_memory_is_within_a_tenth_of_the_published_figures():
    """588k tokens of FP8 KV cache beside FP8 weights on an H100 at 0.90, 119k on an A100 40 GB."""
    for hardware, tokens in ((H100, 588_000), (A100, 119_000)):
        plan = make_plan(hardware, RELEASES["2506"], Wishes(), VLLM)
        told = next(c.why for c in plan.choices if c.what == "KV cache")
        planned = int(told.split(" tokens")[0].rpartition(" ")[2].replace(",", ""))
        assert planned == pytest.approx(tokens, rel=0.1)


def test_older_vllm_has_another_name_for_fp8():
    older = Engine(("vllm",), "0.30.1", "cuda", "a test")
    assert value(make_plan(H100, RELEASES["2506"], Wishes(), older), "--quantization") == "fp8"


def test_what_does_not_fit_is_refused_with_what_would():
    with pytest.raises(errors.PlanRefused, match=r"does not fit NVIDIA L4.*%magistral_connect"):
        make_plan(machine("NVIDIA L4", 22.5, (8, 9)), RELEASES["2506"], Wishes(), VLLM)
    with pytest.raises(errors.PlanRefused, match=r"--context (\d+) fits"):
        make_plan(A100, RELEASES["2506"], Wishes(context=131_072, kv_cache="auto"), VLLM)
    with pytest.raises(errors.PlanRefused, match="T4"):
        make_plan(T4, RELEASES["2506"], Wishes(kv_cache="fp8"), VLLM)


def test_a_refusal_s_context_fits():
    wishes = Wishes(context=131_072, kv_cache="auto")
    with pytest.raises(errors.PlanRefused) as caught:
        make_plan(A100, RELEASES["2506"], wishes, VLLM)
    fits = int(str(caught.value).partition("--context ")[2].split()[0])
    assert make_plan(A100, RELEASES["2506"], Wishes(None, fits, kv_cache="auto"), VLLM).context == fits


def test_the_gpu_s_share_leaves_what_others_hold():
    share = float(value(make_plan(machine(free=50), RELEASES["2506"], Wishes(), VLLM), "--gpu-memory-utilization"))
    assert share * 79.6 <= 50


@given(st.floats(4, 200), st.floats(0.05, 1), st.sampled_from(list(RELEASES)))
def test_never_more_than_is_free_nor_above_the_cap_unasked(gib, part, release):
    hardware = machine(gib=gib, free=gib * part)
    try:
        plan = make_plan(hardware, RELEASES[release], Wishes(), VLLM)
    except errors.PlanRefused:
        return
    assert float(value(plan, "--gpu-memory-utilization")) * gib <= gib * part
    assert plan.context <= 40_960


def test_cpu_serves_abacus_and_refuses_the_rest(checkpoint):
    plan = make_plan(CPU, abacus(), Wishes(), VLLM)
    assert plan.model == "abacus"
    assert "--enforce-eager" in plan.argv
    assert int(value(plan, "--kv-cache-memory-bytes")) >= 2 * plan.context * 2048
    assert ("HF_HUB_OFFLINE", "1") in plan.environment
    assert plan.sampling.temperature == 0
    with pytest.raises(errors.PlanRefused, match="needs a GPU"):
        make_plan(CPU, RELEASES["2509"], Wishes(), VLLM)
    with pytest.raises(errors.PlanRefused, match="FP8"):
        make_plan(CPU, find_profile(str(checkpoint)), Wishes(quantization="fp8"), VLLM)


def test_context_above_the_model_s_is_refused_with_its_own(checkpoint):
    with pytest.raises(errors.PlanRefused, match="--context 2048"):
        make_plan(CPU, find_profile(str(checkpoint)), Wishes(context=4096), VLLM)


def test_raw_flags_come_last_and_wishes_decide_the_fingerprint():
    raw = make_plan(H100, RELEASES["2506"], Wishes(engine_args=("--seed", "3")), VLLM)
    plain = make_plan(H100, RELEASES["2506"], Wishes(), VLLM)
    busier = make_plan(machine(free=60), RELEASES["2506"], Wishes(model="2506"), VLLM)
    assert raw.argv[-2:] == ("--seed", "3")
    assert raw.fingerprint != plain.fingerprint
    assert busier.fingerprint == plain.fingerprint, "free memory is no wish"
    assert busier.argv != plain.argv


def test_lines_tell_every_choice():
    plan = make_plan(H100, RELEASES["2509"], Wishes(), VLLM)
    text = plan.title + str(plan.rows())
    assert "H100" in text
    assert "40,960 tokens" in text
    for choice in plan.choices:
        assert choice.why in text
