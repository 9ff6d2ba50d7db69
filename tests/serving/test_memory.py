"""The arithmetic of memory against published figures."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, strategies as st
from machines import CARDS, GIB, gpus, one
from planning import plan_on, told

from magistral_nb.serving.catalogue import CATALOGUE, QUANTISED, RELEASES
from magistral_nb.serving.hardware import Gpu
from magistral_nb.serving.memory import LARGEST_SHARE, on_each, share_of

TENTH = 0.1
VARIANTS = {"fp8": True, "fp8_kv": True, "images": False, "at_once": False, "encoder": False}  # as plans have them


def held(kind, name, **variant):
    """What Magistral takes of an idle card."""
    return on_each(gpus(CARDS[kind])[0], CATALOGUE[name].shape, **VARIANTS | variant)


# Published or computed figures, each within a tenth


@pytest.mark.parametrize("release", ["2506", "2507"])
def test_fp8_weights_of_magistral_small_are_24_gib(release):
    assert held("H100 80", release).weights / GIB == pytest.approx(24, rel=TENTH)


def test_the_image_encoder_takes_another_gib():
    extra = held("H100 80", "2509", encoder=True).weights - held("H100 80", "2507").weights
    assert extra / GIB == pytest.approx(0.8, rel=TENTH), "0.42 B parameters in BF16"


def test_four_bits_are_known_to_fit_24_gb_with_24k_of_context():
    """As the re-upload's users report of a 24 GB card."""
    assert held("RTX 4090", "2509-4bit").tokens >= 24_000
    assert held("RTX 4090", "2509-4bit").weights / GIB == pytest.approx(15.3, rel=TENTH)


@pytest.mark.parametrize(
    ("kind", "fp8_kv", "tokens"),
    [("H100 80", False, 294_000), ("H100 80", True, 588_000), ("A100 40", False, 59_000), ("A100 40", True, 119_000)],
)
def test_kv_cache_of_fp8_weights_at_a_share_of_nine_tenths(kind, fp8_kv, tokens):
    assert share_of(gpus(CARDS[kind])[0]) == 0.90
    for encoder in (False, True):
        memory = held(kind, "2509", fp8_kv=fp8_kv, encoder=encoder)
        assert memory.tokens == pytest.approx(tokens, rel=TENTH)


@pytest.mark.parametrize("version", ["0.11.2", "0.13.0", "0.33.0"])
def test_the_kv_cache_of_a_plan_is_the_computed_one_however_the_weights_are_loaded(version):
    plan = plan_on(one("H100 80"), "2507", version=version)
    tokens = re.match(r"([\d,]+) tokens", told(plan, "KV cache").why)[1]
    assert int(tokens.replace(",", "")) == pytest.approx(588_000, rel=TENTH)


def test_an_h100_answers_7_or_14_long_requests_at_once():
    assert held("H100 80", "2509", fp8_kv=False).tokens // 40_960 == 7
    assert held("H100 80", "2509").tokens // 40_960 == 14


@pytest.mark.parametrize(("fp8_kv", "kib"), [(False, 160), (True, 80)])
def test_a_token_of_kv_cache(fp8_kv, kib):
    assert held("H100 80", "2506", fp8_kv=fp8_kv).per_token == kib * 1024


def test_an_l4_does_not_hold_fp8_weights():
    assert held("L4", "2509").tokens == 0
    assert held("L4", "2509").kv_cache < 0


@pytest.mark.parametrize(("kind", "bf16_gb"), [("2506", 47.1), ("2509", 48.0)])
def test_bf16_weights_are_what_the_hub_has(kind, bf16_gb):
    assert held("H200", kind, fp8=False, encoder=True).weights / 1e9 == pytest.approx(bf16_gb, rel=0.01)


@pytest.mark.parametrize(
    ("name", "billions"), [("2506", 23.6), ("2509", 24.0), ("ministral-3b", 3.8), ("ministral-8b", 8.9)]
)
def test_parameters_are_the_published_ones(name, billions):
    assert CATALOGUE[name].shape.parameters / 1e9 == pytest.approx(billions, rel=0.02)


# What loading takes


def test_older_vllm_holds_all_weights_in_bf16_first():
    whole = held("A100 40", "2506", at_once=True)
    assert whole.load_peak == 2 * RELEASES["2506"].shape.parameters
    assert whole.tokens == 0, "44 GiB do not go through 40"
    layerwise = held("A100 40", "2506")
    assert layerwise.load_peak - layerwise.weights == pytest.approx(1.13 * GIB, rel=TENTH), "one layer in BF16"


def test_weights_that_are_stored_quantised_have_no_peak():
    for name in QUANTISED:
        for at_once in (False, True):
            memory = held("L40S", name, at_once=at_once)
            assert memory.load_peak == memory.weights


# Properties

free_gpus = st.builds(
    lambda total, part: Gpu("a card", total, int(total * part), (9, 0)), st.integers(2**32, 2**38), st.floats(0, 1)
)
shapes = st.sampled_from([profile.shape for profile in CATALOGUE.values()])


@given(free_gpus)
def test_the_share_is_free_and_never_above_the_cap(gpu):
    share = share_of(gpu)
    assert 0 <= share <= LARGEST_SHARE == 0.90
    assert share * gpu.total <= gpu.free
    assert float(f"{share:.2f}") == share, "vLLM is told the very same"


@given(free_gpus, shapes, st.booleans(), st.booleans(), st.booleans())
def test_what_is_planned_never_exceeds_the_budget(gpu, shape, fp8, fp8_kv, images):
    memory = on_each(gpu, shape, fp8=fp8, fp8_kv=fp8_kv, images=images, at_once=False)
    assert memory.budget <= gpu.free
    if memory.tokens:
        taken = memory.weights + memory.activations + memory.tokens * memory.per_token
        assert taken <= memory.budget
        assert memory.to_load <= gpu.free
    else:
        assert memory.kv_cache < memory.per_token


@given(free_gpus, shapes, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_more_gpus_hold_less_each_and_more_together(gpu, shape, tensors, stages):
    alone = on_each(gpu, shape, **VARIANTS)
    shared = on_each(gpu, shape, **VARIANTS, tensor_parallel=tensors, pipeline_parallel=stages)
    assert shared.weights * tensors * stages == pytest.approx(alone.weights)
    assert shared.per_token * tensors * stages == pytest.approx(alone.per_token)
    assert shared.tokens >= alone.tokens


def test_a_kv_head_is_not_divided():
    """Sixteen GPUs share eight KV heads: each head lies on two of them."""
    gpu, shape = gpus(CARDS["H100 80"])[0], RELEASES["2506"].shape
    eight, sixteen = (on_each(gpu, shape, **VARIANTS, tensor_parallel=count) for count in (8, 16))
    assert eight.per_token == sixteen.per_token == shape.kv_bytes(1) / 8
    odd = dataclasses.replace(shape, kv_heads=2)
    assert on_each(gpu, odd, **VARIANTS, tensor_parallel=4).per_token == odd.kv_bytes(1) / 2
