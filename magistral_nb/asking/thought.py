"""A thought that is held against a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magistral_nb.asking.events import Thinking

if TYPE_CHECKING:
    from collections.abc import Callable


class Thought:
    """What was thought so far.

    Attributes:
        tokens: counted so far, at most the budget; None where a piece came without its count.
        is_cut: the thought went on past the budget.
        prompt_tokens: of the first request.

    Example:
        >>> thought = Thought(3)
        >>> thought.take(Thinking("Add 2", 2, (7, 8)), lambda ids: None)
        Thinking(text='Add 2', tokens=2, ids=(7, 8), choice=0)
        >>> thought.take(Thinking(" and 2", 2, (9, 8)), lambda ids: "Add 2 and"), thought.is_cut
        (Thinking(text=' and', tokens=1, ids=(9,), choice=0), True)
    """

    def __init__(self, budget: int | None) -> None:
        """Nothing was thought yet.

        Args:
            budget: in tokens; None for a thought that nobody cuts.
        """
        self.tokens: int | None = 0
        self.is_cut = budget == 0
        self.prompt_tokens = 0
        self._budget = budget or 0
        self._kept: list[Thinking] = []

    @property
    def text(self) -> str:
        """All that was kept."""
        return "".join(piece.text for piece in self._kept)

    def keep(self, piece: Thinking) -> Thinking:
        """Take a piece whole."""
        self._kept.append(piece)
        self.tokens = None if self.tokens is None or piece.tokens is None else self.tokens + piece.tokens
        return piece

    def take(self, piece: Thinking, text_of: Callable[[list[int]], str | None]) -> Thinking:
        """The part of a counted piece that is within the budget.

        Args:
            piece: the next one.
            text_of: the text of these tokens; None where nobody tells, and then a piece is kept whole or not at all.
        """
        room = self._budget - (self.tokens or 0)
        if (piece.tokens or 0) <= room:
            return self.keep(piece)
        self.is_cut = True
        ids = [number for kept in self._kept for number in kept.ids]
        whole = text_of([*ids, *piece.ids[:room]]) if room else None
        if whole is None:
            return Thinking("")
        rest = whole.removeprefix(self.text) if whole.startswith(self.text) else ""
        return self.keep(Thinking(rest, room, piece.ids[:room]))
