"""One way in which a boot fails: how the log words it, what it means, what to do, and what may safely be changed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Figures = Mapping[str, str | None]  # what the pattern's groups caught

# An option of %magistral_serve and its new value; raw vLLM flags are marked by "-- ". An empty value is a switch, None
# leaves the option away.
Change = tuple[str, str | None]

_STEP = 1024  # tokens; contexts are rounded down to a multiple of it
_TRACE_ROOM = 4096  # tokens; with less beside the prompt no trace worth reading fits
_FEW_REQUESTS = "16"  # at once; a notebook has one user, and vLLM's own default is 256 and more
_MARGIN = 0.02  # of a GPU; a desktop or another notebook takes a little more now and then


@dataclass(frozen=True, slots=True)
class Failure:
    """A known failure.

    Attributes:
        id: short name, the same for all wordings of one failure.
        patterns: each finds it in a line of the log whose prefixes are stripped.
        cause: what happened and why; {names} are the groups of every pattern.
        remedy: what to do, with the same groups.
        changes: safe ones to what was typed, or how to reckon them from the groups.
        loaded: the failure is this one only after (True) or before (False) the weights were loaded.
    """

    id: str
    patterns: tuple[re.Pattern[str], ...]
    cause: str
    remedy: str
    changes: tuple[Change, ...] | Callable[[Figures], tuple[Change, ...]] = ()
    loaded: bool | None = None

    def safe_changes(self, figures: Figures) -> tuple[Change, ...]:
        """What may be changed without making anything worse, reckoned from the figures of the log."""
        return self.changes(figures) if callable(self.changes) else self.changes


def on(
    name: str,
    *patterns: str,
    cause: str,
    remedy: str,
    changes: tuple[Change, ...] | Callable[[Figures], tuple[Change, ...]] = (),
    loaded: bool | None = None,
) -> Failure:
    """One row of the table of failures."""
    return Failure(name, tuple(re.compile(pattern) for pattern in patterns), cause, remedy, changes, loaded)


def context_that_fits(figures: Figures) -> tuple[Change, ...]:
    """The context that the log calls possible, else in the proportion of the memory there is to the memory wanted.

    Example:
        >>> context_that_fits({"fits": "33424"})
        (('--context', '32768'),)
    """
    fits = int(figures.get("fits") or 0)
    if not fits and figures.get("have"):
        have, need = (max(0.0, float(figures[name] or 0)) for name in ("have", "need"))
        fits = int(have / need * int(figures["wished"] or 0)) if need else 0
    if fits > _STEP:
        fits -= fits % _STEP
    return (("--context", str(fits)),) if fits else ()


def planned_context(figures: Figures) -> tuple[Change, ...]:
    """The context that the plan chooses, where the prompt and a trace behind it want more than there was.

    No figure tells how long a context the model has, so that none can be named.
    """
    short = int(figures["prompt"] or 0) + _TRACE_ROOM > int(figures["context"] or 0)
    return (("--context", None),) if short else ()


def share_that_is_free(figures: Figures) -> tuple[Change, ...]:
    """The share of the GPU's memory that is free, less a margin.

    Example:
        >>> share_that_is_free({"free": "59.32", "total": "79.15"})
        (('-- --gpu-memory-utilization', '0.72'),)
    """
    share = math.floor(float(figures["free"] or 0) / float(figures["total"] or math.inf) * 100) / 100 - _MARGIN
    return (("-- --gpu-memory-utilization", f"{share:.2f}"),) if share > _MARGIN else ()


def fewer_requests(figures: Figures) -> tuple[Change, ...]:
    """At most 16 requests at once, or half of what was too many."""
    asked = int(figures["requests"] or 0)
    fewer = min(int(_FEW_REQUESTS), asked // 2)
    return (("-- --max-num-seqs", str(fewer)),) if fewer else ()


def gpus_there_are(figures: Figures) -> tuple[Change, ...]:
    """As many GPUs as there are, rounded down to a power of two, which divides the heads of every Mistral model."""
    gpus = int(figures["gpus"] or 0)
    return (("--gpus", str(1 << (gpus.bit_length() - 1))),) if gpus else ()


def gpus_that_divide(figures: Figures) -> tuple[Change, ...]:
    """The largest number of GPUs below the one that was wished that divides the attention heads."""
    heads, wished = int(figures["heads"] or 0), int(figures["wished"] or 0)
    fits = next((count for count in range(wished - 1, 0, -1) if heads % count == 0), 0)
    return (("--gpus", str(fits)),) if fits else ()


def without_flags(figures: Figures) -> tuple[Change, ...]:
    """Raw flags left away, each under all of its names.

    Example:
        >>> without_flags({"flags": "--tensor-parallel-size/-tp"})
        (('-- --tensor-parallel-size', None), ('-- -tp', None))
    """
    found = re.findall(r"(?<![^\s/])-{1,2}[A-Za-z][^\s/=]*", figures["flags"] or "")
    return tuple((f"-- {flag}", None) for flag in dict.fromkeys(found))


FEWER_AND_EAGER: tuple[Change, ...] = (("-- --enforce-eager", ""), ("-- --max-num-seqs", _FEW_REQUESTS))
# The engine that this package installs: pinned, and in an environment that nothing else changes.
OWN_ENGINE: tuple[Change, ...] = (("--engine", None), ("--install", ""))
OWN_ENGINE_HELPS = "Leave --engine away and take the engine that --install makes: its packages fit each other."
