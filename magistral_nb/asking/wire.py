"""Bytes of a chat completion in, events out. Pure: no socket, no clock.

Server-sent events, one JSON object in each `data:` line, or a whole reply that was not streamed. What is
thinking in them is `magistral_nb.asking.trace`'s business, and so is what is counted.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.events import Event, Finished, PromptCounted, Queued, UsageReported
from magistral_nb.asking.trace import MARKS, Begins, Marks, Trace
from magistral_nb.dialect import THINKING_FIELDS
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD, _OLDER_FIELD = THINKING_FIELDS
_QUEUED = re.compile(rb": magistral_nb queue ([1-9]\d{0,5}) of ([1-9]\d{0,5})\s*")  # a comment of `sharing`'s
_scan = json.JSONDecoder().raw_decode  # json.loads costs half as much again


class Wire:
    r"""Decodes one stream, cut anywhere.

    Example:
        >>> wire = Wire()
        >>> list(wire.feed(b'data: {"choices": [{"delta": {"reasoning": "Hm'))
        []
        >>> list(wire.feed(b'm"}}]}\n\n'))
        [Thinking(text='Hmm', tokens=None, ids=(), choice=0)]
        >>> list(wire.feed(b'data: {"choices": [{"delta": {"content": "4"}}]}')) + list(wire.close())
        [Said(text='4', tokens=None, choice=0)]
    """

    def __init__(self, *, begins: Begins = "anyhow", marks: Marks = MARKS) -> None:
        """Begin a stream; for the arguments see Trace."""
        self._begins: Begins = begins
        self._marks = marks
        self._rest = bytearray()  # a line that is not whole yet
        self._body: list[bytes] = []  # the lines of a reply that is not a stream
        self._traces: dict[int, Trace] = {}
        self._prompt_counted = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes.

        Raises:
            Rejected: the server reported an error in mid-stream, or sent what is no chat completion.
        """
        if b"\n" not in data:
            self._rest += data
            return
        lines = data.split(b"\n")
        if self._rest:
            lines[0] = bytes(self._rest + lines[0])
            self._rest.clear()
        self._rest += lines.pop()
        try:
            for line in lines:
                if line and line != b"\r":
                    yield from self._line(line)
        except (AttributeError, TypeError) as error:  # JSON, but of no shape that anybody documents
            raise Rejected(f"The server sent what is no chat completion ({error}): is the address right?") from error

    def close(self) -> Iterator[Event]:
        """What was held back, once no more bytes can come: call it after the last `feed`, also of a stream cut off.

        Raises:
            Rejected: the whole reply is an error.
        """
        last = bytes(self._rest)
        self._rest.clear()
        if self._body:
            body, self._body = b"\n".join([*self._body, last]), []
            yield from self._events(_json(body, {}))
        elif last.startswith((b"data:", b"{")):
            yield from self._events(_json(last.removeprefix(b"data:"), {}))
        yield from self._flush()

    def _line(self, line: bytes) -> Iterator[Event]:
        if line.startswith(b"data:"):
            payload = line[5:].strip()
            if payload == b"[DONE]":
                return self._flush()
            if payload:
                return self._events(_json(payload))
        elif line.startswith(b":"):
            if queued := _QUEUED.fullmatch(line):
                return iter([Queued(int(queued[1]), int(queued[2]))])
        elif self._body:
            self._body.append(line)
        elif not self._traces and line.startswith(b"{"):
            if whole := _json(line, {}):  # an object a line
                return self._events(whole)
            self._body.append(line)
        return iter(())  # another comment, a keep-alive, `event:`, `id:`, `retry:`

    def _flush(self) -> Iterator[Event]:
        for trace in self._traces.values():
            yield from trace.end()

    def _events(self, payload: dict[str, Any]) -> Iterator[Event]:
        if not self._prompt_counted and (prompt := payload.get("prompt_token_ids")):
            self._prompt_counted = True
            yield PromptCounted(len(prompt))
        for choice in payload.get("choices") or ():
            index = choice.get("index") or 0
            trace = self._traces.get(index)
            whole = None
            if trace is None:
                trace = self._traces[index] = Trace(index, begins=self._begins, marks=self._marks)
                whole = choice.get("message")
            if (delta := whole or choice.get("delta")) is not None:
                thinking = delta.get(_FIELD) or delta.get(_OLDER_FIELD) or ""  # where both stand they are the same
                text = delta.get("content") or ""
                ids = choice.get("token_ids")
                if whole or text.__class__ is not str or thinking.__class__ is not str:
                    yield from _add_parts(trace, thinking, text, ids)
                elif text or thinking or not delta.get("tool_calls"):
                    yield from trace.add(thinking, text, ids)
            if reason := choice.get("finish_reason"):
                yield from trace.end(reason)
                yield Finished(reason, index)
        if usage := payload.get("usage"):
            details = usage.get("completion_tokens_details") or {}
            yield UsageReported(
                usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("reasoning_tokens")
            )
        if (error := payload.get("error")) or payload.get("object") == "error":
            yield from self._flush()
            raise Rejected(f"The server broke off: {error_text(error or payload)}.")


def _add_parts(trace: Trace, thinking: Any, content: Any, ids: list[int] | None) -> Iterator[Event]:
    """Add what is not two strings: Mistral's content list, or a whole reply.

    Its tokens can be told apart by the mark among them if thinking and answer came in fields; otherwise not.
    """
    if isinstance(content, str):
        yield from trace.add(_text(thinking), content, ids if thinking else None)
        return
    if thinking:
        yield from trace.add(_text(thinking), "", None)
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            yield from trace.add("", part, None)
        elif isinstance(part, dict) and part.get("type") == "thinking":
            yield from trace.add(_text(part.get("thinking")), "", None)
        elif isinstance(part, dict) and part.get("type") == "text":
            yield from trace.add("", _text(part.get("text")), None)


def _text(value: Any) -> str:
    """A string, or the strings in a list of text chunks."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _json(payload: bytes, otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object; what is none is an error unless `otherwise` says what to take it for."""
    try:
        value, _ = _scan(payload.decode(errors="replace").strip())
    except ValueError as error:
        if otherwise is not None:
            return otherwise
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
