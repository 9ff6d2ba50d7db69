"""What a stream is made of. Every way of asking yields these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the thinking trace.

    Attributes:
        text: without marks; empty where tokens belong to the trace whose text the server swallowed.
        tokens: as defined in `magistral_nb.asking.trace`; None where the endpoint does not tell.
        ids: the tokens counted, in their order, so that a budget can be cut inside this piece.
        choice: which of several answers to one question it belongs to.
    """

    text: str
    tokens: int | None = None
    ids: tuple[int, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer; `tokens` is None where the endpoint does not tell."""

    text: str
    tokens: int | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class PromptCounted:
    """The length of the prompt in tokens, known before the first token of the reply."""

    tokens: int


@dataclass(frozen=True, slots=True)
class UsageReported:
    """The endpoint's own count, in tokens; None is what it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    thinking_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The endpoint is done: "stop" or "length" (or whatever else it calls its reason)."""

    reason: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Queued:
    """The question waits for its turn.

    Attributes:
        place: among those that wait; 1 is next.
        waiting: how many do.
    """

    place: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Noted:
    """What the asker should know of how the answer comes about.

    Attributes:
        text: one line, such as that a limit was lowered.
        waits_for: in a few words, where the question waits for just that until its next token.
    """

    text: str
    waits_for: str = ""


Event = Thinking | Said | PromptCounted | UsageReported | Finished | Queued | Noted
