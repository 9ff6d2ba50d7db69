"""A question being answered: a thread reads the stream, the caller's thread stays free.

A blocking read in the notebook's own thread would delay Ctrl-C until the next token, so HTTP is read
elsewhere. The thread fills the draft itself: an interrupt of the caller loses nothing that had arrived.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING

from magistral_nb.answers.journal import journal
from magistral_nb.asking.draft import Draft
from magistral_nb.asking.stream import Stream
from magistral_nb.errors import AskFailed, Interrupted, MagistralError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magistral_nb.answers.answer import Answer
    from magistral_nb.asking.endpoint import Endpoint, Question
    from magistral_nb.asking.events import Event
    from magistral_nb.asking.stream import Keeper
    from magistral_nb.views import View

_TICK_SECONDS = 0.05  # how often views are fed
FAREWELL_SECONDS = 1.0  # how long a stopped stream may take to hand over what it has read


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
        keeper: Keeper | None = None,
        when_over: Callable[[], None] | None = None,
    ) -> None:
        """Start reading.

        Args:
            endpoint: whom to ask.
            question: what.
            keeper: of the server, where that is one of ours; see Stream.
            when_over: called in the reading thread once the stream has ended.
        """
        self.draft = Draft(
            question.text, model=endpoint.model, server=endpoint.server, price_per_hour=endpoint.price_per_hour
        )
        self.error: BaseException | None = None
        self._stream = Stream(endpoint, question, keeper)
        self._arrived: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._over = threading.Event()
        self._when_over = when_over
        self._journal = journal()
        self._journal.begin(self.draft.id, question.text, endpoint.model, endpoint.server, self.draft.pieces)
        self._thread = threading.Thread(target=self._read, name="magistral_nb stream", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._collect()
            self._journal.finish(self.outcome())
        finally:
            self._over.set()
            if self._when_over is not None:
                self._when_over()

    def _collect(self) -> None:
        try:
            add, show = self.draft.add, self._arrived.put
            for event in self._stream.events():
                add(event)
                show(event)
        except AskFailed as error:
            self.error = self._stream.explain(error)
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
            answer = self.outcome()
            for view in views:
                view.close(answer)
            raise Interrupted(answer) from None
        except MagistralError:
            for view in views:
                view.close(self.outcome())
            raise
        except BaseException:  # a view has failed, such as a pipe that was closed: hang up and tell
            self.hang_up()
            raise
        for view in views:
            view.close(answer)
        return answer

    def stop(self, patience: float = FAREWELL_SECONDS) -> None:
        """End the stream; what it had read by then is in the draft when this returns.

        Args:
            patience: how long to wait for that, in seconds.
        """
        self.hang_up()
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)

    def hang_up(self) -> None:
        """End the stream, if it has not ended by itself, and wait for nothing."""
        if not self._over.is_set():
            self._stream.stop()

    def answer_now(self) -> bool:
        """End the thinking only; see Stream.answer_now."""
        return self._stream.answer_now()

    def answer(self) -> Answer:
        """The Answer of a stream that has ended.

        Raises:
            AskFailed: it failed before the first token; later failures are told in the Answer.
        """
        if self.failure is not None:
            raise self.failure
        return self.outcome()

    @property
    def failure(self) -> BaseException | None:
        """What `answer` raises, if anything."""
        told = isinstance(self.error, MagistralError) and self.draft.began
        return None if self._stream.stopped or told else self.error

    def outcome(self) -> Answer:
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
