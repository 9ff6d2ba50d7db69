"""Processes that can be told apart, also after their number has been used again, and groups of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    import psutil

_GRACE_SECONDS = 15.0  # vLLM is usually gone within one second of SIGTERM
_LEADERLESS_SECONDS = 2.0  # whoever outlived the first of its group may be deaf
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process told apart from a later one with the same number by when it started.

    Attributes:
        pid: process id; for an engine also its process group.
        started: seconds; on Linux since the machine's own start, which no clock that is set can change, and which
            means nothing once the machine has started again (`registry.Place` tells); elsewhere since the epoch.

    Example:
        >>> import os
        >>> Process.of(os.getpid()).is_alive()
        True
    """

    pid: int
    started: float

    @staticmethod
    def of(pid: int) -> Process:
        """The process that has this id now.

        Raises:
            psutil.NoSuchProcess: none has.
        """
        return Process(pid, _looked_at(pid)[0])

    def is_alive(self) -> bool:
        """Whether that very process runs (a zombie does not)."""
        import psutil

        try:
            started, is_zombie = _looked_at(self.pid)
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is there, and may not be looked at
            return True
        return started == self.started and not is_zombie


def _looked_at(pid: int) -> tuple[float, bool]:
    """When a process started, and whether it is a zombie."""
    import psutil

    if sys.platform != "linux":
        process = psutil.Process(pid)
        return process.create_time(), process.status() == psutil.STATUS_ZOMBIE
    try:
        # psutil adds the machine's start to this, which moves whenever the clock is set. See proc_pid_stat(5).
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    return int(words[19]) / os.sysconf("SC_CLK_TCK"), words[0] in {b"Z", b"X"}


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


def is_leaderless(group: int) -> bool:
    """Whether the first process of a group has ended.

    Example:
        >>> is_leaderless(os.getpid())
        False
    """
    import psutil

    try:
        return psutil.Process(group).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end_group(group: int, leader: subprocess.Popen[bytes] | None = None) -> None:
    """End a whole process group: SIGTERM, a grace time, then SIGKILL for whatever is left.

    Args:
        group: its number.
        leader: the first of them where this process has started it: reaped, or it would look alive for ever.
    """

    def left() -> list[psutil.Process]:
        if leader is not None:
            leader.poll()
        return members(group)

    grace = _LEADERLESS_SECONDS if is_leaderless(group) else _GRACE_SECONDS
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
            os.killpg(group, signal.SIGCONT)  # or one that is stopped would hear nothing
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not left():
                return
            time.sleep(0.05)
