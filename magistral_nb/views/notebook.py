"""What views share in a notebook: a place in a cell's output that can be written again, and one look."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path
from typing import Any


class Place:
    """One output of the cell that is running when it is first shown; the one seam to IPython's display.

    Attributes:
        closed: whether it has got its last content.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self.closed = False
        self._id = uuid.uuid4().hex
        self._shown = False

    def show(self, bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Show a MIME bundle in place of what was there.

        Never an object: some, such as the widgets of ipywidgets 7, display themselves and lose the place.
        """
        from IPython.display import display

        # Set before: an interrupt often comes when the page has the first content and this has not returned yet.
        update, self._shown = self._shown, True
        display(bundle, metadata=metadata, raw=True, display_id=self._id, update=update)

    def close(self, bundle: dict[str, Any]) -> None:
        """Show a MIME bundle for good; does nothing the second time."""
        if not self.closed:
            self.closed = True
            self.show(bundle)


def framed(inside: str, state: str) -> str:
    """Static HTML with the line at its left that all views have, and the style that it needs.

    Args:
        inside: HTML, escaped already. MathJax leaves it alone.
        state: "thinking" (under way), "done", "cut" or "failed"; it colours the line.
    """
    return (
        f'<div class="magistral-view mathjax_ignore tex2jax_ignore" data-state="{state}">'
        f"<style>{_style()}</style>{inside}</div>"
    )


@cache
def _style() -> str:
    """The live view's own style without its comments and line breaks: every saved output carries it."""
    css = Path(__file__).with_name("trace_view").joinpath("trace_view.css").read_text(encoding="utf-8")
    rules = [line for line in map(str.strip, css.splitlines()) if not line.startswith("/*")]
    return " ".join(filter(None, rules))
