"""The teacher's server, as its state file says now."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from magistral_nb.asking.endpoint import Endpoint
from magistral_nb.asking.wire import error_text
from magistral_nb.serving import registry
from magistral_nb.sharing.refused import Refused
from magistral_nb.sharing.watched import Watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from magistral_nb.serving.registry import ServerState
    from magistral_nb.sharing.asked import Asked

# A long prefill keeps a healthy server silent for minutes; it has no queue of its own, since ours is in front of it.
_TIMEOUT = httpx.Timeout(300.0, connect=5.0, write=30.0, pool=None)
_DOWN_SECONDS = 10.0  # after which asking again makes sense: most boots take longer, but nobody knows how much
_DYING_LOOKS, _LOOK_SECONDS = 100, 0.1  # vLLM's HTTP server outlives its engine by some seconds
_CACHE_INFO, _LABEL = "vllm:cache_config_info{", re.compile(r'(\w+)="(\d+)"')
_WORDS = {"booting": "is booting", "failed": "is down"}  # of a state's status; others speak for themselves
_OK, _BAD, _TOO_LARGE, _UNPROCESSABLE = 200, 400, 413, 422


class Upstream:
    """One server, which may end, boot, sleep and come back at another address meanwhile."""

    def __init__(self, path: Path) -> None:
        """Look at its state file; nothing is asked."""
        self._file: Watched[ServerState | None] = Watched(path, registry.read)
        self._client: httpx.AsyncClient | None = None
        self._base_url = ""
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> ServerState | None:
        """What its state file says; None where it is gone."""
        return self._file.now

    @property
    def status(self) -> str:
        """In one word."""
        return "down" if self.state is None else str(self.state.status)

    @property
    def is_coming(self) -> bool:
        """Whether it boots, or is about to, so that waiting for it makes sense."""
        return self.state is not None and self.state.seen().status == "booting"

    @property
    def comes_back(self) -> bool:
        """Whether it is started again where it ends by itself."""
        return self.state is not None and self.state.terms.restart == "on-failure"

    async def ended(self) -> None:
        """Wait until it is known to be down, which takes seconds where only vLLM's engine has died; no longer."""
        for _ in range(_DYING_LOOKS):
            if self.state is None or self.state.seen().status != "ready":
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def ready(self) -> ServerState:
        """The state of a server that can be asked.

        Raises:
            Refused: it cannot, and why.
        """
        state = self.state
        if state is None or state.status != "ready" or state.base_url is None:
            raise _down(_WORDS.get(self.status, f"is {self.status}"))
        return state

    @asynccontextmanager
    async def ask(self, asked: Asked, max_tokens: int) -> AsyncIterator[httpx.Response]:
        """Pass a request on; when the block ends before the reply does, the server stops generating.

        Raises:
            Refused: it is down, or refuses the request itself.
        """
        state = self.ready()
        client, endpoint = self._connected(state)
        body = asked.body(state.plan.model, max_tokens)
        try:
            async with client.stream(
                "POST", f"{endpoint.http_url}{asked.page}", json=body, headers=_headers(state)
            ) as reply:
                if reply.status_code != _OK:
                    raise _refused(reply.status_code, await reply.aread())
                yield reply
        except httpx.HTTPError as error:
            raise _down("is down" if isinstance(error, httpx.ConnectError) else "broke off") from error

    async def count(self, asked: Asked) -> int:
        """Tokens of the prompt.

        Raises:
            Refused: the server is down or does not tell, or the prompt makes no sense to it.
        """
        state = self.ready()
        client, endpoint = self._connected(state)
        try:
            reply = await client.post(
                f"{endpoint.root_url}/tokenize", json=asked.prompt(state.plan.model), headers=_headers(state)
            )
        except httpx.HTTPError as error:
            raise _down("is down") from error
        if reply.status_code == _BAD:
            raise _refused(_BAD, reply.content)
        try:
            return int(reply.json()["count"])
        except (ValueError, KeyError, TypeError) as error:
            raise _down("could not count the prompt") from error

    async def kv_tokens(self) -> int | None:
        """Tokens that its KV cache holds; None where that is not told.

        Raises:
            Refused: it is down.
        """
        state = self.ready()
        client, endpoint = self._connected(state)
        try:
            reply = await client.get(f"{endpoint.root_url}/metrics", headers=_headers(state))
        except httpx.HTTPError as error:
            raise _down("is down") from error
        return kv_tokens_in(reply.text)

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    def _connected(self, state: ServerState) -> tuple[httpx.AsyncClient, Endpoint]:
        """The client for where the server is now."""
        base_url = state.base_url or ""
        if self._client is None or base_url != self._base_url:
            if self._client is not None:
                task = asyncio.create_task(self._client.aclose())  # what still runs there is lost anyway
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            self._client = httpx.AsyncClient(
                limits=httpx.Limits(max_connections=None), timeout=_TIMEOUT, trust_env=False
            )
            self._base_url = base_url
        return self._client, Endpoint(base_url, state.plan.model)


def kv_tokens_in(page: str) -> int | None:
    r"""Tokens that the KV caches of a vLLM hold together, as its /metrics page tells; None where it does not.

    Example:
        >>> kv_tokens_in('vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="2110"} 1.0\n')
        33760
    """
    caches = [dict(_LABEL.findall(line)) for line in page.split("\n") if line.startswith(_CACHE_INFO)]
    return sum(int(each.get("block_size", 0)) * int(each.get("num_gpu_blocks", 0)) for each in caches) or None


def _headers(state: ServerState) -> dict[str, str]:
    return {"Authorization": f"Bearer {state.api_key}", "Accept-Encoding": "identity"}


def _down(how: str) -> Refused:
    return Refused(503, f"The teacher's server {how}: ask again in a while.", retry_after=_DOWN_SECONDS)


def _refused(status: int, body: bytes) -> Refused:
    """What the server says of a request; what is not the student's fault is not told."""
    if status not in {_BAD, _TOO_LARGE, _UNPROCESSABLE}:
        return _down("could not answer")
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = ""
    return Refused(status, f"{error_text(said)}.")
