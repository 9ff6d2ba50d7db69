"""The widget behind the live view. Importing this costs ipywidgets and anywidget: do it when one is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

_HERE = Path(__file__).parent


class TraceWidget(anywidget.AnyWidget):  # type: ignore[misc]  # neither package has types
    """What JavaScript sees of a stream.

    Pieces of text travel as custom messages, which a page that has not loaded the JavaScript yet does not
    hear. `so_far` has the same shape, starts at the beginning and stays in the page's model.
    """

    _esm = _HERE / "trace_view.js"
    _css = _HERE / "trace_view.css"

    # Not "open": that would shadow Widget.open().
    folded = traitlets.Bool(default_value=False).tag(sync=True)
    so_far = traitlets.Dict().tag(sync=True)

    def bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The MIME bundle that shows this widget, and its metadata."""
        data, metadata = self._repr_mimebundle_()
        return data | {"text/plain": "Thinking…"}, metadata  # for a front end without widgets
