"""One question asked several times at once: a stream for each sample, so that each keeps its own budget and end.

vLLM's own `n` cannot be asked for at temperature 0, and its choices share one limit and one end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from magistral_nb.answers.answers import Answers
from magistral_nb.asking.running import FAREWELL_SECONDS, Running
from magistral_nb.errors import Interrupted, MagistralError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magistral_nb.asking.endpoint import Endpoint, Question
    from magistral_nb.asking.stream import Keeper
    from magistral_nb.views import View


def start(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    keeper: Keeper | None = None,
    when_over: Callable[[], None] | None = None,
) -> list[Running]:
    """A stream for each question; for the other arguments see Running."""
    streams: list[Running] = []
    try:
        for question in questions:
            stream = Running(endpoint, question, keeper=keeper, when_over=when_over)
            streams.append(stream)
    except BaseException:  # Ctrl-C, or no room for another thread
        hang_up(streams)
        raise
    return streams


async def arun(endpoint: Endpoint, questions: Sequence[Question], *, keeper: Keeper | None = None) -> list[Running]:
    """`start`, and wait for all to end without blocking the event loop; cancelling the task stops the server's work."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Semaphore(0)

    def when_over() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(ended.release)

    streams = start(endpoint, questions, keeper=keeper, when_over=when_over)
    try:
        for _ in streams:
            await ended.acquire()
    except asyncio.CancelledError:
        hang_up(streams)  # never joins: the event loop must not wait
        raise
    return streams


def follow(streams: Sequence[Running], views: Sequence[View]) -> Answers:
    """Wait until all have ended, while `views` show the first.

    Raises:
        AskFailed: see `gather`.
        Interrupted: Ctrl-C or the notebook's square; it carries all Answers as they stand.
    """
    try:
        for each in streams:
            with contextlib.suppress(MagistralError):  # `gather` tells
                each.follow(views if each is streams[0] else ())
    except KeyboardInterrupt:
        hang_up(streams)
        deadline = time.monotonic() + FAREWELL_SECONDS
        for each in streams:
            each.stop(max(0.0, deadline - time.monotonic()))
        raise Interrupted(Answers(each.outcome() for each in streams)) from None
    except BaseException:
        hang_up(streams)
        raise
    return gather(streams)


def gather(streams: Sequence[Running]) -> Answers:
    """The Answers of streams that have ended, in order; one that failed before its first token says so in its own.

    Raises:
        AskFailed: so they have all failed; this is the first one's.
    """
    failures = [each.failure for each in streams]
    for failure in failures:
        if failure is not None and (None not in failures or not isinstance(failure, MagistralError)):
            raise failure
    return Answers(each.outcome() for each in streams)


def hang_up(streams: Sequence[Running]) -> None:
    """End all of them and wait for nothing."""
    for each in streams:
        each.hang_up()
