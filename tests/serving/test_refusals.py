"""Refusals, one line each, whose ways out can be gone; and what holds of every plan, whatever is wished for. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from checkpoints import TEXT, WITH_IMAGES, write
from hypothesis import given, settings, strategies as st
from machines import CARDS, DRIVERS, GIB, MACHINES, Card, flag, gpus, machine, one, vllm
from planning import changes, check_plan, check_refusal, plan_on, refusal, told

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, RELEASES, find_profile
from magistral_nb.serving.checks import check_wishes
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.hardware import Gpu
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.refusal import Refusal
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
        (T4, "ministral-3b", Wishes(kv_cache="fp8"), r"no FP8 KV cache on a Tesla T4: leave --kv-cache away\.$"),
        (T4, "2506", Wishes(kv_cache="fp8"), r"leave --kv-cache away, and ministral-3-3b-reasoning-2512 fits"),
        (H100, "2509-4bit", Wishes(quantization="fp8"), r"quantised already \(int4\): leave --quantization away"),
        (H100, "2506", Wishes(images=True), r"takes no images: leave --images away; magistral-small-2509 fits"),
        (L4, "2506", Wishes(images=True), r"takes no images: ministral-3-8b-reasoning-2512 fits"),
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
    ((_, changed, _),) = changes(message, "2509", Wishes(context=200_000))
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
    assert "7.0: add --install, which brings vLLM 0.19.1" in refusal(driven(v100, "580"), "2506-fp8", context_32k)
    assert find_profile(plan_on(v100, version="0.19.1").model).stored == "bf16", "Marlin wants 7.5"


@pytest.mark.parametrize("wrong", [{"gpus": 0}, {"pipeline_parallel": 0}, {"data_parallel": 0}])
def test_none_of_something_is_refused(wrong):
    """An option's own check does not see what Python hands over."""
    assert refusal(H100, "2509", Wishes(**wrong))


# What another vLLM would do

context_32k = Wishes(context=32_768)
RTX_5080 = machine(gpus(Card("NVIDIA GeForce RTX 5080", 16_303, (12, 0))))
H100_SLICE = machine(gpus(Card("NVIDIA H100 80GB HBM3 MIG 2g.20gb", 19_968, (9, 0)), mig=True))


def driven(hardware, driver):
    """On this NVIDIA driver."""
    return replace(hardware, driver=driver, cuda=DRIVERS[driver])


@pytest.mark.parametrize("hardware", [RTX_5080, H100_SLICE], ids=["RTX 5080", "H100 slice"])
@pytest.mark.parametrize("name", [None, "ministral-8b", "ministral-3b", "2509"])
def test_a_newer_driver_is_named_where_it_brings_a_vllm_that_serves_something(hardware, name):
    """Driver 570 runs vLLM 0.11.2 on these, which does not know Ministral 3; and nothing else fits."""
    there = driven(hardware, "570")
    message = refusal(there, name, version="0.11.2")
    assert "update the driver to 580, which runs vLLM 0.33.0" in message
    assert "2509 fits" not in message
    check_refusal(message, there, name, Wishes(), "0.11.2")


def test_no_driver_is_named_where_none_would_help():
    assert "driver" not in refusal(driven(L4, "570"), "2506", version="0.19.1")
    assert "driver" not in refusal(RTX_5080, "ministral-8b", version="0.11.2"), "there is none that tells its CUDA"
    assert "driver" not in refusal(driven(H100, "580"), "2506", Wishes(gpus=3))


def test_an_older_vllm_than_the_driver_runs_can_be_replaced():
    message = refusal(driven(H100, "580"), "ministral-8b", version="0.11.2")
    assert "add --install, which brings vLLM 0.33.0." in message
    assert "update" not in message


# Checkpoints that this vLLM does not read


def quantised(folder, method, **other):
    """A local Magistral Small in this quantisation, of 4 bits."""
    told = {"quant_method": method, "load_in_4bit": True, "bits": 4, **other}
    files = {"config.json": TEXT | {"quantization_config": told}, "model.safetensors": 14_000_000_000}
    return str(write(folder / method, files))


@pytest.mark.parametrize(("version", "package"), [("0.19.1", "bitsandbytes"), ("0.32.0", "vllm-bnb-plugin")])
def test_bitsandbytes_is_refused_unless_raw_flags_say_that_its_package_is_there(tmp_path, version, package):
    name = quantised(tmp_path, "bitsandbytes")
    message = refusal(H100, name, version=version)
    assert f"stored in bitsandbytes, which this vLLM reads only with {package} installed beside it: merge" in message
    assert "magistral-small-2509 fits" in message
    check_refusal(message, H100, name, Wishes(), version)
    there = plan_on(H100, name, Wishes(engine_args=("--quantization", "bitsandbytes")), version)
    assert flag(there, "--quantization") == "bitsandbytes"
    with pytest.raises(PlanRefused, match="bitsandbytes"):
        make_plan(MACHINES["no GPU"], find_profile(name), Wishes(), vllm(version))


@pytest.mark.parametrize(
    ("method", "version", "reads"),
    [
        ("gptq", "0.9.2", True),
        ("awq", "0.33.0", True),
        ("compressed-tensors", "0.33.0", True),
        ("hqq", "0.13.0", True),
        ("hqq", "0.14.1", False),
        ("aqlm", "0.33.0", False),
    ],
)
def test_a_quantisation_is_planned_where_this_vllm_has_it(tmp_path, method, version, reads):
    name = quantised(tmp_path, method)
    if reads:
        assert plan_on(H100, name, version=version)
    else:
        assert f"stored in {method}, which this vLLM does not read" in refusal(H100, name, version=version)


def test_ministral_3_of_one_s_own_needs_a_vllm_that_knows_it_in_its_format(tmp_path):
    text = TEXT | {"model_type": "ministral3", "hidden_size": 4096, "intermediate_size": 14_336}
    config = WITH_IMAGES | {"text_config": text}
    name = str(write(tmp_path / "mine", {"config.json": config, "model.safetensors": 18_000_000_000}))
    assert "mine needs vLLM 0.20.0 or newer" in refusal(H100, name, version="0.19.1")
    assert plan_on(H100, name, version="0.20.2")


# Raw flags


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("--tensor-parallel-size 2", r"^Raw --tensor-parallel-size 2 cannot work, .*: type --gpus 2 instead\.$"),
        ("-tp=2 --seed 3", r"^Raw -tp 2 cannot.*type --gpus 2 instead\.$"),
        ("--tensor_parallel_size=4", r"type --gpus 4 instead\.$"),
        ("--pipeline-parallel-size 2", r"type --pipeline-parallel 2 instead\.$"),
        ("--data-parallel-size 2", r"type --data-parallel 2 instead\.$"),
        ("-tp 2 -pp 2 -dp 2", r"^Raw -tp 2 -pp 2 -dp 2.*type --gpus 4 --pipeline-parallel 2 --data-parallel 2 instead"),
        ("-tp 16 -dp 2", r"leave them away\.$"),
    ],
)
def test_raw_flags_for_more_gpus_are_refused_with_the_options_for_them(raw, words):
    """A plan shows vLLM one GPU, or as many as options wish for."""
    eight, wishes = MACHINES["8 x H100 80"], Wishes(engine_args=tuple(raw.split()))
    message = refusal(eight, "2509", wishes)
    assert re.search(words, message)
    check_refusal(message, eight, "2509", wishes, VLLM_VERSION)


def test_a_raw_flag_for_one_gpu_asks_for_nothing():
    assert plan_on(H100, "2509", Wishes(engine_args=("-tp", "1"))).argv[-2:] == ("-tp", "1")


def test_other_raw_flags_are_nobody_s_business():
    raw = ("--seed", "3", "--data-parallel-backend", "ray")
    assert plan_on(H100, "2509", Wishes(engine_args=raw)).argv[-4:] == raw


# Machines with a part missing


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (("--port", "8000"), r"Raw --port cannot work \(where it listens is decided here: --port is an option"),
        (("--uds=/tmp/x",), r"Raw --uds cannot work"),
        (("--headless", "--seed", "3"), r"Raw --headless cannot work"),
        (("--ssl-keyfile", "k", "--ssl_certfile", "c"), r"Raw --ssl-keyfile and --ssl_certfile cannot work"),
        (("--api-key", "mine"), r"a key does not belong into a command line.*one is made for it"),
        (("--hf-token=hf_mine",), r"set HF_TOKEN instead"),
        (("--trust-remote-code", "--seed", "3"), r"a model's own code is never run here"),
        (("--trust_remote",), r"Raw --trust_remote cannot work \(a model's own code"),
        (("--config", "mine.yaml"), r"what that file says cannot be checked"),
        (("--conf=mine.yaml",), r"Raw --conf cannot work"),
        (("--middleware", "mine.Open"), r"who may ask is decided here"),
        (("--ud", "/tmp/x"), r"Raw --ud cannot work \(where it listens"),
        (("--api-k", "mine"), r"Raw --api-k cannot work \(a key does not belong"),
        (("--ho=0.0.0.0",), r"Raw --ho cannot work"),
    ],
)
def test_raw_flags_that_hide_a_server_or_show_a_key_are_refused(raw, words):
    message = refusal(H100, "2509", Wishes(engine_args=raw))
    assert re.search(words, message)
    assert "mine" not in message
    assert message.endswith(("leave it away.", "leave them away."))


def test_what_is_left_of_raw_flags_without_these_can_be_served():
    refused = Wishes(engine_args=("--headless", "--trust-remote", "--seed", "3", "--hos", "0.0.0.0"))
    with pytest.raises(Refusal) as caught:
        check_wishes(RELEASES["2509"], refused)
    assert caught.value.ways[0].wishes.engine_args == ("--seed", "3")


@pytest.mark.parametrize("raw", ["--config-format=hf", "--port-of-call", "--no-trust-remote-code", "--", "-h", "host"])
def test_what_only_looks_like_them_is_handed_on(raw):
    check_wishes(RELEASES["2509"], Wishes(engine_args=(raw,)))


def test_sleep_needs_a_gpu_and_a_vllm_that_listens_on_a_unix_socket():
    sleepable = Wishes(sleepable=True)
    assert refusal(MACHINES["no GPU"], "abacus", sleepable).endswith("holds no GPU's memory: leave --sleepable away.")
    old = refusal(MACHINES["H100 80"], "2506", sleepable, version="0.10.0")
    assert "--sleepable needs vLLM 0.10.2 or newer" in old


def test_a_card_that_is_lost_is_told_where_it_is_missed():
    lost = "GPU 1 cannot be used, as NVML says 'GPU is lost': nvidia-smi -q may tell more, or restart the machine."
    message = refusal(replace(H100, trouble=lost), "2509", Wishes(gpus=2))
    assert "1 NVIDIA H100 80GB HBM3 is here (GPU 1 cannot be used" in message
    assert message.endswith("restart the machine): try --gpus 1, or add --ray on a Ray cluster.")
    check_refusal(message, H100, "2509", Wishes(gpus=2), VLLM_VERSION)


def test_slices_that_only_a_uuid_leads_to_wait_for_a_vllm_that_reads_it():
    first, second = gpus(CARDS["A100 40"], 2, mig=True)
    given = machine((second,))
    message = refusal(given, "2509", version="0.23.0")
    assert "which vLLM reads from 0.24.0 on: start this notebook with that slice alone" in message
    assert "update the driver to 580, which runs vLLM 0.33.0" in refusal(driven(given, "570"), "2509", version="0.19.1")
    assert dict(plan_on(given, "2509", version="0.24.0").environment)["CUDA_VISIBLE_DEVICES"] == second.uuid
    unknown = machine((replace(second, by_uuid=False),))
    assert "takes its number in its card for a card's" in refusal(unknown, "2509")
    assert plan_on(machine((first, *unknown.gpus)), "2509", version="0.23.0").devices == (first.uuid,)


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
            Gpu("a card", total, int(total * part), capability, uuid=f"GPU-{number}", index=number, place=number)
            for number, part in enumerate(free)
        )
    )


cudas = st.none() | st.sampled_from(list(DRIVERS.values()))
machines = st.builds(
    lambda cuda, *cards: replace(of(*cards), cuda=cuda),
    cudas,
    sizes,
    kinds,
    parts,
)


@settings(max_examples=300, deadline=None)
@given(machines, names, wished, versions)
def test_never_more_than_is_free_nor_above_the_cap_unasked(hardware, name, wishes, version):
    """And a refusal always names something that fits, whatever the reason."""
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
            name, wishes, version = next(changes(str(error), name, wishes, version), (None, None, None))
            if wishes is None:
                return str(error)
    return f"round in circles: {name} {wishes}"


@settings(max_examples=200, deadline=None)
@given(sizes, kinds, parts, st.sampled_from(list(CATALOGUE)), wished, versions)
def test_who_does_as_refusals_say_arrives(total, capability, free, name, wishes, version):
    end = chain(of(total, capability, free), name, wishes, version)
    assert not isinstance(end, str) or "%magistral_connect" in end or "add --ray" in end
