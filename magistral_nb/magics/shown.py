"""How a cell ends other than well: one line, no traceback, and Run All stops all the same."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from magistral_nb.errors import Interrupted, MagistralError
from magistral_nb.options import Help

if TYPE_CHECKING:
    from collections.abc import Iterator


class CellFailed(Exception):
    """Raised in place of an error, so that the cell fails with one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31m{self}\x1b[0m"]


class CellInterrupted(KeyboardInterrupt):
    """Raised in place of a KeyboardInterrupt, with a line that says what is kept."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]  # yellow on the pink that Jupyter gives errors cannot be read


@contextmanager
def as_one_line(ipython: Any) -> Iterator[None]:
    """Show what is raised inside as one line.

    A partial answer becomes the cell's value before the cell ends as interrupted.
    """
    try:
        yield
    except Help as text:
        sys.stdout.write(f"{text}\n")
    except MagistralError as error:
        raise CellFailed(f"{type(error).__name__}: {error}") from None
    except Interrupted as stop:
        ipython.displayhook(stop.answer)
        raise CellInterrupted("Interrupted: what had arrived is the cell's value, in _ and in Out.") from None


def is_rich(ipython: Any) -> bool:
    """Whether a notebook shows the output, as opposed to a terminal."""
    return getattr(ipython, "kernel", None) is not None
