"""vLLM's flags for a model, for GPUs and for a CPU, each with its value and its reason. Pure."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magistral_nb.serving.catalogue import in_order
from magistral_nb.serving.devices import names_of
from magistral_nb.serving.masking import masked
from magistral_nb.serving.memory import GIB, LARGEST_SHARE, share_of
from magistral_nb.serving.plan import DEVELOPMENT, SHARE_FLAG, Choice

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
_DRAFTED = 5  # tokens guessed ahead
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

    def add(self, flags: Sequence[str], what: str, value: str, why: str, source: str) -> None:
        """Take up one decision."""
        self.argv += flags
        self.choices.append(Choice(what, value, why, source))


def of_model(on: Flags, profile: Profile, wishes: Wishes, dialect: Dialect) -> None:
    """How the model is read: its format, tokenizer, reasoning parser, images and adapters."""
    on.add(
        [profile.source, "--served-model-name", profile.name],
        "model",
        profile.name,
        _why_model(profile, wishes),
        _who_chose(profile, wishes),
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
        source = "you; Mistral's model card" if wishes.images else "our default: a notebook mostly asks in text"
        on.choices.append(Choice("images", value, why, source))
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
            "its adapter_config.json",
        )
    if profile.is_local:
        on.environment["HF_HUB_OFFLINE"] = "1"


def of_context(on: Flags, profile: Profile, wishes: Wishes, context: int) -> None:
    """How long a prompt and its completion may be together, in tokens."""
    why, source = "all that the model has", profile.origin
    if wishes.context is not None:
        why, source = "as you wished", "you"
    elif context < profile.context:
        why, source = f"all that fits beside the weights, of {profile.context:,}", "the KV cache below"
    elif context < profile.longest_context:
        why = f"enough for long traces; {profile.longest_context:,} would be allowed"
        source = "Mistral's card of Magistral Small, which advises no more"
    on.add(["--max-model-len", str(context)], "context", f"{context:,} tokens", why, source)


def of_gpus(
    on: Flags, profile: Profile, wishes: Wishes, dialect: Dialect, placed: Placement, context: int
) -> None:  # fmt: skip
    """How the weights and the KV cache lie on the GPUs, and who shares what."""
    gpu, memory = placed.gpus[0], placed.memory
    _weights(on, gpu, profile, wishes, dialect, placed)
    if _lacks_bfloat16(gpu):
        on.add(["--dtype", "half"], "dtype", "half", "this card has no bfloat16", "NVML: its compute capability")
    if placed.fp8_kv:
        on.argv += ["--kv-cache-dtype", "fp8"]
    if memory is not None:
        _memory(on, profile, memory, placed, dialect, context)
    least = placed.gpus[-1]
    share = f"{placed.share:.2f}"
    on.add([SHARE_FLAG, share], "GPU share", share, _why_share(least, placed.share), "NVML")
    _sharing(on, placed, wishes)
    on.add(
        ["--enable-chunked-prefill", "--max-num-seqs", str(MAX_NUM_SEQS)],
        "requests at once",
        str(MAX_NUM_SEQS),
        "more of them wait their turn",
        "our default: a class or a sweep asks dozens at once, and logits of more take memory",
    )
    if wishes.speculative:
        _speculative(on, wishes.speculative)


def of_devices(on: Flags, hardware: Hardware, placed: Placement, dialect: Dialect) -> None:
    """Name the GPUs that were planned for, in the order of the PCI buses: CUDA's own puts the fastest first."""
    taken = [gpu for gpu in hardware.gpus if gpu in placed.gpus]
    if not hardware.nvcc:
        # vLLM 0.32 samples with FlashInfer wherever that is installed, and dies while it boots if nothing compiles it.
        on.environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        attention = []
        if dialect.attention_flag and any(gpu.capability[0] == _BLACKWELL for gpu in taken):
            attention = ["--attention-backend", "FLASH_ATTN"]  # the only cards on which FlashInfer is its first choice
        why = "it compiles its kernels with CUDA's nvcc, which is not here: sampling and attention do without"
        on.add(attention, "FlashInfer", "off", why, "vLLM's and FlashInfer's source")
    if taken and all(gpu.uuid for gpu in taken):
        on.environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        on.environment["CUDA_VISIBLE_DEVICES"] = ",".join(names_of(taken, uuids=dialect.uuids))


def of_sleep(on: Flags, wishes: Wishes, placed: Placement) -> None:
    """Let it give its memory back for a while, behind a door that nobody else can open."""
    if not wishes.sleepable:
        return
    on.environment[DEVELOPMENT] = "1"
    held = f"; asleep, {_on_each(placed.memory.weights, placed)} of weights wait in RAM" if placed.memory else ""
    on.add(
        ["--enable-sleep-mode"],
        "sleep",
        "on a Unix socket, no port",
        f"vLLM's development mode, which that needs, opens doors without a key{held}",
        "vLLM's guide, and tried",
    )


def of_cpu(
    on: Flags, hardware: Hardware, profile: Profile, wishes: Wishes, dialect: Dialect, context: int
) -> None:  # fmt: skip
    """How a small model runs beside the notebook on the same cores."""
    kv = _CPU_KV_BYTES
    if profile.shape is not None:
        kv = max(kv, int(2 * context * profile.shape.kv_bytes(2)))
    holds = "" if profile.shape is None else f"{kv / profile.shape.kv_bytes(2):,.0f} tokens; "
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
        f"{holds}set, as vLLM takes 10 GiB otherwise",
        "measured with vLLM 0.32",
    )
    # A question with a seed whose prompt is read in two parts kills vLLM 0.32 on a CPU: "CPU Generator does not use
    # offset" (gpu_model_runner.py). Seen with 64 at once.
    on.add(
        ["--no-enable-chunked-prefill"],
        "prompts",
        "read in one piece",
        "vLLM dies on a CPU where one with a seed is read in two",
        "seen with vLLM 0.32",
    )
    if wishes.kv_cache == "fp8":
        on.argv += ["--kv-cache-dtype", "fp8"]
    if wishes.speculative:
        _speculative(on, wishes.speculative)
    why = "the notebook goes first on the cores that they share"
    on.choices.append(Choice("niceness", str(CPU_NICENESS), why, "measured on two cores"))
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
            "measured on two cores",
        )


def of_user(on: Flags, wishes: Wishes) -> None:
    """Raw flags, which win because they come last."""
    if wishes.engine_args:
        on.add(
            wishes.engine_args,
            "raw flags",
            masked(shlex.join(wishes.engine_args)),
            "as you wished; vLLM alone checks them",
            "you",
        )


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / GIB:.1f} GiB"


def _size(size: float) -> str:
    """Bytes of a model of any size."""
    return gib(size) if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"


def _who_chose(profile: Profile, wishes: Wishes) -> str:
    if wishes.model is not None:
        return "you"
    return "the one that needs no GPU" if profile.embedded else "the best that fits, by this table"


def _on_each(size: float, placed: Placement) -> str:
    """Bytes that each GPU of a plan holds."""
    return _size(size) + " on each" * (len(placed.gpus) > 1)


def _why_model(profile: Profile, wishes: Wishes) -> str:
    if profile.embedded:
        return "ships with this package"
    first = in_order(gpu=True)[0].name
    if wishes.model is None and profile.name != first:
        return f"{profile.source}: the best that fits this machine, as {first} does not"
    return profile.source


def _lacks_bfloat16(gpu: Gpu) -> bool:
    return (0, 0) < gpu.capability < _BFLOAT16


def _weights(
    on: Flags, gpu: Gpu, profile: Profile, wishes: Wishes, dialect: Dialect, placed: Placement
) -> None:  # fmt: skip
    size = _on_each(placed.memory.weights, placed) if placed.memory else "not known"
    shape = profile.shape
    source = f"{shape.parameters / 1e9:.2f} billion parameters by {profile.origin}" if shape else profile.origin
    if placed.fp8:
        how = "native" if gpu.capability >= _NATIVE_FP8 else "weight-only, through Marlin"
        why = f"FP8: half of BF16 for 1-2 % of accuracy at most; {how} on this card"
        source += ", a byte each, embeddings two"
        on.add(["--quantization", dialect.fp8], "weights", size, why, source)
    elif profile.stored == "int4":
        why = "4 bits, as stored: long traces lose more accuracy than with FP8"
        on.add([], "weights", size, why, profile.origin)
    elif profile.stored != "bf16":
        marlin = "; weight-only on this card, through Marlin" * (gpu.capability < _NATIVE_FP8)
        on.add([], "weights", size, f"{profile.stored.upper()}, as stored{marlin}", profile.origin)
    else:
        no_gain = "it is so small that FP8 is no gain"
        why = "this card makes no FP8" if (0, 0) < gpu.capability < dialect.fp8_card else no_gain
        why = "as you wished" if wishes.quantization == "none" else why
        on.add([], "weights", size, f"BF16, as stored: {why}", f"{source}, two bytes each")


def _memory(
    on: Flags, profile: Profile, memory: Memory, placed: Placement, dialect: Dialect, context: int
) -> None:  # fmt: skip
    if placed.fp8:
        peak = "one layer in BF16 beside them" if dialect.fp8_layerwise else "all of them in BF16 first"
        why = f"while loading: {peak}"
        on.add([], "load peak", _on_each(memory.load_peak, placed), why, "how this vLLM quantises, by its source")
    why = "a step of chunked prefill, CUDA graphs and the CUDA context"
    on.add(
        [],
        "activations",
        _on_each(memory.activations, placed),
        why,
        "what vLLM left of an H100 and an A100, as reported",
    )
    half = "float16" if _lacks_bfloat16(placed.gpus[0]) else "BF16"
    kind = "FP8: twice the tokens in the same memory" if placed.fp8_kv else f"{half}, as it is computed"
    times = memory.tokens // context
    many = f"{memory.tokens:,} tokens, room for {times:,} request{'s' * (times != 1)} of the full context; {kind}"
    source = f"what is left, at {memory.per_token / 1024:.0f} KiB a token on each GPU{_arithmetic(profile, placed)}"
    on.add([], "KV cache", _on_each(memory.kv_cache, placed), many, source)


def _arithmetic(profile: Profile, placed: Placement) -> str:
    """How much a token takes of the KV cache, where one GPU holds all of it."""
    if profile.shape is None or len(placed.gpus) > 1:
        return ""
    shape, size = profile.shape, 1 if placed.fp8_kv else 2
    return f" (2 x {shape.layers} layers x {shape.kv_heads} heads x {shape.head_size} values x {size} B)"


def _why_share(gpu: Gpu, share: float) -> str:
    held = gpu.total - gpu.free
    if share >= LARGEST_SHARE:
        return f"of {gib(gpu.total)}; the rest is for what CUDA takes beside it"
    if share < share_of(gpu):
        return f"of {gib(gpu.total)}: enough for {MAX_NUM_SEQS} requests of the full context"
    unknown = "other processes" if gpu.holders_known else "somebody: by whom cannot be seen from here"
    who = ", ".join(holder.title for holder in gpu.holders) or unknown
    return f"what is free of {gib(gpu.total)}: {gib(held)} are held by {who}"


def _sharing(on: Flags, placed: Placement, wishes: Wishes) -> None:
    count = placed.tensor_parallel
    if count > 1:
        why = "as you wished" if wishes.gpus else "one of them is too small"
        if not wishes.ray:  # whose other machines are not seen from here
            linked = all(len(gpu.linked) >= len(placed.gpus) - 1 for gpu in placed.gpus)
            why += "; linked by NVLink" if linked else "; over PCIe, which is slower than NVLink"
        on.add(["--tensor-parallel-size", str(count)], "tensor parallel", f"{count} GPUs", why, "NVML")
    for flag, what, value in (
        ("--pipeline-parallel-size", "pipeline parallel", wishes.pipeline_parallel),
        ("--data-parallel-size", "data parallel", wishes.data_parallel),
    ):
        if value > 1:
            on.add([flag, str(value)], what, str(value), "as you wished", "you")
    if wishes.ray:
        flags = ["--distributed-executor-backend", "ray"]
        if wishes.data_parallel > 1:
            flags += ["--data-parallel-backend", "ray"]
        on.add(flags, "Ray", "on", "as you wished: a Ray cluster must run", "you")


def _speculative(on: Flags, wished: str) -> None:
    """A budget and speculation do not clash here: the client counts token ids, several in a step or one."""
    config = {"method": "ngram", "prompt_lookup_max": 4} if wished == "ngram" else {"model": wished}
    on.add(
        ["--speculative-config", json.dumps(config | {"num_speculative_tokens": _DRAFTED})],
        "speculation",
        wished,
        f"as you wished: {_DRAFTED} tokens guessed ahead and checked; "
        + ("from what stands in the text" if wished == "ngram" else "the draft's own memory is not reckoned here"),
        "you; five tokens as in vLLM's own examples",
    )
