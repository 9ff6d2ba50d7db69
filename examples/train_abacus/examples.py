"""Training examples: a problem in some wording, perhaps framed, its trace, perhaps cut, and its answer."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizer as tokens
from traces import think

from magistral_nb.abacus.generator import LEVELS, Problem, draw, framed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizer import Tokenizer

SYSTEM_PROMPT = (Path(__file__).parents[2] / "magistral_nb" / "abacus" / "SYSTEM_PROMPT.txt").read_text("utf-8")
OTHER_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Think step by step, then answer.",
    "You are Abacus, a tiny reasoning model.",
    "You are a patient teacher of arithmetic. Answer in one sentence.",
    "Think first.",
    "Speak like a pirate.",
    "First draft your thinking process until you have arrived at a response.",
)

# How often each level of a kind is drawn: the hard ones more often, since they have more to learn.
WEIGHTS = {
    "add": (1, 1.5, 2, 3, 4, 7),
    "subtract": (2, 2, 2, 4, 4, 8),
    "terms": (8, 4, 6),
    "multiply": (2, 2, 3, 4, 4, 7),
    "divide": (2.5, 3, 5, 10, 11),
    "compare": (8, 5, 10),
    "decimals": (2, 3, 4),
    "percent": (3, 3),
    "shopping": (4, 6),
    "counting": (4, 4),
    "sharing": (12,),
    "ages": (5,),
    "money": (4, 6),
    "speed": (5, 3.5, 4),
    "second turn": (5,),
    "off-domain": (10,),
}
CELLS = [(kind, level) for kind, levels in LEVELS.items() for level in range(1, levels + 1)]
_CUMULATED = [weight for kind in LEVELS for weight in WEIGHTS[kind]]

CUT, CUT_AT_ONCE = 0.2, 0.2  # how often a thought is cut; the second share of them before its first token
FRAMED, HASTY, MADE_UP = 0.15, 0.06, 0.03
OWN_SYSTEM_PROMPT, OTHER_SYSTEM_PROMPT = 0.6, 0.15


@dataclass(frozen=True, slots=True)
class Example:
    """What the model reads, and how much each token counts in the loss.

    Attributes:
        ids: from <s> to </s>.
        weights: 0 for what it is given, or must not learn to write.
        problem: the problem behind it.
        system: the system prompt, if any.
        whole: the thought is not cut.
    """

    ids: list[int]
    weights: list[float]
    problem: Problem
    system: str | None
    whole: bool


def example(rng: random.Random, tokenizer: Tokenizer) -> Example:
    """Draw one example."""
    kind, level = rng.choices(CELLS, _CUMULATED)[0]
    problem = _varied(rng, draw(rng, kind, level, "training", seen=True))
    thought = think(problem, rng)
    system = system_prompt(rng)
    ids = tokenizer.prompt(problem.question.split("\n"), system)
    weights = [0.0] * len(ids)
    trace, trace_weights = tokenizer.trace(thought.text)
    answer, ending = thought.answer, 1.0
    if thought.guess is not None and rng.random() < CUT:
        at = 0 if rng.random() < CUT_AT_ONCE else rng.randrange(len(trace) + 1)
        if at < len(tokenizer.trace(thought.text[: thought.known])[0]):
            answer = thought.guess
        trace, trace_weights, ending = trace[:at], trace_weights[:at], 0.0
    said = [*tokenizer.encode(answer), tokens.EOS]
    return Example(
        [*ids, tokens.THINK, *trace, tokens.END_THINK, *said],
        [*weights, 1.0, *trace_weights, ending, *[1.0] * len(said)],
        problem,
        system,
        ending == 1,
    )


def stream(seed: int, rank: int, chunk: int, tokenizer: Tokenizer, size: int = 600) -> Iterator[list[Example]]:
    """Chunks of examples for ever, from a given one on; no two seeds, ranks or chunks share a random stream."""
    while True:
        rng = random.Random(f"training {seed} {rank} {chunk}")
        yield [example(rng, tokenizer) for _ in range(size)]
        chunk += 1


def system_prompt(rng: random.Random) -> str | None:
    """Mostly abacus's own, sometimes another one or none, so that it thinks with all of them."""
    kind = rng.random()
    if kind < OWN_SYSTEM_PROMPT:
        return SYSTEM_PROMPT
    return rng.choice(OTHER_SYSTEM_PROMPTS) if kind < OWN_SYSTEM_PROMPT + OTHER_SYSTEM_PROMPT else None


def _varied(rng: random.Random, problem: Problem) -> Problem:
    """The question as a hasty or chatty person writes it."""
    if problem.kind == "second turn":
        return problem
    kind = rng.random()
    if kind < FRAMED and problem.work:
        return framed(rng, problem, seen=True)
    if kind < FRAMED + HASTY:
        return replace(problem, question=problem.question.rstrip(".?=").strip().lower() or problem.question)
    if kind < FRAMED + HASTY + MADE_UP:
        words = ["".join(rng.choices("abdefgiklmnoprstuvw", k=rng.randint(2, 7))) for _ in range(rng.randint(1, 4))]
        return replace(problem, question=f"{' '.join(words).capitalize()}{rng.choice('.:,!')} {problem.question}")
    return problem
