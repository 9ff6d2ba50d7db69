"""A stand-in for vLLM's HTTP server: it says what it is told, in vLLM's own words, cut wherever a test likes.

    with StandIn() as server:
        server.enqueue(deltas([reasoning("2 + 2 = 4."), content("4"), finish("stop"), done()]))
        server.enqueue(refuse(429, "slow down", {"Retry-After": "1"}))
        ...  # ask at server.url
        assert server.requests[0].json["messages"][0]["content"] == "2+2?"

Each question takes the next reply from the queue. /v1/models, /version, /tokenize, /detokenize and /health are
always answered; `server.pages` holds what they answer with, and a test may add to it or take away. So are the
questions by which `connect` tries a server out, as vLLM would; a test of these themselves sets `tries = False`.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Literal, Self

from magistral_nb.asking import trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

MODEL = "stand-in"

Ending = Literal["finish", "die", "hang"]


@dataclass(frozen=True)
class Reply:
    """What one question gets.

    Attributes:
        chunks: the body's bytes, each piece in a chunk and a packet of its own.
        delay: seconds before each chunk.
        ending: "finish" the body properly, "die" by closing the socket without the last chunk, or "hang".
        mute: do not even send the status line, hang at once.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] = ()
    delay: float = 0.0
    ending: Ending = "finish"
    mute: bool = False


@dataclass
class Request:
    """A question as it arrived.

    Attributes:
        disconnected: set when the client went away before the reply was complete.
    """

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    disconnected: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


# Replies


def deltas(chunks: Iterable[bytes], *, delay: float = 0.0, ending: Ending = "finish") -> Reply:
    """Stream these server-sent events, made by `reasoning`, `content`, `finish`, … or any other bytes."""
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}
    return Reply(headers=headers, chunks=tuple(chunks), delay=delay, ending=ending)


def hang() -> Reply:
    """Accept the question, send the headers as vLLM does, and never a token."""
    return deltas([], ending="hang")


def silence() -> Reply:
    """Accept the connection and answer nothing at all."""
    return Reply(mute=True)


def refuse(status: int, message: str | bytes = "refused", headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with a status and vLLM's error body, or with `message` as it is if it is bytes."""
    if isinstance(message, bytes):
        return Reply(status=status, headers=headers or {}, chunks=(message,))
    body = {"error": {"message": message, "type": "Error", "param": None, "code": status}}
    return answer(body, status=status, headers=headers)


def answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with JSON in one piece, as without `stream`."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    return Reply(status=status, headers=headers, chunks=(json.dumps(body).encode(),))


def recut(chunks: Iterable[bytes], size: int) -> list[bytes]:
    """Cut the same bytes every `size` bytes: through events, JSON strings and UTF-8 characters."""
    whole = b"".join(chunks)
    return [whole[i : i + size] for i in range(0, len(whole), size)]


# Server-sent events as vLLM 0.32 writes them


def event(body: Any) -> bytes:
    """Make a server-sent event of any JSON value."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def delta(
    fields: dict[str, Any],
    *,
    token_ids: list[int] | None = None,
    finish_reason: str | None = None,
    **top: Any,
) -> bytes:
    """Make a chunk with any delta: another server's dialect, or {} for a token without text, as [THINK].

    `top` goes beside "choices".
    """
    choice = {"index": 0, "delta": fields, "logprobs": None, "finish_reason": finish_reason}
    if finish_reason is not None:
        choice["stop_reason"] = None
    choice["token_ids"] = token_ids
    return event(_envelope() | {"choices": [choice]} | top)


def role(prompt_token_ids: list[int] | None = None) -> bytes:
    """The first chunk of every stream, sent when the prompt has been read."""
    return delta({"role": "assistant", "content": ""}, prompt_token_ids=prompt_token_ids, prompt_text=None)


def reasoning(text: str, token_ids: list[int] | None = None) -> bytes:
    """A piece of the thinking trace."""
    return delta({"reasoning": text}, token_ids=token_ids)


def content(text: str, token_ids: list[int] | None = None) -> bytes:
    """A piece of the answer."""
    return delta({"content": text}, token_ids=token_ids)


def finish(reason: str = "stop") -> bytes:
    """The chunk that says why the model stopped."""
    return delta({}, finish_reason=reason)


def usage(prompt: int, completion: int, reasoning: int | None = None) -> bytes:
    """The chunk with the token counts; `reasoning` None leaves them out, as without a reasoning parser."""
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return event(_envelope() | {"choices": [], "usage": counts})


def done() -> bytes:
    """The end mark of a stream."""
    return b"data: [DONE]\n\n"


def _envelope() -> dict[str, Any]:
    return {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": MODEL,
    }


# The server


class StandIn:
    """The server; `url` is the base URL that an OpenAI client wants.

    Attributes:
        requests: every question in the order of arrival, without what `pages` answered.
        pages: replies by path that need no queue.
        tries: whether test questions are answered without the queue.
    """

    def __init__(
        self,
        *,
        model: str = MODEL,
        max_model_len: int | None = 40960,
        version: str = "0.32.0",
        owned_by: str = "vllm",
        unix: str | None = None,
        key: str | None = None,
    ) -> None:
        card: dict[str, Any] = {"id": model, "object": "model", "created": 1_750_000_000, "owned_by": owned_by}
        if max_model_len is not None:
            card |= {"root": model, "parent": None, "max_model_len": max_model_len, "permission": []}
        self.max_model_len = max_model_len
        self.requests: list[Request] = []
        self.pages: dict[str, Reply] = {
            "/v1/models": answer({"object": "list", "data": [card]}),
            "/version": answer({"version": version}),
            "/health": Reply(),
            "/detokenize": refuse(404, "Not Found"),
        }
        self.tries = True
        self._replies: list[Reply] = []
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._unix, self._key = unix, key
        handler = partial(_Handler, self)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler) if unix is None else _UnixServer(unix, handler)
        self._server.daemon_threads = False  # so that closing waits for them, and none outlives its test
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), name="stand-in")

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1" if self._unix is None else f"unix:{self._unix}"

    def enqueue(self, *replies: Reply) -> None:
        with self._lock:
            self._replies.extend(replies)

    def wait_for(self, number: int = 1, timeout: float = 5.0) -> Request:
        """Wait until this many questions have arrived; return the latest of them."""
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self.requests) >= number, timeout):
                raise TimeoutError(f"{len(self.requests)} of {number} questions arrived in {timeout} s")
            return self.requests[number - 1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and stop; from then on the port refuses connections."""
        self._closing.set()
        self._server.shutdown()
        with self._lock:
            open_sockets = list(self._sockets)
        for connection in open_sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _take(self) -> Reply:
        with self._lock:
            if self._replies:
                return self._replies.pop(0)
        return refuse(500, "the test enqueued no reply for this question")

    def _tokenize(self, body: dict[str, Any]) -> Reply:
        """Count a token for each word, as far as anybody can tell."""
        text = body.get("prompt") or " ".join(str(message["content"]) for message in body.get("messages", []))
        tokens = list(range(len(text.split())))
        return answer({"count": len(tokens), "max_model_len": self.max_model_len, "tokens": tokens, "token_strs": None})

    def _reply_to(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        if self._key is not None and request.headers.get("authorization") != f"Bearer {self._key}":
            return refuse(401, "Unauthorized")
        if path in self.pages:
            return self.pages[path]
        if path == "/tokenize":
            return self._tokenize(request.json)
        if request.method == "GET":
            return refuse(404, "Not Found")
        if self.tries and (tried := _tried(request.json)) is not None:
            return tried
        with self._lock:
            self.requests.append(request)
            self._arrival.notify_all()
        return self._take()


def _tried(body: dict[str, Any]) -> Reply | None:
    """What vLLM answers to a question of `connect`'s own; None is anybody else's question."""
    messages = body.get("messages", [])
    if not any(message["content"] == trial.QUESTION for message in messages):
        return None
    if messages[-1]["role"] == "assistant":
        return answer(
            {"choices": [{"message": {"role": "assistant", "content": "347 × 58"}, "finish_reason": "length"}]}
        )
    ids = [7] if body.get("return_token_ids") else None
    counts = {"usage": {"completion_tokens": 1}} if body["stream_options"].get("continuous_usage_stats") else {}
    return deltas([role(), *[delta({"reasoning": "347"}, token_ids=ids, **counts)] * 4, finish("length"), done()])


class _UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, stand_in: StandIn, *connection: Any) -> None:
        self._stand_in = stand_in
        super().__init__(*connection)

    def setup(self) -> None:
        self.disable_nagle_algorithm = self.request.family == socket.AF_INET  # a chunk is a packet
        super().setup()
        with self._stand_in._lock:
            self._stand_in._sockets.add(self.connection)
        if self._stand_in._closing.is_set():  # accepted too late for `close` to cut it
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        with self._stand_in._lock:
            self._stand_in._sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        request = Request(
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
        )
        try:
            self._say(self._stand_in._reply_to(request))
        except ConnectionError:
            self.close_connection = True
            # Closing the stand-in cuts connections too, but then it is not the client who went.
            if not self._stand_in._closing.is_set():
                request.disconnected.set()

    def _say(self, reply: Reply) -> None:
        if reply.mute:
            self._wait(None)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in filter(None, reply.chunks):  # an empty chunk would be the last one
            self._wait(reply.delay)
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if reply.ending == "hang":
            self._wait(None)
        if reply.ending == "die":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _wait(self, seconds: float | None) -> None:
        """Wait, for ever if None, but not longer than the client does or the stand-in is open."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = 0.02 if until is None else max(0.0, min(0.02, until - time.monotonic()))
            readable, _, _ = select.select([self.connection], [], [], left)
            if self._stand_in._closing.is_set() or (readable and not self.connection.recv(1, socket.MSG_PEEK)):
                raise ConnectionAbortedError
            if until is not None and time.monotonic() >= until:
                return
