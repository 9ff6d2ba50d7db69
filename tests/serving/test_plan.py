"""Plans over simulated machines: pure, no engine. tests/engine takes their command lines through vLLM itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import CARDS, GIB, MACHINES, flag, gpus, machine, one, versions_for, vllm
from planning import check_plan, check_refusal, plan_on, refusal, told

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, RELEASES, abacus, find_profile
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.hardware import Holder
from magistral_nb.serving.plan import after_stopping
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

VLLM = vllm(VLLM_VERSION)
H100, A100 = MACHINES["H100 80"], MACHINES["A100 40"]
CPU = MACHINES["no GPU"]
GPUS = {label: hardware for label, hardware in MACHINES.items() if hardware.gpus}


# What is planned unasked


def test_magistral_on_an_h100_is_fp8_with_a_capped_context():
    plan = plan_on(H100)
    assert plan.argv[:3] == ("vllm", "serve", "mistralai/Magistral-Small-2509")
    assert flag(plan, "--quantization") == "fp8_per_tensor"
    assert flag(plan, "--kv-cache-dtype") == "fp8"
    assert flag(plan, "--max-model-len") == "40960"
    assert flag(plan, "--gpu-memory-utilization") == "0.90"
    for name in ("--tokenizer-mode", "--config-format", "--load-format", "--reasoning-parser", "--tool-call-parser"):
        assert flag(plan, name) == "mistral"
    assert "--dtype" not in plan.argv, "fp8 is no dtype"
    assert flag(plan, "--limit-mm-per-prompt") == '{"image":0}'
    assert plan.sampling.temperature == 0.7


BEST = {
    "H100 80": "magistral-small-2509",
    "H200": "magistral-small-2509",
    "B200": "magistral-small-2509",
    "A100 40": "magistral-small-2509",
    "A100 80": "magistral-small-2509",
    "RTX PRO 6000": "magistral-small-2509",
    "L40S": "magistral-small-2509",
    "RTX 4090": "magistral-small-2509-4bit",
    "L4": "magistral-small-2509-4bit",
    "A10": "magistral-small-2509-4bit",
    "T4": "ministral-3-3b-reasoning-2512",
    "2 x T4": "magistral-small-2509-4bit",
    "2 x H100 80": "magistral-small-2509",
    "8 x H100 80": "magistral-small-2509",
    "H100 80, 30 GB taken": "magistral-small-2509",
    "MIG slice of 20 GB": "ministral-3-8b-reasoning-2512",
    "RTX 4090 and RTX 3090": "magistral-small-2509-4bit",
    "no GPU": "abacus",
}


def test_every_machine_has_its_best():
    assert BEST.keys() == MACHINES.keys()


@pytest.mark.parametrize("label", MACHINES)
def test_the_best_that_fits_is_served_on_each_driver_and_says_why(label):
    hardware = MACHINES[label]
    for version in versions_for(hardware):
        plan = plan_on(hardware, version=version)
        assert plan.model == BEST[label]
        if hardware.gpus and plan.model != "magistral-small-2509":
            assert "best that fits this machine, as magistral-small-2509 does not" in told(plan, "model").why
        if plan.model.endswith("4bit"):
            assert "long traces" in told(plan, "weights").why
        most = find_profile(plan.model).context
        assert min(24_576, most) <= plan.context <= min(40_960, most), "enough for a trace of competition problems"


def test_a_wished_context_decides_as_well_which_is_the_best():
    """131,072 tokens beside FP8 weights and images do not go into 40 GB, beside 4 bits they do."""
    wishes = Wishes(context=131_072, images=True)
    assert plan_on(A100, wishes=wishes).model == "magistral-small-2509-4bit"
    assert plan_on(H100, wishes=wishes).model == "magistral-small-2509"
    assert plan_on(H100, wishes=Wishes(context=200_000)).model == "ministral-3-14b-reasoning-2512"


def test_weights_that_must_not_be_quantised_are_not_taken_from_somebody_who_did():
    plan = plan_on(one("A100 40"), wishes=Wishes(quantization="none"))
    assert find_profile(plan.model).stored == "bf16"


def test_where_two_cards_would_do_the_newer_one_serves():
    """They cannot share a model; 12 MiB more are no reason for the older one."""
    plan = plan_on(MACHINES["RTX 4090 and RTX 3090"])
    assert flag(plan, "--tensor-parallel-size") is None
    assert plan.devices == ("GPU-00024564-0",)
    assert "4090" in plan.title
    assert "2 x" not in plan.title, "one of each, and one of them is taken"


def test_a_share_of_the_memory_is_left_to_who_holds_it():
    plan = plan_on(MACHINES["H100 80, 30 GB taken"])
    share = told(plan, "GPU share")
    assert float(share.value) == pytest.approx(0.62, abs=0.01)
    assert "this notebook" in share.why


# What fits, by all machines, models and drivers


@pytest.mark.parametrize("label", GPUS)
def test_plans_fit_and_refusals_name_what_does(label):
    hardware = GPUS[label]
    for version in versions_for(hardware) | {VLLM_VERSION}:
        for name in CATALOGUE:
            try:
                plan = plan_on(hardware, name, version=version)
            except PlanRefused as error:
                check_refusal(str(error), hardware, name, Wishes(), version)
            else:
                check_plan(plan, hardware)
                assert plan.context == CATALOGUE[name].context


# Without a GPU


def test_cpu_serves_abacus_and_refuses_the_rest(checkpoint):
    plan = plan_on(CPU)
    assert plan.model == "abacus"
    assert "--enforce-eager" in plan.argv
    assert int(flag(plan, "--kv-cache-memory-bytes")) >= 2 * plan.context * 2048
    assert ("HF_HUB_OFFLINE", "1") in plan.environment
    assert plan.sampling.temperature == 0
    assert plan.niceness > 0
    assert plan.devices == ()
    with pytest.raises(PlanRefused, match=r"needs a GPU.*%magistral_serve abacus.*%magistral_connect"):
        make_plan(CPU, RELEASES["2509"], Wishes(), VLLM)
    with pytest.raises(PlanRefused, match="FP8"):
        make_plan(CPU, find_profile(str(checkpoint)), Wishes(quantization="fp8"), VLLM)
    with pytest.raises(PlanRefused, match="no GPU here to share"):
        make_plan(CPU, abacus(), Wishes(gpus=2), VLLM)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(quantization="fp8"),
        Wishes(gpus=2, data_parallel=2),
        Wishes(pipeline_parallel=2),
        Wishes(ray=True),
        Wishes(images=True),
        Wishes(context=0),
        Wishes(context=4096),
        Wishes(engine_args=("-tp", "2")),
    ],
)
def test_what_a_cpu_cannot_is_refused_with_what_it_can(wishes):
    check_refusal(refusal(CPU, "abacus", wishes), CPU, "abacus", wishes, VLLM_VERSION)


@pytest.mark.parametrize("wishes", [Wishes(speculative="ngram"), Wishes(ray=True)])
def test_what_is_wished_on_a_cpu_is_done_or_refused(wishes):
    try:
        plan = plan_on(CPU, wishes=wishes)
    except PlanRefused:
        return
    assert {"--speculative-config", "ray"} & set(plan.argv)


def test_why_there_is_no_gpu_is_told():
    hidden = replace(CPU, driver="570.86.15")
    assert "its GPUs are hidden from this notebook" in refusal(hidden, "2509")
    by = replace(hidden, hidden_by="CUDA_VISIBLE_DEVICES=-1")
    assert "none (CUDA_VISIBLE_DEVICES=-1 hides its GPUs from this notebook): %magistral" in refusal(by, "2509")
    broken = replace(CPU, trouble="The NVIDIA driver does not answer, as it is old: restart.")
    assert "does not answer" in refusal(broken, "2509")


def test_context_above_the_model_s_is_refused_with_its_own(checkpoint):
    with pytest.raises(PlanRefused, match="--context 2048"):
        make_plan(CPU, find_profile(str(checkpoint)), Wishes(context=4096), VLLM)


# The plan itself


def test_raw_flags_come_last_and_wishes_decide_the_fingerprint():
    raw = plan_on(H100, "2506", Wishes(engine_args=("--seed", "3")))
    plain = plan_on(H100, "2506")
    busier = plan_on(one("H100 80", held=20 * GIB), "2506")
    assert raw.argv[-2:] == ("--seed", "3")
    assert raw.fingerprint != plain.fingerprint
    assert busier.fingerprint == plain.fingerprint, "free memory is no wish"
    assert busier.argv != plain.argv
    assert plan_on(H100, "2507").fingerprint != plain.fingerprint


def test_rows_tell_every_choice():
    plan = plan_on(H100)
    text = plan.title + str(plan.rows())
    assert "H100" in text
    assert "40,960 tokens" in text
    for choice in plan.choices:
        assert choice.why in text
    told_of = {choice.what for choice in plan.choices}
    assert told_of >= {"model", "context", "images", "weights", "activations", "KV cache", "GPU share", "engine"}


def test_memory_that_the_server_holds_itself_is_free_again_once_it_has_ended():
    plan = plan_on(H100)
    running = machine(gpus(CARDS["H100 80"], held=int(0.9 * H100.gpus[0].total)))
    assert plan_on(after_stopping(running, plan, {4711})).argv == plan.argv
    assert after_stopping(running, plan, {4711}).gpus == H100.gpus, "and nobody holds any"
    booting = machine(gpus(CARDS["H100 80"], held=2 * GIB))
    assert after_stopping(booting, plan, {4711}).gpus == H100.gpus, "it does not hold all yet that it will"
    assert after_stopping(running, plan, {815}) == running, "it holds none yet"


def test_where_nobody_tells_what_a_server_holds_it_holds_the_share_of_its_plan():
    half = plan_on(H100, wishes=Wishes(engine_args=("--gpu-memory-utilization", "0.5")))
    server, desktop = Holder(815, "?", None), Holder(9, "Xorg", 20 * GIB)

    def free(*holders, left=10, known=False):
        gpu = replace(H100.gpus[0], free=left * GIB, holders=holders, holders_known=known)
        (after,) = after_stopping(replace(H100, gpus=(gpu,)), half, {815}).gpus
        assert after.holders == tuple(holder for holder in holders if holder != server)
        return after.free / GIB

    assert free() == pytest.approx(10 + 0.5 * 79.6, abs=0.1), "raw flags win, here as well"
    assert free(server, desktop, known=True) == pytest.approx(10 + 0.5 * 79.6, abs=0.1)
    assert free(server, desktop, left=50) == pytest.approx(79.6 - 20, abs=0.1), "the others keep theirs"
    assert free(desktop, known=True) == 10
