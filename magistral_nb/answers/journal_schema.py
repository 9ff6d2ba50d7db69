"""The journal's tables, and how a file of an older version gets them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1

# The short columns stand first: a row's long texts go to pages that a listing then never reads.
# A row whose finish_reason is NULL is being streamed, and its text is in `pieces`.
_SCHEMA = (
    """CREATE TABLE writers (
        number INTEGER PRIMARY KEY, host TEXT, pid INTEGER, started REAL, seen REAL, UNIQUE (host, pid, started))""",
    """CREATE TABLE answers (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created REAL NOT NULL, server TEXT NOT NULL,
        model TEXT NOT NULL, writer INTEGER, finish_reason TEXT, thinking_tokens INTEGER, completion_tokens INTEGER,
        seconds REAL, fields TEXT, prompt TEXT NOT NULL, text TEXT, thinking TEXT)""",
    "CREATE INDEX answers_created ON answers (created)",
    "CREATE INDEX answers_server ON answers (server, created)",
    "CREATE INDEX answers_unfinished ON answers (writer) WHERE finish_reason IS NULL",
    """CREATE TABLE pieces (
        number INTEGER PRIMARY KEY, answer INTEGER NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, piece TEXT)""",
    "CREATE INDEX pieces_answer ON pieces (answer)",
    """CREATE VIRTUAL TABLE words USING fts5 (
        prompt, thinking, text, content='answers', content_rowid='number', columnsize=0,
        tokenize='unicode61 remove_diacritics 2')""",
)


class NewerJournal(Exception):
    """The file was written by a newer magistral_nb; it was not touched."""


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """The file's version; 0 is a new file or one from before there were numbers.

    Raises:
        NewerJournal: this package is too old for it.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise NewerJournal(
            f"The history {path} was written by a newer magistral_nb (its version is {version}, known here is "
            f"{VERSION}), so it is left alone: pip install -U magistral-nb."
        )
    return version


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a file, new or of an older version, up to date.

    Raises:
        NewerJournal: this package is too old for it.
        sqlite3.Error: nothing was changed.
    """
    with transaction(db):
        for step in range(check_version(db, path), VERSION):  # another kernel may have been faster
            _MIGRATIONS[step](db)
        db.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing; no other process writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _from_version_0(db: sqlite3.Connection) -> None:
    """A new file, or one that has answers but neither usage nor pieces nor an index of words."""
    old = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone()
    if old:
        db.execute("ALTER TABLE answers RENAME TO answers_0")
    for statement in _SCHEMA:
        db.execute(statement)
    if not old:
        return
    columns = "id, created, prompt, thinking, text, finish_reason, model, server"
    db.execute(f"INSERT INTO answers ({columns}) SELECT {columns} FROM answers_0 ORDER BY created")  # noqa: S608
    for number, key, reason, model, server in db.execute(
        "SELECT number, id, finish_reason, model, server FROM answers"
    ).fetchall():
        fields = json.dumps({"id": key, "finish_reason": reason, "model": model, "server": server})
        db.execute("UPDATE answers SET fields = ? WHERE number = ?", (fields, number))
    db.execute("INSERT INTO words (words) VALUES ('rebuild')")
    db.execute("DROP TABLE answers_0")


_MIGRATIONS = (_from_version_0,)  # each from the version that is its place
