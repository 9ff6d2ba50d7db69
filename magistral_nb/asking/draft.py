"""An answer in the making: events go in, progress and finally an Answer come out."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Literal, cast

from magistral_nb.answers.answer import FINISH_REASONS, Answer, FinishReason, Pieces, Usage
from magistral_nb.asking.events import Event, Finished, Noted, PromptCounted, Queued, Said, Thinking, UsageReported

_SECONDS_PER_HOUR = 3600

State = Literal["waiting", "thinking", "answering", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a view shows while a stream runs. Tokens are None where the endpoint does not count them.

    Attributes:
        state: "waiting" until the first token, then "thinking", "answering", "done"; "waiting" again where the answer
            that follows a thought has to.
        seconds: since the question was sent.
        thinking_tokens: tokens of the trace so far.
        tokens_per_second: thinking and answer tokens per second since the first one.
        waits_for: what a waiting question waits for, where that is known, such as "place 3 of 12".
    """

    state: State
    seconds: float
    thinking_tokens: int | None
    tokens_per_second: float | None
    waits_for: str = ""


class Draft:
    """Collects the events of one question.

    Example:
        >>> draft = Draft("2+2?", model="abacus", server="default")
        >>> draft.add(Thinking("2+2=4.", tokens=5)); draft.add(Said("4", tokens=1)); draft.add(Finished("stop"))
        >>> draft.answer().text
        '4'
    """

    def __init__(self, prompt: str, *, model: str, server: str, price_per_hour: float | None = None) -> None:
        """Start the clock: the question is sent now."""
        self.prompt, self.model, self.server = prompt, model, server
        self._price_per_hour = price_per_hour
        self.id = uuid.uuid4().hex
        self._started = time.monotonic()
        self._first: float | None = None
        self._last = self._started
        self._waits_for = ""
        self._held_since: float | None = None  # between two tokens
        self._held = 0.0
        self.pieces = Pieces()
        self._notes: list[str] = []
        self._thinking_tokens: int | None = 0
        self._answer_tokens: int | None = 0
        self._prompt_tokens: int | None = None
        self._running_tokens: int | None = None  # where no chunk tells its own
        self._reported = UsageReported()
        self._reason: str | None = None
        self._state: State = "waiting"

    def add(self, event: Event) -> None:
        """Take in the next event of the stream; of several choices, only the first."""
        if isinstance(event, Noted | Queued):
            self._wait(event)
            return
        match event:
            case Thinking(text, tokens, choice=0):
                self.pieces.thinking.append(text)
                self._thinking_tokens = _sum(self._thinking_tokens, tokens)
                self._state = "thinking"
            case Said(text, tokens, choice=0):
                self.pieces.text.append(text)
                self._answer_tokens = _sum(self._answer_tokens, tokens)
                self._state = "answering"
            case PromptCounted(tokens):
                self._prompt_tokens = tokens
                return
            case UsageReported():
                self._reported = event
                if self._state == "thinking":  # running usage, or the whole of a thought that was cut
                    self._running_tokens = event.completion_tokens
                return
            case Finished(reason, choice=0):
                self._reason = reason
                self._state = "done"
                return
            case _:  # of another choice
                return
        now = time.monotonic()
        self._last = now
        if self._first is None:
            self._first = now
        if self._held_since is not None:
            self._held += now - self._held_since
        self._waits_for, self._held_since = "", None

    def _wait(self, event: Noted | Queued) -> None:
        """Keep what the question waits for; between two tokens that time is neither the model's nor the answer's."""
        if isinstance(event, Noted):
            self._notes.append(event.text)
            waits_for = event.waits_for
        else:
            waits_for = f"place {event.place} of {event.waiting}"
        if waits_for:
            self._waits_for = waits_for
            if self._first is not None and self._held_since is None:
                self._held_since = time.monotonic()

    @property
    def began(self) -> bool:
        """Whether any token has arrived: such a question is never asked again by itself."""
        return self._first is not None

    @property
    def progress(self) -> Progress:
        """Where the stream stands now."""
        now = time.monotonic()
        thinking_tokens = self._thinking_so_far
        tokens = _sum(thinking_tokens, self._answer_tokens)
        rate = None
        if tokens and self._first is not None:
            spent = (now if self._held_since is None else self._held_since) - self._first - self._held
            rate = tokens / spent if spent > 0 else None
        state = "waiting" if self._waits_for and self._state != "done" else self._state
        return Progress(state, now - self._started, thinking_tokens, rate, self._waits_for)

    @property
    def _thinking_so_far(self) -> int | None:
        """Tokens of the trace as they were counted on the way, chunk by chunk or by running usage."""
        return self._running_tokens if self._thinking_tokens is None else self._thinking_tokens

    def answer(self, finish_reason: FinishReason | None = None, error: str | None = None) -> Answer:
        """The Answer so far; `finish_reason` overrides what the stream said of its end."""
        reason = finish_reason or self._reason or "error"
        if reason not in FINISH_REASONS:  # "tool_calls", "content_filter": an end all the same
            reason = "stop"
        seconds, price = self._last - self._started - self._held, self._price_per_hour
        return Answer(
            prompt=self.prompt,
            thinking="".join(self.pieces.thinking),
            text="".join(self.pieces.text),
            finish_reason=cast("FinishReason", reason),
            usage=self._usage(),
            seconds=seconds,
            time_to_first_token=None if self._first is None else self._first - self._started,
            model=self.model,
            server=self.server,
            id=self.id,
            error=error,
            cost=None if price is None else seconds * price / _SECONDS_PER_HOUR,
            notes=tuple(self._notes),
        )

    def _usage(self) -> Usage:
        """The endpoint's final count where there is one, else what was counted on the way."""
        reported = self._reported
        thinking = reported.thinking_tokens
        if thinking is None:
            thinking = self._thinking_so_far
        completion = reported.completion_tokens
        if completion is None:
            completion = _sum(self._thinking_tokens, self._answer_tokens)
        answer = None if completion is None or thinking is None else completion - thinking
        prompt = self._prompt_tokens if reported.prompt_tokens is None else reported.prompt_tokens
        return Usage(prompt, thinking, answer, completion)


def _sum(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right
