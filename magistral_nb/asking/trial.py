"""A test question, which shows what an endpoint can do; nobody's documentation is believed."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.client import beside, client_for, explain
from magistral_nb.asking.endpoint import Abilities, Question, answer_request, chat_request
from magistral_nb.asking.trace import THINK_IDS
from magistral_nb.dialect import THINKING_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import openai

    from magistral_nb.asking.endpoint import Endpoint

QUESTION = "What is 347 × 58?"  # no reasoning model answers that within a few tokens of thought

_SECONDS = 20.0  # for the test question, which is cut as soon as it has shown enough
_MORE_SECONDS = 10.0  # for each question after that
_TOKENS = 48
_ANSWER_TOKENS = 8
_OWN_BUDGET = "thinking_token_budget"  # vLLM's; it does nothing where the tokenizer is Mistral's
_OWN_BUDGET_TOKENS = 8
_OWN_BUDGET_SLACK = 2  # the marks, should it count them
_ENOUGH_PIECES = 3  # to see whether usage comes with every chunk
_MARKS = ("<think>", "[THINK]")


@dataclass(frozen=True, slots=True)
class Trial:
    """What the test question showed.

    Attributes:
        trace: where the thinking comes: "reasoning", "reasoning_content", "thinking chunks", "<think> in the text",
            "[THINK] in the text"; None where there was none.
        can: what it can do.
        reasoning_effort: as it was accepted.
        problem: why the question was not answered, in one line.
    """

    trace: str | None = None
    can: Abilities = field(default_factory=Abilities)
    reasoning_effort: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the chunks of a stream have shown so far."""

    trace: str | None = None
    text: str = ""
    pieces: int = 0
    token_ids: bool = False
    running_usage: bool = False

    @property
    def is_enough(self) -> bool:
        """Whether more chunks would show no more."""
        known = self.trace is not None or (self.text and not any(mark.startswith(self.text) for mark in _MARKS))
        return bool(known) and (self.running_usage or self.pieces >= _ENOUGH_PIECES)

    def with_chunk(self, chunk: dict[str, Any]) -> Seen:
        """After one more chunk.

        Example:
            >>> Seen().with_chunk({"choices": [{"delta": {"reasoning": "347"}}]}).trace
            'reasoning'
        """
        seen = self
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text, trace = self.text, self.trace
            content = delta.get("content") or ""
            if isinstance(content, str):
                text += content
            elif any(part.get("type") == "thinking" for part in content if isinstance(part, dict)):
                trace = trace or "thinking chunks"
            trace = trace or next((name for name in THINKING_FIELDS if delta.get(name)), None)
            trace = trace or next((f"{mark} in the text" for mark in _MARKS if text.lstrip().startswith(mark)), None)
            seen = replace(
                seen,
                trace=trace,
                text=text,
                pieces=seen.pieces + any(delta.get(name) for name in ("content", *THINKING_FIELDS)),
                token_ids=seen.token_ids or bool(choice.get("token_ids")),
                running_usage=seen.running_usage or (bool(chunk.get("usage")) and not choice.get("finish_reason")),
            )
        return seen


def try_out(endpoint: Endpoint, *, is_vllm: bool) -> Trial:
    """Ask a test question in the fullest way that the endpoint accepts, at most 20 seconds and 10 for each other.

    Args:
        endpoint: with the system prompt and the reasoning_effort that questions will be sent with.
        is_vllm: whether to try what only vLLM has.

    Raises:
        Unreachable: the environment names a proxy that cannot be used.
    """
    import openai

    full = Abilities(token_ids=is_vllm, running_usage=True)
    plain = Abilities(usage=False)
    ways = [(full, endpoint.reasoning_effort), (plain, endpoint.reasoning_effort)]
    if endpoint.reasoning_effort is not None:
        ways += [(full, None), (plain, None)]
    client = client_for(endpoint)
    problem: str | None = None
    for can, effort in ways:
        asked = replace(endpoint, can=can, reasoning_effort=effort)
        try:
            seen = _ask(client.with_options(timeout=_SECONDS), asked)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            problem = str(explain(error, endpoint))
            continue
        except openai.OpenAIError as error:
            return Trial(problem=str(explain(error, endpoint)), reasoning_effort=effort)
        if not seen.pieces:
            return Trial(problem=f"no token for a test question within {_SECONDS:.0f} s", reasoning_effort=effort)
        shown = replace(can, token_ids=seen.token_ids, running_usage=seen.running_usage)
        if is_vllm:
            shown = _try_vllm(client.with_options(timeout=_MORE_SECONDS), asked, shown)
        return Trial(seen.trace, shown, effort)
    return Trial(problem=problem)


def has_control_tokens(endpoint: Endpoint) -> bool:
    """Whether this vLLM's tokenizer has [THINK] and [/THINK] as control tokens, as Magistral 1.1 and later have.

    Asked of the tokenizer, since a model may have any name.
    """
    body = {"model": endpoint.model, "tokens": list(THINK_IDS)}
    client = client_for(endpoint).with_options(timeout=_MORE_SECONDS)
    reply = beside(client, f"{endpoint.root_url}/detokenize", body)
    return reply.get("prompt") == "[THINK][/THINK]"


def _ask(client: openai.OpenAI, endpoint: Endpoint) -> Seen:
    """Stream an answer until it has shown enough, or the time is over."""
    seen, deadline = Seen(), time.monotonic() + _SECONDS
    can, question = endpoint.can, Question(text=QUESTION)
    body = chat_request(endpoint, question, _TOKENS if can.usage else None, running_usage=can.running_usage)
    create = client.chat.completions.with_streaming_response.create
    opened = create(model=body.pop("model"), messages=body.pop("messages"), extra_body=body)
    # After a silence or a break what was seen until then counts.
    with opened as response, contextlib.suppress(Exception):
        for chunk in _chunks(response.iter_lines(), deadline):
            seen = seen.with_chunk(chunk)
            if seen.is_enough:
                break
    return seen


def _chunks(lines: Iterable[str], deadline: float) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream; what is none is passed over."""
    for line in lines:
        if time.monotonic() > deadline:
            return
        if line.startswith("data:"):
            try:
                chunk = json.loads(line[5:])
            except ValueError:
                continue
            if isinstance(chunk, dict):
                yield chunk


def _try_vllm(client: openai.OpenAI, endpoint: Endpoint, can: Abilities) -> Abilities:
    """What only vLLM has: counting aside, going on from a closed thought, or else a budget of its own."""
    tokenized = beside(client, f"{endpoint.root_url}/tokenize", {"model": endpoint.model, "prompt": QUESTION})
    can = replace(can, tokenize=isinstance(tokenized.get("count"), int))
    question = Question(text=QUESTION)
    body = _unstreamed(answer_request(endpoint, question, "347×58, about 300×60=18000.", _ANSWER_TOKENS))
    reply = _message(beside(client, "/chat/completions", body))
    if reply.get("content") and not any(reply.get(name) for name in THINKING_FIELDS):
        return replace(can, continuation=True)
    body = _unstreamed(chat_request(endpoint, question, _TOKENS)) | {_OWN_BUDGET: _OWN_BUDGET_TOKENS}
    reply = beside(client, "/chat/completions", body)
    details = (reply.get("usage") or {}).get("completion_tokens_details") or {}
    thought = details.get("reasoning_tokens")
    kept = isinstance(thought, int) and 0 < thought <= _OWN_BUDGET_TOKENS + _OWN_BUDGET_SLACK
    return replace(can, budget_field=_OWN_BUDGET) if kept and _message(reply).get("content") else can


def _unstreamed(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in {"stream", "stream_options"}}


def _message(reply: dict[str, Any]) -> dict[str, Any]:
    try:
        message = reply["choices"][0]["message"]
    except (KeyError, IndexError, TypeError):
        return {}
    return message if isinstance(message, dict) else {}
