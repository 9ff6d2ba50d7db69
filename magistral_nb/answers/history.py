"""The answers that were kept: found again by words, time and server, or recalled whole."""

from __future__ import annotations

import re
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from magistral_nb import paths
from magistral_nb.answers import journal_file
from magistral_nb.answers.journal import journal
from magistral_nb.answers.journal_row import CUT_SHORT, SELECT, STILL_STREAMING, as_answer, loaded
from magistral_nb.answers.journal_schema import VERSION, NewerJournal, check_version
from magistral_nb.errors import InvalidOption, MagistralError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from magistral_nb.answers.answer import Answer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')
# Written without blanks, so that the index of words takes a whole sentence for a word.
_UNBROKEN = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_ID = re.compile(r"[0-9a-f]{4,32}")
_SURELY_AN_ID = 8  # digits
_PATIENCE_SECONDS = 30.0
_COLUMNS = (
    *("id", "created", "prompt", "text", "finish_reason"),
    *("thinking_tokens", "completion_tokens", "seconds", "model", "server"),
)


def history(
    search: str | None = None,
    *,
    since: str | timedelta | datetime | None = None,
    server: str | None = None,
    limit: int = 100,
) -> pd.DataFrame:
    """The answers that were kept on this machine, newest first, one a row.

    Args:
        search: words that all occur in the question, the thinking or the answer; the last may be a word's
            beginning, and "words in quotation marks" stand together. Capitals and accents do not matter.
        since: "30m", "3h", "2d", "1w", a date such as "2026-03-01", a timedelta, or a datetime.
        server: the name of the server that was asked.
        limit: rows at most.

    Returns:
        Columns id, created (UTC), prompt, text, finish_reason, thinking_tokens, completion_tokens, seconds, model,
        server. An answer still being streamed has no finish_reason.

    Raises:
        InvalidOption: `since` or `limit` makes no sense.
        MagistralError: the file cannot be read.

    Example:
        >>> history("prime", since="2d").columns[:3].tolist()
        ['id', 'created', 'prompt']
    """
    if limit < 1:
        raise InvalidOption(f"limit={limit}: at least one row, such as limit=100.")
    after = None if since is None else moment(since, datetime.now(UTC)).timestamp()
    statement, values = _select(search, after, server, limit)
    with _reading() as db:
        rows = [] if db is None else [_row(db, found) for found in db.execute(statement, values).fetchall()]
        still = set() if db is None else _streaming(db, rows)
    return _as_frame(rows, still)


def recall(id_or_prefix: str) -> Answer:
    """The Answer with this id, as it was, trace and all.

    Args:
        id_or_prefix: the id, or as many of its first digits, four at least, as no other answer's begins with.

    Raises:
        InvalidOption: no answer has this id, or several begin so.
        MagistralError: the file cannot be read.

    Example:
        >>> recall("00c0ffee")
        Traceback (most recent call last):
        ...
        magistral_nb.errors.InvalidOption: No answer '00c0ffee' is kept: %magistral_history lists those that are.
    """
    beginning = id_or_prefix.strip().lower()
    if not _ID.fullmatch(beginning):
        raise InvalidOption(
            f"{id_or_prefix!r} is no answer's id, which is 4 to 32 hexadecimal digits: %magistral_history lists them."
        )
    found = _find(beginning)
    if not found:
        raise InvalidOption(f"No answer {beginning!r} is kept: %magistral_history lists those that are.")
    if len(found) > 1:
        raise InvalidOption(f"Several answers' ids begin with {beginning!r}: give more digits than {len(beginning)}.")
    return found[0]


def find_by_id(words: str) -> Answer | None:
    """The Answer that the words mean if they are an id, None if they are words to search for.

    A number of fewer than 8 digits is a word: somebody looks for 2027, not for the answer 2027a3….

    Raises:
        MagistralError: the file cannot be read.
    """
    beginning = words.strip().lower()
    if not _ID.fullmatch(beginning) or (beginning.isdigit() and len(beginning) < _SURELY_AN_ID):
        return None
    found = _find(beginning)
    return found[0] if len(found) == 1 else None


def _find(beginning: str) -> list[Answer]:
    """The answers whose ids begin so, two at most."""
    statement = f"{SELECT} WHERE id >= ? AND id < ? LIMIT 2"
    with _reading() as db:
        if db is None:
            return []
        rows = db.execute(statement, (beginning, beginning + "g")).fetchall()  # "g" comes after every digit
        answers = []
        for row in rows:
            answer = as_answer(db, row)
            if answer.error == CUT_SHORT and row[-1] not in journal_file.gone_writers(db) and row[-2] is None:
                answer = replace(answer, error=STILL_STREAMING)
            answers.append(answer)
        return answers


def moment(since: str | timedelta | date, now: datetime) -> datetime:
    """The moment that `since` means, `now` being now.

    Raises:
        InvalidOption: it means none.

    Example:
        >>> now = datetime(2026, 3, 10, 12, tzinfo=UTC)
        >>> print(moment("2d", now), moment("1.5h", now), moment(timedelta(weeks=1), now), sep="; ")
        2026-03-08 12:00:00+00:00; 2026-03-10 10:30:00+00:00; 2026-03-03 12:00:00+00:00
    """
    earliest = datetime(1970, 1, 2, tzinfo=UTC)
    try:
        if isinstance(since, str):
            since = _parsed(since)
        if isinstance(since, timedelta):
            return max(now - since, earliest)
        if not isinstance(since, datetime):
            since = datetime.combine(since, time())
        return max(since.astimezone(UTC), earliest)  # without a time zone it is in the local one
    except (OverflowError, ValueError):  # before the first year
        return earliest


def _parsed(since: str) -> timedelta | datetime:
    """What "2d" or "2026-03-01" says.

    Raises:
        InvalidOption: neither a span nor a date.
    """
    if span := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhdw])\s*", since.lower()):
        return timedelta(**{_UNITS[span[2]]: float(span[1])})
    try:
        return datetime.fromisoformat(since.strip())
    except ValueError:
        raise InvalidOption(f"{since!r} is no span of time: try --since 2d, or 30m, 3h, 1w, 2026-03-01.") from None


def full_text_query(search: str) -> tuple[str, list[str]]:
    r"""A search as FTS5 has it, and the words that its index cannot know: signs alone, scripts without blanks.

    Every word is quoted, so that nothing in it is taken for an operator.

    Example:
        >>> full_text_query('prime AND "two three" fact')
        ('"prime" "AND" "two three" "fact"*', [])
        >>> full_text_query("347 ×")
        ('"347"*', ['×'])
    """
    words = [quoted or plain for quoted, plain in _WORD.findall(search.replace("\0", " ")) if (quoted or plain).strip()]
    indexed = [word for word in words if re.search(r"[^\W_]", word) and not _UNBROKEN.search(word)]
    terms = [f'"{word}"' for word in indexed]
    if terms and not search.rstrip().endswith('"'):
        terms[-1] += "*"
    return " ".join(terms), [word for word in words if word not in indexed]


def _select(search: str | None, after: float | None, server: str | None, limit: int) -> tuple[str, list[Any]]:
    """The statement that finds the rows, and its values."""
    terms, others = full_text_query((search or "").encode("utf-8", "replace").decode())
    conditions: list[str] = []
    values: list[Any] = []

    def also(condition: str, *given: object) -> None:
        conditions.append(condition)
        values.extend(given)

    if terms:
        also("words MATCH ?", terms)
    for word in others:
        pattern = "%" + re.sub(r"([%_\\])", r"\\\1", word) + "%"
        also(
            r"(a.prompt LIKE ? ESCAPE '\' OR a.thinking LIKE ? ESCAPE '\' OR a.text LIKE ? ESCAPE '\')", *[pattern] * 3
        )
    if after is not None:
        also("a.created >= ?", after)
        if terms:  # the index of words knows numbers only, which grow with time
            also("words.rowid >= (SELECT min(number) FROM answers WHERE created >= ?)", after)
    if server is not None:
        name = server.encode("utf-8", "replace").decode()
        if terms:  # looked up before the row is read: a common word has many
            also("+words.rowid IN (SELECT number FROM answers WHERE server = ?)", name)
        else:
            also("a.server = ?", name)
    tables = "words CROSS JOIN answers a ON a.number = words.rowid" if terms else "answers a"
    order = "words.rowid" if terms else "a.created"
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ", ".join(f"a.{name}" for name in ("number", "writer", *_COLUMNS))
    statement = f"SELECT {columns} FROM {tables} {where} ORDER BY {order} DESC LIMIT ?"  # noqa: S608 - no user's text
    return statement, [*values, limit]


def _row(db: sqlite3.Connection, found: tuple[Any, ...]) -> dict[str, Any]:
    number, writer, *rest = found
    row = dict(zip(_COLUMNS, rest, strict=True)) | {"writer": writer}
    row["prompt"], row["text"] = loaded(row["prompt"]), loaded(row["text"])
    if row["finish_reason"] is None:
        (whole,) = db.execute(f"{SELECT} WHERE number = ?", (number,))
        answer = as_answer(db, whole)
        row |= {"text": answer.text, "seconds": answer.seconds}
    return row


def _streaming(db: sqlite3.Connection, rows: list[dict[str, Any]]) -> set[str]:
    """The ids of the unfinished answers whose process still runs."""
    unfinished = [row for row in rows if row["finish_reason"] is None]
    gone = journal_file.gone_writers(db) if unfinished else []
    return {row["id"] for row in unfinished if row["writer"] not in gone}


def _as_frame(rows: list[dict[str, Any]], streaming: set[str]) -> pd.DataFrame:
    import pandas as pd

    rows.sort(key=lambda row: row["created"], reverse=True)
    for row in rows:
        if row["finish_reason"] is None and row["id"] not in streaming:
            row["finish_reason"] = "error"
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    frame["finish_reason"] = pd.Series([row["finish_reason"] for row in rows], dtype=object)  # None stays None
    frame["created"] = pd.to_datetime([datetime.fromtimestamp(row["created"], UTC) for row in rows], utc=True)
    whole = {name: "Int64" for name in _COLUMNS if name.endswith("_tokens")}
    return frame.astype(whole | {"seconds": float})


@contextmanager
def _reading() -> Iterator[sqlite3.Connection | None]:
    """A connection that only reads, None where there is no history yet; what is on its way is written first."""
    journal().flush()
    path = paths.journal()
    if not journal_file.in_use.acquire(timeout=_PATIENCE_SECONDS):
        raise MagistralError(f"The history {path} is being written by another process: try again.")
    try:
        if not path.exists():
            yield None
            return
        db = journal_file.connect(path, read_only=True)
        try:
            if check_version(db, path) < VERSION:
                raise MagistralError(f"The history {path} is of an older version: one question brings it up to date.")
            yield db
        finally:
            db.close()
    except NewerJournal as newer:
        raise MagistralError(str(newer)) from newer
    except (OSError, sqlite3.Error) as error:
        raise MagistralError(
            f"The history {path} cannot be read ({error}): move it away to begin a new one."
        ) from error
    finally:
        journal_file.in_use.release()
