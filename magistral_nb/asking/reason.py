"""`reason` and `areason`: the same question, blocking or awaited."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

from magistral_nb.asking import samples as several
from magistral_nb.asking.endpoint import Question
from magistral_nb.asking.served import Served
from magistral_nb.errors import EmptyQuestion, InvalidOption
from magistral_nb.serving.server import Server, find_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.answers.answer import Answer
    from magistral_nb.answers.answers import Answers
    from magistral_nb.views import View


class How(TypedDict, total=False):
    """How to ask: the keywords of `reason` that go with the question to the model, each described there."""

    thinking_budget: int | None
    system: str | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None


@overload
def reason(
    question: str,
    *,
    server: Server | str | None = None,
    samples: Literal[1] = 1,
    views: Sequence[View] = (),
    **how: Unpack[How],
) -> Answer: ...


@overload
def reason(
    question: str,
    *,
    server: Server | str | None = None,
    samples: int,
    views: Sequence[View] = (),
    **how: Unpack[How],
) -> Answer | Answers: ...


def reason(
    question: str,
    *,
    server: Server | str | None = None,
    samples: int = 1,
    thinking_budget: int | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    views: Sequence[View] = (),
) -> Answer | Answers:
    """Ask a reasoning model and wait for its Answer.

    Args:
        question: the user's question.
        server: a Server or its name; None asks the one that was served or connected last.
        samples: how often to ask it, all at once and each by itself.
        thinking_budget: thinking tokens at most, then the answer (finish_reason "budget"); 0 skips the thinking.
        system: replaces the model's own system prompt; "" sends none.
        temperature: 0 (greedy) or more; None takes the model's own.
        top_p: over 0 and at most 1; None takes the model's own.
        max_tokens: completion tokens at most, thinking included; fitted to what the context leaves.
        seed: makes sampling repeatable where the server can; of several samples the next one's is one more.
        views: shown while the stream runs; of several samples, the first one's.

    Returns:
        The Answer; of several samples, Answers in the order of their seeds. A stream that broke off after its
        first token gives what had arrived, with finish_reason "error"; of several samples, so does one that failed
        before.

    Raises:
        EmptyQuestion: there is nothing to ask.
        InvalidOption: a value is out of range.
        ServerNotFound: no server is known, or none of this name.
        AskFailed: the endpoint failed before the first token, of every sample.
        ServerDied: it was a server of ours that went down, and why; one that is being started again is waited for.
        Interrupted: Ctrl-C; a KeyboardInterrupt that carries what had arrived, as Answer or Answers.

    Example:
        >>> import magistral_nb
        >>> magistral_nb.serve()                       # doctest: +SKIP
        >>> magistral_nb.reason("What is 2 + 2?").text  # doctest: +SKIP
        '2 + 2 = 4.'
    """
    questions = _questions(
        question,
        samples,
        thinking_budget=thinking_budget,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
    )
    target = find_server(server)
    streams = several.start(target.endpoint, questions, keeper=Served.by(target))
    return streams[0].follow(views) if samples == 1 else several.follow(streams, views)


@overload
async def areason(
    question: str, *, server: Server | str | None = None, samples: Literal[1] = 1, **how: Unpack[How]
) -> Answer: ...


@overload
async def areason(
    question: str, *, server: Server | str | None = None, samples: int, **how: Unpack[How]
) -> Answer | Answers: ...


async def areason(
    question: str,
    *,
    server: Server | str | None = None,
    samples: int = 1,
    thinking_budget: int | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> Answer | Answers:
    """`reason`, awaited: many can run at once in one event loop, and each can be cancelled.

    Args, Returns and Raises are those of `reason`, but for `views`; cancelling raises asyncio.CancelledError and
    stops the server's work on this question.

    Example:
        >>> answer = await magistral_nb.areason("What is 2 + 2?", thinking_budget=100)  # doctest: +SKIP
    """
    questions = _questions(
        question,
        samples,
        thinking_budget=thinking_budget,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
    )
    target = find_server(server)
    streams = await several.arun(target.endpoint, questions, keeper=Served.by(target))
    return streams[0].answer() if samples == 1 else several.gather(streams)


def _questions(text: str, samples: int, **how: Unpack[How]) -> list[Question]:
    """The question as often as it is to be asked, with as many seeds."""
    if not isinstance(samples, int) or samples < 1:
        raise InvalidOption(f"samples is {samples}, but a question is asked at least once: try 4.")
    question = _question(text, **how)
    seed = question.seed
    return [replace(question, seed=None if seed is None else seed + nth) for nth in range(samples)]


def _question(text: str, **how: Unpack[How]) -> Question:
    if not isinstance(text, str):
        raise InvalidOption(f"A question is a text, not {type(text).__name__}: try str(…).")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidOption("The question is no valid text: was it read in another encoding than UTF-8?")
    if not text.strip():
        raise EmptyQuestion("The question is empty: say what you want to know.")
    question = Question(text=text.strip(), **how)
    if (temperature := question.temperature) is not None and not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidOption(f"temperature is {temperature}, but it starts at 0 (greedy): try 0.7.")
    if (top_p := question.top_p) is not None and not 0 < top_p <= 1:
        raise InvalidOption(f"top_p is {top_p}, but it lies above 0 and at most at 1: try 0.95.")
    if (max_tokens := question.max_tokens) is not None and max_tokens < 1:
        raise InvalidOption(f"max_tokens is {max_tokens}, but an answer needs at least 1: try 4096.")
    if (budget := question.thinking_budget) is not None and budget < 0:
        raise InvalidOption(f"thinking_budget is {budget}, but it starts at 0 (no thinking): try 512.")
    return question
