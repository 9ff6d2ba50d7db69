"""Views for terminals, and for front ends that have no widgets."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from magistral_nb.asking.events import Said, Thinking
from magistral_nb.views.trace_view.resting import resting_text
from magistral_nb.views.wording import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from magistral_nb.answers.answer import Answer
    from magistral_nb.asking.draft import Progress
    from magistral_nb.asking.events import Event

_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_CLEAR = "\r\x1b[K"  # the line that was written last


class TextView:
    r"""Writes the thinking, dimmed, to one stream and, where it is given, the answer to another.

    Control characters of the model are shown as pictures, so that it cannot drive the terminal. What a question waits
    for is a line that a terminal shows meanwhile.

    Example:
        >>> import io; from magistral_nb.asking.draft import Draft
        >>> out, draft = io.StringIO(), Draft("2+2?", model="abacus", server="default")
        >>> view = TextView(out)
        >>> view.update([Thinking("2+2=4."), Said("4")], draft.progress)
        >>> out.getvalue()
        '2+2=4.\n'
    """

    def __init__(
        self, stream: TextIO | None = None, *, answer_stream: TextIO | None = None, colour: bool | None = None
    ) -> None:
        """Choose the streams.

        Args:
            stream: for the thinking; standard error unless given.
            answer_stream: for the answer, which is left out unless this is given.
            colour: whether to dim; unless given, whether `stream` is a terminal and NO_COLOR is not set.
        """
        self._stream = sys.stderr if stream is None else stream
        self._answer_stream = answer_stream
        if colour is None:
            colour = self._stream.isatty() and not os.environ.get("NO_COLOR")
        self._dim, self._reset = (_DIM, _RESET) if colour else ("", "")
        self._dimmed = False
        self._waits_for = ""
        self._column = {id(self._stream): 0, id(answer_stream): 0}  # 0: at the start of a line

    def update(self, events: Sequence[Event], progress: Progress) -> None:
        """Write what arrived, or what it waits for."""
        if events and progress.waits_for != self._waits_for:
            self._show_wait(progress.waits_for)
        for event in events:
            if isinstance(event, Thinking):
                if not self._dimmed:
                    self._stream.write(self._dim)
                    self._dimmed = True
                self._write(self._stream, event.text)
            elif isinstance(event, Said):
                self._end_thinking()
                if self._answer_stream is not None:
                    self._write(self._answer_stream, event.text)
        if events:
            self._flush()

    def close(self, answer: Answer) -> None:
        """End the last line and say on the thinking's stream how it went, with the answer's notes below."""
        self._show_wait("")
        self._end_thinking()
        if self._answer_stream is not None:
            self._end_line(self._answer_stream)
        self._flush()  # on one terminal the answer comes before the line about it
        self._write(self._stream, f"{self._dim}{resting_text(answer)}{self._reset}\n", ours=True)
        self._flush()

    def _show_wait(self, waits_for: str) -> None:
        """Write over the line that a terminal showed last, or take it away."""
        if not self._stream.isatty():
            return
        self._end_thinking()
        if self._waits_for:
            self._stream.write(_CLEAR)
        if waits_for:
            self._stream.write(f"{self._dim}Waiting, {waits_for}{self._reset}")
        self._waits_for = waits_for

    def _end_thinking(self) -> None:
        if self._dimmed:
            self._stream.write(self._reset)
            self._dimmed = False
            self._end_line(self._stream)
            self._stream.flush()

    def _end_line(self, stream: TextIO) -> None:
        if self._column[id(stream)]:
            self._write(stream, "\n")

    def _write(self, stream: TextIO, text: str, *, ours: bool = False) -> None:
        text = writable(text if ours else printable(text), stream)
        if text:
            stream.write(text)
            self._column[id(stream)] = 0 if text.endswith("\n") else 1

    def _flush(self) -> None:
        self._stream.flush()
        if self._answer_stream is not None:
            self._answer_stream.flush()


class QuietView:
    """Writes one line when all is over, such as "Thought for 3 s, 211 tokens", and the answer's notes below."""

    def __init__(self, stream: TextIO | None = None, *, answer_stream: TextIO | None = None) -> None:
        """Choose the stream for the line, standard error unless given, and one for the answer, if it is wanted."""
        self._stream = sys.stderr if stream is None else stream
        self._answer_stream = answer_stream

    def update(self, events: Sequence[Event], progress: Progress) -> None:
        """Nothing is shown on the way."""

    def close(self, answer: Answer) -> None:
        """Write the answer, if it is wanted, and the line with its notes."""
        if self._answer_stream is not None and answer.text:
            text = printable(answer.text).removesuffix("\n")
            self._answer_stream.write(writable(f"{text}\n", self._answer_stream))
            self._answer_stream.flush()
        self._stream.write(writable(f"{resting_text(answer)}\n", self._stream))
        self._stream.flush()


def writable(text: str, stream: TextIO) -> str:
    """Text that the stream's encoding can write; a question mark stands for what it cannot."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
