"""What can be planned in the place of what cannot: each way is tried before it is named. Pure."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magistral_nb.dialect import dialect
from magistral_nb.errors import PlanRefused, UnsupportedPlatform
from magistral_nb.serving import catalogue
from magistral_nb.serving.checks import check_cpu, check_wishes
from magistral_nb.serving.engine import release_for
from magistral_nb.serving.placement import placements
from magistral_nb.serving.refusal import Way

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.engine import Engine
    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.refusal import Refusal
    from magistral_nb.serving.wishes import Wishes

# Tokens. Traces run to 25,000 on competition problems; where nobody named a model, that much is enough.
MOST_TRACES = 24_576
ONE_TRACE = 4096  # a smaller context holds no trace worth reading
CONNECT = "%magistral_connect URL reaches a server elsewhere"
# The first driver for the CUDA of the newest wheels (NVIDIA's CUDA Compatibility guide).
_DRIVER, _CUDA = "580", (13, 0)


@dataclass(frozen=True, slots=True)
class _Vllm:
    """A vLLM that could run.

    Attributes:
        how: one comes to it; "" for the one that is planned with.
        says: what it calls things.
        here: whether it runs on this machine's driver.
    """

    how: str
    says: Dialect
    here: bool = True


def most_tokens(hardware: Hardware, profile: Profile, wishes: Wishes, says: Dialect) -> int:
    """The longest context that fits, a multiple of 1,024; 0 where nothing does."""
    if wishes.context is not None and wishes.context < 1:
        return 0
    try:
        check_wishes(profile, wishes)
        if not hardware.gpus:
            check_cpu(hardware, profile, wishes, says)
            return profile.longest_context
        most = max(each.tokens for each in placements(hardware, profile, wishes, says))
    except PlanRefused:
        return 0
    return int(min(most, profile.longest_context)) // 1024 * 1024


def ways_out(hardware: Hardware, profile: Profile, wishes: Wishes, engine: Engine, refused: Refusal) -> str:
    """What would work, the least change first; a server elsewhere always does."""
    planned, wanted = _Vllm("", dialect(engine.version)), _wanted(profile, wishes)
    others = list(_others(hardware, engine))
    by_wishes = _first(hardware, profile, ((way.says, way.wishes, planned) for way in refused.ways))
    by_vllm = _first(hardware, profile, ((vllm.how, wishes, vllm) for vllm in others))
    ways = [way for way, _, _ in (*by_wishes, *by_vllm)]
    if refused.also:
        ways = [*ways[:-1], f"{ways[-1]}, or {refused.also}"] if ways else [refused.also]
    # Not everyone can update a driver: what that alone would bring is named, but is not enough.
    longest = max((tokens for _, tokens, vllm in (*by_wishes, *by_vllm) if vllm.here), default=0)
    if refused.other or longest < min(wanted, MOST_TRACES):
        vllms = [planned, *(vllm for vllm in others if vllm.here or not by_vllm)]
        ways += _other_model(hardware, profile, (Way("", wishes), *refused.ways), vllms)
    return "; ".join(ways if longest >= wanted else [*ways, CONNECT])


def _wanted(profile: Profile, wishes: Wishes) -> int:
    unasked = profile.context if wishes.model else min(MOST_TRACES, profile.context)
    return min(wishes.context or unasked, profile.longest_context)


def _first(
    hardware: Hardware, profile: Profile, tries: Iterable[tuple[str, Wishes, _Vllm]]
) -> list[tuple[str, int, _Vllm]]:  # fmt: skip
    """The first of these with room for a trace at least, and for how many tokens; none where none has."""
    for what, wishes, vllm in tries:
        tokens, wanted = most_tokens(hardware, profile, wishes, vllm.says), _wanted(profile, wishes)
        if tokens >= min(wanted, ONE_TRACE):
            return [(f"{what}{_with_context(tokens, wishes.context or wanted)}", tokens, vllm)]
    return []


def _others(hardware: Hardware, engine: Engine) -> Iterator[_Vllm]:
    """What this package would install, on this driver and on an updated one."""
    if hardware.cuda is None:
        return
    seen = {engine.version}
    for how, cuda in (
        ("add --install, which brings vLLM", hardware.cuda),
        (f"update the driver to {_DRIVER}, which runs vLLM", max(_CUDA, hardware.cuda)),
    ):
        with contextlib.suppress(UnsupportedPlatform):
            version = release_for(replace(hardware, cuda=cuda)).version
            if version not in seen:
                yield _Vllm(f"{how} {version}", dialect(version), here=cuda == hardware.cuda)
            seen.add(version)


def _other_model(hardware: Hardware, profile: Profile, ways: Sequence[Way], vllms: Sequence[_Vllm]) -> Iterator[str]:
    """The best other model that fits, with as little else changed as it needs; nothing where none does."""
    if not hardware.gpus:
        return
    for vllm, way, other in itertools.product(vllms, ways, catalogue.in_order(gpu=True)):
        asked = way.wishes.context or other.context
        tokens = most_tokens(hardware, other, replace(way.wishes, model=other.name), vllm.says)
        if other.name != profile.name and tokens >= min(asked, other.longest_context, MOST_TRACES):
            four = ", though 4 bits cost accuracy on long traces" if other.stored == "int4" else ""
            fits = f"{other.name} fits{_with_context(tokens, asked)}{four}"
            yield ", and ".join(filter(None, (vllm.how, way.says, fits)))
            return


def _with_context(tokens: int, context: int) -> str:
    return "" if tokens >= context else f" with --context {tokens}"
