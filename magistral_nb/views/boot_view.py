"""The stages of a boot while it runs."""

from __future__ import annotations

import html
import sys
from typing import TYPE_CHECKING

from magistral_nb.views.notebook import Place, framed
from magistral_nb.views.text_view import writable
from magistral_nb.views.wording import duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_REWRITE = "\r\x1b[K"  # to the start of the line, and clear it


class BootView:
    """Shows the stages of a boot, the last one running.

    In a notebook one output is rewritten, at most once a second; in a terminal each stage gets a line.

    Example:
        >>> import io
        >>> out = io.StringIO()
        >>> view = BootView(rich=False, stream=out)
        >>> view.update([("Starting vLLM", 2.0), ("Loading weights", 3.2)])
        >>> view.close("abacus is ready after 6 s.", ok=True)
        >>> print(out.getvalue(), end="")
        Starting vLLM  2.0 s
        Loading weights  3.2 s
        abacus is ready after 6 s.
    """

    def __init__(self, *, rich: bool, stream: TextIO | None = None) -> None:
        """Show nothing yet.

        Args:
            rich: whether a notebook shows the output.
            stream: where lines go otherwise; standard error unless given.
        """
        self._view = _RichBoot() if rich else _PlainBoot(sys.stderr if stream is None else stream)

    def update(self, stages: Sequence[tuple[str, float]], note: str = "") -> None:
        """Show the stages so far with their seconds; `note` belongs to the running one."""
        if stages:
            self._view.update([(printable(name), seconds) for name, seconds in stages], printable(note))

    def close(self, line: str, ok: bool) -> None:  # noqa: FBT001
        """Show how it ended."""
        self._view.close(printable(line), ok=ok)


class _RichBoot:
    def __init__(self) -> None:
        self._place = Place()
        self._stages: list[tuple[str, float]] = []
        self._shown = ""

    def update(self, stages: list[tuple[str, float]], note: str) -> None:
        self._stages = stages
        rows = [(name, _exactly(seconds)) for name, seconds in stages]
        name, seconds = stages[-1]
        rows[-1] = (name, " · ".join(filter(None, [_roughly(seconds), note])))
        page = framed(_table(rows, running=True), "thinking")
        if page != self._shown:  # shown seconds are whole while a stage runs
            self._shown = page
            self._place.show({"text/html": page, "text/plain": _text(rows)})

    def close(self, line: str, *, ok: bool) -> None:
        rows = [(name, _exactly(seconds)) for name, seconds in self._stages]
        head = f"<b>{html.escape(line)}</b>"
        if rows:
            summary = f'<summary data-lm-suppress-shortcuts="true">{head}</summary>'
            head = f"<details>{summary}{_table(rows, running=False)}</details>"
        page = framed(head, "done" if ok else "failed")
        self._place.close({"text/html": page, "text/plain": line})


class _PlainBoot:
    """A line for each stage: its name when it begins, its seconds when it has ended.

    A note such as "40%" is rewritten in the running stage's line, which only a terminal can do; a log goes
    without.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stages: list[tuple[str, float]] = []
        self._note = ""

    def update(self, stages: list[tuple[str, float]], note: str) -> None:
        for index in range(len(self._stages), len(stages)):
            if index:
                self._end_stage(stages[index - 1])
            self._write(stages[index][0])
        if note != self._note and self._stream.isatty():
            self._write(f"{_REWRITE}{stages[-1][0]}  {note}")
        self._stages, self._note = stages, note

    def close(self, line: str, *, ok: bool) -> None:
        if ok and self._stages:
            self._end_stage(self._stages[-1])
        elif self._stages:
            self._write("\n")
        self._write(f"{line}\n")

    def _end_stage(self, stage: tuple[str, float]) -> None:
        name, seconds = stage
        start = _REWRITE + name if self._stream.isatty() else ""
        self._write(f"{start}  {_exactly(seconds)}\n")

    def _write(self, text: str) -> None:
        self._stream.write(writable(text, self._stream))
        self._stream.flush()


def _table(rows: list[tuple[str, str]], *, running: bool) -> str:
    lines = []
    for index, (name, value) in enumerate(rows):
        tag = "b" if running and index == len(rows) - 1 else "span"
        line = f"<{tag}>{html.escape(name)}</{tag}> <span>{html.escape(value)}</span>"
        lines.append(f'<div class="magistral-line">{line}</div>')
    return "".join(lines)


def _text(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name}  {value}" for name, value in rows)


def _exactly(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)  # noqa: PLR2004


def _roughly(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)  # noqa: PLR2004
