"""Where process numbers mean anything: one start of one machine and, in a container, its own room of numbers."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ROOM = "/proc/self/ns/pid"

Relation = Literal["here", "gone", "elsewhere"]


@dataclass(frozen=True, slots=True)
class Place:
    """A room of process numbers; homes are shared by machines and containers, numbers are not.

    Attributes:
        node: the machine's name, in a container the container's.
        boot: drawn by Linux at each start of the machine; empty elsewhere.
        room: of process numbers, such as "pid:[4026531836]"; empty where the system has none.

    Example:
        >>> Place.here().seen_from(Place.here())
        'here'
    """

    node: str
    boot: str
    room: str

    @staticmethod
    @cache
    def here() -> Place:
        """Of this process."""
        boot = room = ""
        with contextlib.suppress(OSError):
            boot = _BOOT.read_text(encoding="ascii").strip()
        with contextlib.suppress(OSError):
            room = os.readlink(_ROOM)  # noqa: PTH115 - the path of no file
        return Place(platform.node(), boot, room)

    def seen_from(self, here: Place, *, beats: bool = False) -> Relation:
        """Whether processes of this place can be looked at from another one.

        Args:
            here: that other one.
            beats: somebody there gave a sign of life lately.

        Returns:
            "gone" where nobody can run there any more: the machine was started again, or the container.

        Example:
            >>> before, after = Place("gpu07", "6c9d", "pid:[4]"), Place("gpu07", "17ab", "pid:[4]")
            >>> before.seen_from(after), before.seen_from(Place("login01", "55e0", "pid:[4]"), beats=True)
            ('gone', 'elsewhere')
        """
        if self == here:
            return "here"
        restarted = self.node == here.node and self.boot != here.boot
        return "elsewhere" if beats and not restarted else "gone"
