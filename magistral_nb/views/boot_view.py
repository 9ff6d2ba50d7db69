"""The stages of a boot while it runs."""

from __future__ import annotations

import html
import re
import shutil
import sys
from typing import TYPE_CHECKING

from magistral_nb.views.notebook import Place, framed
from magistral_nb.views.text_view import writable
from magistral_nb.views.wording import duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_REWRITE = "\r\x1b[K"  # to the start of the line, and clear it
_PERCENT = re.compile(r"(\d{1,3})%")
_BARS = (20, 10, 5)  # characters: the first for which there is room, as one that is fitted closely would tremble
_BAR_STYLE = "flex: 0 1 16em; align-self: center; accent-color: var(--jp-brand-color1, #1976d2)"


class BootView:
    """Shows the stages of a boot, the last one running.

    In a notebook one output is rewritten, once a second and for each new stage; in a terminal each stage gets a line.
    A note that begins with a percentage, such as "40%", gets a bar.

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
        self._shown = (0, 0)  # how many stages, and the seconds of the last one

    def update(self, stages: list[tuple[str, float]], note: str) -> None:
        self._stages = stages
        name, seconds = stages[-1]
        now = len(stages), round(seconds)
        if now == self._shown:  # whatever the note says: each output carries the views' whole style, 2.5 kB
            return
        self._shown = now
        past, percent = stages[:-1], _percent(note)
        value = " · ".join(filter(None, [_roughly(seconds), note]))
        bar = "" if percent is None else f" {_html_bar(name, percent)}"
        running = f"<b>{html.escape(name)}</b>{bar} <span>{html.escape(value)}</span>"
        page = framed(f"{_table(past)}{_line(running)}", "thinking")
        lines = [
            *(f"{name}  {_exactly(seconds)}" for name, seconds in past),
            _text_line(name, value, percent, _BARS[0]),
        ]
        self._place.show({"text/html": page, "text/plain": "\n".join(lines)})

    def close(self, line: str, *, ok: bool) -> None:
        head = f"<b>{html.escape(line)}</b>"
        if self._stages:
            summary = f'<summary data-lm-suppress-shortcuts="true">{head}</summary>'
            head = f"<details>{summary}{_table(self._stages)}</details>"
        page = framed(head, "done" if ok else "failed")
        self._place.close({"text/html": page, "text/plain": line})


class _PlainBoot:
    """A line for each stage: its name when it begins, its seconds when it has ended.

    The bar and the note are rewritten in the running stage's line, which only a terminal can do; a log goes without.
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
            self._write(_REWRITE + _fitted(stages[-1][0], note, shutil.get_terminal_size().columns))
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


def _percent(note: str) -> int | None:
    """That a note begins with, 100 at most."""
    found = _PERCENT.match(note)
    return None if found is None else min(100, int(found[1]))


def _table(stages: list[tuple[str, float]]) -> str:
    """Stages that have ended."""
    cells = ((html.escape(name), _exactly(seconds)) for name, seconds in stages)
    return "".join(_line(f"<span>{name}</span> <span>{value}</span>") for name, value in cells)


def _line(inside: str) -> str:
    return f'<div class="magistral-line">{inside}</div>'


def _html_bar(name: str, percent: int) -> str:
    """HTML's own: it needs no script, and of a notebook that is not trusted Jupyter's sanitiser leaves it."""
    label = html.escape(name)
    return f'<progress max="100" value="{percent}" aria-label="{label}" style="{_BAR_STYLE}"></progress>'


def _text_line(name: str, note: str, percent: int | None, room: int) -> str:
    """The running stage's, with a bar of so many characters; in ASCII, which every terminal and log can write."""
    if percent is None or not room:
        return f"{name}  {note}".rstrip()
    done = percent * room // 100
    return f"{name}  [{'#' * done}{'.' * (room - done)}]  {note}"


def _fitted(name: str, note: str, columns: int) -> str:
    """The running stage's line, shorter than a terminal's: one that wraps cannot be rewritten."""
    room = next((bar for bar in _BARS if len(f"{name}  []  {note}") + bar < columns), 0)
    return _text_line(name, note, _percent(note), room)[: columns - 1]


def _exactly(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)  # noqa: PLR2004


def _roughly(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)  # noqa: PLR2004
