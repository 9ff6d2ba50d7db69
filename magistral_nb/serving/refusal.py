"""Why something cannot be planned, and what might be wished instead, before anyone has tried that. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.wishes import Wishes

_NONE = Wishes()


@dataclass(frozen=True, slots=True)
class Way:
    """A way out.

    Attributes:
        says: what to do, such as "leave --kv-cache away".
        wishes: what is wished for then.
    """

    says: str
    wishes: Wishes


def leave(wishes: Wishes, *names: str) -> Way:
    """To leave options away, of those that are typed.

    Example:
        >>> leave(Wishes(gpus=2, ray=True), "gpus", "data_parallel", "ray").says
        'leave --gpus and --ray away'
    """
    unasked: dict[str, Any] = {name: getattr(_NONE, name) for name in names}
    typed = [name for name in names if getattr(wishes, name) != unasked[name]]
    options = " and ".join(f"--{name.replace('_', '-')}" for name in typed)
    return Way(f"leave {options} away", replace(wishes, **unasked))


class Refusal(PlanRefused):
    """What is wrong, in half a sentence; `ways_out` makes the other half of it.

    Attributes:
        ways: the nearest to what was wished first; the first one that fits will be named.
        also: what helps beyond what can be wished here; "" for nothing.
        other: whether another model is named even where one of the ways fits.
    """

    def __init__(self, reason: str, *ways: Way, also: str = "", other: bool = False) -> None:
        """Refuse for this reason."""
        super().__init__(reason)
        self.ways = ways
        self.also = also
        self.other = other
