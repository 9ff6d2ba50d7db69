"""Bytes of a streamed chat completion in, events out. Pure: no socket, no clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.events import Event, Finished, Said, Thinking, UsageReported
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator


class Wire:
    r"""Decodes one stream, cut anywhere.

    Example:
        >>> wire = Wire()
        >>> list(wire.feed(b'data: {"choices": [{"delta": {"reasoning": "Hm'))
        []
        >>> list(wire.feed(b'm"}}]}\n\n'))
        [Thinking(text='Hmm', tokens=None)]
    """

    def __init__(self) -> None:
        """Begin a stream."""
        self._rest: list[bytes] = []
        self._kind: type[Thinking | Said] | None = None
        self._silent = 0  # tokens whose text has not come yet

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes.

        Raises:
            Rejected: the server reported an error in mid-stream.
        """
        head, *tail = data.split(b"\n")
        self._rest.append(head)
        for piece in tail:
            line = b"".join(self._rest).strip()
            self._rest = [piece]
            if line.startswith(b"data:") and (payload := line[5:].strip()) != b"[DONE]":
                yield from self._events(_json(payload))

    def _events(self, payload: dict[str, Any]) -> Iterator[Event]:
        if error := payload.get("error"):
            raise Rejected(f"The server broke off: {error_text(error)}.")
        for choice in payload.get("choices") or ():
            delta = choice.get("delta") or {}
            ids = choice.get("token_ids")
            tokens = None if ids is None else len(ids)
            # vLLM from 0.12 on says `reasoning`, older ones and llama.cpp `reasoning_content`; 0.11 says both.
            thinking, said = delta.get("reasoning") or delta.get("reasoning_content"), delta.get("content")
            if thinking:
                yield Thinking(thinking, self._count(Thinking, tokens))
                tokens = None if tokens is None else 0  # a chunk's ids are counted once
            if said:
                yield Said(said, self._count(Said, tokens))
            if not thinking and not said:
                self._silent += tokens or 0
            if reason := choice.get("finish_reason"):
                yield Finished(reason)
        if usage := payload.get("usage"):
            details = usage.get("completion_tokens_details") or {}
            yield UsageReported(
                usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("reasoning_tokens")
            )

    def _count(self, kind: type[Thinking | Said], tokens: int | None) -> int | None:
        """This chunk's tokens and the silent ones before it: bytes of a character that was not whole yet.

        Where thinking begins or ends, one of the silent tokens is the mark itself. vLLM's own
        reasoning_tokens leave the marks out, and so does this.
        """
        silent = self._silent if kind is self._kind else max(0, self._silent - 1)
        self._kind, self._silent = kind, 0
        return None if tokens is None else tokens + silent


def _json(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise Rejected(f"The server sent what is no JSON ({error}): is this an OpenAI-compatible server?") from error
    return value if isinstance(value, dict) else {}


def error_text(body: Any) -> str:
    r"""What a server says of an error, on one line, whatever shape it chose.

    Example:
        >>> error_text({"error": {"message": "no such model.\n"}})
        'no such model'
    """
    while isinstance(body, dict):
        inner = body.get("error") or body.get("message") or body.get("detail")
        body = json.dumps(body) if inner is None else inner
    return " ".join(str(body).split())[:500].rstrip(".")
