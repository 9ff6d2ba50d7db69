"""What was decided or found, each with its reason: the plan of a boot, the survey of a server."""

from __future__ import annotations

import html
import sys
from typing import TYPE_CHECKING, TextIO

from magistral_nb.views.notebook import Place, framed
from magistral_nb.views.wording import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    Rows = Sequence[tuple[str, ...]]  # what, its value, why or what that means, and perhaps its source

_TAGS = (("", ""), ("<b>", "</b>"), ("", ""), ("<i>", "</i>"))  # of the columns


def show_table(title: str, rows: Rows, notes: Sequence[str] = (), *, rich: bool, stream: TextIO | None = None) -> None:
    """Show a table once.

    Args:
        title: the line above it.
        rows: of the table.
        notes: lines that stand below it.
        rich: whether a notebook shows the output.
        stream: where lines go otherwise; standard output unless given.
    """
    text = table_text(title, rows, notes)
    if rich:
        Place().close({"text/html": table_html(title, rows, notes), "text/plain": text})
    else:
        out = sys.stdout if stream is None else stream
        out.write(f"{text}\n")
        out.flush()  # a boot's lines follow on another stream


def table_text(title: str, rows: Rows, notes: Sequence[str] = ()) -> str:
    """The table as lines.

    Example:
        >>> print(table_text("A plan", [("context", "2,048 tokens", "all that the model has")]))
        A plan
          context  2,048 tokens  all that the model has
    """
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    lines = [
        f"  {what:<{first}}  {value:<{second}}  {why}{''.join(f' [{source}]' for source in sources)}".rstrip()
        for what, value, why, *sources in rows
    ]
    return printable("\n".join([title, *lines, *notes]))


def aligned(rows: Rows) -> str:
    """Columns as lines, the first row being their heads.

    Example:
        >>> print(aligned([("name", "status"), ("default", "ready")]))
        name     status
        default  ready
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return printable(
        "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )
    )


def table_html(title: str, rows: Rows, notes: Sequence[str] = ()) -> str:
    """The table as HTML; every word is escaped, since a folder or a model can have any name."""
    cell = '<td style="text-align: left; vertical-align: top; padding: 0 12px 0 0; background: none">'
    body = "".join(
        '<tr style="background: none">'
        + "".join(f"{cell}{tag}{html.escape(word)}{end}</td>" for word, (tag, end) in zip(row, _TAGS, strict=False))
        + "</tr>"
        for row in rows
    )
    table = f'<table style="margin: 4px 0; border: 0; font-size: inherit; color: inherit">{body}</table>'
    below = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    return framed(f"<b>{html.escape(title)}</b>{table}{below}", "done")
