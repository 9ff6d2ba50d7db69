"""Hardware, model, wishes and engine in; a vLLM command line with its reasons out. Pure."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.errors import PlanRefused

if TYPE_CHECKING:
    from magistral_nb.serving.catalogue import Profile
    from magistral_nb.serving.engine import Engine
    from magistral_nb.serving.hardware import Gpu, Hardware

_GIB = 2**30
_SHARE_FLAG = "--gpu-memory-utilization"
# vLLM's own default share. On an H100 it leaves 45 GiB for the KV cache beside 24 GiB of FP8 weights, on an
# A100 40 GB 9 GiB (published figures): in both about 2.5 GiB go to activations and CUDA graphs.
_GPU_SHARE = 0.90
_ACTIVATIONS = 2.5 * _GIB
_NATIVE_FP8 = (8, 9)  # older cards run FP8 weights through Marlin, weight-only
_FP8_KV = (8, 0)  # on a T4 no attention backend takes an FP8 KV cache
_BFLOAT16 = (8, 0)
_CPU_KV_BYTES = 64 * 2**20  # without a limit vLLM takes 10 GiB on a CPU
# On a CPU the engine and the notebook share the cores: kernel and browser go first.
_CPU_NICENESS = 10
_BIG_MODEL = 100e6  # parameters; below that a second thread costs more than it brings


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None leaves the choice to the plan.

    Attributes:
        model: short name, repository or folder.
        context: tokens.
        quantization: "fp8" or "none".
        kv_cache: "fp8" or "auto" (the weights' own type).
        engine_args: raw vLLM flags, handed on last, so that they win.
    """

    model: str | None = None
    context: int | None = None
    quantization: str | None = None
    kv_cache: str | None = None
    engine_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of a plan: what, how, and why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a server will be booted.

    Attributes:
        model: the name under which the model is served.
        title: model, machine and engine in a few words.
        argv: the whole command but for host and port, which are found at boot.
        environment: what is added to the process's environment.
        context: tokens, prompt and completion together.
        sampling: the model's own.
        choices: what was decided and why.
        fingerprint: equal for equal wishes on the same model and engine; tells "the same plan again".
        niceness: the processes' own, 0 to 19; on a GPU 0.
    """

    model: str
    title: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    context: int
    sampling: Sampling
    choices: tuple[Choice, ...]
    fingerprint: str
    niceness: int = 0

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Plan:
        """Read what `dataclasses.asdict` made, as it comes back from JSON.

        Raises:
            TypeError: it is no such dictionary.
        """
        parts = {
            "argv": tuple(raw["argv"]),
            "environment": tuple((name, value) for name, value in raw["environment"]),
            "sampling": Sampling(**raw["sampling"]),
            "choices": tuple(Choice(**choice) for choice in raw["choices"]),
        }
        return Plan(**(raw | parts))

    def rows(self) -> list[tuple[str, str, str]]:
        """The plan as people read it: what was decided, how, and why."""
        return [(choice.what, choice.value, choice.why) for choice in self.choices]


def fingerprint(profile: Profile, wishes: Wishes, engine: Engine) -> str:
    """Equal for equal wishes on the same model and engine.

    Made of wishes, not of the command line: free memory shifts that while the server itself holds it.
    """
    value = [profile.source, asdict(wishes) | {"model": None}, engine.version, list(engine.command)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def after_stopping(hardware: Hardware, plan: Plan) -> Hardware:
    """The machine as it will be once the server that runs by `plan` has ended: its GPU's share is free again."""
    if not hardware.gpus or _SHARE_FLAG not in plan.argv:
        return hardware
    first, *others = hardware.gpus
    share = float(plan.argv[plan.argv.index(_SHARE_FLAG) + 1])
    freed = replace(first, free=min(first.total, first.free + int(share * first.total)))
    return replace(hardware, gpus=(freed, *others))


def make_plan(hardware: Hardware, profile: Profile, wishes: Wishes, engine: Engine) -> Plan:
    """Plan a boot of `profile` on `hardware`.

    Raises:
        PlanRefused: it cannot work; the message names what would.

    Example:
        >>> from magistral_nb.serving import catalogue, hardware, engine, plan
        >>> here = hardware.Hardware("Linux", "x86_64", cpus=2)
        >>> vllm = engine.Engine(("vllm",), "0.32.0", "cpu", "an example")
        >>> plan.make_plan(here, catalogue.abacus(), plan.Wishes(), vllm).context
        2048
    """
    context = _context(profile, wishes)
    choices = [Choice("model", profile.name, "ships with this package" if profile.embedded else profile.source)]
    argv = [*engine.command, "serve", profile.source, "--served-model-name", profile.name]
    if profile.layout == "mistral":
        argv += ["--tokenizer-mode", "mistral", "--config-format", "mistral", "--load-format", "mistral"]
        argv += ["--reasoning-parser", "mistral", "--tool-call-parser", "mistral", "--enable-auto-tool-choice"]
    if profile.vision:
        argv += ["--limit-mm-per-prompt", '{"image":0}']
        choices.append(Choice("images", "off", "text only: the image encoder's memory goes to the KV cache"))
    argv += ["--max-model-len", str(context)]
    choices.append(Choice("context", f"{context:,} tokens", _why_context(profile, wishes)))
    if hardware.gpus:
        environment = {"VLLM_NO_USAGE_STATS": "1"}
        more, told = _on_gpu(hardware.gpus[0], profile, wishes, engine, context)
    else:
        environment, more, told = _on_cpu(hardware, profile, wishes, context)
    if profile.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    choices += [*told, Choice("engine", f"vLLM {engine.version}", engine.source)]
    if wishes.engine_args:
        choices.append(Choice("raw flags", shlex.join(wishes.engine_args), "as you wished; vLLM alone checks them"))
    return Plan(
        model=profile.name,
        title=f"{profile.title} on {hardware.title}",
        argv=(*argv, *more, *wishes.engine_args),
        environment=tuple(sorted(environment.items())),
        context=context,
        sampling=profile.sampling,
        choices=tuple(choices),
        fingerprint=fingerprint(profile, wishes, engine),
        niceness=0 if hardware.gpus else _CPU_NICENESS,
    )


def _context(profile: Profile, wishes: Wishes) -> int:
    if wishes.context is None:
        return profile.context
    if wishes.context < 1:
        raise PlanRefused(f"A context of {wishes.context} holds nothing: try --context {profile.context}.")
    if wishes.context > profile.longest_context:
        raise PlanRefused(
            f"{profile.name} has a context of {profile.longest_context:,} tokens, not {wishes.context:,}: "
            f"try --context {profile.longest_context}."
        )
    return wishes.context


def _why_context(profile: Profile, wishes: Wishes) -> str:
    if wishes.context is not None:
        return "as you wished"
    if profile.context < profile.longest_context:
        return f"it may degrade past that, though {profile.longest_context:,} would be allowed"
    return "all that the model has"


def _on_gpu(gpu: Gpu, profile: Profile, wishes: Wishes, engine: Engine, context: int) -> tuple[list[str], list[Choice]]:
    quantize = (wishes.quantization or "fp8") == "fp8"
    fp8_kv = (wishes.kv_cache or ("fp8" if gpu.capability >= _FP8_KV else "auto")) == "fp8"
    if fp8_kv and gpu.capability < _FP8_KV:
        raise PlanRefused(f"An FP8 KV cache does not run on a {gpu.name}: leave --kv-cache away, or auto.")
    share = min(_GPU_SHARE, int(gpu.free / gpu.total * 100) / 100 - 0.02)
    argv, told = [], []
    if quantize:
        argv += ["--quantization", _fp8_flag(engine.version)]
        how = "native" if gpu.capability >= _NATIVE_FP8 else "weight-only, through Marlin"
        told.append(Choice("weights", "FP8", f"half of BF16 for 1-2 % of accuracy at most; {how} on this card"))
    else:
        told.append(Choice("weights", "as stored", "as you wished"))
    if gpu.capability < _BFLOAT16:
        argv += ["--dtype", "half"]
        told.append(Choice("dtype", "half", "this card has no bfloat16"))
    if fp8_kv:
        argv += ["--kv-cache-dtype", "fp8"]
        told.append(Choice("KV cache", "FP8", "twice the tokens in the same memory"))
    argv += [_SHARE_FLAG, f"{share:.2f}", "--enable-chunked-prefill", "--max-num-seqs", "64"]
    told.append(
        Choice(
            "GPU share",
            f"{share:.2f}",
            _memory(gpu, profile, quantize=quantize, fp8_kv=fp8_kv, share=share, context=context),
        )
    )
    return argv, told


def _fp8_flag(version: str) -> str:
    """FP8 made from BF16 weights while loading: vLLM renamed it in 0.31."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return "fp8_per_tensor" if (major, minor) >= (0, 31) else "fp8"


def _memory(
    gpu: Gpu,
    profile: Profile,
    *,
    quantize: bool,
    fp8_kv: bool,
    share: float,
    context: int,
) -> str:
    """The memory's sum in words, or a refusal."""
    if profile.shape is None:
        return "the checkpoint alone knows its size: vLLM will tell"
    weights = profile.shape.weight_bytes(fp8=quantize)
    per_token = profile.shape.kv_bytes(1 if fp8_kv else 2)
    room = share * gpu.total - weights - _ACTIVATIONS
    if room < context * per_token:
        fits = int(room / per_token) // 1024 * 1024
        if fits >= 4096:  # noqa: PLR2004 - less than that holds no trace worth reading
            remedy = f"--context {fits} fits"
        elif not quantize:
            remedy = "leave --quantization away for FP8, or take a larger GPU"
        else:
            remedy = "abacus fits, or connect to a larger machine with %magistral_connect URL"
        raise PlanRefused(
            f"{profile.name} does not fit {gpu.name}: {weights / _GIB:.0f} GiB of weights, "
            f"{_ACTIVATIONS / _GIB:.1f} to work in and {context * per_token / _GIB:.1f} for {context:,} tokens "
            f"against {share * gpu.total / _GIB:.0f} GiB free to use: {remedy}."
        )
    return (
        f"weights {weights / _GIB:.0f} GiB, {room / _GIB:.0f} GiB for the KV cache: {room / per_token:,.0f} tokens, "
        f"{room / per_token / context:.0f} full contexts at once"
    )


def _on_cpu(
    hardware: Hardware, profile: Profile, wishes: Wishes, context: int
) -> tuple[dict[str, str], list[str], list[Choice]]:
    if not profile.is_local:
        raise PlanRefused(
            f"{profile.name} needs a GPU and this machine has none: %magistral_serve abacus runs here, "
            "%magistral_connect URL reaches a server elsewhere."
        )
    if wishes.quantization == "fp8":
        raise PlanRefused("FP8 weights take 0.85 s a token on a CPU: leave --quantization away.")
    kv = _CPU_KV_BYTES
    if profile.shape is not None:
        kv = max(kv, int(2 * context * profile.shape.kv_bytes(2)))
    big = profile.shape is None or profile.shape.parameters > _BIG_MODEL
    environment = {
        "OMP_NUM_THREADS": str(hardware.cpus) if big else "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    argv = ["--enforce-eager", "--kv-cache-memory-bytes", str(kv)]
    if wishes.kv_cache == "fp8":
        argv += ["--kv-cache-dtype", "fp8"]
    told = [
        Choice("KV cache", f"{kv / 2**20:.0f} MiB", "set, as vLLM takes 10 GiB otherwise"),
        Choice("niceness", str(_CPU_NICENESS), "the notebook goes first on the cores that they share"),
    ]
    if not big:
        # vLLM's worker process and its engine wait for each other by spinning. Measured on two cores: that holds a
        # notebook up for seconds (1.4-5.4 of 12), while one process gives the same tokens a second, boots in two
        # thirds of the time and takes 0.5 GB less. A model with threads of its own needs vLLM's worker to bind them.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        argv += ["--distributed-executor-backend", "uni"]
        told.append(Choice("processes", "engine and worker in one", "two of them would spin while they wait"))
    return environment, argv, told
