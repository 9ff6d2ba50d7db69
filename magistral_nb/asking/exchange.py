"""One HTTP request and its streamed reply: a blocking iterator of events that any other thread can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from magistral_nb.asking.events import Finished
from magistral_nb.asking.wire import Wire, error_text
from magistral_nb.errors import AskFailed, Rejected, Unauthorized, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

    from magistral_nb.asking.endpoint import Endpoint
    from magistral_nb.asking.events import Event
    from magistral_nb.asking.trace import Begins

_CONNECT_SECONDS = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SILENCE_SECONDS = 600.0  # a queue or a long prefill may keep a healthy server silent for minutes


@lru_cache(maxsize=16)
def client_for(endpoint: Endpoint) -> openai.OpenAI:
    """The one client, so the one pool of connections, of this endpoint; safe to share between threads."""
    return new_client(endpoint)


def new_client(endpoint: Endpoint) -> openai.OpenAI:
    """A client of its own, to be closed by the caller.

    Takes the endpoint and not its key: a verbose traceback prints every name that its lines speak of.

    Raises:
        Unreachable: the environment names a proxy that cannot be used.
    """
    import openai

    timeout = openai.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
    # What runs on this machine is asked directly: a proxy cannot reach it, and would be handed its key.
    is_near = urlsplit(endpoint.base_url).hostname in _LOOPBACK
    try:
        http = openai.DefaultHttpxClient(trust_env=not is_near, timeout=timeout)
        # The client insists on a key; endpoints without one ignore it.
        return openai.OpenAI(
            base_url=endpoint.base_url, api_key=endpoint.api_key or "none", max_retries=2, http_client=http
        )
    except (ImportError, ValueError) as error:
        raise Unreachable(f"The proxy that the environment names cannot be used: {error}.") from error


class Exchange:
    """One request on its way.

    `events()` blocks and belongs to one thread; `cut()` may come from any other. The openai client does
    connections, retries and errors, while the body is read raw: its typed chunks cost ten times as much.
    """

    def __init__(self, endpoint: Endpoint, body: dict[str, Any], *, begins: Begins = "anyhow") -> None:
        """Nothing is sent before `events()`; `begins` says what the prompt has opened already, see Trace."""
        self.was_cut = False
        self._begins = begins
        self._endpoint, self._body = endpoint, body
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def events(self) -> Iterator[Event]:
        """All events until the reply ends; a cut ends it without an error.

        Raises:
            Unreachable: nothing answers, or the connection broke off.
            Unauthorized: the key was refused.
            Rejected: the endpoint answered with an error of its own.
        """
        import openai

        try:
            yield from self._read(client_for(self._endpoint))
        except openai.OpenAIError as error:
            if not self.was_cut:
                raise explain(error, self._endpoint.base_url) from error
        except AskFailed:
            if not self.was_cut:
                raise

    def cut(self) -> None:
        """End it now, also before the first token; the server stops generating."""
        with self._lock:
            self.was_cut = True
            if self._socket is not None:
                # Wakes the thread that reads; closing alone would leave it waiting.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self, client: openai.OpenAI) -> Iterator[Event]:
        rest = dict(self._body)
        create = client.chat.completions.with_streaming_response.create
        with create(model=rest.pop("model"), messages=rest.pop("messages"), extra_body=rest) as response:
            with self._lock:
                self._socket = response.http_response.extensions["network_stream"].get_extra_info("socket")
                if self.was_cut:
                    return
            finished = False
            for event in self._decoded(response.iter_bytes()):
                finished = finished or isinstance(event, Finished)
                yield event
            if not finished:
                raise Unreachable(
                    f"{self._endpoint.base_url} ended the stream without a finish reason: %magistral_status shows "
                    "whether it is up."
                )

    def _decoded(self, pieces: Iterator[bytes]) -> Iterator[Event]:
        """Bytes to events; what the wire held back comes out also where the connection breaks."""
        wire = Wire(begins=self._begins)
        while True:
            try:
                data = next(pieces, None)
            except Exception as error:
                yield from wire.close()
                raise self._broken(error) from error
            if data is None:
                yield from wire.close()
                return
            yield from wire.feed(data)

    def _broken(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"{self._endpoint.base_url} broke off in mid-stream ({error}): %magistral_status shows whether it is up."
        )


def explain(error: openai.OpenAIError, where: str) -> AskFailed:
    """The client's exception as one of ours, with what to type next; `where` is the base URL."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return Unauthorized(
            f"{where} refused the key, or wants one: set MAGISTRAL_NB_API_KEY in the environment, then connect again."
        )
    if isinstance(error, openai.APIStatusError):
        said = error_text(error.body if error.body is not None else error.message)
        if said.startswith("<"):  # a page for people
            said = "a web page; is this an OpenAI-compatible server?"
        return Rejected(f"{where} answered {error.status_code}: {said.rstrip('.')}.")
    if isinstance(error, openai.APITimeoutError):
        return Unreachable(f"{where} did not answer in time: check that the server there is up, then ask again.")
    if isinstance(error, openai.APIConnectionError):
        return Unreachable(f"Nothing answers at {where}: check the address, and that the server there is up.")
    return Rejected(f"{where} did not answer as an OpenAI-compatible server does ({error}): is the address right?")
