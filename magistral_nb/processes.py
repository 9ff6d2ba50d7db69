"""Processes that can be told apart, also after their number has been used again."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# Linux tells a start in ticks since the machine's, whose own time wanders by a second or two when clocks are set.
# No number is used again that soon.
_SAME_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process told apart from a later one with the same number by when it started.

    Attributes:
        pid: process id; for an engine also its process group.
        started: seconds since the epoch, as the system keeps it.

    Example:
        >>> import os
        >>> Process.of(os.getpid()).is_alive()
        True
    """

    pid: int
    started: float

    @staticmethod
    def of(pid: int) -> Process:
        """The process that has this id now."""
        import psutil

        return Process(pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        """Whether that very process runs (a zombie does not)."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is there, and may not be looked at
            return True


def members(group: int) -> list[psutil.Process]:
    """The processes of a process group that run; a zombie does not.

    Args:
        group: its number, which is the process id of the first of them, whether that one still runs or not.

    Example:
        >>> os.getpid() in [process.pid for process in members(os.getpgrp())]
        True
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
