"""The value that every way of asking returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

_MEASURABLE = 0.2  # seconds; what arrives in one burst tells nothing of the model's speed

FinishReason = Literal["stop", "length", "budget", "interrupted", "error"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question's outcome: the thinking trace, the answer and what they cost.

    Attributes:
        prompt: the question as it was sent.
        thinking: the whole trace, without its marks.
        text: the answer; `str(answer)` is the same.
        finish_reason: "stop", "length" (cut by max_tokens or the context), "budget", "interrupted" or "error".
        usage: tokens.
        seconds: from sending the question to the last token, wall time.
        time_to_first_token: seconds from sending the question to the first token, None if none came.
        model: the model's name as the server has it.
        server: the name of the server that was asked.
        id: unique, 32 hexadecimal digits.
        error: what went wrong when finish_reason is "error", in one line.
        cost: in the currency of the server's price per hour; None where no price was given.
        parsed: the answer as a Python object, where a schema was asked for.

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

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, fit for JSON; `usage` is a nested dictionary."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}

    def to_frame(self) -> pd.DataFrame:
        """One row, a column per field; the usage's fields stand beside the others.

        Example:
            >>> Answer(prompt="2+2?", thinking="", text="4", finish_reason="stop", id="0").to_frame().shape
            (1, 17)
        """
        import pandas as pd

        row = self.to_dict()
        return pd.DataFrame([row | row.pop("usage")])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from magistral_nb.views.answer_view import answer_bundle

        return answer_bundle(self)
