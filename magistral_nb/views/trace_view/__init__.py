"""The thinking trace in a notebook: live while it streams, static HTML when it rests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.events import Said, Thinking
from magistral_nb.views.notebook import Place
from magistral_nb.views.trace_view.resting import resting_html, resting_text
from magistral_nb.views.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magistral_nb.answers.answer import Answer
    from magistral_nb.asking.draft import Progress
    from magistral_nb.asking.events import Event
    from magistral_nb.views.trace_view.widget import TraceWidget

_FLUSH_SECONDS = 1 / 12  # faster than this the eye sees no difference and the page's main thread does


class TraceView:
    """Shows one question in the cell that asks it.

    Only what is new travels to the page. When the stream has ended, static HTML takes the view's place, so that
    a saved notebook shows the trace with no kernel and no widget state.

    Example:
        >>> view = TraceView(folded=True)
        >>> view.update([Thinking("2+2=4.", tokens=5)], draft.progress)  # doctest: +SKIP
        >>> view.close(draft.answer())  # doctest: +SKIP
    """

    def __init__(self, *, folded: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet; `folded` keeps the thinking folded while it streams."""
        self._folded = folded
        self._clock = clock
        self._place = Place()
        self._widget: TraceWidget | None = None
        self._texts = {"thinking": _Growing(), "answer": _Growing()}
        self._flushed = float("-inf")
        self._told = "waiting", ""  # the state, and what it waits for
        self._snapshot = 0

    def open(self) -> None:
        """Appear in the current cell's output; the first update does it too."""
        if self._widget is not None or self._place.closed:
            return
        from magistral_nb.views.trace_view.widget import TraceWidget

        self._widget = TraceWidget(folded=self._folded)
        self._place.show(*self._widget.bundle())

    def update(self, events: Sequence[Event], progress: Progress) -> None:
        """Take in what arrived; the page hears of it at most twelve times a second."""
        self.open()
        for event in events:
            if isinstance(event, Thinking):
                self._texts["thinking"].add(event.text)
            elif isinstance(event, Said):
                self._texts["answer"].add(event.text)
        told = progress.state, progress.waits_for
        new = any(text.pending for text in self._texts.values()) or told != self._told
        now = self._clock()
        if new and now - self._flushed >= _FLUSH_SECONDS:
            self._flushed, self._told = now, told
            self._flush(progress)

    def close(self, answer: Answer) -> None:
        """Put static HTML in the live view's place."""
        if self._place.closed:
            return
        self._place.close({"text/html": resting_html(answer), "text/plain": resting_text(answer)})
        if self._widget is not None:
            self._widget.layout.close()  # every widget brings a second one for its layout
            self._widget.close()
            self._widget = None

    def _flush(self, progress: Progress) -> None:
        if self._widget is None:
            return
        message: dict[str, Any] = {
            "progress": {
                "state": progress.state,
                "seconds": progress.seconds,
                "tokens": progress.thinking_tokens,
                "rate": progress.tokens_per_second,
            }
            | ({"waits": progress.waits_for} if progress.waits_for else {})
        }
        pieces = {name: text.take() for name, text in self._texts.items() if text.pending}
        length = sum(text.length for text in self._texts.values())
        # A whole text each time it has doubled: all of these together are no longer than the last one twice.
        if length >= 2 * self._snapshot:
            self._snapshot = length
            self._widget.so_far = message | {name: [0, text.whole()] for name, text in self._texts.items()}
        else:
            self._widget.send(message | pieces)


class _Growing:
    """A text of which the page has a part; lengths in UTF-16 units, as JavaScript counts."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.pending: list[str] = []
        self.length = 0  # of what the page has

    def add(self, text: str) -> None:
        if text:
            self.pending.append(printable(text))

    def take(self) -> list[int | str]:
        """The pending text as a message has it: where it starts, and the text."""
        start, piece = self.length, "".join(self.pending)
        self._parts.append(piece)
        self.pending.clear()
        self.length += len(piece.encode("utf-16-le")) // 2
        return [start, piece]

    def whole(self) -> str:
        return "".join(self._parts)
