"""%magistral_history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magistral_nb import options
from magistral_nb.answers.history import find_by_id, history as find
from magistral_nb.magics.interpolate import interpolate
from magistral_nb.magics.shown import is_rich
from magistral_nb.views.history_view import show_trace

if TYPE_CHECKING:
    import pandas as pd

    from magistral_nb.answers.answer import Answer


def history(ipython: Any, line: str, _cell: None) -> pd.DataFrame | Answer:
    """The answers that were kept as a table; one of them, with its trace, where its id is given."""
    chosen = options.parse_history("%magistral_history", interpolate(line, ipython.user_ns))
    if (answer := find_by_id(chosen.words)) is not None:
        show_trace(answer, rich=is_rich(ipython))
        return answer
    return find(chosen.words, since=chosen.since, server=chosen.server, limit=chosen.limit)
