"""Who writes the journal: a process that others can tell to be alive."""

from __future__ import annotations

import os
import time
from dataclasses import astuple, dataclass
from functools import cache

from magistral_nb.place import Place
from magistral_nb.processes import Process

_SILENCE = 600.0  # seconds; a writer on another machine that gave no sign for so long is taken for dead


@dataclass(frozen=True, slots=True)
class Writer:
    """A process, told apart from a later one with the same number by when it started.

    Attributes:
        host: the words of a Place.
        pid: process id there.
        started: as in Process.
    """

    host: str
    pid: int
    started: float

    @staticmethod
    def me() -> Writer:
        """This process."""
        return _writer(os.getpid())

    def is_running(self, seen: float) -> bool:
        """Whether that very process runs; on another machine, whether it was `seen` lately (since the epoch)."""
        if self.host != _host():
            return time.time() - seen < _SILENCE
        return Process(self.pid, self.started).is_alive()


@cache  # by process: a fork is another writer
def _writer(pid: int) -> Writer:
    me = Process.of(pid)
    return Writer(_host(), me.pid, me.started)


def _host() -> str:
    return " ".join(astuple(Place.here())).strip()
