"""Refusals, one line each, whose ways out can be gone; and what holds of every plan, whatever is wished for. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from machines import GIB, MACHINES, machine, one, vllm
from planning import changes, check_plan, check_refusal, plan_on, refusal, told

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, RELEASES, find_profile
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.hardware import Gpu
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.releases import releases
from magistral_nb.serving.wishes import Wishes

VLLM = vllm(VLLM_VERSION)
H100, A100, L4, T4 = (MACHINES[label] for label in ("H100 80", "A100 40", "L4", "T4"))


@pytest.mark.parametrize(
    ("hardware", "name", "wishes", "words"),
    [
        (L4, "2506", Wishes(), r"does not fit NVIDIA L4.*2509-4bit.*%magistral_connect"),
        (L4, "2509-4bit", Wishes(images=True), r"--context 1\d{4} fits"),
        (T4, "2509", Wishes(), r"ministral-3-3b-reasoning-2512 fits"),
        (A100, "2506", Wishes(context=131_072, kv_cache="auto"), r"--context \d+ fits"),
        (A100, "2506", Wishes(quantization="none"), r"without --quantization"),
        (T4, "2506", Wishes(kv_cache="fp8"), r"FP8 KV cache does not run on a Tesla T4: leave --kv-cache away"),
        (H100, "2509-4bit", Wishes(quantization="fp8"), r"quantised already \(int4\): leave --quantization away"),
        (H100, "2506", Wishes(images=True), r"takes no images: leave --images away, or name 2509"),
        (H100, "2506", Wishes(context=0), r"holds nothing: try --context 40960"),
        (H100, "ministral-8b", Wishes(context=262_145), r"262,144 tokens, not 262,145: try --context 262144"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(hardware, name, wishes, words):
    message = refusal(hardware, name, wishes)
    assert re.search(words, message)
    check_refusal(message, hardware, name, wishes, VLLM_VERSION)


def test_four_bits_are_named_with_a_warning():
    assert "4 bits cost accuracy on long traces" in refusal(MACHINES["RTX 4090"], "2509")


def test_a_context_that_must_be_small_is_not_the_only_way():
    """It holds no trace of a hard problem; the smaller model has room for all of it."""
    message = refusal(MACHINES["MIG slice of 20 GB"], "ministral-14b")
    assert int(re.search(r"--context (\d+) fits", message)[1]) < 20_000
    assert "ministral-3-8b-reasoning-2512" in message


def test_the_context_that_is_offered_for_one_above_the_model_s_fits_the_machine_too():
    message = refusal(A100, "2509", Wishes(context=200_000))
    ((_, changed),) = changes(message, "2509", Wishes(context=200_000))
    assert plan_on(A100, "2509", changed).context == changed.context


def test_cards_that_are_too_small_together_are_named_together():
    """Two T4 come nearer than one."""
    assert "does not fit 2 Tesla T4: 1" in refusal(MACHINES["2 x T4"], "2506")


def test_what_loading_takes_at_most_is_told_where_that_does_not_fit():
    """vLLM before 0.16 has all weights in BF16 first: 44 GiB, of which 23 remain."""
    message = refusal(MACHINES["L40S"], "2509", version="0.13.0")
    assert re.search(r"\b4[34]\.\d GiB", message.partition("against")[0])
    assert "magistral-small-2509-fp8 fits" in message


def test_nothing_fits_a_card_that_is_full():
    full = one("L4", held=22 * GIB)
    assert "%magistral_connect" in refusal(full)
    for name in CATALOGUE:
        check_refusal(refusal(full, name), full, name, Wishes(), VLLM_VERSION)


def test_a_model_of_unknown_size_needs_memory_too():
    """Only the checkpoint knows its shape; a share of 0.00 vLLM refuses."""
    unknown = replace(RELEASES["2506"], shape=None)
    plan = make_plan(H100, unknown, Wishes(), VLLM)
    assert told(plan, "weights").value == "not known"
    assert told(plan, "KV cache") is None
    assert plan.context == 40_960
    with pytest.raises(PlanRefused):
        make_plan(one("T4", held=14 * GIB), unknown, Wishes(), VLLM)


def test_a_card_that_is_too_old_for_this_vllm_is_told_so():
    v100 = machine((Gpu("Tesla V100-SXM2-32GB", 32 * GIB, 32 * GIB, (7, 0), "GPU-1"),))
    assert "wants compute capability 7.5, and Tesla V100-SXM2-32GB has 7.0" in refusal(v100)
    assert find_profile(plan_on(v100, version="0.19.1").model).stored == "bf16", "Marlin wants 7.5"


@pytest.mark.parametrize("wrong", [{"gpus": 0}, {"pipeline_parallel": 0}, {"data_parallel": 0}])
def test_none_of_something_is_refused(wrong):
    """An option's own check does not see what Python hands over."""
    assert refusal(H100, "2509", Wishes(**wrong))


# Properties

sizes = st.integers(4 * GIB, 200 * GIB)
kinds = st.sampled_from([(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (0, 0)])
parts = st.lists(st.floats(0.02, 1), min_size=1, max_size=8)
wished = st.builds(
    Wishes,
    context=st.none() | st.integers(1, 300_000),
    quantization=st.sampled_from([None, "fp8", "none"]),
    kv_cache=st.sampled_from([None, "fp8", "auto"]),
    gpus=st.none() | st.integers(1, 16),
    pipeline_parallel=st.integers(1, 4),
    data_parallel=st.integers(1, 4),
    ray=st.booleans(),
    speculative=st.sampled_from([None, "ngram"]),
    images=st.booleans(),
)
versions = st.sampled_from([release.version for release in releases()])
names = st.none() | st.sampled_from(list(CATALOGUE))


def of(total, capability, free):
    """A machine with cards of one kind of which different parts are free."""
    return machine(
        tuple(
            Gpu("a card", total, int(total * part), capability, uuid=f"GPU-{number}", index=number)
            for number, part in enumerate(free)
        )
    )


@settings(max_examples=300, deadline=None)
@given(sizes, kinds, parts, names, wished, versions)
def test_never_more_than_is_free_nor_above_the_cap_unasked(total, capability, free, name, wishes, version):
    hardware = of(total, capability, free)
    try:
        plan = plan_on(hardware, name, wishes, version)
    except PlanRefused as error:
        check_refusal(str(error), hardware, name, wishes, version)
        return
    check_plan(plan, hardware)
    assert plan.context <= (wishes.context or 40_960)


@settings(max_examples=100, deadline=None)
@given(sizes, kinds, parts, st.sampled_from(list(CATALOGUE)))
def test_what_is_free_serves_no_worse_than_half_of_it(total, capability, free, name):
    """More memory never makes a plan impossible."""

    def most(hardware):
        try:
            return plan_on(hardware, name).context
        except PlanRefused as error:
            offered = re.search(r"--context (\d+) fits", str(error))
            return int(offered[1]) if offered else 0

    assert most(of(total, capability, [part / 2 for part in free])) <= most(of(total, capability, free))


def chain(hardware, name, wishes, version):
    """What happens to who does as refusals say, one after the other."""
    for _ in range(8):
        try:
            return plan_on(hardware, name, wishes, version)
        except PlanRefused as error:
            name, wishes = next(changes(str(error), name, wishes), (None, None))
            if wishes is None:
                return str(error)
    return f"round in circles: {name} {wishes}"


@settings(max_examples=200, deadline=None)
@given(sizes, kinds, parts, st.sampled_from(list(CATALOGUE)), wished, versions)
def test_who_does_as_refusals_say_arrives(total, capability, free, name, wishes, version):
    end = chain(of(total, capability, free), name, wishes, version)
    assert not isinstance(end, str) or "%magistral_connect" in end or "add --ray" in end
