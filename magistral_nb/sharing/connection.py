"""One connection to the proxy: as uvicorn reads it, but for those that ask nothing and only take room.

A process may have so many files open, and no key is needed to connect. Whoever connects therefore sends a request soon,
and where there is no room left, it is made by closing the connection that has asked nothing for longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

# A process may have 1024 files open where nobody has raised that; the rest is for the seats, each with one upstream.
MOST = 800
MOST_OF_A_PEER = 200  # one address may be a whole school's
_HEAD_SECONDS = 10.0  # for the head of a request to arrive as a whole
_THROUGH = ("127.0.0.1", "::1")  # a hub or a tunnel, through which the whole class may come


class Connection(H11Protocol):
    """One connection.

    Attributes:
        idle_since: seconds of the loop's clock; when it was made, or when its last answer had been sent.
    """

    idle_since = 0.0
    _closing: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Make room for it, where there is none, and wait for a request."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._await_head()
        others = [each for each in self.connections if isinstance(each, Connection) and not each.transport.is_closing()]
        of_peer = [each for each in others if each._peer == self._peer]  # noqa: SLF001 - another of this class
        if len(others) > MOST:
            _close_idle(others)
        elif len(of_peer) > MOST_OF_A_PEER and self._peer not in _THROUGH:
            _close_idle(of_peer)

    def data_received(self, data: bytes) -> None:
        """Read on; what is no whole head does not win time."""
        super().data_received(data)
        if not self.is_idle:
            self._forget_closing()
        elif self._closing is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Begin to idle."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._forget_closing()
        super().connection_lost(exc)

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _await_head(self) -> None:
        self._closing = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _forget_closing(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None


def _close_idle(crowd: list[Connection]) -> None:
    """Close the one of them that has idled longest: the new one itself where all others are being answered."""
    min((each for each in crowd if each.is_idle), key=lambda each: each.idle_since).transport.abort()
