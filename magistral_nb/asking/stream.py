"""One question: an exchange and, where a thinking budget cuts that, a second one that answers from the thought."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.client import client_for, explain
from magistral_nb.asking.endpoint import Endpoint, Question, answer_request, chat_request, fit_max_tokens, messages
from magistral_nb.asking.events import Finished, Noted, PromptCounted, Said, Thinking, UsageReported
from magistral_nb.asking.exchange import Exchange
from magistral_nb.asking.system_prompt import note_on_replacing
from magistral_nb.dialect import since
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.asking.events import Event
    from magistral_nb.asking.trace import Begins

_MARKS = 2  # tokens around a closed thought
_running: Counter[str] = Counter()  # streams on their way, by address
_lock = threading.Lock()


class Stream:
    """One question on its way.

    `events()` blocks and belongs to one thread; `stop()` and `answer_now()` may come from any other.

    A budget of N lets the model think for at most N tokens. The stream is closed when the thought goes on
    past them, and the answer is asked for by continuing from the closed thought: vLLM's own
    `thinking_token_budget` does nothing with a Mistral tokenizer. A thought that ends by itself before is left
    alone. Where an endpoint cannot go on from a closed thought, its own way is used if a trial has shown one.
    """

    def __init__(self, endpoint: Endpoint, question: Question) -> None:
        """Nothing is sent before `events()`."""
        self.endpoint, self.question = endpoint, question
        self.stopped = False
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._thinks = True  # or waits to; only then may it be hurried
        self._hurried = False

    def events(self) -> Iterator[Event]:
        """All events until the stream ends or is stopped.

        Raises:
            Rejected: also where a budget is asked for and the endpoint cannot keep one.
            AskFailed: see Exchange.events.
        """
        if note := note_on_replacing(self.endpoint.system_prompt, self.question.system):
            yield Noted(note)
        budget = self.question.thinking_budget
        with _counted(self.endpoint) as others:
            if budget is not None and not self.endpoint.can.continuation:
                yield from self._by_own_budget(budget)
                return
            thought = _Thought(budget)
            if budget != 0:
                yield from self._think(thought, alone=not others)
                if self.stopped or not (thought.is_cut or self._hurried):
                    return
            yield from self._answer(thought)

    def stop(self) -> None:
        """End the stream now, also while it waits for the first token; the server stops generating."""
        with self._lock:
            self.stopped = True
            self._hang_up()

    def answer_now(self) -> bool:
        """End the thinking only, and ask for the answer at once.

        Returns:
            Whether it could: not once the answer has begun, nor on an endpoint that does not continue.
        """
        with self._lock:
            if not self._thinks or self.stopped or not self.endpoint.can.continuation:
                return False
            self._hurried = True
            self._hang_up()
            return True

    def _hang_up(self) -> None:
        if self._exchange is not None:
            self._exchange.cut()

    def _think(self, thought: _Thought, *, alone: bool) -> Iterator[Event]:
        limit = self._fitted()
        can, budget = self.endpoint.can, self.question.thinking_budget
        running_usage = alone and can.running_usage and not can.token_ids
        body = chat_request(self.endpoint, self.question, limit, running_usage=running_usage)
        for event in self._exchanged(body, by_context=self._is_lowered(limit)):
            match event:
                case Thinking() if budget is None:
                    thought.keep(event)
                    yield event
                case Thinking():
                    yield from self._within_budget(event, thought)
                    if thought.is_cut:
                        self._hang_up()
                        break
                case PromptCounted(tokens):
                    thought.prompt_tokens = tokens
                    yield event
                case Said():
                    with self._lock:
                        self._thinks = False
                        hurried = self._hurried  # between the last thought and this: too late to cut, so go on
                    if hurried:
                        thought.is_cut = True
                        break
                    yield event
                case _:
                    yield event

    def _within_budget(self, event: Thinking, thought: _Thought) -> Iterator[Event]:
        """The part of a piece that the budget allows."""
        if event.tokens is None:
            self._hang_up()
            raise Rejected(
                f"{self.endpoint.base_url} does not count thinking tokens, so no budget can be kept: use "
                f"vLLM {since('token_ids')} or newer, or --max-tokens."
            )
        kept = thought.take(event)
        if thought.is_cut and thought.text_is_due:
            kept = Thinking(thought.rest_of(self._detokenize(thought.ids)), kept.tokens, kept.ids)
        if kept.text or kept.tokens:
            yield kept

    def _answer(self, thought: _Thought) -> Iterator[Event]:
        """The second exchange: the answer alone, from a thought that is closed where it was cut."""
        with self._lock:
            self._thinks = False
        left = self._left(thought)
        body = answer_request(self.endpoint, self.question, thought.text, left)
        for event in self._exchanged(body, by_context=left is None, begins="answer"):
            match event:
                case UsageReported(prompt, completion):
                    total = None if completion is None or thought.tokens is None else thought.tokens + completion
                    both = None if prompt is None else prompt + thought.prompt_tokens
                    yield UsageReported(both, total, thought.tokens)
                case Finished("stop"):
                    yield Finished("budget")
                case PromptCounted():
                    continue
                case _:
                    yield event

    def _by_own_budget(self, budget: int) -> Iterator[Event]:
        """One exchange whose thinking the endpoint itself ends, where it was seen to keep to that."""
        endpoint = self.endpoint
        limit = self._fitted()
        body = chat_request(endpoint, self.question, limit)
        if budget == 0 and endpoint.reasoning_effort is not None:
            body["reasoning_effort"] = "none"
        elif endpoint.can.budget_field is not None:
            body[endpoint.can.budget_field] = budget
        else:
            raise Rejected(
                f"{endpoint.base_url} cannot keep a thinking budget, since it neither goes on from a closed thought, "
                "as vLLM does, nor keeps one itself: leave --budget away, or use --max-tokens."
            )
        thought, finished = 0, None
        for event in self._exchanged(body, by_context=self._is_lowered(limit)):
            match event:
                case Finished():
                    finished = event
                    continue
                case Thinking():
                    thought += event.tokens or 0
                case UsageReported():
                    thought = event.thinking_tokens or thought
            yield event
        if finished == Finished("stop") and thought >= budget:
            yield Finished("budget")
        elif finished is not None:
            yield finished

    def _exchanged(self, body: dict[str, Any], *, by_context: bool, begins: Begins = "anyhow") -> Iterator[Event]:
        """The events of one request; says so where it is the context that ends a reply, not the wished max_tokens."""
        with self._lock:
            at_once = self._thinks and self.question.thinking_budget is not None
            exchange = self._exchange = Exchange(self.endpoint, body, begins=begins, at_once=at_once)
            if self.stopped or (self._hurried and self._thinks):
                self._hang_up()
        context = self.endpoint.context if self.endpoint.can.tokenize else None
        for event in exchange.events():
            if by_context and context is not None and event == Finished("length"):
                yield Noted(
                    f"Cut by the context of {context:,} tokens: a longer one, or a thinking budget, leaves more to the "
                    "answer."
                )
            yield event

    def _is_lowered(self, limit: int | None) -> bool:
        """Whether it is the context that limits a reply, and not the wish."""
        return limit is None or limit != self.question.max_tokens

    def _fitted(self) -> int | None:
        """The wished max_tokens, or what the context leaves; None lets the server take all that it leaves."""
        wished, context = self.question.max_tokens, self.endpoint.context
        # Without a wish vLLM fits it by itself; only a very long question needs a word of ours before.
        is_short = len(self.question.text) < (context or 0)
        if context is None or not self.endpoint.can.tokenize or (wished is None and is_short):
            return wished
        prompt_tokens = self._count_prompt()
        fitted = fit_max_tokens(wished or context, context=context, prompt_tokens=prompt_tokens)
        if fitted < 1:
            raise Rejected(
                f"The question has {prompt_tokens:,} tokens and the context is {context:,}: shorten it, "
                "or serve a model with a longer one (--context)."
            )
        return fitted

    def _left(self, thought: _Thought) -> int | None:
        """What a thought leaves of max_tokens; None where the context leaves less than that."""
        wished, context = self.question.max_tokens, self.endpoint.context
        if wished is None:
            return None
        thinking_tokens = thought.tokens or 0
        left = max(1, wished - thinking_tokens)
        if context is None or not self.endpoint.can.tokenize:
            return left
        prompt_tokens = thought.prompt_tokens or self._count_prompt()
        return left if left < context - prompt_tokens - thinking_tokens - _MARKS else None

    def _count_prompt(self) -> int:
        chat = messages(self.endpoint, self.question)
        return int(self._aside("/tokenize", {"model": self.endpoint.model, "messages": chat})["count"])

    def _detokenize(self, ids: list[int]) -> str:
        """The text of these tokens, a character that they do not complete left away."""
        reply = self._aside("/detokenize", {"model": self.endpoint.model, "tokens": ids})
        return str(reply["prompt"]).rstrip("\N{REPLACEMENT CHARACTER}")

    def _aside(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One of vLLM's own helpers beside the API."""
        import openai

        try:
            client = client_for(self.endpoint).with_options(max_retries=2)
            reply: Any = client.post(f"{self.endpoint.root_url}{path}", cast_to=object, body=body)
        except openai.OpenAIError as error:
            raise explain(error, self.endpoint) from error
        if not isinstance(reply, dict):
            raise Rejected(f"{self.endpoint.root_url}{path} answered with no JSON object: is this a vLLM?")
        return reply


@contextmanager
def _counted(endpoint: Endpoint) -> Iterator[int]:
    """How many other streams of this process ask there already; this one counts while the block runs."""
    where = endpoint.base_url
    with _lock:
        others = _running[where]
        _running[where] += 1
    try:
        yield others
    finally:
        with _lock:
            _running[where] -= 1


class _Thought:
    """What was thought so far, held against a budget.

    Attributes:
        tokens: counted so far, at most the budget; None where a piece came without its count.
        is_cut: the thought went on past the budget.
        text_is_due: it was cut inside a piece of several tokens, whose text must be asked for.
        prompt_tokens: of the first request.
    """

    def __init__(self, budget: int | None) -> None:
        self.tokens: int | None = 0
        self.is_cut = budget == 0
        self.text_is_due = False
        self.prompt_tokens = 0
        self._budget = budget
        self._kept: list[Thinking] = []

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self._kept)

    @property
    def ids(self) -> list[int]:
        """Of the tokens counted."""
        return [number for piece in self._kept for number in piece.ids]

    def keep(self, piece: Thinking) -> Thinking:
        """Take a piece whole."""
        self._kept.append(piece)
        self.tokens = None if self.tokens is None or piece.tokens is None else self.tokens + piece.tokens
        return piece

    def take(self, piece: Thinking) -> Thinking:
        """The part of a counted piece that is within the budget; its text is empty where that is not known yet."""
        room = (self._budget or 0) - (self.tokens or 0)
        if (piece.tokens or 0) <= room:
            return self.keep(piece)
        self.is_cut, self.text_is_due = True, room > 0
        return self.keep(Thinking("", room, piece.ids[:room]))

    def rest_of(self, whole: str) -> str:
        """What `whole`, the text of all ids, has beyond the pieces so far."""
        rest = whole.removeprefix(self.text) if whole.startswith(self.text) else ""
        self._kept.append(Thinking(rest))
        return rest
