"""What vLLM is given by `--middleware`, so that its key guards every route; it runs in vLLM's own Python.

By itself vLLM asks for the key under /v1, /v2 and /inference alone. /invocations, which answers whatever /v1 does,
/scale_elastic_ep, which makes it refuse everybody, and all of development mode stay open to every user of the machine:
see vllm/entrypoints/launchers/cli_args.py of 0.32 at `api_key`. This file needs nothing but Python, and stands in a
folder of its own, which is all of this package that vLLM can import.
"""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

_OPEN = frozenset({"/health", "/ping", "/version", "/metrics"})  # they tell that it lives, what it is and how busy
_REFUSAL = b'{"error": "Unauthorized"}'


class Doors:
    """An ASGI application before vLLM's."""

    def __init__(self, app: App) -> None:
        """Read the key where vLLM itself does."""
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand on what has the key or needs none."""
        if scope["type"] == "lifespan" or scope["path"] in _OPEN or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: answered with 403
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_REFUSAL))]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _has_key(self, scope: Message) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
