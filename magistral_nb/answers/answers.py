"""The value of a question that was asked several times."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from magistral_nb.answers.answer import Answer, as_frame
from magistral_nb.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Answers(Sequence[Answer]):
    """Answers to one question, in the order in which it was asked; nothing changes them.

    Equal by value; they can be pickled, and hashed where each Answer can.

    Example:
        >>> said = {"prompt": "2+2?", "thinking": "", "finish_reason": "stop"}
        >>> several = Answers([Answer(text="4", id="0", **said), Answer(text="four", id="1", **said)])
        >>> several, len(several), several[0].text, several[1:]
        (<Answers ['4', 'four']>, 2, '4', <Answers ['four']>)
        >>> several.to_frame()["text"].tolist()
        ['4', 'four']
    """

    _answers: tuple[Answer, ...]

    def __init__(self, answers: Iterable[Answer] = ()) -> None:
        """Keep these, in this order."""
        object.__setattr__(self, "_answers", tuple(answers))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> Answer: ...

    @overload
    def __getitem__(self, index: slice) -> Answers: ...

    def __getitem__(self, index: int | slice) -> Answer | Answers:
        """One Answer, or some of them as Answers."""
        return Answers(self._answers[index]) if isinstance(index, slice) else self._answers[index]

    def __str__(self) -> str:
        """The answers' texts alone, a blank line between two."""
        return "\n\n".join(map(str, self))

    def __repr__(self) -> str:
        """The beginnings of the first texts."""
        return f"<Answers {reprlib.repr([each.text for each in self])}>"

    def to_dict(self) -> dict[str, Any]:
        """All of them as JSON has them: a list of `Answer.to_dict()` under "answers"."""
        return {"answers": [each.to_dict() for each in self]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Answers:
        """The Answers of which these are `to_dict()`.

        Raises:
            InvalidOption: they are no Answers'.

        Example:
            >>> Answers.from_dict(Answers().to_dict()) == Answers()
            True
        """
        answers = values.get("answers") if isinstance(values, Mapping) else None
        if not isinstance(answers, list | tuple):
            raise InvalidOption(
                "These are no Answers (there is no list of them): give what answers.to_dict() returned."
            )
        return Answers(map(Answer.from_dict, answers))

    def to_frame(self) -> pd.DataFrame:
        """One row for each, with the columns of `Answer.to_frame`."""
        return as_frame(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from magistral_nb.views.answer_view import answers_bundle

        return answers_bundle(self)
