"""Where a question goes, what it is, and the request that the two make together."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

UNIX = "unix:"  # begins the address of a server that listens on a Unix socket
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # this machine, as addresses name it

_THINK_PARTS = re.compile(r"\[THINK\](.*?)\[/THINK\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sampling:
    """A model's own way of sampling; None leaves a value to the server.

    Attributes:
        temperature: 0 is greedy.
        top_p: share of the probability mass that is sampled from, over 0 and at most 1.
    """

    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an endpoint can do beyond a plain chat completion; other servers reject such fields.

    Attributes:
        usage: reports its token counts in a stream (stream_options).
        token_ids: tells the tokens of each chunk (return_token_ids), so that they are counted, not guessed.
        running_usage: reports its counts with every chunk (continuous_usage_stats).
        tokenize: has vLLM's /tokenize and /detokenize.
        continuation: goes on from a thought that is closed where it was cut.
        sleeps: may have given its GPU's memory to other work, and is woken before it is asked.
        budget_field: a request's field that caps the thinking, where a trial has shown that it works.
    """

    usage: bool = True
    token_ids: bool = False
    running_usage: bool = False
    tokenize: bool = False
    continuation: bool = False
    sleeps: bool = False
    budget_field: str | None = None


VLLM = Abilities(token_ids=True, running_usage=True, tokenize=True, continuation=True)
SHARED = Abilities(token_ids=True, continuation=True)  # a vLLM behind a class's proxy, which fits max_tokens itself


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds.

    Attributes:
        connect: for a connection.
        first_token: for the first token; a queue or a long prefill may keep a healthy server silent for minutes.
        silence: between two pieces of a stream.
    """

    connect: float = 10.0
    first_token: float = 600.0
    silence: float = 120.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server and the model on it.

    Attributes:
        base_url: up to and with "/v1", or a Unix socket as "unix:/run/vllm.sock".
        model: the name that requests carry.
        api_key: never shown.
        server: the name under which people know it.
        context: context length in tokens, prompt and completion together; None if not told.
        system_prompt: the model's own, sent where the question brings none.
        sampling: the model's own.
        can: what it can do beyond plain chat completions.
        reasoning_effort: sent where the endpoint wants one to think at all, as Mistral's API does.
        limits: how long to wait for it.
        price_per_hour: of the machine, in any currency; None leaves answers without a cost.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    server: str = "default"
    context: int | None = None
    system_prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    can: Abilities = field(default_factory=Abilities)
    reasoning_effort: str | None = None
    limits: Limits = field(default_factory=Limits)
    price_per_hour: float | None = None

    @property
    def http_url(self) -> str:
        """The address as requests name it; behind a Unix socket the host means nothing."""
        return "http://localhost/v1" if self.base_url.startswith(UNIX) else self.base_url

    @property
    def root_url(self) -> str:
        """The same without "/v1", where vLLM keeps /tokenize and /health."""
        return self.http_url.removesuffix("/").removesuffix("/v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask, and how; None takes the model's own.

    Attributes:
        text: the user's question.
        system: replaces the model's own system prompt; "" sends none.
        temperature: see Sampling.
        top_p: see Sampling.
        max_tokens: completion tokens at most, thinking included; fitted to what the context leaves.
        seed: for sampling that can be repeated.
        thinking_budget: thinking tokens at most, then the answer; 0 skips the thinking.
    """

    text: str
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    thinking_budget: int | None = None


def messages(endpoint: Endpoint, question: Question) -> list[dict[str, Any]]:
    """The chat that is sent.

    Example:
        >>> messages(Endpoint("http://x/v1", "m", system_prompt="Think."), Question(text="2+2?"))[0]
        {'role': 'system', 'content': 'Think.'}
    """
    system = endpoint.system_prompt if question.system is None else question.system
    chat: list[dict[str, Any]] = []
    if system:
        chat.append({"role": "system", "content": system_content(system)})
    chat.append({"role": "user", "content": question.text})
    return chat


def system_content(text: str) -> str | list[dict[str, Any]]:
    """A system prompt as it must travel.

    What stands between [THINK] and [/THINK] goes as a thinking chunk: as plain text the marks would not
    become the control tokens that the model was trained on.

    Example:
        >>> system_content("Draft:[THINK]here[/THINK]Then answer.")[1]
        {'type': 'thinking', 'thinking': 'here', 'closed': True}
    """
    parts = _THINK_PARTS.split(text)
    if len(parts) == 1:
        return text
    chunks: list[dict[str, Any]] = []
    for index, part in enumerate(parts):
        if index % 2:
            chunks.append({"type": "thinking", "thinking": part, "closed": True})
        elif part:
            chunks.append({"type": "text", "text": part})
    return chunks


def chat_request(
    endpoint: Endpoint, question: Question, max_tokens: int | None, *, running_usage: bool = False
) -> dict[str, Any]:
    """The body of POST /v1/chat/completions; fields that nobody set are left out.

    Args:
        endpoint: where it goes.
        question: what is asked.
        max_tokens: as fitted by `fit_max_tokens`; None lets the server use all that the context leaves.
        running_usage: have the counts with every chunk. That costs the server the length of the trace for each,
            which is bearable for one stream and not for many.
    """
    sampling = endpoint.sampling
    wished = {
        "temperature": sampling.temperature if question.temperature is None else question.temperature,
        "top_p": sampling.top_p if question.top_p is None else question.top_p,
        "max_tokens": max_tokens,
        "seed": question.seed,
        "reasoning_effort": endpoint.reasoning_effort,
    }
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": messages(endpoint, question),
        "stream": True,
    }
    if endpoint.can.usage:
        body["stream_options"] = {"include_usage": True} | ({"continuous_usage_stats": True} if running_usage else {})
    body |= {name: value for name, value in wished.items() if value is not None}
    if endpoint.can.token_ids:
        body["return_token_ids"] = True  # counts thinking tokens in constant time per chunk
    return body


def answer_request(endpoint: Endpoint, question: Question, thinking: str, max_tokens: int | None) -> dict[str, Any]:
    """The request that asks for the answer alone, from a thought that is closed as it stands.

    Example:
        >>> body = answer_request(Endpoint("http://x/v1", "m"), Question(text="2+2?"), "2+2=", None)
        >>> body["messages"][-1]["content"]
        [{'type': 'thinking', 'thinking': '2+2=', 'closed': True}]
    """
    body = chat_request(endpoint, question, max_tokens)
    closed = {"type": "thinking", "thinking": thinking, "closed": True}
    body["messages"] = [*body["messages"], {"role": "assistant", "content": [closed]}]
    return body | {"continue_final_message": True, "add_generation_prompt": False}


def fit_max_tokens(wished: int, *, context: int, prompt_tokens: int) -> int:
    """As many completion tokens as were wished for, or as the context leaves after the prompt.

    vLLM answers 400 to a max_tokens above that, so the 40,960 of Magistral's card would fail on every
    smaller context. At most 0 means that the prompt alone fills the context.

    Example:
        >>> fit_max_tokens(40_960, context=2048, prompt_tokens=48)
        2000
    """
    return min(wished, context - prompt_tokens)
