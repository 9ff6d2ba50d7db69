"""How long the stages of a boot took, kept for each plan, and what the next boot of that plan will take."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb import paths
from magistral_nb.serving.boot_log import DOWNLOADING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Stages = Sequence[tuple[str, float]]

_KEPT = 48  # plans; each takes a third of a kilobyte


def durations_of(reached: Stages, ready: float) -> tuple[tuple[str, float], ...]:
    """Seconds that each stage took.

    Args:
        reached: (name, seconds since the boot began) of each stage, as `ServerState.stages` has them.
        ready: seconds from the beginning to the end of the last one.

    Example:
        >>> durations_of([("Starting vLLM", 0.0), ("Loading the weights", 9.0)], 40.0)
        (('Starting vLLM', 9.0), ('Loading the weights', 31.0))
    """
    starts = [seconds for _, seconds in reached] + [ready]
    return tuple(
        (name, max(0.0, after - before)) for (name, _), (before, after) in zip(reached, pairwise(starts), strict=True)
    )


def seconds_left(last: Stages, reached: Stages, elapsed: float) -> float | None:
    """Seconds until a boot is ready, if it goes on as the last one of its plan went.

    What this boot has already passed counts no more, whether it was quicker or not, and a stage that takes longer than
    it did promises no end of its own. None in a stage that the last boot had not, such as a download: how long that
    one takes is not known from there.

    Args:
        last: seconds that each stage took last time, as `load` tells.
        reached: (name, seconds since the boot began) of each stage of this boot so far.
        elapsed: seconds since this boot began.

    Example:
        >>> last = [("Starting vLLM", 9.0), ("Loading the weights", 31.0), ("Compiling", 20.0)]
        >>> seconds_left(last, [("Starting vLLM", 0.0), ("Loading the weights", 12.0)], 22.0)
        41.0
        >>> seconds_left(last, [], 0.0)
        60.0
    """
    if not reached:
        return sum(seconds for _, seconds in last)
    places = {name: place for place, (name, _) in enumerate(last)}
    if reached[-1][0] not in places:
        return None
    place, begun = max((places[name], begun) for name, begun in reached if name in places)
    in_it = elapsed - begun if reached[-1][0] == last[place][0] else last[place][1]
    return max(0.0, last[place][1] - in_it) + sum(seconds for _, seconds in last[place + 1 :])


def save(fingerprint: str, durations: Stages) -> None:
    """Keep what a boot's stages took, in place of what the plan's boot before took; the oldest plans are forgotten.

    A download is not kept, as the next boot has none. Nor is anything where the disk takes no more: it is an estimate.

    Args:
        fingerprint: of the plan.
        durations: as `durations_of` makes them.
    """
    kept = [[name, round(seconds, 2)] for name, seconds in durations if name != DOWNLOADING]
    with contextlib.suppress(OSError):
        folder = _folder()
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".")  # made 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            Path(temporary).replace(folder / f"{fingerprint}.json")
        finally:
            Path(temporary).unlink(missing_ok=True)
        for old in sorted(folder.glob("*.json"), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
            old.unlink()


def load(fingerprint: str) -> tuple[tuple[str, float], ...] | None:
    """What the stages of the last boot of this plan took, in seconds; None where it is not known."""
    try:
        raw = json.loads((_folder() / f"{fingerprint}.json").read_text(encoding="utf-8"))
        return tuple((str(name), float(seconds)) for name, seconds in raw)
    except (OSError, ValueError, TypeError):
        return None


def _folder() -> Path:
    folder = paths.servers() / "durations"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
