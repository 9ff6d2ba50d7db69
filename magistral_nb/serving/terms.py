"""On what terms a server runs: how long, for whom, at what price. No part of the plan: the same vLLM serves on any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magistral_nb.errors import InvalidOption
from magistral_nb.serving import idling
from magistral_nb.serving.plan import Choice
from magistral_nb.sharing.share import Share

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from magistral_nb.serving.wishes import Wishes

MOST_RESTARTS = 3  # in a row
_UNMEASURED = "--disable-log-stats"  # of vLLM, which then has no metrics
_KEPT = ("idle_stop", "restart", "share")  # by the supervisor, as it was started

Restart = Literal["never", "on-failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a server runs.

    Attributes:
        idle_stop: seconds after which nobody's asking ends it; None never does.
        restart: what to do when vLLM ends without being told to.
        price_per_hour: of the machine, in any currency; None was not told.
        share: how it is shared with a class; None is this user's alone.

    Raises:
        InvalidOption: a price or a time is not above 0.

    Example:
        >>> Terms(idle_stop=None, restart="on-failure").words()
        ['--idle-stop', 'never', '--restart', 'on-failure']
    """

    idle_stop: float | None = idling.DEFAULT
    restart: Restart = "never"
    price_per_hour: float | None = None
    share: Share | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_price(self.price_per_hour)
        if self.idle_stop is not None and not (math.isfinite(self.idle_stop) and self.idle_stop > 0):
            raise InvalidOption(f"idle_stop is {self.idle_stop}, but it is a number of seconds: try 3600, or None.")
        if self.restart not in {"never", "on-failure"}:
            raise InvalidOption(f"restart is {self.restart!r}: try 'on-failure'.")

    @staticmethod
    def typed(chosen: argparse.Namespace) -> Terms:
        """What was typed: `options.serve_options`."""
        return Terms(
            idle_stop=chosen.idle_stop,
            restart=chosen.restart,
            price_per_hour=chosen.price_per_hour,
            share=Share.typed(chosen),
        )

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Terms:
        """Read what `dataclasses.asdict` made, as it comes back from JSON.

        Raises:
            KeyError, TypeError: it is no such dictionary.
        """
        try:
            return Terms(**raw | {"share": None if raw["share"] is None else Share.from_dict(raw["share"])})
        except InvalidOption as error:
            raise TypeError(str(error)) from error

    def words(self) -> list[str]:
        """What would have to be typed behind %magistral_serve for the same terms."""
        words = [] if self.idle_stop == idling.DEFAULT else ["--idle-stop", idling.typed_of(self.idle_stop)]
        words += [] if self.restart == "never" else ["--restart", self.restart]
        words += [] if self.price_per_hour is None else ["--price-per-hour", f"{self.price_per_hour:g}"]
        return words + ([] if self.share is None else self.share.words())

    def are_kept_by(self, running: Terms) -> bool:
        """Whether a server that runs on those terms does what is wished for here.

        A default wishes for nothing, and a price is reckoned with by whoever asks.

        Example:
            >>> running = Terms(idle_stop=60, restart="on-failure")
            >>> Terms(idle_stop=60).are_kept_by(running), Terms(idle_stop=None).are_kept_by(running)
            (True, False)
        """
        wished = ((getattr(self, name), getattr(running, name), getattr(Terms(), name)) for name in _KEPT)
        return all(wish in {theirs, default} for wish, theirs, default in wished)

    def choices(self, wishes: Wishes) -> Iterator[Choice]:
        """As rows of a plan."""
        does = "sleeps" if wishes.sleepable else "ends"
        why = "it holds its memory until it is stopped" if self.idle_stop is None else f"it {does} when nobody asks"
        if self.idle_stop is not None and _is_unmeasured(wishes):
            why = f"it never {does}: raw {_UNMEASURED} takes away the metrics that tell whether anybody asks"
        source = "the default; --idle-stop never keeps it" if self.idle_stop == idling.DEFAULT else "you"
        yield Choice("idle stop", idling.typed_of(self.idle_stop), why, source)
        if self.restart == "on-failure":
            times = f"at most {MOST_RESTARTS} times in a row"
            yield Choice("restart", self.restart, f"vLLM is started again where it ends by itself, {times}", "you")
        if self.share is not None:
            who = f"{len(self.share.students)} students"
            yield Choice("class", who, "each with a key, by a proxy that shows them nothing else of vLLM", "you")


def _is_unmeasured(wishes: Wishes) -> bool:
    return any(word.replace("_", "-") == _UNMEASURED for word in wishes.engine_args)


def check_price(price_per_hour: float | None) -> None:
    """Refuse what is no price.

    Raises:
        InvalidOption: it is not above 0, or no number.
    """
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour > 0):
        raise InvalidOption(f"price_per_hour is {price_per_hour}, but it is a number above 0: try 2.5.")
