"""A question being answered: a thread reads the stream, the caller's thread stays free.

A blocking read in the notebook's own thread would delay Ctrl-C until the next token, so HTTP is read
elsewhere. The thread fills the draft itself: an interrupt of the caller loses nothing that had arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING

from magistral_nb.answers.journal import journal
from magistral_nb.asking.draft import Draft
from magistral_nb.asking.events import Said, Thinking
from magistral_nb.asking.stream import Stream
from magistral_nb.errors import AskFailed, Interrupted, MagistralError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magistral_nb.answers.answer import Answer
    from magistral_nb.asking.endpoint import Endpoint, Question
    from magistral_nb.asking.events import Event
    from magistral_nb.views import View

    Explain = Callable[[MagistralError], MagistralError]

_TICK_SECONDS = 0.05  # how often views are fed
_FAREWELL_SECONDS = 1.0  # how long a stopped stream may take to hand over what it has read


class Running:
    """One question on its way; reading begins at once.

    Attributes:
        draft: all that has arrived so far.
        error: what ended the stream before its time, if anything.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        question: Question,
        *,
        explain: Explain | None = None,
        when_over: Callable[[], None] | None = None,
    ) -> None:
        """Start reading.

        Args:
            endpoint: whom to ask.
            question: what.
            explain: may know better why it failed, such as that the server has died.
            when_over: called in the reading thread once the stream has ended.
        """
        self.draft = Draft(question.text, model=endpoint.model, server=endpoint.server)
        self.error: BaseException | None = None
        self._stream = Stream(endpoint, question)
        self._arrived: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._over = threading.Event()
        self._explain, self._when_over = explain, when_over
        self._journal = journal()
        self._journal.begin(self.draft.id, question.text, endpoint.model, endpoint.server)
        self._thread = threading.Thread(target=self._read, name="magistral_nb stream", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._collect()
            self._journal.finish(self._outcome())
        finally:
            self._over.set()
            if self._when_over is not None:
                self._when_over()

    def _collect(self) -> None:
        try:
            for event in self._stream.events():
                self.draft.add(event)
                self._arrived.put(event)
                if isinstance(event, Thinking):
                    self._journal.add(self.draft.id, "thinking", event.text)
                elif isinstance(event, Said):
                    self._journal.add(self.draft.id, "text", event.text)
        except AskFailed as error:
            self.error = error if self._explain is None else self._explain(error)
        except BaseException as error:  # noqa: BLE001 - it is raised again by `answer`, in the caller's thread
            self.error = error

    def follow(self, views: Sequence[View]) -> Answer:
        """Feed `views` until the stream has ended, and return the Answer.

        Raises:
            AskFailed: the endpoint failed before the first token.
            Interrupted: Ctrl-C or the notebook's square; it carries the partial Answer.
        """
        try:
            over = False
            while not over:
                events, over = self._take()
                for view in views:
                    view.update(events, self.draft.progress)
            answer = self.answer()
        except KeyboardInterrupt:
            self.stop()
            answer = self._outcome()
            for view in views:
                view.close(answer)
            raise Interrupted(answer) from None
        except MagistralError:
            for view in views:
                view.close(self._outcome())
            raise
        except BaseException:  # a view has failed, such as a pipe that was closed: hang up and tell
            self._stream.stop()
            raise
        for view in views:
            view.close(answer)
        return answer

    def stop(self) -> None:
        """End the stream; what it had read by then is in the draft when this returns."""
        self._stream.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(_FAREWELL_SECONDS)

    def answer_now(self) -> bool:
        """End the thinking only; see Stream.answer_now."""
        return self._stream.answer_now()

    def answer(self) -> Answer:
        """The Answer of a stream that has ended.

        Raises:
            AskFailed: it failed before the first token; later failures are told in the Answer.
        """
        told = isinstance(self.error, MagistralError) and self.draft.began
        if self.error is not None and not self._stream.stopped and not told:
            raise self.error
        return self._outcome()

    def _outcome(self) -> Answer:
        """The Answer as it stands, however it ended."""
        if self.draft.progress.state == "done":  # a stop that came after the end changes nothing
            return self.draft.answer()
        if self._stream.stopped:
            return self.draft.answer("interrupted")
        return self.draft.answer("error", None if self.error is None else str(self.error))

    def _take(self) -> tuple[list[Event], bool]:
        """What arrived within one tick, and whether that was all.

        The caller's thread wakes once a tick: woken by each event, it would cost a fifth more CPU.
        """
        over = self._over.wait(_TICK_SECONDS)
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            while True:
                events.append(self._arrived.get_nowait())
        return events, over


async def arun(endpoint: Endpoint, question: Question, explain: Explain | None = None) -> Answer:
    """Ask without blocking the event loop; cancelling the task stops the server's work as well.

    Raises:
        AskFailed: the endpoint failed before the first token.
    """
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def when_over() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(over.set)

    running = Running(endpoint, question, explain=explain, when_over=when_over)
    try:
        await over.wait()
    except asyncio.CancelledError:
        running._stream.stop()  # noqa: SLF001 - never joins: the event loop must not wait
        raise
    return running.answer()
