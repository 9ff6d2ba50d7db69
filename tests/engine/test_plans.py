"""Every plan's command line through vLLM's own configuration, on simulated GPUs; and lines that must not pass.

Only vLLM 0.32 is here. Lines for an older one go through it as well, as it still knows their words; what an older one
would not know is checked in tests/serving. Weights are not here either: models are folders with their shape.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hollow_models import HollowModels
from plan_check import Case
from serving.machines import MACHINES, one, versions_for, vllm
from simulated_cuda import ANSWERS, COMPILED, OPERATORS, PACKAGES, Card

from magistral_nb.dialect import dialect
from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE
from magistral_nb.serving.engine import VLLM_VERSION, find_engine
from magistral_nb.serving.placement import placements
from magistral_nb.serving.planner import default_profile, make_plan
from magistral_nb.serving.profile import Adapter
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.memory import Memory
    from magistral_nb.serving.plan import Plan
    from magistral_nb.serving.profile import Profile

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).with_name("plan_check.py")
GPUS = {label: hardware for label, hardware in MACHINES.items() if hardware.gpus}


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, its reckoning, and what vLLM is asked."""

    plan: Plan
    memory: Memory | None
    case: Case


def planned(name: str, hardware: Hardware, profile: Profile, wishes: Wishes, version: str, **case: Any) -> Planned:
    """Plan, and make a case of it.

    Raises:
        PlanRefused: it does not fit.
    """
    plan = make_plan(hardware, profile, wishes, vllm(version))
    possible = placements(hardware, profile, wishes, dialect(version))
    memory = next(each.memory for each in possible if each.tokens >= plan.context)
    gpu = next(gpu for gpu in hardware.gpus if gpu.uuid in plan.devices)
    card = Card(gpu.name, gpu.capability, gpu.total, count=len(plan.devices))
    return Planned(plan, memory, Case(name, plan.argv[2:], card, **case))


# Plans


def walk(models: HollowModels) -> Iterator[Planned]:
    """Machines by catalogue by drivers; without a model's name, too."""
    for label, hardware in GPUS.items():
        for version in sorted(versions_for(hardware) | {VLLM_VERSION}):
            for name in (None, *CATALOGUE):
                wishes = Wishes(model=name)
                try:
                    profile = CATALOGUE[name] if name else default_profile(hardware, wishes, vllm(version))
                    yield planned(f"{name} on {label}, vLLM {version}", hardware, models.of(profile), wishes, version)
                except PlanRefused:
                    continue


def adapted(name: str, rank: int) -> Profile:
    """A model of the catalogue with a LoRA adapter beside it."""
    return replace(CATALOGUE[name], adapters=(Adapter("mine", "mine", rank),))


def huggingface(name: str) -> Profile:
    """A model of the catalogue as Transformers saves it."""
    original = CATALOGUE[name]
    return replace(original, name=f"{original.name}-saved", layout="huggingface", tokenizer=original.source)


def wished(models: HollowModels) -> Iterator[Planned]:
    """What only wishes lead to."""
    h100, two, eight = (MACHINES[label] for label in ("H100 80", "2 x H100 80", "8 x H100 80"))
    small, long = CATALOGUE["2509"], Wishes(context=131_072)
    draft = models.of(CATALOGUE["ministral-3b"]).source
    rows = (
        ("LoRA", h100, adapted("2507", 16), Wishes()),
        ("LoRA of rank 1", h100, adapted("2507", 1), Wishes()),
        ("LoRA of rank 300 beside an image encoder", h100, adapted("2509", 300), Wishes(images=True)),
        ("LoRA on 4 bits", h100, adapted("2509-4bit", 64), Wishes()),
        ("LoRA on two GPUs", two, adapted("2509", 16), Wishes(gpus=2)),
        ("ngram", h100, small, Wishes(speculative="ngram")),
        ("ngram and LoRA", h100, adapted("2509", 16), Wishes(speculative="ngram")),
        ("a draft model", h100, small, Wishes(speculative=draft)),
        ("two GPUs", two, small, Wishes(gpus=2)),
        ("two GPUs, 4 bits", two, CATALOGUE["2509-4bit"], Wishes(gpus=2)),
        ("eight GPUs", eight, small, Wishes(gpus=8)),
        ("two stages", two, small, Wishes(gpus=2, pipeline_parallel=2)),
        ("two stages and ngram", two, small, Wishes(gpus=2, pipeline_parallel=2, speculative="ngram")),
        ("two copies", two, small, Wishes(data_parallel=2)),
        ("two copies of two stages of two", eight, small, Wishes(gpus=4, pipeline_parallel=2, data_parallel=2)),
        ("Ray", two, small, Wishes(gpus=4, ray=True)),
        ("Ray and two copies", two, small, Wishes(gpus=1, data_parallel=2, ray=True)),
        ("images", h100, small, Wishes(images=True)),
        ("images, Ministral", h100, CATALOGUE["ministral-14b"], Wishes(images=True)),
        ("Ministral in Hugging Face's format", h100, huggingface("ministral-8b"), Wishes()),
        ("images, FP8 as stored", h100, CATALOGUE["2509-fp8"], Wishes(images=True)),
        ("BF16", h100, small, Wishes(quantization="none", kv_cache="auto")),
        ("BF16 weights on an A100", one("A100 80"), small, Wishes(quantization="none")),
        ("FP8 weights, BF16 KV cache", one("L40S"), small, Wishes(kv_cache="auto")),
        ("no compiler, L40S", replace(one("L40S"), nvcc=False), small, Wishes()),
        ("no compiler, B200", replace(one("B200"), nvcc=False), small, Wishes()),
        ("all of the context", h100, small, long),
        ("all of the context, Ministral", h100, CATALOGUE["ministral-3b"], Wishes(context=262_144)),
        ("sleepable", h100, small, Wishes(sleepable=True)),
        ("sleepable on two GPUs", two, small, Wishes(sleepable=True, gpus=2)),
        ("raw flags", h100, small, Wishes(engine_args=("--seed", "3", "--enforce-eager"))),
    )
    for name, hardware, profile, wishes in rows:
        yield planned(name, hardware, models.of(profile), wishes, VLLM_VERSION)


# Lines that vLLM refuses: where it would not, it was not vLLM that was asked

CONTROLS = {
    "a dtype that is none": ("H100 80", "--dtype fp8", "argument --dtype: invalid choice: 'fp8'"),
    "two GPUs of one": ("H100 80", "--tensor-parallel-size 2", "World size (2) is larger than the number of"),
    "three GPUs": ("8 x H100 80", "--tensor-parallel-size 3", "must be divisible by tensor parallel size (3)"),
    "a quantization that is a plugin": ("H100 80", "--quantization bitsandbytes", "Unknown quantization method: bits"),
    "a quantization that is none": ("H100 80", "--quantization nonsense", "Unknown quantization method: nonsense"),
    "a reasoning parser that is none": ("H100 80", "--reasoning-parser magistral", "parser 'magistral' not found"),
    "a tool parser that is none": ("H100 80", "--tool-call-parser magistral", "invalid tool call parser: magistral"),
    "more context than the model has": ("H100 80", "--max-model-len 262145", "(262145) is greater than the derived"),
    "bfloat16 on a T4": ("T4", "--dtype bfloat16", "Bfloat16 is only supported on GPUs"),
    "FP8 KV cache on a T4": ("T4", "--kv-cache-dtype fp8", "FP8 KV cache is not supported by the Triton"),
    "e5m2 with FlashAttention": (
        "H100 80",
        "--kv-cache-dtype fp8_e5m2 --attention-backend FLASH_ATTN",
        "kv_cache_dtype not supported",
    ),
    "FP8 KV cache with FlashAttention on an L40S": (
        "L40S",
        "--attention-backend FLASH_ATTN",
        "FP8 KV cache requires FA3",
    ),
    "a rank between two": ("H100 80", "--enable-lora --max-lora-rank 24", "argument --max-lora-rank: invalid"),
    "a share above all": ("H100 80", "--gpu-memory-utilization 1.5", "less than or equal to 1"),
    "no share": ("H100 80", "--gpu-memory-utilization 0.00", "greater than 0"),
    "a flag that is none": ("H100 80", "--no-such-flag", "unrecognized arguments: --no-such-flag"),
}
# What vLLM goes round in silence or wraps into a refusal of its own, and what simply breaks.
MISSING = {"flashinfer": "A100 80", "torchvision": "H100 80", "cutlass_scaled_mm_supports_fp8": "H100 80"}


def controls(models: HollowModels) -> Iterator[Planned]:
    """A plan that is good, and a flag behind it that is not; --gpus 4 makes four of eight visible."""
    for name, (label, flags, _) in CONTROLS.items():
        wishes = Wishes(gpus=4 if label.startswith("8") else None)
        good = planned(name, MACHINES[label], models.of(CATALOGUE["ministral-3b"]), wishes, VLLM_VERSION)
        yield replace(good, case=replace(good.case, argv=(*good.case.argv, *flags.split())))


def incomplete(models: HollowModels, missing: dict[str, str]) -> Iterator[Planned]:
    """Good plans where nobody stands in for a name."""
    profile = models.of(CATALOGUE["2509"])
    for name, label in missing.items():
        wishes = Wishes(ray=name == "ray")
        yield planned(f"without {name}", MACHINES[label], profile, wishes, VLLM_VERSION, without=(name,))


# Asking


@dataclass(frozen=True, slots=True)
class Answered:
    """A plan and vLLM's verdict."""

    planned: Planned
    verdict: str
    says: str
    seen: dict[str, Any]


def ask(*rounds: Iterator[Planned]) -> dict[str, Answered]:
    """Verdicts by the names of cases; what is the same line on the same cards is asked once."""
    lines: dict[tuple[Any, ...], list[Planned]] = {}
    for each in (each for round_ in rounds for each in round_):
        lines.setdefault((each.case.argv, each.case.card, each.case.without), []).append(each)
    cases = [asdict(same[0].case) for same in lines.values()]
    done = subprocess.run(
        [find_engine(gpu=False).command[0], str(SCRIPT)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    verdicts = {verdict["name"]: verdict for verdict in map(json.loads, done.stdout.splitlines())}
    missing = [case["name"] for case in cases if case["name"] not in verdicts]
    assert not missing, f"no verdict on {missing}: {done.stderr}"
    return {
        each.case.name: Answered(each, *(verdicts[same[0].case.name][key] for key in ("verdict", "says", "seen")))
        for same in lines.values()
        for each in same
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> HollowModels:
    return HollowModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def asked(models) -> dict[str, Answered]:
    """All at once, as the imports take longer than the questions."""
    return ask(walk(models), wished(models), controls(models), incomplete(models, MISSING))


@pytest.fixture
def plans(asked) -> dict[str, Answered]:
    """Those that must pass."""
    return {name: each for name, each in asked.items() if name not in CONTROLS and not each.planned.case.without}


def test_vllm_takes_every_plan(plans):
    assert len(plans) > 300
    assert {name: each.says for name, each in plans.items() if each.verdict != "accepted"} == {}


@pytest.mark.parametrize("name", CONTROLS)
def test_vllm_refuses(asked, name):
    assert asked[name].verdict == "refused", asked[name].says
    assert CONTROLS[name][2] in asked[name].says


@pytest.mark.parametrize("name", MISSING)
def test_what_nobody_stands_in_for_is_broken_and_no_refusal(asked, name):
    assert asked[f"without {name}"].verdict == "broken"


@pytest.mark.long
def test_every_stand_in_is_needed(models):
    """And each alone, where it is not there, is found out."""
    missing = dict.fromkeys((*COMPILED, *PACKAGES, *OPERATORS, *ANSWERS), "H100 80") | MISSING
    answered = ask(incomplete(models, missing))
    assert {name: each.verdict for name, each in answered.items() if each.verdict != "broken"} == {}


# What vLLM makes of them


def test_attention_is_what_the_card_is_known_for(plans):
    """FlashAttention 3 takes an FP8 KV cache on Hopper alone; elsewhere FlashInfer does, and a T4 has neither.

    FlashInfer is a B200's first choice whatever the cache, unless the plan names another.
    """
    for name, each in plans.items():
        generation = each.planned.case.card.capability[0]
        in_fp8 = "--kv-cache-dtype" in each.planned.plan.argv
        attention = {7: "TRITON_ATTN", 9: "FLASH_ATTN"}.get(generation, "FLASHINFER" if in_fp8 else "FLASH_ATTN")
        assert each.seen["attention"] == attention, name
        assert each.seen["kv_dtype"] == ("fp8" if in_fp8 else "auto"), name
        assert each.seen["dtype"] == ("float16" if generation == 7 else "bfloat16"), name


def test_fp8_is_native_from_ada_on_and_weight_only_before(plans):
    checked = set()
    for name, each in plans.items():
        how = next((choice.why for choice in each.planned.plan.choices if choice.what == "weights"), "")
        if told := re.search("native|Marlin", how):
            kernels = {"native": "CutlassFP8ScaledMMLinearKernel", "Marlin": "MarlinFP8ScaledMMLinearKernel"}
            assert each.seen["kernels"] == [kernels[told[0]]], name
            checked.add(told[0])
    assert checked == {"native", "Marlin"}


def test_a_token_of_kv_cache_is_reckoned_as_vllm_does(plans):
    for name, each in plans.items():
        assert each.seen["kv_bytes"] == each.planned.memory.per_token, name


def test_weights_are_within_a_tenth_of_vllm_s(plans):
    off = {name: each.planned.memory.weights / each.seen["weight_bytes"] for name, each in plans.items()}
    assert {name: ratio for name, ratio in off.items() if not 0.99 < ratio < 1.1} == {}


def test_parameters_are_the_catalogue_s(asked):
    """Of a whole model in BF16, its image encoder included."""
    for name, model in (("images", "2509"), ("images, Ministral", "ministral-14b")):
        assert asked[name].seen["parameters"] == pytest.approx(CATALOGUE[model].shape.parameters, rel=0.005)


def test_adapters_take_what_is_reckoned_for_them(asked):
    """Rank times inputs and outputs of each layer, in BF16."""
    inside, ends = 2 * 5120 + 2 * 4096 + 2 * (5120 + 1024), 3 * (5120 + 32_768)
    assert asked["LoRA"].seen["lora_bytes"] == 2 * 16 * 40 * (inside + ends)
