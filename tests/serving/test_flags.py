"""vLLM's flags: each version's own words, and a reason for each."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from machines import CARDS, GIB, MACHINES, flag, gpus, machine, one, vllm

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, MINISTRALS, RELEASES, abacus
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.profile import Adapter
from magistral_nb.serving.releases import releases
from magistral_nb.serving.wishes import Wishes

H100, A100, L40S, T4, CPU = (MACHINES[label] for label in ("H100 80", "A100 80", "L40S", "T4", "no GPU"))
VERSIONS = [release.version for release in releases()]
# Flags by the first version that has them; vLLM's source, as releases.py tells it.
SINCE = {
    (0, 9): {
        "--served-model-name",
        "--tokenizer",
        "--tokenizer-mode",
        "--config-format",
        "--load-format",
        "--tool-call-parser",
        "--enable-auto-tool-choice",
        "--limit-mm-per-prompt",
        "--enable-lora",
        "--max-lora-rank",
        "--lora-modules",
        "--max-model-len",
        "--quantization",
        "--dtype",
        "--kv-cache-dtype",
        "--gpu-memory-utilization",
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
        "--data-parallel-size",
        "--distributed-executor-backend",
        "--enable-chunked-prefill",
        "--no-enable-chunked-prefill",
        "--max-num-seqs",
        "--speculative-config",
        "--enforce-eager",
    },
    (0, 10): {"--reasoning-parser", "--data-parallel-backend"},
    (0, 10, 2): {"--kv-cache-memory-bytes"},
    (0, 13): {"--attention-backend"},
}


def planned(hardware=H100, name="2509", wishes=None, version=VLLM_VERSION):
    profile = CATALOGUE[name] if isinstance(name, str) else name
    return make_plan(hardware, profile, wishes or Wishes(), vllm(version))


def adapted(*ranks, name="2507"):
    return replace(CATALOGUE[name], adapters=tuple(Adapter(f"mine-{rank}", f"/{rank}", rank) for rank in ranks))


def chosen(plan, what):
    return next(choice for choice in plan.choices if choice.what == what)


def numbers(version):
    return tuple(int(part) for part in version.split("."))


# Each version's own words


@pytest.mark.parametrize(
    "hardware",
    [H100, A100, T4, CPU, replace(one("B200"), nvcc=False)],
    ids=["H100", "A100", "T4", "CPU", "B200 without a compiler"],
)
def test_no_version_is_given_a_flag_that_it_does_not_know(hardware):
    for version in VERSIONS:
        known = set().union(*(flags for since, flags in SINCE.items() if since <= numbers(version)))
        for model in (abacus(),) if hardware in (CPU, T4) else ("2506", "2507", "2509"):
            plan = planned(hardware, model, version=version)
            assert {word for word in plan.argv if word.startswith("--")} <= known, version


@pytest.mark.parametrize(
    ("version", "word"), [("0.9.2", "fp8"), ("0.19.1", "fp8"), ("0.30.0", "fp8"), ("0.31.0", "fp8_per_tensor")]
)
def test_fp8_weights_have_two_names(version, word):
    assert flag(planned(version=version), "--quantization") == word


@pytest.mark.parametrize(
    ("name", "version", "parser"),
    [
        ("2509", "0.9.2", None),
        ("2509", "0.10.2", "mistral"),
        ("2506", "0.19.1", None),  # it would refuse each question for lack of control tokens
        ("2506", "0.27.1", "mistral"),
        ("2506-fp8", "0.26.0", None),
        ("2509-4bit", "0.10.2", "mistral"),
    ],
)
def test_the_reasoning_parser_is_named_where_it_can_read_the_model(name, version, parser):
    assert flag(planned(name=name, version=version), "--reasoning-parser") == parser


def test_a_model_that_does_not_think_has_no_reasoning_parser():
    assert "--reasoning-parser" not in planned(name=replace(RELEASES["2507"], thinks=False)).argv


@pytest.mark.parametrize(("version", "kv"), [("0.10.2", None), ("0.11.2", "fp8"), ("0.32.0", "fp8")])
def test_an_fp8_kv_cache_needs_a_vllm_that_chooses_flashinfer(version, kv):
    assert flag(planned(L40S, "2506-fp8", version=version), "--kv-cache-dtype") == kv


@pytest.mark.parametrize("name", MINISTRALS)
def test_a_model_that_is_newer_than_this_vllm_is_refused(name):
    """Ministral 3 came to vLLM with 0.12 (its pull request "Add Mistral Large 3 and Ministral 3", of 2 December 2025).

    An H100 on a driver of CUDA 12 has 0.11.
    """
    assert planned(name=name, version="0.12.0")
    with pytest.raises(PlanRefused, match=r"0\.12"):
        planned(name=name, version="0.11.2")


def test_nothing_but_fp8_is_ever_asked_of_the_kv_cache():
    """E5M2 costs the fast attention or the boot."""
    assert "fp8_e5m2" not in str([planned(hardware).argv for hardware in (H100, A100, L40S)])


# How the model is read


def test_mistral_s_format_takes_its_three_flags_and_hugging_face_s_a_tokenizer():
    whole, quantised = planned(name="2509"), planned(name="2509-4bit")
    assert flag(whole, "--tokenizer") is None
    assert flag(whole, "--load-format") == "mistral"
    assert flag(quantised, "--tokenizer") == "mistralai/Magistral-Small-2509"
    assert flag(quantised, "--tokenizer-mode") == "mistral"
    assert flag(quantised, "--config-format") is None
    for plan in (whole, quantised):
        assert flag(plan, "--tool-call-parser") == "mistral"


def test_images_are_off_unless_wished_for():
    assert flag(planned(), "--limit-mm-per-prompt") == '{"image":0}'
    with_images = planned(wishes=Wishes(images=True))
    assert json.loads(flag(with_images, "--limit-mm-per-prompt")) == {"image": 10}
    assert "--limit-mm-per-prompt" not in planned(name="2507").argv
    with pytest.raises(PlanRefused, match="2507 takes no images"):
        planned(name="2507", wishes=Wishes(images=True))


def test_images_that_are_off_are_said_to_save_memory_only_where_they_do():
    """vLLM before 0.12 loads the encoder of Mistral's format all the same."""
    assert "memory goes to the KV cache" in chosen(planned(version="0.12.0"), "images").why
    assert "memory goes to the KV cache" not in chosen(planned(version="0.11.2"), "images").why


@pytest.mark.parametrize(
    ("ranks", "most"), [((8,), 8), ((9,), 16), ((16, 64), 64), ((200,), 256), ((257,), 320), ((512,), 512)]
)
def test_adapters_have_room_for_the_largest_rank(ranks, most):
    plan = planned(name=adapted(*ranks))
    assert flag(plan, "--max-lora-rank") == str(most)
    assert plan.model == f"mine-{ranks[0]}"
    at = plan.argv.index("--lora-modules") + 1
    modules = [json.loads(word) for word in plan.argv[at : at + len(ranks)]]
    assert modules == [{"name": f"mine-{rank}", "path": f"/{rank}"} for rank in ranks]


@pytest.mark.parametrize("version", ["0.10.2", "0.32.0"])
def test_a_rank_of_one_is_given_what_every_vllm_takes(version):
    """1 is no --max-lora-rank before 0.12."""
    assert flag(planned(name=adapted(1), version=version), "--max-lora-rank") == "8"


def test_a_rank_that_no_vllm_takes_is_refused():
    with pytest.raises(PlanRefused, match="513"):
        planned(name=adapted(513))


def test_adapters_take_memory_too():
    """2 * 40 layers * rank * (inputs + outputs) bytes: 5.5 GiB for a rank of 512."""

    def tokens(profile):
        return int(chosen(planned(name=profile), "KV cache").why.split(" tokens")[0].replace(",", ""))

    without, small, large = tokens("2507"), tokens(adapted(16)), tokens(adapted(512))
    assert without > small > large
    assert (without - large) * 80 * 1024 == pytest.approx(5.9e9, rel=0.1)


# How it lies on the GPU


def test_a_card_without_bfloat16_computes_in_half():
    assert flag(planned(T4, "ministral-3b"), "--dtype") == "half"
    assert "--dtype" not in planned(A100).argv


@pytest.mark.parametrize(("hardware", "how"), [(H100, "native"), (L40S, "native"), (A100, "weight-only")])
def test_how_fp8_is_computed_is_told(hardware, how):
    assert how in chosen(planned(hardware), "weights").why


def test_bf16_says_whose_wish_it_was():
    assert "as you wished" in chosen(planned(wishes=Wishes(quantization="none")), "weights").why
    old = planned(T4, "ministral-3b", Wishes(context=8192), version="0.13.0")
    assert "this card makes no FP8" in chosen(old, "weights").why


def test_the_load_peak_is_told_of_weights_that_are_quantised_on_the_way():
    assert "one layer in BF16" in chosen(planned(), "load peak").why
    assert "all of them in BF16 first" in chosen(planned(version="0.13.0"), "load peak").why
    assert not [choice for choice in planned(name="2509-fp8").choices if choice.what == "load peak"]


@pytest.mark.parametrize(
    ("wishes", "flags"),
    [
        (Wishes(gpus=2), {"--tensor-parallel-size": "2"}),
        (Wishes(gpus=2, pipeline_parallel=2), {"--pipeline-parallel-size": "2"}),
        (Wishes(data_parallel=4), {"--data-parallel-size": "4"}),
        (
            Wishes(gpus=4, pipeline_parallel=2, data_parallel=2),
            {"--tensor-parallel-size": "2", "--pipeline-parallel-size": "2", "--data-parallel-size": "2"},
        ),
        (Wishes(gpus=16, ray=True), {"--tensor-parallel-size": "16", "--distributed-executor-backend": "ray"}),
        (
            Wishes(data_parallel=2, ray=True),
            {"--data-parallel-size": "2", "--data-parallel-backend": "ray", "--distributed-executor-backend": "ray"},
        ),
    ],
)
def test_parallelism(wishes, flags):
    plan = planned(MACHINES["8 x H100 80"], wishes=wishes)
    several = [word for word in plan.argv if "parallel" in word or "distributed" in word]
    assert {name: flag(plan, name) for name in several} == flags


def test_gpus_say_how_they_are_linked():
    assert "NVLink" in chosen(planned(MACHINES["2 x H100 80"], wishes=Wishes(gpus=2)), "tensor parallel").why
    apart = machine(tuple(replace(gpu, linked=()) for gpu in gpus(CARDS["L4"], 2)))
    plan = planned(apart)
    assert chosen(plan, "tensor parallel").why.startswith("one of them is too small; over PCIe")


def test_what_can_sleep_is_in_development_mode_and_says_what_that_opens():
    plan = planned(wishes=Wishes(sleepable=True))
    assert "--enable-sleep-mode" in plan.argv
    assert dict(plan.environment)["VLLM_SERVER_DEV_MODE"] == "1"
    assert chosen(plan, "sleep").value == "on a Unix socket, no port"
    assert "opens doors without a key" in chosen(plan, "sleep").why


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(images=True), Wishes(speculative="ngram")])
def test_development_mode_is_never_on_otherwise(wishes):
    plan = planned(wishes=wishes)
    assert "VLLM_SERVER_DEV_MODE" not in dict(plan.environment)
    assert "--enable-sleep-mode" not in plan.argv


def test_speculation():
    ngram = json.loads(flag(planned(wishes=Wishes(speculative="ngram")), "--speculative-config"))
    assert ngram == {"method": "ngram", "prompt_lookup_max": 4, "num_speculative_tokens": 5}
    draft = planned(wishes=Wishes(speculative="mistralai/Ministral-3-3B-Reasoning-2512"))
    assert json.loads(flag(draft, "--speculative-config"))["model"] == "mistralai/Ministral-3-3B-Reasoning-2512"
    assert "draft's own memory is not reckoned" in chosen(draft, "speculation").why


def test_who_holds_the_rest_is_told():
    plan = planned(one("H100 80", held=30 * 10**9))
    assert "this notebook, 27.9 GiB" in chosen(plan, "GPU share").why
    assert flag(plan, "--max-num-seqs") == "64"


@pytest.mark.parametrize("hardware", [H100, A100, T4, CPU], ids=["H100", "A100", "T4", "CPU"])
def test_every_choice_has_a_value_and_a_reason(hardware):
    name = abacus() if hardware in (CPU, T4) else "2509-4bit"
    for choice in planned(hardware, name).choices:
        assert all((choice.what, choice.value, choice.why, choice.source))
        assert "\n" not in choice.why


def test_usage_is_not_reported_and_local_models_ask_no_hub():
    assert dict(planned().environment)["VLLM_NO_USAGE_STATS"] == "1"
    assert "HF_HUB_OFFLINE" not in dict(planned().environment)
    assert dict(planned(CPU, abacus()).environment)["HF_HUB_OFFLINE"] == "1"


def test_without_nvcc_nothing_is_left_to_flashinfer():
    for kind, kv in (("H100 80", "fp8"), ("A100 80", None), ("L40S", None), ("B200", None)):
        plan = planned(replace(one(kind), nvcc=False), "ministral-3b")
        assert dict(plan.environment)["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
        assert flag(plan, "--kv-cache-dtype") == kv, "FlashAttention 3, on Hopper alone, reads FP8 by itself"
        assert flag(plan, "--attention-backend") == ("FLASH_ATTN" if kind == "B200" else None)
        assert "nvcc" in chosen(plan, "FlashInfer").why
        there = planned(one(kind), "ministral-3b")
        assert "VLLM_USE_FLASHINFER_SAMPLER" not in dict(there.environment)
        assert flag(there, "--attention-backend") is None


def test_an_fp8_kv_cache_that_nothing_compiles_is_refused_with_both_ways_out():
    with pytest.raises(PlanRefused, match=r"nvcc, and that is not here: leave --kv-cache away, or install"):
        planned(replace(L40S, nvcc=False), wishes=Wishes(kv_cache="fp8"))


def test_the_kv_cache_s_figure_comes_with_its_arithmetic():
    source = chosen(planned(H100, "2507"), "KV cache").source
    size, *factors = map(int, re.findall(r"\d+", source))
    assert size * 1024 == math.prod(factors)


def test_on_several_gpus_it_is_said_that_each_takes_it():
    plan = planned(MACHINES["2 x H100 80"], wishes=Wishes(gpus=2))
    for what in ("weights", "load peak", "activations", "KV cache"):
        assert chosen(plan, what).value.endswith("GiB on each")
    assert "on each" not in chosen(planned(), "weights").value


def test_who_holds_memory_is_not_guessed():
    held = one("H100 80", held=30 * GIB)
    assert "this notebook" in chosen(planned(held), "GPU share").why
    unseen = replace(held, gpus=tuple(replace(gpu, holders=(), holders_known=False) for gpu in held.gpus))
    assert "by whom cannot be seen from here" in chosen(planned(unseen), "GPU share").why
    assert "other processes" not in chosen(planned(unseen), "GPU share").why


def test_an_engine_that_may_fail_on_the_driver_says_so():
    old = replace(H100, cuda=(12, 4), driver="550.54.15")
    assert "images fail" in chosen(make_plan(old, CATALOGUE["2509"], Wishes(), vllm("0.11.2")), "engine").why
    new = replace(H100, cuda=(13, 0), driver="580.65.06")
    assert "580.65.06 runs it" in chosen(planned(new), "engine").why


def test_a_tiny_model_leaves_the_gpu_to_others():
    plan = planned(H100, abacus())
    assert float(flag(plan, "--gpu-memory-utilization")) < 0.06
    assert "enough for 64 requests" in chosen(plan, "GPU share").why
    assert flag(plan, "--quantization") is None
    assert flag(plan, "--kv-cache-dtype") is None
    assert "MiB" in chosen(plan, "weights").value
    assert "so small that FP8 is no gain" in chosen(plan, "weights").why, "and not that the card makes none"
    assert int(re.search(r"room for (\d+)", chosen(plan, "KV cache").why)[1]) >= 64
    assert flag(planned(H100, abacus(), Wishes(quantization="fp8")), "--quantization") == "fp8_per_tensor"


def test_a_card_that_tells_no_capability_is_not_said_to_lack_bfloat16():
    unknown = machine(gpus(replace(CARDS["H100 80"], capability=(0, 0))))
    plan = planned(unknown, wishes=Wishes(kv_cache="auto"))
    assert flag(plan, "--dtype") is None
    assert "BF16, as it is computed" in chosen(plan, "KV cache").why
    assert "float16, as it is computed" in chosen(planned(T4, "ministral-3b"), "KV cache").why
