"""vLLM's flags for a model, for GPUs and for a CPU, each with its value and its reason. Pure."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import in_order
from magistral_nb.serving.memory import GIB, LARGEST_SHARE
from magistral_nb.serving.plan import SHARE_FLAG, Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.hardware import Gpu, Hardware
    from magistral_nb.serving.memory import Memory
    from magistral_nb.serving.placement import Placement
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

MAX_NUM_SEQS = 64  # a notebook asks one by one, a sweep or a class by dozens; logits of more only take memory
_NATIVE_FP8 = (8, 9)  # older cards run FP8 weights through Marlin, weight-only
_BFLOAT16 = (8, 0)
_BLACKWELL = 10  # B200 and B300, not the 12 of RTX cards
_IMAGES = 10  # a prompt, as Mistral's card for 2509 has it
_DRAFTED = 5  # tokens guessed ahead; vLLM's own examples
CPU_NICENESS = 10  # the engine and the notebook share the cores: kernel and browser go first
_CPU_KV_BYTES = 64 * 2**20  # without a limit vLLM takes 10 GiB on a CPU
_BIG_MODEL = 100e6  # parameters; below that a second thread costs more than it brings


@dataclass(slots=True)
class Flags:
    """A command line as it grows.

    Attributes:
        argv: flags and their values.
        choices: what they decide, for people.
        environment: variables that the engine is started with.
    """

    argv: list[str] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: {"VLLM_NO_USAGE_STATS": "1"})

    def add(self, flags: Sequence[str], what: str, value: str, why: str) -> None:
        """Take up one decision."""
        self.argv += flags
        self.choices.append(Choice(what, value, why))


def of_model(on: Flags, profile: Profile, wishes: Wishes, dialect: Dialect) -> None:
    """How the model is read: its format, tokenizer, reasoning parser, images and adapters."""
    on.add(
        [profile.source, "--served-model-name", profile.name],
        "model",
        profile.name,
        _why_model(profile, wishes),
    )
    mistral = profile.layout == "mistral"
    if mistral:
        on.argv += ["--tokenizer-mode", "mistral", "--config-format", "mistral", "--load-format", "mistral"]
    elif profile.tokenizer:
        on.argv += ["--tokenizer", profile.tokenizer, "--tokenizer-mode", "mistral"]
    if mistral or profile.tokenizer:
        on.argv += ["--tool-call-parser", "mistral", "--enable-auto-tool-choice"]
    parser = dialect.reasoning_parser and (profile.marks == "tokens" or dialect.text_marks)
    if profile.thinks and parser:
        on.argv += ["--reasoning-parser", "mistral"]
    if profile.vision:
        on.argv += ["--limit-mm-per-prompt", f'{{"image":{_IMAGES if wishes.images else 0}}}']
        text_only = "text only"
        if dialect.images_off_saves:
            text_only += ": the image encoder's memory goes to the KV cache"
        value, why = (f"{_IMAGES} a prompt", "as you wished") if wishes.images else ("off", text_only)
        on.choices.append(Choice("images", value, why))
    elif wishes.images:
        raise PlanRefused(f"{profile.name} takes no images: leave --images away, or name 2509.")
    if profile.adapters:
        rank = profile.lora_rank()
        on.add(
            [
                *("--enable-lora", "--max-lora-rank", str(rank)),
                *("--lora-modules", *(json.dumps({"name": a.name, "path": a.path}) for a in profile.adapters)),
            ],
            "adapter",
            profile.adapters[0].name,
            f"LoRA of rank {rank}, beside its base model",
        )
    if profile.is_local:
        on.environment["HF_HUB_OFFLINE"] = "1"


def of_context(on: Flags, profile: Profile, wishes: Wishes, context: int) -> None:
    """How long a prompt and its completion may be together, in tokens."""
    why = "all that the model has"
    if wishes.context is not None:
        why = "as you wished"
    elif context < profile.context:
        why = f"all that fits beside the weights, of {profile.context:,}"
    elif context < profile.longest_context:
        why = f"enough for long traces and as much as Mistral advises; {profile.longest_context:,} would be allowed"
    on.add(["--max-model-len", str(context)], "context", f"{context:,} tokens", why)


def of_gpus(
    on: Flags, profile: Profile, wishes: Wishes, dialect: Dialect, placed: Placement, context: int
) -> None:  # fmt: skip
    """How the weights and the KV cache lie on the GPUs, and who shares what."""
    gpu, memory = placed.gpus[0], placed.memory
    _weights(on, gpu, profile, wishes, dialect, placed)
    if (0, 0) < gpu.capability < _BFLOAT16:
        on.add(["--dtype", "half"], "dtype", "half", "this card has no bfloat16")
    if placed.fp8_kv:
        on.argv += ["--kv-cache-dtype", "fp8"]
    if memory is not None:
        _memory(on, memory, placed, dialect, context)
    least = placed.gpus[-1]
    share = f"{placed.share:.2f}"
    on.add([SHARE_FLAG, share], "GPU share", share, _why_share(least, placed.share))
    _sharing(on, placed, wishes)
    on.add(
        ["--enable-chunked-prefill", "--max-num-seqs", str(MAX_NUM_SEQS)],
        "requests at once",
        str(MAX_NUM_SEQS),
        "more of them wait their turn",
    )
    if wishes.speculative:
        _speculative(on, wishes.speculative)


def of_devices(on: Flags, hardware: Hardware, placed: Placement, dialect: Dialect) -> None:
    """Name the GPUs that were planned for, in NVML's order: CUDA's own puts the fastest first."""
    taken = [gpu for gpu in hardware.gpus if gpu in placed.gpus]
    if not hardware.nvcc:
        # vLLM 0.32 samples with FlashInfer wherever that is installed, and dies while it boots if nothing compiles it.
        on.environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        attention = []
        if dialect.attention_flag and any(gpu.capability[0] == _BLACKWELL for gpu in taken):
            attention = ["--attention-backend", "FLASH_ATTN"]  # the only cards on which FlashInfer is its first choice
        why = "it compiles its kernels with CUDA's nvcc, which is not here: sampling and attention do without"
        on.add(attention, "FlashInfer", "off", why)
    if any(gpu.mig for gpu in taken):
        on.environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in taken)
    elif taken and all(gpu.uuid for gpu in taken):
        on.environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        # Numbers: vLLM before 0.12 reads nothing else.
        on.environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu.index) for gpu in taken)


def of_cpu(
    on: Flags, hardware: Hardware, profile: Profile, wishes: Wishes, dialect: Dialect, context: int
) -> None:  # fmt: skip
    """How a small model runs beside the notebook on the same cores."""
    kv = _CPU_KV_BYTES
    if profile.shape is not None:
        kv = max(kv, int(2 * context * profile.shape.kv_bytes(2)))
    big = profile.shape is None or profile.shape.parameters > _BIG_MODEL
    on.environment["OMP_NUM_THREADS"] = str(hardware.cpus) if big else "1"
    size = ["--kv-cache-memory-bytes", str(kv)]
    if not dialect.kv_cache_bytes:
        size = []
        on.environment["VLLM_CPU_KVCACHE_SPACE"] = str(-(-kv // GIB))  # in GiB
    on.add(
        ["--enforce-eager", *size],
        "KV cache",
        f"{kv / 2**20:.0f} MiB",
        "set, as vLLM takes 10 GiB otherwise",
    )
    if wishes.kv_cache == "fp8":
        on.argv += ["--kv-cache-dtype", "fp8"]
    if wishes.speculative:
        _speculative(on, wishes.speculative)
    on.choices.append(Choice("niceness", str(CPU_NICENESS), "the notebook goes first on the cores that they share"))
    if not big:
        # vLLM's worker process and its engine wait for each other by spinning. Measured on two cores: that holds a
        # notebook up for seconds (1.4-5.4 of 12), while one process gives the same tokens a second, boots in two
        # thirds of the time and takes 0.5 GB less. A model with threads of its own needs vLLM's worker to bind them.
        on.environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        on.add(
            ["--distributed-executor-backend", "uni"],
            "processes",
            "engine and worker in one",
            "two of them would spin while they wait",
        )


def of_user(on: Flags, wishes: Wishes) -> None:
    """Raw flags, which win because they come last."""
    if wishes.engine_args:
        on.add(
            wishes.engine_args,
            "raw flags",
            shlex.join(wishes.engine_args),
            "as you wished; vLLM alone checks them",
        )


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / GIB:.1f} GiB"


def _why_model(profile: Profile, wishes: Wishes) -> str:
    if profile.embedded:
        return "ships with this package"
    first = in_order(gpu=True)[0].name
    if wishes.model is None and profile.name != first:
        return f"{profile.source}: the best that fits this machine, as {first} does not"
    return profile.source


def _weights(
    on: Flags, gpu: Gpu, profile: Profile, wishes: Wishes, dialect: Dialect, placed: Placement
) -> None:  # fmt: skip
    size = gib(placed.memory.weights) if placed.memory else "not known"
    if placed.fp8:
        how = "native" if gpu.capability >= _NATIVE_FP8 else "weight-only, through Marlin"
        why = f"FP8: half of BF16 for 1-2 % of accuracy at most; {how} on this card"
        on.add(["--quantization", dialect.fp8], "weights", size, why)
    elif profile.stored == "int4":
        on.add([], "weights", size, "4 bits, as stored: long traces lose more accuracy than with FP8")
    elif profile.stored != "bf16":
        on.add([], "weights", size, f"{profile.stored.upper()}, as stored")
    else:
        why = "as you wished" if wishes.quantization == "none" else "this card makes no FP8"
        on.add([], "weights", size, f"BF16, as stored: {why}")


def _memory(on: Flags, memory: Memory, placed: Placement, dialect: Dialect, context: int) -> None:
    if placed.fp8:
        peak = "one layer in BF16 beside them" if dialect.fp8_layerwise else "all of them in BF16 first"
        on.add([], "load peak", gib(memory.load_peak), f"while loading: {peak}")
    on.add([], "activations", gib(memory.activations), "a step of chunked prefill, CUDA graphs and the CUDA context")
    kind = "FP8: twice the tokens in the same memory" if placed.fp8_kv else "in the weights' own type"
    times = memory.tokens // context
    many = f"{memory.tokens:,} tokens, {times} request{'s' * (times != 1)} of the full context at once; {kind}"
    on.add([], "KV cache", gib(memory.kv_cache), many)


def _why_share(gpu: Gpu, share: float) -> str:
    held = gpu.total - gpu.free
    if share >= LARGEST_SHARE:
        return f"of {gib(gpu.total)}; the rest is for what CUDA takes beside it"
    who = ", ".join(holder.title for holder in gpu.holders) or "other processes"
    return f"what is free of {gib(gpu.total)}: {gib(held)} are held by {who}"


def _sharing(on: Flags, placed: Placement, wishes: Wishes) -> None:
    count = placed.tensor_parallel
    if count > 1:
        why = "as you wished" if wishes.gpus else "one of them is too small"
        linked = all(len(gpu.linked) >= len(placed.gpus) - 1 for gpu in placed.gpus)
        speed = "linked by NVLink" if linked else "over PCIe, which is slower than NVLink"
        on.add(["--tensor-parallel-size", str(count)], "tensor parallel", f"{count} GPUs", f"{why}; {speed}")
    for flag, what, value in (
        ("--pipeline-parallel-size", "pipeline parallel", wishes.pipeline_parallel),
        ("--data-parallel-size", "data parallel", wishes.data_parallel),
    ):
        if value > 1:
            on.add([flag, str(value)], what, str(value), "as you wished")
    if wishes.ray:
        flags = ["--distributed-executor-backend", "ray"]
        if wishes.data_parallel > 1:
            flags += ["--data-parallel-backend", "ray"]
        on.add(flags, "Ray", "on", "as you wished: a Ray cluster must run")


def _speculative(on: Flags, wished: str) -> None:
    """A budget and speculation do not clash here: the client counts token ids, several in a step or one."""
    config = {"method": "ngram", "prompt_lookup_max": 4} if wished == "ngram" else {"model": wished}
    on.add(
        ["--speculative-config", json.dumps(config | {"num_speculative_tokens": _DRAFTED})],
        "speculation",
        wished,
        f"as you wished: {_DRAFTED} tokens guessed ahead and checked; "
        + ("from what stands in the text" if wished == "ngram" else "the draft's own memory is not reckoned here"),
    )
