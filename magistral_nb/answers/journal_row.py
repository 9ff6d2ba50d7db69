"""An Answer as a row of the journal, and back."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from magistral_nb.answers.answer import Answer

if TYPE_CHECKING:
    import sqlite3

CUT_SHORT = "The process ended while it streamed."
STILL_STREAMING = "It is still being streamed: recall it again for the rest."
SELECT = "SELECT number, id, created, prompt, model, server, thinking, text, fields, writer FROM answers"
TEXTS = ("prompt", "thinking", "text")
_KEY = re.compile(
    r"""\b(?:hf_|sk-|gsk_|xai-|glpat-|gh[pousr]_|AIza)[\w-]{6,}"""
    r"""|(?<=\bBearer\s)\s*[^\s"',;]+"""
    r"""|(?<=://)[^\s/@]+(?=@)"""
    r"""|(?i:(?<=api_key=)|(?<=api-key=)|(?<=apikey=)|(?<=api_key:)|(?<=api-key:))\s*[^\s"',;&]+"""
)


def as_answer(db: sqlite3.Connection, row: tuple[Any, ...]) -> Answer:
    """The Answer of one of SELECT's rows; one that was never finished is an error with all its pieces."""
    number, key, created, prompt, model, server, thinking, text, fields, _writer = row
    if fields is not None:
        texts = {"prompt": loaded(prompt), "thinking": loaded(thinking), "text": loaded(text)}
        return Answer.from_dict(json.loads(fields) | texts)
    pieces: dict[str, list[str]] = {"thinking": [], "text": []}
    last = created
    found = db.execute("SELECT kind, piece, at FROM pieces WHERE answer = ? ORDER BY number", (number,))
    for kind, piece, at in found:
        pieces[kind].append(loaded(piece))
        last = at
    return Answer(
        prompt=loaded(prompt),
        thinking="".join(pieces["thinking"]),
        text="".join(pieces["text"]),
        finish_reason="error",
        id=key,
        seconds=max(0.0, last - created),
        model=model,
        server=server,
        error=CUT_SHORT,
    )


def fields_json(answer: Answer) -> str:
    """All of an Answer but its long texts; what looks like a key in its error is left out."""
    values = answer.to_dict()
    for name in (*TEXTS, "tokens_per_second"):
        del values[name]
    values["error"] = None if answer.error is None else without_keys(answer.error)
    return json.dumps(values)


def without_keys(text: str) -> str:
    """The text without what looks like an API key.

    Example:
        >>> without_keys("401: hf_abcdefgh1234 is wrong; sent Authorization: Bearer abc.def")
        '401: (key) is wrong; sent Authorization: Bearer (key)'
    """
    return _KEY.sub("(key)", text)


def loaded(value: str | bytes | None) -> str:
    """A text as `stored` stored it."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value or ""


def stored(text: str) -> str | bytes:
    """Text as SQLite takes it: half a surrogate pair, which a cut stream may end with, goes as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text
