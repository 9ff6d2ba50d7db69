"""A student's request as it may go on: read, checked and built anew. Pure.

What is not listed here does not pass, since vLLM accepts any field and some of them reach far: `chat_template` runs a
template of the student's, `image_embeds` unpickles, a URL makes the server fetch it, `priority` jumps its queue,
`prompt_logprobs` and beam search take memory without a limit, `cache_salt`, `kv_transfer_params` and `vllm_xargs` are
for operators. All fields were read in vLLM 0.32's ChatCompletionRequest and CompletionRequest.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magistral_nb.sharing.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

Page = Literal["/chat/completions", "/completions"]

IMAGE_TOKENS = 4096  # more than any image takes with Magistral: its encoder's 1540 pixels are 3,025 patches of 28

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MOST_STOPS, _LONGEST_STOP = 16, 200  # vLLM looks for each of them at each token
_MOST_LOGPROBS = 5  # OpenAI's own limit of the older API; each costs a line of the reply
_MOST_TOOLS, _LONGEST_NAME, _LONGEST_SCHEMA = 64, 200, 32_768  # a schema is compiled into a grammar, on the CPU
_MOST_NODES, _DEEPEST_SCHEMA = 500, 16  # of a schema: a grammar may grow with the power of its depth
_DATA_IMAGE = re.compile(r"data:image/[a-z+.-]{1,20};base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may go on.

    Attributes:
        page: where it goes.
        fields: of the request, without `model`, `max_tokens` and what a stream reports.
        streams: whether the reply comes in pieces.
        samples: answers that are asked for.
        max_tokens: completion tokens at most, as asked for; None left it open.
        wants_ids: whether the reply should tell the tokens' numbers.
        wants_usage: whether a stream should end with the counts.
        size: the prompt's tokens are no more than this; special tokens aside, none is shorter than a byte.
    """

    page: Page
    fields: dict[str, Any]
    streams: bool
    samples: int
    max_tokens: int | None
    wants_ids: bool
    wants_usage: bool
    size: int

    def body(self, model: str, max_tokens: int) -> dict[str, Any]:
        """The request as it goes on; a stream is always counted."""
        body = {"model": model} | self.fields | {"max_tokens": max_tokens, "n": self.samples}
        if not self.streams:
            return body | ({"return_token_ids": True} if self.wants_ids else {})
        return body | {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}

    def prompt(self, model: str) -> dict[str, Any]:
        """What vLLM's /tokenize counts."""
        names = ("messages", "prompt", "tools", "add_generation_prompt", "continue_final_message")
        return {"model": model} | {name: self.fields[name] for name in names if name in self.fields}


def read_asked(page: Page, data: bytes, *, model: str, most_samples: int) -> Asked:
    """Read a request's body.

    Args:
        page: where it was sent.
        data: the body.
        model: that is served.
        most_samples: answers that one request may ask for.

    Raises:
        Refused: it is no such request, or asks for what does not pass.

    Example:
        >>> body = b'{"messages": [{"role": "user", "content": "2+2?"}], "user": "me", "stream": true}'
        >>> asked = read_asked("/chat/completions", body, model="m", most_samples=1)
        >>> sorted(asked.body("m", 64))
        ['max_tokens', 'messages', 'model', 'n', 'return_token_ids', 'stream', 'stream_options']
    """
    raw = {name: value for name, value in _object(data).items() if value is not None and name not in _LEFT_OUT}
    if raw.pop("model", model) != model:
        raise Refused(404, f"This server has one model, {model}: leave the name away, or write it so.")
    checks = _CHAT if page == "/chat/completions" else _COMPLETION
    if unknown := sorted(set(raw) - set(checks)):
        raise Refused(400, f"{_shown(unknown[0])} does not pass here: leave it away.")
    needed = "messages" if page == "/chat/completions" else "prompt"
    if needed not in raw:
        raise Refused(400, f"{needed!r} is missing.")
    fields = {name: checks[name](name, value) for name, value in raw.items()}
    limits = [limit for name in ("max_tokens", "max_completion_tokens") if (limit := fields.pop(name, None))]
    samples, streams = fields.pop("n", 1), fields.pop("stream", False)
    if samples > most_samples:
        raise Refused(400, f"n is {samples}, and here a request has at most {most_samples}: ask again for more.")
    images = _images(fields.get("messages", ()))
    text = json.dumps(fields, ensure_ascii=False)
    return Asked(
        page=page,
        streams=streams,
        samples=samples,
        max_tokens=min(limits, default=None),
        wants_ids=fields.pop("return_token_ids", False),
        wants_usage=fields.pop("stream_options", {}).get("include_usage", False),
        size=_bytes(text) - sum(map(len, images)) + IMAGE_TOKENS * len(images),
        fields=fields,
    )


def _object(data: bytes) -> dict[str, Any]:
    def no_number(name: str) -> float:
        raise ValueError(name)

    try:
        value = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The request is no JSON object.") from error
    if not isinstance(value, dict):
        raise Refused(400, "The request is no JSON object.")
    return value


def _bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise Refused(400, "The request holds half a character, which no text can.") from error


def _images(messages: list[dict[str, Any]]) -> list[str]:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


# Checks: each takes a field's name and value, and returns the value as it goes on.


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, "a number")
    return value


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(name, f"a whole number from {low} to {high}")
        return value

    return check


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a text")
    return value


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise _wrong(name, f"a text of at most {_LONGEST_NAME} characters")
    return value


def _stop(name: str, value: Any) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > _MOST_STOPS:
        raise _wrong(name, f"a text, or a list of at most {_MOST_STOPS}")
    if any(not isinstance(word, str) or not 0 < len(word) <= _LONGEST_STOP for word in words):
        raise _wrong(name, f"texts of at most {_LONGEST_STOP} characters")
    return words


def _schema(name: str, value: Any) -> dict[str, Any]:
    nodes, depth, level = 0, 0, [value]
    while level:
        nodes, depth = nodes + len(level), depth + 1
        if nodes > _MOST_NODES or depth > _DEEPEST_SCHEMA:
            raise _wrong(name, f"a schema of at most {_MOST_NODES} values, {_DEEPEST_SCHEMA} deep")
        objects = [each for each in level if isinstance(each, dict)]
        if any(isinstance(each.get("pattern"), str) or "patternProperties" in each for each in objects):
            raise Refused(400, f"{name!r} has a pattern, which does not pass here: describe the text in words.")
        lists = [each for each in level if isinstance(each, list)]
        level = [inner for each in (*(each.values() for each in objects), *lists) for inner in each]
    if not isinstance(value, dict) or len(json.dumps(value)) > _LONGEST_SCHEMA:
        raise _wrong(name, f"a JSON object of at most {_LONGEST_SCHEMA:,} characters")
    return value


def _of(**checks: Callable[[str, Any], Any]) -> Callable[[str, Any], dict[str, Any]]:
    """An object with these fields and no other; what is null is left out."""

    def check(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(name, "an object")
        given = {key: each for key, each in value.items() if each is not None}
        if unknown := sorted(set(given) - set(checks)):
            raise Refused(400, f"{_shown(unknown[0])} in {name!r} does not pass here: leave it away.")
        return {key: checks[key](f"{name}.{key}", each) for key, each in given.items()}

    return check


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in words:
            raise _wrong(name, " or ".join(map(repr, words)))
        return str(value)

    return check


def _list_of(check_each: Callable[[str, Any], Any], most: int) -> Callable[[str, Any], list[Any]]:
    def check(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise _wrong(name, f"a list of at most {most:,}")
        return [check_each(name, each) for each in value]

    return check


def _content(name: str, value: Any) -> str | list[dict[str, Any]]:
    return value if isinstance(value, str) else _list_of(_part, _MOST_PARTS)(name, value)


def _part(name: str, value: Any) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _PARTS:
        raise Refused(400, f"{name} has a part that does not pass here: text, thinking and image_url do.")
    return _PARTS[kind](name, value)


def _data_image(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _DATA_IMAGE.fullmatch(value):
        raise _wrong(name, "the image itself (data:image/png;base64,…), since nothing is fetched for you")
    return value


def _tool_choice(name: str, value: Any) -> Any:
    return _WAYS(name, value) if isinstance(value, str) else _THAT_TOOL(name, value)


def _wrong(name: str, wanted: str) -> Refused:
    return Refused(400, f"{name!r} is to be {wanted}.")


def _shown(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


_MOST_PARTS, _MOST_MESSAGES = 1_000, 10_000
_INT64 = 2**63 - 1
_PARTS = {
    "text": _of(type=_word, text=_text),
    "thinking": _of(type=_word, thinking=_text, closed=_switch),
    "image_url": _of(type=_word, image_url=_of(url=_data_image, detail=_word)),
}
_WAYS = _one_of("none", "auto", "required")
_THAT_TOOL = _of(type=_one_of("function"), function=_of(name=_word))
_CALL = _of(id=_word, type=_one_of("function"), index=_whole(0, 1_000), function=_of(name=_word, arguments=_text))
_TOOL = _of(
    type=_one_of("function"), function=_of(name=_word, description=_text, parameters=_schema, strict=_switch)
)  # fmt: skip
_MESSAGE = _of(
    role=_one_of(*_ROLES),
    content=_content,
    name=_word,
    reasoning=_text,
    reasoning_content=_text,
    tool_calls=_list_of(_CALL, _MOST_TOOLS),
    tool_call_id=_word,
)
_FORMAT = _of(
    type=_one_of("text", "json_object", "json_schema"),
    json_schema=_of(name=_word, description=_text, schema=_schema, strict=_switch),
)
# OpenAI's own clients and others built on them send these; none changes an answer, so they are left out without a
# word. `continuous_usage_stats` costs vLLM the length of the answer for each of its tokens.
_LEFT_OUT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_SAMPLING: dict[str, Callable[[str, Any], Any]] = {
    "max_tokens": _whole(1, _INT64),
    "n": _whole(1, 1_000),
    "temperature": _number,
    "top_p": _number,
    "top_k": _whole(-1, 1_000_000),
    "min_p": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "repetition_penalty": _number,
    "seed": _whole(-_INT64, _INT64),
    "stop": _stop,
    "stream": _switch,
    "stream_options": _of(include_usage=_switch, continuous_usage_stats=_switch),
    "return_token_ids": _switch,
    "response_format": _FORMAT,
}
_CHAT = _SAMPLING | {
    "messages": _list_of(_MESSAGE, _MOST_MESSAGES),
    "max_completion_tokens": _whole(1, _INT64),
    "logprobs": _switch,
    "top_logprobs": _whole(0, _MOST_LOGPROBS),
    "tools": _list_of(_TOOL, _MOST_TOOLS),
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _switch,
    "reasoning_effort": _word,
    "thinking_token_budget": _whole(0, _INT64),
    "add_generation_prompt": _switch,
    "continue_final_message": _switch,
}
_COMPLETION = _SAMPLING | {"prompt": _text, "logprobs": _whole(0, _MOST_LOGPROBS)}
