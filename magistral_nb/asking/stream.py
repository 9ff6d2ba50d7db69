"""One question: an exchange and, where a thinking budget cuts that, a second one that answers from the thought."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Endpoint, Question, answer_request, chat_request, fit_max_tokens, messages
from magistral_nb.asking.events import Finished, PromptCounted, Said, Thinking, UsageReported
from magistral_nb.asking.exchange import Exchange, client_for, explain
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.asking.events import Event
    from magistral_nb.asking.trace import Begins


class Stream:
    """One question on its way.

    `events()` blocks and belongs to one thread; `stop()` and `answer_now()` may come from any other.

    A budget of N lets the model think for at most N tokens. The stream is closed when the thought goes on
    past them, and the answer is asked for by continuing from the closed thought: vLLM's own
    `thinking_token_budget` does nothing with a Mistral tokenizer. A thought that ends by itself before is left
    alone.
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
        budget = self.question.thinking_budget
        if budget is not None and not self.endpoint.can.continuation:
            raise Rejected(
                f"{self.endpoint.base_url} cannot keep a thinking budget, since it neither counts tokens nor continues "
                "a thought as vLLM does: leave --budget away, or use --max-tokens."
            )
        thought = _Thought(budget)
        if budget != 0:
            yield from self._think(thought)
            if self.stopped or not (thought.is_cut or self._hurried):
                return
        yield from self._answer(thought)

    def stop(self) -> None:
        """End the stream now, also while it waits for the first token; the server stops generating."""
        with self._lock:
            self.stopped = True
            if self._exchange is not None:
                self._exchange.cut()

    def answer_now(self) -> bool:
        """End the thinking only, and ask for the answer at once.

        Returns:
            Whether it could: not once the answer has begun, nor on an endpoint that does not continue.
        """
        with self._lock:
            if not self._thinks or self.stopped or not self.endpoint.can.continuation:
                return False
            self._hurried = True
            if self._exchange is not None:
                self._exchange.cut()
            return True

    def _think(self, thought: _Thought) -> Iterator[Event]:
        limit = self._max_tokens()
        exchange = self._begin(chat_request(self.endpoint, self.question, limit))
        for event in exchange.events():
            match event:
                case Thinking():
                    if event.tokens is None and self.question.thinking_budget is not None:
                        exchange.cut()
                        raise Rejected(
                            f"{self.endpoint.base_url} does not count thinking tokens, so no budget can be kept: use "
                            "vLLM 0.11 or newer, or --max-tokens."
                        )
                    kept = thought.take(event)
                    if thought.is_cut and thought.text_is_due:
                        kept = Thinking(thought.rest_of(self._detokenize(thought.ids)), kept.tokens, kept.ids)
                    if kept.text or kept.tokens:
                        yield kept
                    if thought.is_cut:
                        exchange.cut()
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

    def _answer(self, thought: _Thought) -> Iterator[Event]:
        """The second exchange: the answer alone, from a thought that is closed where it was cut."""
        with self._lock:
            self._thinks = False
        wished = self.question.max_tokens
        left = None if wished is None else max(1, wished - thought.tokens)
        exchange = self._begin(answer_request(self.endpoint, self.question, thought.text, left), begins="answer")
        for event in exchange.events():
            match event:
                case UsageReported(prompt, completion):
                    total = None if completion is None else thought.tokens + completion
                    both = None if prompt is None else prompt + thought.prompt_tokens
                    yield UsageReported(both, total, thought.tokens)
                case Finished("stop"):
                    yield Finished("budget")
                case PromptCounted():
                    continue
                case _:
                    yield event

    def _begin(self, body: dict[str, Any], *, begins: Begins = "anyhow") -> Exchange:
        with self._lock:
            self._exchange = Exchange(self.endpoint, body, begins=begins)
            if self.stopped or (self._hurried and self._thinks):
                self._exchange.cut()
            return self._exchange

    def _max_tokens(self) -> int | None:
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
            reply: Any = client_for(self.endpoint).post(f"{self.endpoint.root_url}{path}", cast_to=object, body=body)
        except openai.OpenAIError as error:
            raise explain(error, self.endpoint.base_url) from error
        if not isinstance(reply, dict):
            raise Rejected(f"{self.endpoint.root_url}{path} answered with no JSON object: is this a vLLM?")
        return reply


class _Thought:
    """What was thought so far, held against a budget.

    Attributes:
        tokens: counted so far, at most the budget.
        ids: of these tokens.
        is_cut: the thought went on past the budget.
        text_is_due: it was cut inside a piece of several tokens, whose text must be asked for.
        prompt_tokens: of the first request.
    """

    def __init__(self, budget: int | None) -> None:
        self.tokens = 0
        self.ids: list[int] = []
        self.is_cut = budget == 0
        self.text_is_due = False
        self.prompt_tokens = 0
        self._budget = budget
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def take(self, event: Thinking) -> Thinking:
        """The part of the event that is within the budget; its text is empty where that is not known yet."""
        tokens = event.tokens or 0
        if self._budget is None or self.tokens + tokens <= self._budget:
            self.tokens += tokens
            self.ids += event.ids
            self._parts.append(event.text)
            return event
        room = self._budget - self.tokens
        self.is_cut, self.text_is_due = True, room > 0
        self.tokens = self._budget
        self.ids += event.ids[:room]
        return Thinking("", room, event.ids[:room])

    def rest_of(self, whole: str) -> str:
        """What `whole`, the text of all ids, has beyond the parts so far."""
        rest = whole.removeprefix(self.text) if whole.startswith(self.text) else ""
        self._parts.append(rest)
        return rest
