"""Ends what has been silent for too long: one thread for all streams, which sleeps until the earliest is due."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Watched(Protocol):
    """What can be late.

    Attributes:
        due: when it is late, by time.monotonic(); may be moved at any time, by any thread.
        step: seconds by which `due` is moved at least, should it be moved to an earlier time.
    """

    due: float
    step: float

    def be_late(self) -> None:
        """It was not moved in time; called once, in the watchdog's thread."""


class Watchdog:
    """Calls `be_late` on what is due. A stream pays one assignment for each piece, and no timer of its own."""

    def __init__(self) -> None:
        """Start nothing: the thread lives only while there is something to watch."""
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, one: Watched) -> Iterator[None]:
        """Watch it while the block runs."""
        with self._changed:
            self._watched.add(one)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="magistral_nb watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watched.discard(one)
                if not self._watched:
                    self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._watched:
                now = time.monotonic()
                for one in [one for one in self._watched if one.due <= now]:
                    self._watched.discard(one)
                    one.be_late()
                if self._watched:
                    self._changed.wait(min(min(one.due - now, one.step) for one in self._watched))
            self._thread = None
