"""What vLLM has beside the OpenAI API, asked with the standard library alone, over TCP or a Unix socket.

A supervisor, which stays small, knows no other client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from magistral_nb.asking.endpoint import UNIX

OK = 200
_UNAVAILABLE = 503
_SECONDS = 2.0  # for what vLLM answers at once
_SLEEP_SECONDS = 120.0  # gigabytes of weights are copied to the machine's memory


class EngineApi:
    """One vLLM; a request blocks, `cut` may come from a signal.

    Whether it lives is asked without the key, which vLLM does not want for that: on a port that was free a moment
    before, anybody may listen.

    Example:
        >>> EngineApi("http://127.0.0.1:9", "").is_healthy()
        False
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        """Nothing is asked yet."""
        self._base_url, self._api_key = base_url, api_key
        del api_key  # should Ctrl-C strike below, a verbose traceback shows what has a name here
        self._connection: http.client.HTTPConnection | None = None
        self._is_cut = False

    def is_healthy(self) -> bool:
        """Whether its HTTP server answers and its engine lives."""
        try:
            status, _ = self.request("GET", "/health", with_key=False)
        except (OSError, http.client.HTTPException):
            return False
        return status == OK

    def has_lost_its_engine(self) -> bool:
        """Whether its HTTP server still answers, for some seconds, and its engine has died."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/health", with_key=False)[0] == _UNAVAILABLE
        return False

    def is_sleeping(self) -> bool:
        """Whether it has given its memory back; only a server in development mode tells."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            status, text = self.request("GET", "/is_sleeping")
            return status == OK and bool(json.loads(text).get("is_sleeping"))
        return False

    def sleep(self) -> bool:
        """Give the GPU's memory back, the weights being kept in the machine's; whether it did."""
        try:
            status, _ = self.request("POST", "/sleep?level=1", {}, _SLEEP_SECONDS)
        except (OSError, http.client.HTTPException):
            return False
        return status == OK

    def wake(self) -> bool:
        """Take the GPU's memory back; whether it did.

        vLLM drops the prefix cache when it falls asleep, so that nothing has to be reset here; one that is awake stays
        as it is. (0.32: v1/engine/core.py)
        """
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, text = self.request("POST", "/wake_up", {}, _SLEEP_SECONDS)
            return status == OK and '"sleeping"' not in text  # as it says where a part of it does
        return False

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        seconds: float = _SECONDS,
        *,
        with_key: bool = True,
    ) -> tuple[int, str]:
        """Status and text of a reply.

        Args:
            method: such as "GET".
            path: from the root, such as "/health".
            body: sent as JSON.
            seconds: to wait for each piece of the reply.
            with_key: the key goes with it.

        Raises:
            OSError, http.client.HTTPException: there was none.
        """
        headers = {"Content-Type": "application/json"}
        if with_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        connection = self._connection = _connection(self._base_url, seconds)
        with contextlib.closing(connection):
            connection.connect()
            if self._is_cut:  # before there was a socket that could be shut
                raise ConnectionAbortedError
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")

    def cut(self) -> None:
        """End a request that waits, and any later one: a signal alone would let Python wait on for the reply."""
        self._is_cut = True
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path, self._seconds = path, seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


def _connection(base_url: str, seconds: float) -> http.client.HTTPConnection:
    if base_url.startswith(UNIX):
        return _UnixConnection(base_url.removeprefix(UNIX), seconds)
    parts = urlsplit(base_url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
