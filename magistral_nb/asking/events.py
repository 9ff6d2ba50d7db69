"""What a stream is made of. Every way of asking yields these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the thinking trace; `tokens` is None where the endpoint does not tell."""

    text: str
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer; `tokens` is None where the endpoint does not tell."""

    text: str
    tokens: int | None = None


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


Event = Thinking | Said | UsageReported | Finished
