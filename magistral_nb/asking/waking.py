"""A server that may have given its GPU's memory to other work, and must be awake before it is asked.

vLLM aborts what it is answering when it falls asleep. What arrives while it sleeps waits from 0.17 on until somebody
wakes it (vllm pull request 34528); before, it was computed with memory that was no longer there.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from magistral_nb.asking.engine_api import EngineApi
from magistral_nb.asking.events import Noted
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.asking.endpoint import Endpoint
    from magistral_nb.asking.events import Event

_LOOK_SECONDS = 2.0  # between two looks at a server that has not begun to answer
_TICK_SECONDS = 0.05

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by address


class Waking:
    """What one question does about a server's sleep; `cut` may come from any thread.

    Example:
        >>> from magistral_nb.asking.endpoint import Endpoint
        >>> list(Waking(Endpoint("unix:/run/nobody.sock", "m")).wake())
        []
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Nothing is asked yet."""
        self._endpoint = endpoint
        self._api = EngineApi(endpoint.base_url, endpoint.api_key or "")
        self._cut = threading.Event()
        self._took: float | None = None  # seconds, where it was woken behind the question's back

    def cut(self) -> None:
        """Wait no longer."""
        self._cut.set()
        self._api.cut()

    def is_sleeping(self) -> bool:
        """Whether it sleeps now, as far as it tells."""
        return self._api.is_sleeping()

    def wake(self) -> Iterator[Noted]:
        """Wake it where it sleeps, and say so; of several questions at once one does it and the others wait for that.

        Raises:
            Rejected: it does not wake.
        """
        began = time.monotonic()
        if not self.is_sleeping():
            return
        lock = _locks[self._endpoint.base_url]
        while not lock.acquire(timeout=_TICK_SECONDS):
            if self._cut.is_set():
                return
        try:
            if self.is_sleeping() and not self._api.wake() and not self._cut.is_set():
                name = self._endpoint.server
                raise Rejected(
                    f"Server {name!r} does not wake: is its GPU's memory free? %magistral_logs {name} shows why."
                )
        finally:
            lock.release()
        yield _noted(time.monotonic() - began)

    def awake(self, reply: Iterator[Event]) -> Iterator[Event]:
        """The events of a reply, until whose first one it is kept awake: it may fall asleep as the question comes."""
        begun = threading.Event()
        threading.Thread(target=self._keep_awake, args=(begun,), name="magistral_nb waking", daemon=True).start()
        try:
            for event in reply:
                if not begun.is_set():
                    begun.set()
                    if self._took is not None:
                        yield _noted(self._took)
                yield event
        finally:
            begun.set()

    def _keep_awake(self, begun: threading.Event) -> None:
        began = time.monotonic()
        while not begun.wait(_LOOK_SECONDS) and not self._cut.is_set():
            if self.is_sleeping() and self._api.wake():
                self._took = time.monotonic() - began


def _noted(seconds: float) -> Noted:
    return Noted(f"The server slept; it took {seconds:.1f} s to wake.")
