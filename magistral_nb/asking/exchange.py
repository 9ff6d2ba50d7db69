"""One HTTP request and its streamed reply: a blocking iterator of events that any other thread can cut."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.client import client_for, explain, found_nobody, pause_before_retry
from magistral_nb.asking.events import Finished, Queued, Said, Thinking
from magistral_nb.asking.pace import PAUSE_SECONDS, Pace
from magistral_nb.asking.watchdog import Watchdog
from magistral_nb.asking.wire import Wire
from magistral_nb.errors import AskFailed, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

    from magistral_nb.asking.endpoint import Endpoint
    from magistral_nb.asking.events import Event
    from magistral_nb.asking.trace import Begins

_GIVEN_UP = "abort"  # vLLM's word, as when it is put to sleep or ended
_watchdog = Watchdog()


class Exchange:
    """One request on its way.

    `events()` blocks and belongs to one thread; `cut()` may come from any other. The openai client does
    connections and errors, while the body is read raw: its typed chunks cost ten times as much.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        body: dict[str, Any],
        *,
        begins: Begins = "anyhow",
        at_once: bool = False,
        is_kept: bool = False,
    ) -> None:
        """Nothing is sent before `events()`.

        Args:
            endpoint: whom to ask.
            body: of the request.
            begins: what the prompt has opened already, see Trace.
            at_once: hand each piece on when it comes, since somebody is going to cut; see Pace.
            is_kept: somebody knows whether the server is up, so that where nobody listens it is not tried again.
        """
        self.due = 0.0
        self.step = endpoint.limits.silence
        self._begins, self._at_once, self._is_kept = begins, at_once, is_kept
        self._endpoint, self._body = endpoint, body
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = threading.Event()
        self._late = False
        self._began = False
        self._finished = False

    @property
    def was_cut(self) -> bool:
        """Whether `cut` was called."""
        return self._cut.is_set()

    def events(self) -> Iterator[Event]:
        """All events until the reply ends; a cut ends it without an error.

        A question that found no connection, or a server that is too busy, is sent again after a pause; never one
        whose reply has begun.

        Raises:
            Unreachable: nothing answers, or the connection broke off or fell silent.
            Unauthorized: the key was refused.
            Rejected: the endpoint answered with an error of its own.
        """
        try:
            yield from self._tried()
        except AskFailed:
            if not self.was_cut:
                raise

    def cut(self) -> None:
        """End it now, also before the first token; the server stops generating."""
        with self._lock:
            self._cut.set()
            self._hang_up()

    def be_late(self) -> None:
        """The watchdog's call: nothing has come for too long."""
        with self._lock:
            self._late = True
            self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            # Wakes the thread that reads; closing alone would leave it waiting.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _tried(self) -> Iterator[Event]:
        import openai

        client = client_for(self._endpoint)
        tries = 0
        while not self.was_cut:
            try:
                yield from self._read(client)
            except openai.OpenAIError as error:
                pause = pause_before_retry(error, tries)
                if pause is None or (self._is_kept and found_nobody(error)):
                    raise explain(error, self._endpoint) from error
            else:
                return
            tries += 1
            self._cut.wait(pause)

    def _read(self, client: openai.OpenAI) -> Iterator[Event]:
        rest = dict(self._body)
        create = client.chat.completions.with_streaming_response.create
        sent = time.monotonic()
        # Without this header jupyter-server-proxy holds a stream back until it has ended.
        wanted = {"Accept": "text/event-stream"}
        with create(
            model=rest.pop("model"), messages=rest.pop("messages"), extra_body=rest, extra_headers=wanted
        ) as response:
            with self._lock:
                self._socket = response.http_response.extensions["network_stream"].get_extra_info("socket")
                if self.was_cut:
                    return
            self.due = sent + self._endpoint.limits.first_token
            with _watchdog.watching(self):
                yield from self._decoded(response.iter_bytes())
            if not self._finished:
                raise Unreachable(
                    f"{self._endpoint.base_url} ended the stream without a finish reason: %magistral_status shows "
                    "whether it is up."
                )

    def _decoded(self, pieces: Iterator[bytes]) -> Iterator[Event]:
        """Bytes to events; what the wire held back comes out also where the connection breaks."""
        wire = Wire(begins=self._begins)
        pace = Pace()
        while True:
            asked = time.monotonic()
            try:
                data = next(pieces, None)
            except Exception as error:
                yield from wire.close()
                raise self._broken(error) from error
            if data is None:
                for event in wire.close():
                    self._note(event)
                    yield event
                if self._late:
                    raise self._broken(None)
                return
            came = time.monotonic()
            for event in wire.feed(data):
                self._note(event)
                yield event
            if self._began:
                self.due = came + self.step
            may_rest = not self._finished and not self._at_once
            if may_rest and pace.pause_pays(came - asked) and not _has_more(self._socket):
                time.sleep(PAUSE_SECONDS)

    def _note(self, event: Event) -> None:
        if isinstance(event, Thinking | Said):
            self._began = True
        elif isinstance(event, Queued):
            self.due = time.monotonic() + self._endpoint.limits.first_token
        elif isinstance(event, Finished):
            if event.reason == _GIVEN_UP:
                raise Unreachable(f"{self._endpoint.base_url} gave the question up: ask again.")
            self._finished = True

    def _broken(self, error: Exception | None) -> Unreachable:
        where, limits = self._endpoint.base_url, self._endpoint.limits
        if not self._late:
            return Unreachable(f"{where} broke off in mid-stream ({error}): %magistral_status shows whether it is up.")
        if self._began:
            return Unreachable(f"{where} fell silent for {limits.silence:g} s in mid-stream: ask again.")
        return Unreachable(f"{where} took the question, but sent no token within {limits.first_token:g} s: ask again.")


def _has_more(source: socket.socket | None) -> bool:
    """Whether bytes have arrived that nobody has read: then this reader lags behind and must not rest."""
    if source is None:
        return False
    if not hasattr(select, "poll"):  # on Windows, whose select takes any socket; elsewhere it stops at 1,024
        return bool(select.select([source], [], [], 0)[0])
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(0))
