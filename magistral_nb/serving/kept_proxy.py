"""The process that shares a server with a class, kept running beside vLLM."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from magistral_nb.serving.launch import EngineGroup, child_environment

if TYPE_CHECKING:
    from pathlib import Path

    from magistral_nb.processes import Process
    from magistral_nb.serving.registry import ServerState

_MODULE = "magistral_nb.sharing.proxy"  # by name: a supervisor has no use for what it imports
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before it is started again; each pause is twice the one before
_WELL_SECONDS = 60.0  # of running, after which the first pause counts again


class KeptProxy:
    """Starts the proxy again wherever it has ended, as long as its server runs."""

    def __init__(self, path: Path, running: Process | None = None) -> None:
        """Nothing is started.

        Args:
            path: of the server's state file, which the proxy reads.
            running: one that an earlier supervisor has started.
        """
        self._path = path
        self._group = EngineGroup.adopted(running, path)
        self._begun = self._due = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def process(self) -> Process | None:
        """The one that runs, as far as was seen."""
        return None if self._group is None else self._group.process

    def tend(self, state: ServerState, now: float) -> None:
        """Start it where it is wanted and does not run.

        Args:
            state: of the server.
            now: seconds, of a clock that does not go back.
        """
        if state.terms.share is None:
            return
        if self._group is not None:
            if not self._group.has_ended():
                return
            self._pause = _FIRST_PAUSE if now - self._begun > _WELL_SECONDS else min(2 * self._pause, _LONGEST_PAUSE)
            self._due, self._group = self._begun + self._pause, None
        if now >= self._due:
            argv = [sys.executable, "-P", "-m", _MODULE, str(self._path)]
            self._group = EngineGroup.start(argv, state.log_path, child_environment(state, os.environ, self._path))
            self._begun = now

    def end(self) -> None:
        """End it."""
        if self._group is not None:
            self._group.end()
