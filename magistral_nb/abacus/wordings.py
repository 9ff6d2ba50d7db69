"""Wordings of a question: those that training sees, those that are held out, and how frames and phrases make many."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wordings:
    """The wordings of one kind of question.

    Attributes:
        seen: what training draws from.
        held_out: what training never sees.
    """

    seen: tuple[str, ...]
    held_out: tuple[str, ...]


def lines(text: str) -> tuple[str, ...]:
    """One wording a line."""
    return tuple(line.strip() for line in text.strip().splitlines())


def words(text: str) -> tuple[str, ...]:
    """Names and things, one blank between."""
    return tuple(text.split())


def wordings(seen: str, held_out: str, *composed: str) -> Wordings:
    """Wordings from two texts, one a line, and more seen ones, less what is held out."""
    kept = lines(held_out)
    spared = {_bare(wording) for wording in kept}
    more = dict.fromkeys(wording for wording in composed if _bare(wording) not in spared)
    return Wordings(tuple(dict.fromkeys((*lines(seen), *more))), kept)


def _bare(wording: str) -> str:
    """Without what hardly changes a wording: case, punctuation, spaces."""
    return "".join(each for each in wording.casefold() if each.isalnum() or each in "{}%+-−×*÷/:<>=")


def each(frames: str, *phrases: str) -> tuple[str, ...]:
    """Every phrase in every frame: a frame has [x] where the phrase goes, or [X] where a sentence begins with it."""
    return tuple(
        frame.replace("[x]", phrase).replace("[X]", phrase[:1].upper() + phrase[1:])
        for frame in lines(frames)
        for phrase in phrases
    )
