"""How long nobody has asked a server, by its own counts. Pure, and so are the durations that people type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magistral_nb.serving.metrics import Metrics

NEVER = "never"
DEFAULT = 3600.0  # seconds; a GPU that nobody asks for an hour is paid for nothing
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TYPED = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


class Idleness:
    """Looks at a server now and then.

    Example:
        >>> idleness = Idleness(now=100.0)
        >>> idleness.look(None, now=150.0)  # it did not tell: perhaps it answers somebody
        0.0
        >>> idleness.look(None, now=160.0)
        0.0
    """

    def __init__(self, now: float) -> None:
        """Somebody has just asked.

        Args:
            now: seconds, of a clock that does not go back.
        """
        self._since = now
        self._counts: tuple[int, ...] = ()

    def look(self, metrics: Metrics | None, now: float) -> float:
        """Seconds for which nobody has asked.

        Args:
            metrics: what the server says of itself; None, where it does not, counts as being asked.
            now: seconds.
        """
        counts = () if metrics is None else (metrics.finished, metrics.prompt_tokens, metrics.generated_tokens)
        if metrics is None or not metrics.is_idle or counts != self._counts:
            self._since = now
        self._counts = counts
        return now - self._since


def seconds_of(text: str) -> float | None:
    """Of a duration as people type it; None for "never".

    Raises:
        ValueError: it is none.

    Example:
        >>> seconds_of("60m"), seconds_of("1.5h"), seconds_of("never")
        (3600.0, 5400.0, None)
    """
    if text == NEVER:
        return None
    typed = _TYPED.fullmatch(text.strip().lower())
    if typed is None or not float(typed[1]):
        raise ValueError(f"{text!r} is no duration, such as 60m, 2h or never")
    return float(typed[1]) * _UNITS[typed[2]]


def typed_of(seconds: float | None) -> str:
    """As people type it.

    Example:
        >>> typed_of(3600.0), typed_of(5400.0), typed_of(90.0), typed_of(None)
        ('1h', '90m', '90s', 'never')
    """
    if seconds is None:
        return NEVER
    unit = next(unit for unit in "dhms" if not seconds % _UNITS[unit] or unit == "s")
    return f"{seconds / _UNITS[unit]:.12g}{unit}"
