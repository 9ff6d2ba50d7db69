"""Hardware, model, wishes and engine in; a plan out, or a refusal that names what would fit. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from magistral_nb.dialect import dialect
from magistral_nb.errors import PlanRefused
from magistral_nb.serving import catalogue, flags, releases
from magistral_nb.serving.checks import check_cpu, check_wishes
from magistral_nb.serving.flags import Flags, gib
from magistral_nb.serving.placement import placements
from magistral_nb.serving.plan import Choice, Plan, fingerprint
from magistral_nb.serving.refusal import Refusal, Way
from magistral_nb.serving.ways_out import MOST_TRACES, ONE_TRACE, most_tokens, ways_out

if TYPE_CHECKING:
    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.engine import Engine
    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.placement import Placement
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

_BUILDS = {"cpu": "built for CPUs", "cuda": "built for CUDA", "unknown": "built for what, its packages do not tell"}


def default_profile(hardware: Hardware, wishes: Wishes, engine: Engine) -> Profile:
    """What to serve where nobody named a model: a Magistral if one fits, else the largest that does.

    Raises:
        PlanRefused: nothing fits.
    """
    says = dialect(engine.version)
    candidates = catalogue.in_order(gpu=bool(hardware.gpus))
    for profile in candidates:
        least = wishes.context or min(MOST_TRACES, profile.context)
        if not hardware.gpus or most_tokens(hardware, profile, wishes, says) >= least:
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
    says = dialect(engine.version)
    try:
        check_wishes(profile, wishes)
        if not hardware.gpus:
            check_cpu(hardware, profile, wishes, says)
        context = _context(hardware, profile, wishes, says)
        placed = _placed(hardware, profile, wishes, says, context) if hardware.gpus else None
    except Refusal as refused:
        raise PlanRefused(f"{refused}: {ways_out(hardware, profile, wishes, engine, refused)}.") from refused
    on = Flags()
    flags.of_model(on, profile, wishes, says)
    flags.of_context(on, profile, wishes, context)
    if placed:
        flags.of_gpus(on, profile, wishes, says, placed, context)
        flags.of_devices(on, hardware, placed, says)
        flags.of_sleep(on, wishes, placed)
    else:
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
    )


def _why_engine(hardware: Hardware, engine: Engine) -> str:
    doubts = (releases.doubt(engine.version, hardware.cuda, gpu.capability) for gpu in hardware.gpus)
    driver = f"; driver {hardware.driver} runs it" if hardware.driver and engine.build == "cuda" else ""
    return next(filter(None, doubts), f"{_BUILDS[engine.build]}{driver}")


def _context(hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect) -> int:
    """How many tokens a prompt and its completion may have together."""
    if wishes.context is None:
        most = most_tokens(hardware, profile, wishes, says) if hardware.gpus and wishes.model is None else 0
        return most if MOST_TRACES <= most < profile.context else profile.context
    if 1 <= wishes.context <= profile.longest_context:
        return wishes.context
    fits = most_tokens(hardware, profile, replace(wishes, context=None), says)
    reason = f"A context of {wishes.context} holds nothing"
    if wishes.context > 0:
        reason = f"{profile.name} has a context of {profile.longest_context:,} tokens, not {wishes.context:,}"
    else:
        fits = min(fits, profile.context)
    raise Refusal(reason, *([Way(f"try --context {fits}", replace(wishes, context=fits))] if fits else []))


def _placed(hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect, context: int) -> Placement:
    possible = placements(hardware, profile, wishes, says)
    for placed in possible:
        if placed.tokens >= context:
            return placed
    roomiest = max(possible, key=lambda each: each.memory.kv_cache if each.memory else each.share)
    memory, gpu = roomiest.memory, roomiest.gpus[-1]
    if memory is None:
        raise Refusal(f"{gib(gpu.free)} are free of {gpu.name}'s {gib(gpu.total)}, too little to start")
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
    shorter = int(roomiest.tokens) // 1024 * 1024
    ways = [Way(f"--context {shorter} fits", replace(wishes, context=shorter))] if shorter >= ONE_TRACE else []
    if wishes.quantization == "none" and profile.stored == "bf16":
        in_fp8 = replace(wishes, quantization=None)
        ways.append(Way("without --quantization its weights become FP8, which fits", in_fp8))
    raise Refusal(f"{profile.name} does not fit {where}: {needs}{each} against {allowed} of {gib(gpu.total)}", *ways)
