"""`reason` and `areason`: the same question, blocking or awaited."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Question
from magistral_nb.asking.running import Running, arun
from magistral_nb.errors import EmptyQuestion, InvalidOption, MagistralError, ServerDied
from magistral_nb.serving.server import Server, find_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.answers.answer import Answer
    from magistral_nb.views import View


def reason(
    question: str,
    *,
    server: Server | str | None = None,
    thinking_budget: int | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    views: Sequence[View] = (),
) -> Answer:
    """Ask a reasoning model and wait for its Answer.

    Args:
        question: the user's question.
        server: a Server or its name; None asks the one that was served or connected last.
        thinking_budget: thinking tokens at most, then the answer (finish_reason "budget"); 0 skips the thinking.
        system: replaces the model's own system prompt; "" sends none.
        temperature: 0 (greedy) or more; None takes the model's own.
        top_p: over 0 and at most 1; None takes the model's own.
        max_tokens: completion tokens at most, thinking included; fitted to what the context leaves.
        seed: makes sampling repeatable where the server can.
        views: shown while the stream runs.

    Returns:
        The Answer. A stream that broke off after its first token gives what had arrived, with
        finish_reason "error".

    Raises:
        EmptyQuestion: there is nothing to ask.
        InvalidOption: a value is out of range.
        ServerNotFound: no server is known, or none of this name.
        AskFailed: the endpoint failed before the first token.
        ServerDied: it was a server of ours and its process is gone.
        Interrupted: Ctrl-C; a KeyboardInterrupt that carries the partial Answer.

    Example:
        >>> import magistral_nb
        >>> magistral_nb.serve()                       # doctest: +SKIP
        >>> magistral_nb.reason("What is 2 + 2?").text  # doctest: +SKIP
        '2 + 2 = 4.'
    """
    asked = _question(
        question,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        thinking_budget=thinking_budget,
    )
    target = find_server(server)
    running = Running(target.endpoint, asked, explain=lambda error: _died(target, error))
    return running.follow(views)


async def areason(
    question: str,
    *,
    server: Server | str | None = None,
    thinking_budget: int | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> Answer:
    """`reason`, awaited: many can run at once in one event loop, and each can be cancelled.

    Args, Returns and Raises are those of `reason`; cancelling raises asyncio.CancelledError and stops
    the server's work on this question.
    """
    asked = _question(
        question,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        thinking_budget=thinking_budget,
    )
    target = find_server(server)
    return await arun(target.endpoint, asked, explain=lambda error: _died(target, error))


def _question(text: str, **options: Any) -> Question:
    if not isinstance(text, str):
        raise InvalidOption(f"A question is a text, not {type(text).__name__}: try str(…).")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidOption("The question is no valid text: was it read in another encoding than UTF-8?")
    if not text.strip():
        raise EmptyQuestion("The question is empty: say what you want to know.")
    if (temperature := options["temperature"]) is not None and not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidOption(f"temperature is {temperature}, but it starts at 0 (greedy): try 0.7.")
    if (top_p := options["top_p"]) is not None and not 0 < top_p <= 1:
        raise InvalidOption(f"top_p is {top_p}, but it lies above 0 and at most at 1: try 0.95.")
    if (max_tokens := options["max_tokens"]) is not None and max_tokens < 1:
        raise InvalidOption(f"max_tokens is {max_tokens}, but an answer needs at least 1: try 4096.")
    if (budget := options["thinking_budget"]) is not None and budget < 0:
        raise InvalidOption(f"thinking_budget is {budget}, but it starts at 0 (no thinking): try 512.")
    return Question(text=text.strip(), **options)


def _died(server: Server, error: MagistralError) -> MagistralError:
    """Say that the process is gone where that is why a question failed."""
    if not server.is_ours or server.is_alive():
        return error
    died = ServerDied(
        f"Server {server.name!r} has died: %magistral_logs {server.name} shows why, %magistral_serve starts it again."
    )
    died.__cause__ = error
    return died
