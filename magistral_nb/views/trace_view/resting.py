"""What stays of a trace when its stream has ended: static HTML, which needs no kernel and no JavaScript."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from magistral_nb.views.notebook import framed
from magistral_nb.views.wording import cost_in_words, duration, printable, token_count, token_rate

if TYPE_CHECKING:
    from magistral_nb.answers.answer import Answer


@dataclass(frozen=True, slots=True)
class _Line:
    """The one line of a folded trace: how it ended, in words, and what is known beside."""

    state: Literal["done", "cut", "failed"]
    title: str
    beside: tuple[str | None, ...]


def resting_html(answer: Answer) -> str:
    """A folded `<details>` with the trace in it, and under it the answer's notes; everything is escaped.

    The trace stands in `<pre>`, which MathJax leaves alone and which keeps its lines where a front end that
    does not trust the notebook drops the style.

    Example:
        >>> from magistral_nb.answers.answer import Answer
        >>> said = Answer(prompt="?", thinking="<b>", text="4", finish_reason="stop", id="0", seconds=2)
        >>> "<b>Thought for 2 s</b>" in resting_html(said), "&lt;b&gt;" in resting_html(said)
        (True, True)
    """
    line = _line(answer)
    thinking = printable(answer.thinking).lstrip("\n").rstrip()
    title, *beside = _parts(answer, line)
    tag = "b" if thinking or line.state != "done" else "span"
    # The blanks between the parts are for front ends that drop the style.
    parts = [f"<{tag}>{html.escape(title)}</{tag}>", *(f"<span>{html.escape(part)}</span>" for part in beside)]
    summary = " ".join(parts)
    if thinking:
        inside = (
            # JupyterLab would take Enter and Space for its own shortcuts.
            f'<details><summary data-lm-suppress-shortcuts="true">{summary}</summary>'
            f'<pre tabindex="0" style="white-space: pre-wrap">{html.escape(thinking)}</pre></details>'
        )
    else:
        inside = f'<div class="magistral-line">{summary}</div>'
    notes = (f'<div class="magistral-line"><small>{html.escape(note)}</small></div>' for note in _notes(answer))
    return framed(inside + "".join(notes), line.state)


def resting_text(answer: Answer) -> str:
    """The same line as plain text, and under it the answer's notes, each on a line of its own.

    Example:
        >>> from magistral_nb.answers.answer import Answer, Usage
        >>> resting_text(Answer(prompt="?", thinking="2+2=4.", text="4", finish_reason="stop", id="0",
        ...                     seconds=3.1, usage=Usage(thinking_tokens=211)))
        'Thought for 3 s, 211 tokens'
    """
    return "\n".join([", ".join(_parts(answer, _line(answer))).replace("\n", " "), *_notes(answer)])


def _parts(answer: Answer, line: _Line) -> list[str]:
    return [printable(part) for part in (line.title, *line.beside, cost_in_words(answer.cost)) if part]


def _notes(answer: Answer) -> list[str]:
    return [printable(note).replace("\n", " ") for note in answer.notes]


def _line(answer: Answer) -> _Line:
    usage, seconds = answer.usage, duration(answer.seconds)
    tokens = token_count(usage.completion_tokens or usage.thinking_tokens)
    kept = f"{tokens} kept" if tokens else None
    arrived = bool(answer.thinking.strip() or answer.text)
    match answer.finish_reason:
        case "interrupted":
            return _Line("cut", f"Stopped after {seconds}", (kept if arrived else "nothing had arrived",))
        case "length":
            return _Line("cut", f"Cut after {seconds}", (tokens, "the length limit was reached"))
        case "error":
            # Before the first token the question itself fails, and says why.
            return _Line("failed", f"Failed after {seconds}", (kept, answer.error) if arrived else ())
        case "budget":
            budget = token_count(usage.thinking_tokens)
            return _Line(
                "cut", f"Thought for {seconds}", (f"{budget}, the whole budget" if budget else "the whole budget",)
            )
        case "stop" if answer.thinking.strip():
            beside = (token_count(usage.thinking_tokens), token_rate(answer.tokens_per_second))
            return _Line("done", f"Thought for {seconds}", beside)
        case _:
            return _Line("done", f"Answered in {seconds} without thinking", ())
