"""Answers that were kept, shown again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magistral_nb.asking.draft import Progress
from magistral_nb.asking.events import Said, Thinking
from magistral_nb.views.notebook import Place
from magistral_nb.views.text_view import TextView
from magistral_nb.views.trace_view.resting import resting_html, resting_text
from magistral_nb.views.wording import duration, printable

if TYPE_CHECKING:
    from typing import TextIO

    import pandas as pd

    from magistral_nb.answers.answer import Answer
    from magistral_nb.asking.events import Event


_DIGITS = 8  # of an id: enough to tell a hundred thousand answers apart, nearly always


def show_trace(answer: Answer, *, rich: bool, answer_stream: TextIO | None = None) -> None:
    """Show a trace as it was when its stream had ended.

    Args:
        answer: whose.
        rich: in a notebook, as opposed to a terminal.
        answer_stream: in a terminal, where the answer's text goes, if it is wanted.
    """
    if rich:
        Place().close({"text/html": resting_html(answer), "text/plain": resting_text(answer)})
        return
    view = TextView(answer_stream=answer_stream)
    events: list[Event] = [Thinking(answer.thinking)] if answer.thinking else []
    events.append(Said(answer.text))
    view.update(events, Progress("done", answer.seconds, answer.usage.thinking_tokens, answer.tokens_per_second))
    view.close(answer)


def history_table(frame: pd.DataFrame, *, width: int) -> str:
    """What `history()` found as lines of text, times as the clock here has them.

    Args:
        frame: as `history()` returns it.
        width: columns of the terminal; the question and the answer share what the rest leaves.

    Example:
        >>> import pandas as pd
        >>> found = pd.DataFrame([["ab" * 16, pd.Timestamp(0, unit="s", tz="UTC"), "2+2?", "4", "stop", 3, 5, 1.2,
        ...                        "abacus", "default"]], columns=["id", "created", "prompt", "text", "finish_reason",
        ...                       "thinking_tokens", "completion_tokens", "seconds", "model", "server"])
        >>> history_table(found, width=90).splitlines()[1].split()[-2:]
        ['2+2?', '4']
    """
    if frame.empty:
        return "No such answer is kept: %magistral_history lists all that are."
    rows: list[tuple[str, ...]] = [("id", "asked", "ended", "took", "tokens", "server")]
    rows += [_cells(row) for row in frame.to_dict("records")]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = ["  ".join(f"{cell:<{column}}" for cell, column in zip(row, widths, strict=True)) for row in rows]
    half = max(12, (width - len(left[0]) - 4) // 2)
    texts = [("question", "answer"), *zip(frame["prompt"], frame["text"], strict=True)]
    return "\n".join(
        f"{cells}  {_short(prompt, half):<{half}}  {_short(text, half)}".rstrip()
        for cells, (prompt, text) in zip(left, texts, strict=True)
    )


def _cells(row: dict[Any, Any]) -> tuple[str, ...]:
    tokens = row["completion_tokens"]
    return (
        row["id"][:_DIGITS],
        row["created"].to_pydatetime().astimezone().strftime("%Y-%m-%d %H:%M"),
        row["finish_reason"] or "",  # still being streamed
        "" if row["finish_reason"] is None else duration(row["seconds"]),
        f"{tokens:,}" if isinstance(tokens, int) else "",
        printable(row["server"]),
    )


def _short(text: str, width: int) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
