"""What makes a Magistral think: the instruction in its system prompt."""

from __future__ import annotations

from typing import Literal

Marks = Literal["tokens", "tags"]  # [THINK] as control tokens (1.1 and later), or <think> in the text (1.0)

_DRAFT = (
    "Before you answer, think the question through for yourself, step by step, and check what you have found. "
    "Use Markdown, LaTeX for mathematics, and the language of the question in both thoughts and answer. "
)
_IDEA = "What you try, doubt and work out, as freely and as long as on scratch paper, until you are sure."
_REPLY = "Then write the answer for a reader who does not see your thoughts."


def own_wording(marks: Marks) -> str:
    """The same instruction in our own words, for where a release's own SYSTEM_PROMPT.txt cannot be had.

    Example:
        >>> "[THINK]" in own_wording("tokens"), "<think>" in own_wording("tags")
        (True, True)
    """
    if marks == "tags":
        return f"{_DRAFT}Write your thoughts like this:\n<think>\n{_IDEA}\n</think>\n{_REPLY}"
    return f"{_DRAFT}Write your thoughts like this:[THINK]{_IDEA}[/THINK]{_REPLY}"


def note_on_replacing(own: str | None, wished: str | None) -> str | None:
    """What to say of a system prompt that takes the place of the model's own; None where nothing is lost.

    Magistral Small 1.2 often does not think without the instruction (its card).

    Example:
        >>> note_on_replacing(own_wording("tokens"), "Speak like a pirate.")
        "This system prompt replaces the model's own, which asks for thinking: it may answer at once."
        >>> note_on_replacing(None, "Speak like a pirate.") is None
        True
    """
    if wished is None or own is None or not _asks_for_thinking(own) or _asks_for_thinking(wished):
        return None
    which = "No system prompt is sent in place of" if not wished else "This system prompt replaces"
    return f"{which} the model's own, which asks for thinking: it may answer at once."


def _asks_for_thinking(text: str) -> bool:
    return "[THINK]" in text or "<think>" in text
