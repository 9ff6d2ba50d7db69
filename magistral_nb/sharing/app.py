"""The proxy as an ASGI application: five pages, and nothing else of the server behind it.

A page is its exact path and its one method. What goes on is built anew from what was read (`asked`), so no header,
query or path of a student's ever reaches vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request

from magistral_nb.sharing.asked import read_asked
from magistral_nb.sharing.bucket import Bucket
from magistral_nb.sharing.meter import Meter, counts
from magistral_nb.sharing.refused import Refused
from magistral_nb.sharing.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from starlette.types import Receive, Scope, Send

    from magistral_nb.serving.registry import ServerState
    from magistral_nb.sharing.asked import Asked, Page
    from magistral_nb.sharing.key_ring import KeyRing
    from magistral_nb.sharing.room import Job, Room
    from magistral_nb.sharing.upstream import Upstream
    from magistral_nb.sharing.watched import Watched

OWNER = "magistral_nb"  # of the models here: how `connect` knows what it talks to

_MOST_BYTES = 8 * 2**20  # of a request with images, where the server takes them
_BESIDE_THE_PROMPT = 64 * 2**10  # bytes of a request that are names, numbers and schemas
_BODY_SECONDS = 30.0  # for a request to arrive
_PLACE_SECONDS = 5.0  # between two words to one who waits
_WRONG_KEYS = 60.0  # a minute, of all students together
_WRONG_SECONDS = 0.5  # that each of them takes
_BEFORE_VALUES = (b"{", b"[", b",")  # of which images have none: a value takes up to fifty times its bytes once read
_DOWN = 503
_NO_KEY = ("", "none")  # the second is what our own client sends where it has none
_BYTES_A_TOKEN = 16  # of text, which few tokens have
_USUAL_BYTES = 4  # of a token, where nobody has counted
_TEMPLATE_TOKENS = 1024  # that a chat template may add, as a system prompt of its own


class App:
    """The application of one proxy."""

    def __init__(self, room: Room, upstream: Upstream, keys: Watched[KeyRing | None]) -> None:
        """Put its parts together."""
        self._room, self._upstream, self._keys = room, upstream, keys
        self._wrong = Bucket.full(_WRONG_KEYS, time.monotonic())
        self._pages: dict[bytes, tuple[str, Callable[[Request, Reply], Awaitable[None]]]] = {
            b"/v1/chat/completions": ("POST", lambda request, reply: self._ask("/chat/completions", request, reply)),
            b"/v1/completions": ("POST", lambda request, reply: self._ask("/completions", request, reply)),
            b"/v1/models": ("GET", self._models),
            b"/state": ("GET", self._state),
            b"/health": ("GET", self._health),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        reply = Reply(scope, receive, send)
        try:
            await self._page(scope)(Request(scope, receive), reply)
        except (Refused, ClientDisconnect) as error:
            # Its frames hold the task that holds it: what they have read would stay until all objects are looked at.
            error.__traceback__ = None
            if isinstance(error, Refused):
                await reply.fail(error)

    def _page(self, scope: Scope) -> Callable[[Request, Reply], Awaitable[None]]:
        """What answers this path, as it was sent, and method."""
        found = self._pages.get(scope["raw_path"])
        if found is None:
            raise Refused(404, "There is nothing here: the address of this server ends with /v1.")
        method, page = found
        if scope["method"] != method:
            raise Refused(405, f"This page takes {method} only.", allow=method)
        return page

    async def _health(self, _request: Request, reply: Reply) -> None:
        self._upstream.ready()
        await reply.whole({"status": "ready"})

    async def _models(self, request: Request, reply: Reply) -> None:
        await self._student(request)
        state = self._upstream.ready()
        card = {"id": state.plan.model, "object": "model", "created": int(state.created), "owned_by": OWNER}
        await reply.whole({"object": "list", "data": [card | {"max_model_len": _context(state)}]})

    async def _state(self, request: Request, reply: Reply) -> None:
        student = await self._student(request)
        room, state = self._room, self._upstream.state
        told: dict[str, Any] = {} if state is None else {
            "model": state.plan.model,
            "context": _context(state),
            "system_prompt": state.system_prompt,
            "sampling": {"temperature": state.plan.sampling.temperature, "top_p": state.plan.sampling.top_p},
        }  # fmt: skip
        await reply.whole(
            {
                "status": self._upstream.status,
                **told,
                "queue": {"seats": room.seats, "running": room.running, "waiting": room.waiting},
                "you": {
                    "student": student,
                    "places": room.places(student),
                    "tokens_left_this_minute": room.tokens_left(student),
                    "max_tokens": room.share.max_tokens,
                },
            }
        )

    async def _student(self, request: Request) -> str:
        """Whose key this request carries.

        Behind jupyter-server-proxy the Authorization header may have to carry Jupyter's own token, so that a key in
        X-API-Key counts first.

        Raises:
            Refused: it carries none, or a wrong one; the latter takes its time.
        """
        ring = self._keys.now
        if ring is None:
            raise Refused(503, "The teacher's file of keys cannot be read: tell your teacher.")
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        bearer = value.strip() if scheme.lower() == "bearer" else ""
        key = request.headers.get("x-api-key", "").strip() or bearer
        if key in _NO_KEY:
            raise Refused(401, "A key is needed: your teacher has one for you.")
        student = ring.student_of(key)
        if student is not None:
            return student
        if (wait := self._wrong.wait(time.monotonic())) > 0:
            raise Refused(429, "Too many wrong keys were tried here: wait a little.", retry_after=wait)
        self._wrong.take(1, time.monotonic())
        await asyncio.sleep(_WRONG_SECONDS)
        raise Refused(401, "This key is wrong, or was revoked: ask your teacher.")

    async def _ask(self, page: Page, request: Request, reply: Reply) -> None:
        """Answer a question, until it is answered, the student goes or somebody ends it."""
        student = await self._student(request)
        plan = self._upstream.ready().plan
        with self._room.let_in(student) as job:
            text = _BYTES_A_TOKEN * self._room.share.prompt_tokens + _BESIDE_THE_PROMPT
            most = max(text, _MOST_BYTES) if plan.wishes.images else text
            asked = read_asked(
                page,
                await _body(request, most, most_values=text),
                model=plan.model,
                most_samples=self._room.most_samples,
            )
            work = asyncio.create_task(self._answer(job, asked, reply))
            gone = asyncio.create_task(_disconnected(request.receive))
            first: list[asyncio.Future[Any]] = [work, gone, job.ended]
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not work.done():
                    work.cancel()
                gone.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)
            if not work.cancelled():
                work.result()
            elif job.ended.done():
                raise job.ended.result()

    async def _answer(self, job: Job, asked: Asked, reply: Reply) -> None:
        max_tokens = await self._fitted(asked)
        self._room.queue(job, asked.samples)
        try:
            return await self._in_turn(job, asked, max_tokens, reply)
        except Refused as refused:
            if refused.status != _DOWN or job.is_counted or not self._upstream.comes_back:
                raise
        await self._upstream.ended()
        self._room.queue_again(job)
        return await self._in_turn(job, asked, max_tokens, reply)

    async def _in_turn(self, job: Job, asked: Asked, max_tokens: int, reply: Reply) -> None:
        while not job.is_admitted:
            job.news.clear()
            if asked.streams:
                await reply.place(*job.place)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PLACE_SECONDS):
                    await job.news.wait()
        began = time.monotonic()
        try:
            async with self._upstream.ask(asked, max_tokens) as answer:
                await (self._stream(job, asked, answer, reply) if asked.streams else self._whole(job, answer, reply))
        except asyncio.CancelledError:
            if not job.is_counted:
                self._charge_unseen(job, asked, max_tokens, time.monotonic() - began)
            raise

    async def _fitted(self, asked: Asked) -> int:
        """Completion tokens that this request may have: as asked for, as the class allows, as the context leaves.

        The prompt's tokens are only counted where its bytes, of which no token has less than one, leave a doubt.
        """
        share, context = self._room.share, _context(self._upstream.ready())
        wished = min(asked.max_tokens or share.max_tokens, share.max_tokens)
        size = asked.size + _TEMPLATE_TOKENS
        if size <= share.prompt_tokens and size + wished <= context:
            return wished
        most = min(share.prompt_tokens, context - 1)
        if asked.size > _BYTES_A_TOKEN * most:  # not worth counting
            raise Refused(400, f"The prompt is far longer than the {most:,} tokens that it may have here: shorten it.")
        tokens = await self._upstream.count(asked)
        if tokens > most:
            raise Refused(400, f"The prompt has {tokens:,} tokens, and may have {most:,} here: shorten it.")
        return min(wished, context - tokens)

    async def _stream(self, job: Job, asked: Asked, answer: httpx.Response, reply: Reply) -> None:
        meter = Meter(wants_ids=asked.wants_ids, wants_usage=asked.wants_usage)
        prompt = completion = 0  # tokens that the student was charged
        await reply.begin()
        async for data in answer.aiter_raw():
            passed = meter.feed(data)
            if (meter.prompt_tokens, meter.completion_tokens) != (prompt, completion):
                self._room.charge(job, meter.completion_tokens - completion, meter.prompt_tokens - prompt)
                prompt, completion = meter.prompt_tokens, meter.completion_tokens
            if passed:
                await reply.write(passed)
        if meter.has_failed or not meter.is_done:
            raise Refused(_DOWN, "The teacher's server broke off: ask again.")
        await reply.end()

    async def _whole(self, job: Job, answer: httpx.Response, reply: Reply) -> None:
        body = json.loads(await answer.aread())
        prompt, completion = counts(body.get("usage") or {})
        self._room.charge(job, completion, prompt)
        await reply.whole(body)

    def _charge_unseen(self, job: Job, asked: Asked, max_tokens: int, seconds: float) -> None:
        """Charge a student who hung up before anything came that was counted.

        The prompt counts by its bytes. Of a reply in one piece, what has run until then counts as if it had come as
        fast as the student's tokens flow in.
        """
        flown = 0.0 if asked.streams else seconds * self._room.share.tokens_per_minute / 60
        self._room.charge(job, min(max_tokens * asked.samples, flown), asked.size // _USUAL_BYTES)


def _context(state: ServerState) -> int:
    return state.context or state.plan.context


async def _body(request: Request, most: int, *, most_values: int) -> bytes:
    """The request's body, of so many bytes and JSON values at most.

    Raises:
        Refused: it is too large, or does not arrive.
        ClientDisconnect: the student has gone.
    """
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                data += piece
                if len(data) > most:
                    raise Refused(413, f"The request is larger than {most // 1000:,} kB: shorten it.")
    except TimeoutError as error:
        raise Refused(408, "The request did not arrive in time: send it again.") from error
    if sum(map(data.count, _BEFORE_VALUES)) > most_values:
        raise Refused(413, "The request holds far more values than a prompt has: shorten it.")
    return bytes(data)


async def _disconnected(receive: Receive) -> None:
    """Return when the student has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
