"""Hardware, model, wishes and engine in; a plan out, or a refusal that names what would fit. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from magistral_nb.dialect import dialect
from magistral_nb.errors import PlanRefused
from magistral_nb.serving import catalogue, flags, releases
from magistral_nb.serving.flags import Flags, gib
from magistral_nb.serving.placement import placements
from magistral_nb.serving.plan import Choice, Plan, fingerprint

if TYPE_CHECKING:
    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.engine import Engine
    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.placement import Placement
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

# Tokens. Traces run to 25,000 on competition problems; where nobody named a model, that much is enough.
_MOST_TRACES = 24_576
_ONE_TRACE = 4096  # a smaller context holds no trace worth reading
_BUILDS = {"cpu": "built for CPUs", "cuda": "built for CUDA", "unknown": "built for what, its packages do not tell"}
_LEAST_SHARE = 0.05  # below, not even CUDA itself would start
_CONNECT = "%magistral_connect URL reaches a server elsewhere"


def default_profile(hardware: Hardware, wishes: Wishes, engine: Engine) -> Profile:
    """What to serve where nobody named a model: a Magistral if one fits, else the largest that does.

    Raises:
        PlanRefused: nothing fits.
    """
    says = dialect(engine.version)
    candidates = catalogue.in_order(gpu=bool(hardware.gpus))
    for profile in candidates:
        least = wishes.context or min(_MOST_TRACES, profile.context)
        if not hardware.gpus or _most_tokens(hardware, profile, wishes, says) >= least:
            return profile
    make_plan(hardware, candidates[-1], wishes, engine)
    return candidates[-1]


def make_plan(hardware: Hardware, profile: Profile, wishes: Wishes, engine: Engine) -> Plan:
    """Plan a boot of `profile` on `hardware`.

    Args:
        hardware: the machine, as it is now.
        profile: the model.
        wishes: what was asked for; where they name no model, the context may be shorter than the profile's.
        engine: the vLLM that will run.

    Raises:
        PlanRefused: it cannot work; the message names what would.

    Example:
        >>> from magistral_nb.serving import catalogue, planner
        >>> from magistral_nb.serving.engine import Engine
        >>> from magistral_nb.serving.hardware import Hardware
        >>> from magistral_nb.serving.wishes import Wishes
        >>> here, vllm = Hardware("Linux", "x86_64", cpus=2), Engine(("vllm",), "0.32.0", "cpu", "an example")
        >>> planner.make_plan(here, catalogue.abacus(), Wishes(), vllm).context
        2048
    """
    _check(wishes)
    says = dialect(engine.version)
    context = _context(hardware, profile, wishes, says)
    on = Flags()
    flags.of_model(on, profile, wishes, says)
    flags.of_context(on, profile, wishes, context)
    placed = None
    if hardware.gpus:
        placed = _placed(hardware, profile, wishes, says, context)
        flags.of_gpus(on, profile, wishes, says, placed, context)
        flags.of_devices(on, hardware, placed, says)
    else:
        _refuse_on_cpu(hardware, profile, wishes)
        flags.of_cpu(on, hardware, profile, wishes, says, context)
    on.choices.append(Choice("engine", f"vLLM {engine.version}", _why_engine(hardware, engine), engine.source))
    flags.of_user(on, wishes)
    return Plan(
        model=profile.adapters[0].name if profile.adapters else profile.name,
        title=f"{profile.title} on {replace(hardware, gpus=placed.gpus).title if placed else hardware.title}",
        argv=(*engine.command, "serve", *on.argv),
        environment=tuple(sorted(on.environment.items())),
        context=context,
        sampling=profile.sampling,
        choices=tuple(on.choices),
        fingerprint=fingerprint(profile, wishes, engine),
        wishes=wishes,
        niceness=0 if placed else flags.CPU_NICENESS,
        devices=tuple(gpu.uuid for gpu in placed.gpus) if placed else (),
        max_num_seqs=flags.MAX_NUM_SEQS if placed else None,
    )


def _why_engine(hardware: Hardware, engine: Engine) -> str:
    doubts = (releases.doubt(engine.version, hardware.cuda, gpu.capability) for gpu in hardware.gpus)
    driver = f"; driver {hardware.driver} runs it" if hardware.driver and engine.build == "cuda" else ""
    return next(filter(None, doubts), f"{_BUILDS[engine.build]}{driver}")


def _check(wishes: Wishes) -> None:
    if min(1 if wishes.gpus is None else wishes.gpus, wishes.pipeline_parallel, wishes.data_parallel) < 1:
        raise PlanRefused("A model needs one GPU, one stage and one copy at least: leave what is below 1 away.")


def _context(hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect) -> int:
    if wishes.context is None:
        most = _most_tokens(hardware, profile, wishes, says) if hardware.gpus and wishes.model is None else 0
        return most if _MOST_TRACES <= most < profile.context else profile.context
    if wishes.context < 1:
        raise PlanRefused(f"A context of {wishes.context} holds nothing: try --context {profile.context}.")
    if wishes.context > profile.longest_context:
        fits = _most_tokens(hardware, profile, wishes, says) if hardware.gpus else profile.longest_context
        raise PlanRefused(
            f"{profile.name} has a context of {profile.longest_context:,} tokens, not {wishes.context:,}: "
            + (f"try --context {fits}." if fits else f"{_CONNECT}.")
        )
    return wishes.context


def _refuse_on_cpu(hardware: Hardware, profile: Profile, wishes: Wishes) -> None:
    if not profile.is_local:
        hidden = hardware.trouble or ("its GPUs are hidden from this notebook" if hardware.driver else None)
        raise PlanRefused(
            f"{profile.name} needs a GPU and this machine has none{f' ({hidden})' if hidden else ''}: "
            f"%magistral_serve abacus runs here, {_CONNECT}."
        )
    if wishes.quantization == "fp8":
        raise PlanRefused("FP8 weights take 0.85 s a token on a CPU: leave --quantization away.")
    if wishes.gpus or wishes.data_parallel > 1 or wishes.pipeline_parallel > 1:
        raise PlanRefused("There is no GPU here to share a model: leave --gpus and its kin away.")
    if wishes.ray:
        raise PlanRefused("Without a GPU there is nothing to spread over a Ray cluster: leave --ray away.")


def _placed(hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect, context: int) -> Placement:
    possible = placements(hardware, profile, wishes, says)
    for placed in possible:
        if placed.tokens >= context and (placed.memory or placed.share >= _LEAST_SHARE):
            return placed
    roomiest = max(possible, key=lambda each: each.memory.kv_cache if each.memory else each.share)
    memory, gpu = roomiest.memory, roomiest.gpus[-1]
    if memory is None:
        raise PlanRefused(
            f"{gib(gpu.free)} are free of {gpu.name}'s {gib(gpu.total)}, too little to start: {_CONNECT}."
        )
    where = gpu.name if len(roomiest.gpus) == 1 else f"{len(roomiest.gpus)} {gpu.name}"
    needs = (
        f"{gib(memory.weights)} of weights, {gib(memory.activations)} to work in and "
        f"{gib(context * memory.per_token)} for {context:,} tokens"
    )
    allowed = f"{gib(memory.budget)} that vLLM may take"
    if memory.to_load > memory.free:
        needs = f"{gib(memory.to_load)} while its weights are loaded"
        allowed = f"{gib(memory.free)} that {'is' if len(roomiest.gpus) == 1 else 'are'} free"
    each = "" if len(roomiest.gpus) == 1 else " on each"
    ways = "; ".join(_ways_out(hardware, profile, wishes, says, roomiest, context))
    raise PlanRefused(
        f"{profile.name} does not fit {where}: {needs}{each} against {allowed} of {gib(gpu.total)}: {ways}."
    )


def _ways_out(
    hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect, roomiest: Placement, context: int
) -> list[str]:  # fmt: skip
    """What would fit, the least change first; a server elsewhere always does."""
    ways = []
    shorter = int(roomiest.tokens) // 1024 * 1024
    if shorter >= _ONE_TRACE:
        ways.append(f"--context {shorter} fits")
    if not ways and wishes.quantization == "none" and profile.stored == "bf16":
        tokens = _most_tokens(hardware, profile, replace(wishes, quantization=None), says)
        if tokens >= _ONE_TRACE:
            ways.append(f"without --quantization its weights become FP8, which fits{_with_context(tokens, context)}")
    if shorter < _MOST_TRACES:
        for other in catalogue.in_order(gpu=True):
            wanted = min(wishes.context or other.context, other.longest_context)
            tokens = _most_tokens(hardware, other, replace(wishes, model=other.name), says)
            if other.name != profile.name and tokens >= min(wanted, _MOST_TRACES):
                four = ", though 4 bits cost accuracy on long traces" if other.stored == "int4" else ""
                asked = wishes.context or other.context
                ways.append(f"{other.name} fits{_with_context(tokens, asked)}{four}")
                break
    return [*ways, _CONNECT]


def _with_context(tokens: int, context: int) -> str:
    return "" if tokens >= context else f" with --context {tokens}"


def _most_tokens(hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect) -> int:
    """The longest context that fits, a multiple of 1,024; 0 where nothing does."""
    try:
        most = max(each.tokens for each in placements(hardware, profile, wishes, says))
    except PlanRefused:
        return 0
    return int(min(most, profile.longest_context)) // 1024 * 1024
