"""What the doctor has found, and its layout: one page of plain text. Pure."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH = 110  # characters; a longer word stays whole, so that a path or a command can be copied
_FENCE = "```"  # a bug report shows what stands in it as it is


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at.

    Attributes:
        label: what it is; "" goes on with the one before.
        value: how it is.
        remedy: what to do or to type; "" where nothing is wrong.
    """

    label: str
    value: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What belongs together.

    Attributes:
        title: of one to three words.
        lines: in the order in which they are shown.
    """

    title: str
    lines: tuple[Line, ...]


def layout(sections: Sequence[Section]) -> str:
    """The page: Markdown that shows plain text, and reads the same unrendered.

    Example:
        >>> journal = Line("journal", "9 GB free")
        >>> print(layout([Section("Disk", (Line("models", "0.3 GB free", "make room"), journal))]).replace("`", "'"))
        '''text
        magistral-nb doctor: 1 thing is wrong, marked with !
        <BLANKLINE>
        Disk
        ! models   0.3 GB free
                   -> make room
          journal  9 GB free
        '''
    """
    wrong = sum(bool(line.remedy) for section in sections for line in section.lines)
    found = {0: "nothing is wrong that it knows of", 1: "1 thing is wrong, marked with !"}
    told = found.get(wrong, f"{wrong} things are wrong, marked with !")
    parts = [f"magistral-nb doctor: {told}", *("\n".join(_rows(section)) for section in sections)]
    text = "\n\n".join(parts).replace(_FENCE, "'''")
    return f"{_FENCE}text\n{text}\n{_FENCE}"


def _rows(section: Section) -> Iterator[str]:
    yield section.title
    if not section.lines:
        yield "  none"
    indent = 2 + max((len(line.label) + 2 for line in section.lines if line.label), default=0)
    for line in section.lines:
        yield from _wrapped(line.value, f"{'!' if line.remedy else ' '} {line.label:<{indent - 2}}", " " * indent)
        if line.remedy:
            yield from _wrapped(line.remedy, f"{'':<{indent}}-> ", " " * (indent + 3))


def _wrapped(text: str, first: str, others: str) -> list[str]:
    rows = textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    return rows or [first.rstrip()]
