"""The value that every way of asking returns."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from magistral_nb.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

_MEASURABLE = 0.2  # seconds; what arrives in one burst tells nothing of the model's speed
_BLANK_LINES = re.compile(r"\n\s*\n")
_TWO_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")

FinishReason = Literal["stop", "length", "budget", "interrupted", "error"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; None where the endpoint does not tell.

    Attributes:
        prompt_tokens: tokens of the whole prompt, system prompt and chat template included.
        thinking_tokens: tokens of the thinking trace.
        answer_tokens: completion tokens that are not thinking.
        completion_tokens: all tokens generated.
    """

    prompt_tokens: int | None = None
    thinking_tokens: int | None = None
    answer_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Pieces:
    """What has arrived of an answer that is being streamed: lists that only grow, so that any thread may read them."""

    thinking: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question's outcome: the thinking trace, the answer and what they cost.

    Equal by value; it can be pickled, and hashed where `parsed` can. Two halves of one character that stand side by
    side in a text become that character, as they would on their way through JSON.

    Attributes:
        prompt: the question as it was sent.
        thinking: the whole trace, without its marks.
        text: the answer; `str(answer)` is the same.
        finish_reason: "stop", "length" (cut by max_tokens or the context), "budget", "interrupted" or "error".
        usage: tokens.
        seconds: from sending the question to the last token, wall time; what it waited between thought and answer, as
            in a class's queue, is left out.
        time_to_first_token: seconds from sending the question to the first token, None if none came.
        model: the model's name as the server has it.
        server: the name of the server that was asked.
        id: unique, 32 hexadecimal digits.
        error: what went wrong when finish_reason is "error", in one line.
        cost: `seconds` at the server's price per hour, in that price's currency; None where no price was given. It is
            the wall time of this one question on the whole machine: of questions asked at once, which share the
            machine, each bears it in full.
        parsed: the answer as a Python object, where a schema was asked for.
        notes: what the asker should know of how this came about, one line each.

    Example:
        >>> a = Answer(prompt="2+2?", thinking="2+2=4.", text="4", finish_reason="stop", id="0" * 32)
        >>> str(a), a.to_dict()["thinking"]
        ('4', '2+2=4.')
    """

    prompt: str
    thinking: str
    text: str
    finish_reason: FinishReason
    id: str
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    time_to_first_token: float | None = None
    model: str = ""
    server: str = ""
    error: str | None = None
    cost: float | None = None
    parsed: Any = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Put halves of characters together."""
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), str):
                object.__setattr__(self, each.name, _whole(value))
        object.__setattr__(self, "notes", tuple(map(_whole, self.notes)))

    @property
    def tokens_per_second(self) -> float | None:
        """Completion tokens per second after the first one; None where that cannot be told."""
        tokens, first = self.usage.completion_tokens, self.time_to_first_token
        if tokens is None or first is None or tokens < 2 or self.seconds - first < _MEASURABLE:  # noqa: PLR2004
            return None
        return (tokens - 1) / (self.seconds - first)

    def __str__(self) -> str:
        """The answer's text alone."""
        return self.text

    def steps(self) -> list[str]:
        r"""The steps of the thinking: its paragraphs or, where no blank line parts any, its lines.

        Example:
            >>> said = {"prompt": "2+2?", "text": "4", "finish_reason": "stop", "id": "0"}
            >>> Answer(thinking="Add 2 and 2.\nThat is 4.\n\nCheck: 4-2=2.\n", **said).steps()
            ['Add 2 and 2.\nThat is 4.', 'Check: 4-2=2.']
            >>> Answer(thinking="Add 2 and 2.\nThat is 4.\n", **said).steps()
            ['Add 2 and 2.', 'That is 4.']
        """
        thinking = self.thinking.strip()
        parts = _BLANK_LINES.split(thinking)
        return [step for part in (parts if len(parts) > 1 else thinking.split("\n")) if (step := part.strip())]

    def to_dict(self) -> dict[str, Any]:
        """All fields and `tokens_per_second` as JSON has them; `usage` is a nested dictionary.

        `parsed` comes back from `from_dict` as it was where it is plain JSON. Of others, tuples come back as lists,
        keys as strings, dataclasses and pydantic models as dictionaries, and what else JSON does not know as its str().
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        parsed = json.loads(json.dumps(self.parsed, default=_plain, skipkeys=True))
        values |= {"usage": asdict(self.usage), "parsed": parsed, "notes": list(self.notes)}
        return values | {"tokens_per_second": self.tokens_per_second}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Answer:
        """The Answer of which these are `to_dict()`; what a newer version has beyond that is left out.

        Raises:
            InvalidOption: they are no Answer's.

        Example:
            >>> said = Answer(prompt="2+2?", thinking="", text="4", finish_reason="stop", id="0" * 32)
            >>> Answer.from_dict(json.loads(json.dumps(said.to_dict()))) == said
            True
        """
        if (fault := next(_faults(values), None)) is not None:
            raise InvalidOption(f"This is no Answer ({fault}): give what answer.to_dict() has returned.")
        usage, notes = Usage(**_known(values.get("usage", {}), Usage)), tuple(values.get("notes", ()))
        return Answer(**(_known(values, Answer) | {"usage": usage, "notes": notes}))

    def to_frame(self) -> pd.DataFrame:
        """One row, a column per field; the usage's fields stand beside the others.

        Example:
            >>> Answer(prompt="2+2?", thinking="", text="4", finish_reason="stop", id="0").to_frame().shape
            (1, 18)
        """
        return as_frame([self])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from magistral_nb.views.answer_view import answer_bundle

        return answer_bundle(self)


def as_frame(answers: Iterable[Answer]) -> pd.DataFrame:
    """A row for each answer, the columns those of `Answer.to_frame`, also where there is no row."""
    import pandas as pd

    rows = [(row := each.to_dict()) | row.pop("usage") for each in answers]
    own = [each.name for each in fields(Answer) if each.name != "usage"]
    return pd.DataFrame(rows, columns=[*own, "tokens_per_second", *(each.name for each in fields(Usage))])


def _known(values: Mapping[str, Any], kind: type[Answer | Usage]) -> dict[str, Any]:
    """Those values that are fields today."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


_KINDS: dict[str, Any] = {  # of an Answer's fields as JSON has them
    **dict.fromkeys(("prompt", "thinking", "text", "finish_reason", "id", "model", "server"), str),
    "error": str | None,
    "seconds": int | float,
    **dict.fromkeys(("time_to_first_token", "cost"), int | float | None),
    "usage": Mapping,
    "notes": list | tuple,
    "parsed": object,
}


def _faults(values: Any) -> Iterator[str]:
    """What keeps these from being an Answer's values; only the first can be relied on."""
    if not isinstance(values, Mapping):
        yield f"it is a {type(values).__name__}"
    for each in fields(Answer):
        if each.name in values:
            if not isinstance(values[each.name], _KINDS[each.name]):
                yield f"{each.name} is {reprlib.repr(values[each.name])}"
        elif each.default is MISSING and each.default_factory is MISSING:
            yield f"it has no {each.name}"
    if values["finish_reason"] not in FINISH_REASONS:
        yield f"finish_reason is {reprlib.repr(values['finish_reason'])}"
    for name, tokens in _known(values.get("usage", {}), Usage).items():
        if not isinstance(tokens, int | None):
            yield f"{name} is {reprlib.repr(tokens)}"
    if not all(isinstance(note, str) for note in values.get("notes", ())):
        yield "a note is no text"


def _plain(value: Any) -> Any:
    """What stands in JSON for an object that it does not know."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic's
        return dump(mode="json")
    return str(value)


def _whole(text: str) -> str:
    """The text with two halves of one character, where they stand side by side, as that character."""
    return _TWO_HALVES.sub(lambda two: two[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
