"""The plan of a boot: what was decided, and why."""

from __future__ import annotations

import html
import sys
from typing import TYPE_CHECKING, TextIO

from magistral_nb.views.notebook import Place, framed

if TYPE_CHECKING:
    from magistral_nb.serving.plan import Plan


def show_plan(plan: Plan, notes: list[str], *, rich: bool, stream: TextIO | None = None) -> None:
    """Show a plan once.

    Args:
        plan: its title and its choices.
        notes: lines that stand below it.
        rich: whether a notebook shows the output.
        stream: where lines go otherwise; standard output unless given.
    """
    text = "\n".join([*plan.lines(), *notes])
    if rich:
        Place().close({"text/html": plan_html(plan, notes), "text/plain": text})
    else:
        out = sys.stdout if stream is None else stream
        out.write(f"{text}\n")
        out.flush()  # the boot's lines follow on another stream


def plan_html(plan: Plan, notes: list[str]) -> str:
    """The plan as a small table; every word is escaped, since a folder can have any name."""
    cell = '<td style="text-align: left; vertical-align: top; padding: 0 12px 0 0; background: none">'
    rows = "".join(
        f'<tr style="background: none">{cell}{html.escape(c.what)}</td>{cell}<b>{html.escape(c.value)}</b></td>'
        f"{cell}{html.escape(c.why)}</td></tr>"
        for c in plan.choices
    )
    table = f'<table style="margin: 4px 0; border: 0; font-size: inherit; color: inherit">{rows}</table>'
    below = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    return framed(f"<b>{html.escape(plan.title)}</b>{table}{below}", "done")
