"""How an Answer shows itself: as Markdown that is safe in a trusted notebook, and as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magistral_nb.views.safe_markdown import escape_text, sanitise_markdown
from magistral_nb.views.wording import printable

if TYPE_CHECKING:
    from magistral_nb.answers.answer import Answer
    from magistral_nb.answers.answers import Answers

__all__ = ["answer_bundle", "answers_bundle", "sanitise_markdown"]


def answer_bundle(answer: Answer) -> dict[str, str]:
    """The MIME bundle of an answer: sanitised `text/markdown` and `text/plain`.

    An answer that was stopped, cut or failed before its first word says so in one line.

    Example:
        >>> from magistral_nb.answers.answer import Answer
        >>> answer_bundle(Answer(prompt="2+2?", thinking="", text="**4**", finish_reason="stop", id="0"))
        {'text/markdown': '**4**', 'text/plain': '**4**'}
    """
    if answer.text.strip():
        return {"text/markdown": sanitise_markdown(answer.text), "text/plain": printable(answer.text)}
    words = _why_empty(answer)
    return {"text/markdown": f"*{escape_text(words)}*", "text/plain": printable(words)}


def answers_bundle(answers: Answers) -> dict[str, str]:
    r"""The MIME bundle of several answers: each as `answer_bundle` has it, under its number.

    Example:
        >>> from magistral_nb.answers.answer import Answer
        >>> from magistral_nb.answers.answers import Answers
        >>> said = Answer(prompt="2+2?", thinking="", text="**4**", finish_reason="stop", id="0")
        >>> answers_bundle(Answers([said, said]))["text/markdown"]
        '**1.**\n\n**4**\n\n**2.**\n\n**4**'
    """
    shown = list(enumerate(map(answer_bundle, answers), start=1))
    # No list of Markdown's own: parsers disagree about code and maths inside of lists.
    markdown = (f"**{number}.**\n\n{bundle['text/markdown']}" for number, bundle in shown)
    plain = (f"{number}. {bundle['text/plain']}" for number, bundle in shown)
    return {"text/markdown": "\n\n".join(markdown), "text/plain": "\n\n".join(plain)}


def _why_empty(answer: Answer) -> str:
    match answer.finish_reason:
        case "interrupted":
            return "Stopped before the answer began."
        case "length":
            return "Cut by the length limit before the answer began."
        case "error":
            return f"No answer: {answer.error or 'the stream broke off.'}"
        case _:
            return "The model gave no answer."
