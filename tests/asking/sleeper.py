"""A stand-in for a vLLM that can sleep, which the real one does on a GPU only: as its source has it (0.32).

`entrypoints/serve/dev/sleep` and `v1/engine/core.py`: /sleep aborts what is being answered, /wake_up goes on with what
has arrived meanwhile, and a question that arrives during the sleep waits for that.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stand_in import Reply, Request, StandIn, answer, done, finish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STEP_SECONDS = 0.05  # to compute a chunk


class Sleeper(StandIn):
    """Attributes:
    woken: how often it was woken out of its sleep.
    wakes: what it answers to /wake_up; None really wakes it.
    dozes: falls asleep as soon as it has said that it is awake.
    sleeps_with: a piece with which it falls asleep.
    """

    def __init__(self, unix: str) -> None:
        super().__init__(unix=unix)
        self._server.socket.listen(64)  # as many as ask at once: a full queue refuses on a Unix socket
        self.woken, self.dozes = 0, False
        self.wakes: Reply | None = None
        self.sleeps_with: bytes | None = None
        self._changed = threading.Condition()
        self._asleep = False

    def sleep(self) -> None:
        with self._changed:
            self._asleep = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self.woken += self._asleep
            self._asleep = False
            self._changed.notify_all()

    def close(self) -> None:
        self.wake()
        super().close()

    def _reply_to(self, request: Request) -> Reply:
        match request.path:
            case "/is_sleeping":
                asleep = self._asleep
                if self.dozes:
                    self.dozes = False
                    self.sleep()
                return answer({"is_sleeping": asleep})
            case "/wake_up":
                if self.wakes is not None:
                    return self.wakes
                self.wake()
                return answer({"status": "awake", "tags": None})
            case "/v1/chat/completions":
                reply = super()._reply_to(request)
                return replace(reply, chunks=self._computed(reply.chunks))
            case _:
                return super()._reply_to(request)

    def _computed(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        with self._changed:
            self._changed.wait_for(lambda: not self._asleep)
        for chunk in chunks:
            with self._changed:
                if self._changed.wait_for(lambda: self._asleep, _STEP_SECONDS):
                    yield from (finish("abort"), done())
                    return
            if chunk == self.sleeps_with:
                self.sleep()
            yield chunk
