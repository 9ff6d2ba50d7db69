"""An Answer as a row of the journal, and back."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from magistral_nb.answers.answer import Answer, Usage

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
        rest = _known(json.loads(fields), Answer)
        rest["usage"] = Usage(**_known(rest.get("usage", {}), Usage))
        return Answer(prompt=loaded(prompt), thinking=loaded(thinking), text=loaded(text), **rest)
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


def _known(values: dict[str, Any], kind: type[Answer | Usage]) -> dict[str, Any]:
    """Those values that are fields today."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def fields_json(answer: Answer) -> str:
    """All of an Answer but its long texts; what looks like a key in its error is left out."""
    values = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    for name in TEXTS:
        del values[name]
    values["error"] = None if answer.error is None else without_keys(answer.error)
    return json.dumps(values, default=_plain, skipkeys=True)


def _plain(value: Any) -> Any:
    """A parsed answer's objects as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic's
        return dump(mode="json")
    return str(value)


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
