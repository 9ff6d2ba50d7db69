"""Which vLLM a driver runs.

A CUDA driver and a wheel
    A wheel never runs on a driver of an older major CUDA: CUDA 13 wants driver 580, CUDA 12 driver 525 (NVIDIA's "Minor
    Version Compatibility", CUDA Compatibility guide). Within a major one, machine code runs on each driver, but PTX
    that a newer toolkit wrote does not ("the provided PTX was compiled with an unsupported toolchain").

    vLLM's wheels hold machine code of all that runs on cards of compute capability 7.x and 8.x. For Hopper (9.0) and
    newer ones FlashAttention 2 is there as PTX alone (CMakeLists.txt of its flash-attention: "8.0+PTX"). All failures
    that were found fit that: Hopper cards on drivers 550 and 560, in the image encoder (vLLM's issues 31700, 27103
    and 25143, xorbitsai/inference's 4507), while text, which goes through FlashAttention 3 there, was answered
    (37140). Marlin is another (38669), which FP8 does not use on Hopper. An A100 whose driver knows CUDA 12.2 ran
    what was compiled with 12.9 (eullm's pull request 428).

    So: on 7.x and 8.x the newest wheel of the driver's major CUDA; on newer or unknown cards the newest that was
    compiled with no newer CUDA than the driver's; and where there is none, the one that is least ahead, with a doubt.

releases.json is made by tests/serving/make_releases.py. No GPU was at hand: the rule was not tried on one.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magistral_nb.dialect import Dialect, dialect, numbers
from magistral_nb.errors import UnsupportedPlatform

Pair = tuple[int, int]

_TABLE = Path(__file__).with_suffix(".json")
_UNKNOWN_CARD = (0, 0)  # what NVML does not tell
_MACHINE_CODE_BELOW = (9, 0)
_ELSEWHERE = "type %magistral_connect URL to use a server elsewhere"


@dataclass(frozen=True, slots=True)
class Release:
    """A vLLM as PyPI has it for Linux on x86_64: the last patch of a minor release.

    Attributes:
        version: such as "0.19.1".
        uploaded: the day it came out, in ISO format. Whoever can (uv: --exclude-newer, pip 26: --uploaded-prior-to)
            takes nothing that is newer than the day after.
        torch: the version that it pins.
        cuda: the newest CUDA toolkit that its kernels or torch's were compiled with.
        pythons: the first and the last Python that it accepts.
        pins: what to ask for beside it, as newer ones break it or were not tested with it.
        doubt: why it may fail on the driver that was asked about; "" if nothing speaks against it.
    """

    version: str
    uploaded: str
    torch: str
    cuda: Pair
    pythons: tuple[Pair, Pair]
    pins: tuple[str, ...]
    doubt: str = ""


@functools.cache
def releases() -> tuple[Release, ...]:
    """The table, oldest first: the last patch of each minor release from 0.9 on."""
    return tuple(_release(row) for row in json.loads(_TABLE.read_text(encoding="utf-8")))


def newest_for(cuda: Pair | None, python: Pair | None = None, capability: Pair | None = None) -> Release:
    """The newest vLLM whose wheels run on a driver.

    Args:
        cuda: the newest CUDA that the driver knows, as nvidia-smi and NVML tell it; None without a driver.
        python: that the engine will run on; None if one can be chosen, as uv can.
        capability: the card's compute capability; None or (0, 0) if it is not known.

    Raises:
        UnsupportedPlatform: there is none; with what would help.

    Example:
        >>> newest_for((12, 8), (3, 12), capability=(8, 0)).version
        '0.19.1'
        >>> newest_for((12, 4), (3, 12)).doubt
        "its FlashAttention 2 is compiled with CUDA 12.8, newer than the driver's 12.4: images fail on Hopper or newer"
    """
    card = None if capability == _UNKNOWN_CARD else capability
    found = [each for each in releases() if card is None or dialect(each.version).oldest_card <= card]
    if not found:
        oldest = Dialect().oldest_card
        raise UnsupportedPlatform(
            f"vLLM wants a card of compute capability {dotted(oldest)}, and this one has {dotted(card or oldest)}: "
            f"{_ELSEWHERE}."
        )
    if cuda is None:
        return replace(_for_python(found, python)[-1], doubt="there is no driver here that tells which CUDA it knows")
    found = [each for each in found if each.cuda[0] <= cuda[0]]
    if not found:
        raise UnsupportedPlatform(
            f"vLLM's wheels want a driver that knows CUDA 12 (525 or newer), and this one knows {dotted(cuda)}: "
            f"update the NVIDIA driver, or {_ELSEWHERE}."
        )
    found = _for_python(found, python)
    if certain := [each for each in found if not _doubt(each, cuda, card)]:
        return certain[-1]
    least = min(each.cuda for each in found)
    chosen = next(each for each in reversed(found) if each.cuda == least)
    return replace(chosen, doubt=_doubt(chosen, cuda, card))


def doubt(version: str, cuda: Pair | None, capability: Pair | None = None) -> str:
    """Why a vLLM may fail on a driver that runs it; "" if nothing speaks against it, or it is in no table.

    Example:
        >>> doubt("0.19.1", (12, 4), capability=(8, 0))
        ''
    """
    minor = numbers(version)[:2]
    release = next((each for each in releases() if numbers(each.version)[:2] == minor), None)
    return "" if release is None or cuda is None else _doubt(release, cuda, capability)


def _doubt(release: Release, cuda: Pair, card: Pair | None) -> str:
    if release.cuda <= cuda or (card not in {None, _UNKNOWN_CARD} and (card or _UNKNOWN_CARD) < _MACHINE_CODE_BELOW):
        return ""
    return (
        f"its FlashAttention 2 is compiled with CUDA {dotted(release.cuda)}, newer than the driver's {dotted(cuda)}: "
        "images fail on Hopper or newer"
    )


def _for_python(found: list[Release], python: Pair | None) -> list[Release]:
    fitting = [each for each in found if python is None or each.pythons[0] <= python <= each.pythons[1]]
    if python is not None and not fitting:
        newest = found[-1]
        first, last = map(dotted, newest.pythons)
        raise UnsupportedPlatform(
            f"vLLM {newest.version}, the newest for this driver and card, runs on Python {first} to {last}, not on "
            f"{dotted(python)}: install uv (pip install uv), which fetches a Python of its own, or {_ELSEWHERE}."
        )
    return fitting


def dotted(pair: Pair) -> str:
    """A version of two numbers as people write it."""
    return f"{pair[0]}.{pair[1]}"


def _release(row: dict[str, Any]) -> Release:
    (first, last), pins = row["pythons"], tuple(row["pins"])
    return Release(**row | {"cuda": tuple(row["cuda"]), "pythons": (tuple(first), tuple(last)), "pins": pins})
