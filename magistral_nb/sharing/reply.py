"""An HTTP reply on its way to a student: JSON in one piece, or a stream of events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from magistral_nb.sharing.meter import compact

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from magistral_nb.sharing.refused import Refused

_STALLED_SECONDS = 60.0  # in which a student reads nothing: the seat is needed
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx, as it stands before many hubs, would keep pieces back
]


class Reply:
    """One reply; it is a stream once `begin` was called."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing is sent yet."""
        self._scope, self._receive, self._send = scope, receive, send
        self._streams = False

    async def whole(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Reply with JSON."""
        kept = {"Cache-Control": "no-store"} | (headers or {})
        await JSONResponse(body, status, kept)(self._scope, self._receive, self._send)

    async def begin(self) -> None:
        """Begin to stream; once is enough."""
        if not self._streams:
            self._streams = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM})

    async def place(self, place: int, waiting: int) -> None:
        """Tell the place in the queue, as a comment that clients pass over."""
        await self.begin()
        await self.write(b": magistral_nb queue %d of %d\n\n" % (place, waiting))

    async def write(self, data: bytes) -> None:
        """Stream these bytes.

        Raises:
            ClientDisconnect: the student reads nothing, and is as good as gone.
        """
        try:
            async with asyncio.timeout(_STALLED_SECONDS):
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError as error:
            raise ClientDisconnect from error

    async def end(self) -> None:
        """End a stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, refused: Refused) -> None:
        """Reply with an error: as the stream's last event where it has begun, else as a whole."""
        if self._streams:
            await self.write(b"data: " + compact(refused.body) + b"\n\n")
            await self.end()
        else:
            await self.whole(refused.body, refused.status, refused.headers)
