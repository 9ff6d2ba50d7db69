"""A short story around one or two calculations, and the ways to tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magistral_nb.abacus.wordings import Wordings


@dataclass(frozen=True, slots=True)
class Story:
    """One kind of story.

    Attributes:
        kind: what it is counted as in the tables.
        level: how hard, from 1.
        work: the calculation, with a for {a} and so on.
        unit: the noun of the answer; {t} and {u} stand for the story's thing and currency.
        sizes: how many digits each number has at most; 0 stands for a factor of 2 to 9.
        wordings: how it is told.
    """

    kind: str
    level: int
    work: str
    unit: str
    sizes: tuple[int, ...]
    wordings: Wordings


def told(facts: str, questions: str) -> tuple[str, ...]:
    """Each way to tell what happened before each way to ask."""
    asked = [line.strip() for line in questions.strip().splitlines()]
    return tuple(f"{fact.strip()} {question}" for fact in facts.strip().splitlines() for question in asked)
