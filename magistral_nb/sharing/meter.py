r"""Counts a stream's tokens on the way, and takes out what was not asked for. Pure: bytes in, bytes out.

vLLM is always asked for token ids and for the counts at the end (see Asked.body). The ids of each piece are its exact
number of tokens; a vLLM that knows none (before 0.10.2) is counted by pieces until the counts come.
"""

from __future__ import annotations

import json
from typing import Any

from magistral_nb.dialect import THINKING_FIELDS

_END = b"\n\n"  # of a server-sent event, as vLLM writes it
_DONE = b"data: [DONE]"
_SERVER_ERROR = 500


class Meter:
    r"""The meter of one stream.

    Attributes:
        prompt_tokens: of the prompt, as soon as they are known.
        completion_tokens: of all samples so far; exact once the counts have come.
        is_done: the stream has reached its end mark.
        has_failed: the server itself has failed, and what it said of that did not go on.

    Example:
        >>> meter = Meter(wants_ids=False, wants_usage=False)
        >>> meter.feed(b'data: {"choices": [{"delta": {"content": "4"}, "token_ids": [7, 8]}]}\n\n')
        b'data: {"choices":[{"delta":{"content":"4"}}]}\n\n'
        >>> meter.completion_tokens
        2
    """

    def __init__(self, *, wants_ids: bool, wants_usage: bool) -> None:
        """Nothing has come yet.

        Args:
            wants_ids: the tokens' numbers stay in.
            wants_usage: the counts at the end stay in.
        """
        self.prompt_tokens = self.completion_tokens = 0
        self.is_done = self.has_failed = False
        self._wants_ids, self._wants_usage = wants_ids, wants_usage
        self._rest = b""  # an event that is not whole yet

    def feed(self, data: bytes) -> bytes:
        """What goes on of the events that `data` completes."""
        *events, self._rest = (self._rest + data).split(_END)
        return b"".join(map(self._passed, events))

    def _passed(self, event: bytes) -> bytes:
        if event.startswith(_DONE):
            self.is_done = True
            return b"" if self.has_failed else event + _END
        try:
            chunk = json.loads(event.removeprefix(b"data:"))
        except ValueError:
            return b""  # a comment or what else is no part of the answer
        if not isinstance(chunk, dict):
            return b""
        self.has_failed |= _is_failure(chunk.get("error"))
        choices = chunk.get("choices") or []
        self._count(chunk, choices)
        if self.has_failed or (not choices and chunk.get("usage") and not self._wants_usage):
            return b""
        if self._wants_ids:
            return event + _END
        for holder in (chunk, *choices):
            for name in _IDS:
                holder.pop(name, None)
        return b"data: " + compact(chunk) + _END

    def _count(self, chunk: dict[str, Any], choices: list[dict[str, Any]]) -> None:
        self.prompt_tokens = len(chunk.get("prompt_token_ids") or ()) or self.prompt_tokens
        if usage := chunk.get("usage"):
            self.prompt_tokens, self.completion_tokens = counts(usage)
            return
        for choice in choices:
            ids = choice.get("token_ids")
            self.completion_tokens += len(ids) if ids is not None else _has_text(choice)


_IDS = ("token_ids", "prompt_token_ids", "prompt_text")


def counts(usage: dict[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and completion, as a reply reports them.

    Example:
        >>> counts({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14})
        (9, 5)
    """
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def compact(value: Any) -> bytes:
    """JSON on one line without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _is_failure(error: Any) -> bool:
    """Whether this is the server's own error, as vLLM streams it; those of a request go on."""
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, int) and code >= _SERVER_ERROR


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or choice
    return any(delta.get(name) for name in (*THINKING_FIELDS, "content", "text", "tool_calls"))
