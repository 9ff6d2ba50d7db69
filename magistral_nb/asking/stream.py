"""One question: an exchange and, where a thinking budget cuts that, a second one that answers from the thought.

An exchange whose server is gone before the first token is made anew where the server comes back, once: a question
that ends the server itself would otherwise end it until it is started no more.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from magistral_nb.asking.client import client_for, explain
from magistral_nb.asking.endpoint import Endpoint, Question, answer_request, chat_request, fit_max_tokens, messages
from magistral_nb.asking.events import Finished, Noted, PromptCounted, Said, Thinking, UsageReported
from magistral_nb.asking.exchange import Exchange
from magistral_nb.asking.system_prompt import note_on_replacing
from magistral_nb.asking.thought import Thought
from magistral_nb.asking.waking import Waking
from magistral_nb.dialect import since
from magistral_nb.errors import AskFailed, Rejected, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from magistral_nb.asking.events import Event
    from magistral_nb.asking.trace import Begins
    from magistral_nb.errors import MagistralError

_MARKS = 2  # tokens around a closed thought
_running: Counter[str] = Counter()  # streams on their way, by address
_lock = threading.Lock()


class Keeper(Protocol):
    """Who knows more of a server than its address tells; what is asked of it ends at once when `stopped` is set.

    Attributes:
        is_restarting: it is being started again, so that a question has to wait.
    """

    @property
    def is_restarting(self) -> bool:
        """See above."""

    def revive(
        self, error: AskFailed | None, stopped: threading.Event
    ) -> Generator[Noted, None, tuple[Endpoint, Keeper] | None]:
        """Wait until the server is back, and return where and whose it is then; None where it does not come back.

        Args:
            error: with which a question failed before its first token; None where none was asked yet.
            stopped: nobody waits any longer.
        """

    def explain(self, error: AskFailed, stopped: threading.Event) -> MagistralError:
        """What is known beyond that a question failed; it may take a few seconds until that is."""


class Stream:
    """One question on its way.

    `events()` blocks and belongs to one thread; `stop()` and `answer_now()` may come from any other.

    A budget of N lets the model think for at most N tokens. The stream is closed when the thought goes on
    past them, and the answer is asked for by continuing from the closed thought: vLLM's own
    `thinking_token_budget` does nothing with a Mistral tokenizer. A thought that ends by itself before is left
    alone. Where an endpoint cannot go on from a closed thought, its own way is used if a trial has shown one.
    """

    def __init__(self, endpoint: Endpoint, question: Question, keeper: Keeper | None = None) -> None:
        """Nothing is sent before `events()`.

        Args:
            endpoint: whom to ask.
            question: what.
            keeper: of the server, where that is one of ours.
        """
        self.endpoint, self.question = endpoint, question
        self._keeper = keeper
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._waking: Waking | None = None
        self._asked_anew = False
        self._thinks = True  # or waits to; only then may it be hurried
        self._hurried = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def explain(self, error: AskFailed) -> MagistralError:
        """What is known of why `events` raised this."""
        return error if self._keeper is None or self.stopped else self._keeper.explain(error, self._stop)

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
                yield from self._insisted(partial(self._by_own_budget, budget))
                return
            thought = Thought(budget)
            if budget != 0:
                yield from self._insisted(partial(self._think, thought, alone=not others))
                if self.stopped or not (thought.is_cut or self._hurried):
                    return
            yield from self._insisted(partial(self._answer, thought))

    def stop(self) -> None:
        """End the stream now, also while it waits for the first token; the server stops generating."""
        with self._lock:
            self._stop.set()
            self._hang_up()
            if self._waking is not None:
                self._waking.cut()

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

    def _insisted(self, attempt: Callable[[], Iterator[Event]]) -> Iterator[Event]:
        """An exchange, made anew where no token of it has come and the server comes back, or is only asleep."""
        if self._keeper is not None and self._keeper.is_restarting:
            yield from self._revived(None)
        while not self.stopped:
            began = False
            try:
                yield from self._woken()
                for event in attempt():
                    began = began or isinstance(event, Thinking | Said)
                    yield event
            except AskFailed as error:
                if began or self.stopped:
                    raise
                failure = error
            else:
                return
            fell_asleep = isinstance(failure, Unreachable) and self._waking is not None and self._waking.is_sleeping()
            if fell_asleep:
                continue
            if self._asked_anew or not (yield from self._revived(failure)):
                raise failure
            self._asked_anew = True

    def _woken(self) -> Iterator[Noted]:
        """Wake the server if it sleeps."""
        with self._lock:
            self._waking = Waking(self.endpoint) if self.endpoint.can.sleeps else None
            if self._waking is None or self.stopped:
                return
        yield from self._waking.wake()

    def _revived(self, error: AskFailed | None) -> Generator[Noted, None, bool]:
        """Wait for the server; whether it is back, and perhaps elsewhere."""
        revived = None if self._keeper is None else (yield from self._keeper.revive(error, self._stop))
        if revived is None:
            return False
        self.endpoint, self._keeper = revived
        return True

    def _think(self, thought: Thought, *, alone: bool) -> Iterator[Event]:
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

    def _within_budget(self, event: Thinking, thought: Thought) -> Iterator[Event]:
        """The part of a piece that the budget allows."""
        if event.tokens is None:
            self._hang_up()
            raise Rejected(
                f"{self.endpoint.base_url} does not count thinking tokens, so no budget can be kept: use "
                f"vLLM {since('token_ids')} or newer, or --max-tokens."
            )
        kept = thought.take(event, self._detokenize)
        if kept.text or kept.tokens:
            yield kept

    def _answer(self, thought: Thought) -> Iterator[Event]:
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
            is_kept = self._keeper is not None
            exchange = Exchange(self.endpoint, body, begins=begins, at_once=at_once, is_kept=is_kept)
            self._exchange = exchange
            if self.stopped or (self._hurried and self._thinks):
                self._hang_up()
        context = self.endpoint.context if self.endpoint.can.tokenize else None
        for event in exchange.events() if self._waking is None else self._waking.awake(exchange.events()):
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

    def _left(self, thought: Thought) -> int | None:
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

    def _detokenize(self, ids: list[int]) -> str | None:
        """The text of these tokens, a character that they do not complete left away; None where nobody tells."""
        if not self.endpoint.can.tokenize:
            return None
        try:
            reply = self._aside("/detokenize", {"model": self.endpoint.model, "tokens": ids})
        except AskFailed:  # such as a server that has just died: the pieces before are kept
            return None
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
