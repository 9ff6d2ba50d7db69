"""A place in a cell's output that can be written again: the one seam between views and IPython's display."""

from __future__ import annotations

import uuid
from typing import Any


class Place:
    """One output of the cell that is running when it is first shown.

    Attributes:
        closed: whether it has got its last content.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self.closed = False
        self._id = uuid.uuid4().hex
        self._shown = False

    def show(self, content: Any) -> None:
        """Show `content`, an object or a MIME bundle, in place of what was there."""
        from IPython.display import display

        display(content, raw=isinstance(content, dict), display_id=self._id, update=self._shown)
        self._shown = True

    def close(self, content: Any) -> None:
        """Show `content` for good; does nothing the second time."""
        if not self.closed:
            self.closed = True
            self.show(content)
