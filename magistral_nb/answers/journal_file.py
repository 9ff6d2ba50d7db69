"""The journal's file: its versions, how it is opened, and what is written to it. `journal` says when."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import threading
import time
import uuid
from typing import TYPE_CHECKING

from magistral_nb.answers.file_system import network_file_system
from magistral_nb.answers.journal_row import SELECT, TEXTS, as_answer, fields_json, stored
from magistral_nb.answers.journal_schema import VERSION, check_version, migrate, transaction
from magistral_nb.answers.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from magistral_nb.answers.answer import Answer, Pieces

# Held by whoever uses a connection of this process. SQLite keeps its locks in memory that a fork copies, so
# that a child of a process with an open connection could destroy the file: `journal` takes this before a fork.
in_use = threading.Lock()

_BUSY_SECONDS = 10.0  # how long another kernel may be waited for
_CHECKPOINT_PAGES = 8000  # 32 MB
_SEEN_EVERY = 60.0  # seconds between two signs of life for other machines


@dataclasses.dataclass(slots=True)
class Entry:
    """One answer, and what of it is yet to be written.

    Attributes:
        created: when it was asked, seconds since the epoch.
        pieces: all that has arrived.
        written: how many of the thinking's and the text's are in the file.
        seen: how many the last write found; that it was written is known once the transaction has ended.
        answer: once it is finished; the pieces do not matter then.
    """

    id: str
    created: float
    prompt: str
    model: str
    server: str
    pieces: Pieces
    written: tuple[int, int] = (0, 0)
    seen: tuple[int, int] = (0, 0)
    answer: Answer | None = None

    @property
    def has_more(self) -> bool:
        """Whether pieces have arrived that are not in the file."""
        return (len(self.pieces.thinking), len(self.pieces.text)) != self.written


class JournalFile:
    """An open journal, for one thread at a time."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        """Open the file, or make it; older versions are brought up to date, dead writers' answers finished.

        Args:
            path: of the file.
            tell: takes a line for people.

        Raises:
            NewerJournal: the file is of a later version.
            sqlite3.Error: it cannot be opened, or is no journal at all.
            OSError: its folder cannot be made.
        """
        _make(path)
        self._path = path
        self._identity = identity(path)
        self._db = connect(path)
        self._me: int | None = None
        self._seen = 0.0
        try:
            self._prepare(tell)
            self._me = self._enter()
            self.finish_orphans()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the last one to close folds SQLite's log into the file."""
        if self._me is not None:
            with contextlib.suppress(sqlite3.Error):  # a row too many does no harm, waiting here would
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute(
                    """DELETE FROM writers WHERE number = :me
                    AND NOT EXISTS (SELECT 1 FROM answers WHERE writer = :me AND finish_reason IS NULL)""",
                    {"me": self._me},
                )
        self._db.close()

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file: somebody may have moved or deleted it."""
        return identity(self._path) == self._identity

    def write(self, entries: Collection[Entry], tell: Callable[[str], None]) -> None:
        """Write what the entries have in one transaction; of them only `seen` is changed.

        Without any it is a sign of life, for machines that cannot look whether this process runs.

        Raises:
            sqlite3.Error: nothing was written.
        """
        due = time.time() > self._seen + _SEEN_EVERY
        if not entries and not due:
            return
        with transaction(self._db):
            if due:
                self._seen = time.time()
                self._db.execute("UPDATE writers SET seen = ? WHERE number = ?", (self._seen, self._me))
            for entry in entries:
                self._write(entry, tell)

    def _write(self, entry: Entry, tell: Callable[[str], None]) -> None:
        try:
            number = self._number(entry)
            if entry.answer is not None:
                self._finish(number, entry.answer)
                return
            thinking, text = entry.pieces.thinking, entry.pieces.text
            entry.seen = (len(thinking), len(text))
            news = (thinking[entry.written[0] : entry.seen[0]], text[entry.written[1] : entry.seen[1]])
            for kind, pieces in zip(("thinking", "text"), news, strict=True):
                if pieces:
                    row = (number, kind, time.time(), stored("".join(pieces)))
                    self._db.execute("INSERT INTO pieces (answer, kind, at, piece) VALUES (?, ?, ?, ?)", row)
        except (TypeError, ValueError, OverflowError, sqlite3.ProgrammingError, sqlite3.DataError) as error:
            tell(f"Answer {entry.id[:8]} cannot be kept in the history: {error}.")

    def _number(self, entry: Entry) -> int:
        """The number of the entry's row, which is made where there is none."""
        found = self._db.execute("SELECT number FROM answers WHERE id = ?", (entry.id,)).fetchone()
        if found is not None:
            return int(found[0])
        made = self._db.execute(
            "INSERT INTO answers (id, created, prompt, model, server, writer) VALUES (?, ?, ?, ?, ?, ?)",
            (entry.id, entry.created, stored(entry.prompt), entry.model, entry.server, self._me),
        )
        entry.written = (0, 0)  # the file may be another one than before
        return int(made.lastrowid or 0)

    def _finish(self, number: int, answer: Answer) -> None:
        """Fold the pieces into the row and index its words."""
        db, select = self._db, "SELECT prompt, thinking, text FROM answers WHERE number = ?"
        if before := db.execute(f"{select} AND finish_reason IS NOT NULL", (number,)).fetchone():
            # Given up by another machine during a long silence; what its own process says is true.
            row = ("delete", number, *before)
            db.execute("INSERT INTO words (words, rowid, prompt, thinking, text) VALUES (?, ?, ?, ?, ?)", row)
        texts = [stored(getattr(answer, name)) for name in TEXTS]
        db.execute(
            """UPDATE answers SET model = ?, server = ?, finish_reason = ?, thinking_tokens = ?, completion_tokens = ?,
            seconds = ?, fields = ?, prompt = ?, thinking = ?, text = ? WHERE number = ?""",
            (
                *(answer.model, answer.server, answer.finish_reason),
                *(answer.usage.thinking_tokens, answer.usage.completion_tokens, answer.seconds),
                *(fields_json(answer), *texts, number),
            ),
        )
        db.execute("DELETE FROM pieces WHERE answer = ?", (number,))
        db.execute("INSERT INTO words (rowid, prompt, thinking, text) VALUES (?, ?, ?, ?)", (number, *texts))

    def _prepare(self, tell: Callable[[str], None]) -> None:
        """Choose SQLite's journal mode for the file system, and bring an older file up to date."""
        db = self._db
        version = check_version(db, self._path)
        network = network_file_system(self._path)
        wanted, now = ("delete" if network else "wal"), db.execute("PRAGMA journal_mode").fetchone()[0]
        if not db.execute("PRAGMA page_count").fetchone()[0]:
            db.execute("PRAGMA synchronous = OFF")  # in a new file there is nothing to lose
        if now != wanted:
            db.execute(f"PRAGMA journal_mode = {wanted}")
        if network and (version == 0 or now == "wal"):
            tell(
                f"The history {self._path} is on a network file system ({network}), so it is written with a rollback "
                "journal, which is slower: MAGISTRAL_NB_HOME=/local/folder moves it."
            )
        if version < VERSION:
            migrate(db, self._path)
        # NORMAL leaves syncing to checkpoints: a crash of the machine may lose the end, never the file. They are
        # few, since while the disk syncs nothing is committed; the last to close the file makes one.
        db.execute(f"PRAGMA synchronous = {'FULL' if network else 'NORMAL'}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")

    def _enter(self) -> int:
        """Make sure that this process is among the writers; return its number."""
        me, self._seen = Writer.me(), time.time()
        row = (me.host, me.pid, me.started, self._seen)
        self._db.execute(
            """INSERT INTO writers (host, pid, started, seen) VALUES (?, ?, ?, ?)
            ON CONFLICT (host, pid, started) DO UPDATE SET seen = excluded.seen""",
            row,
        )
        found = self._db.execute("SELECT number FROM writers WHERE (host, pid, started) = (?, ?, ?)", row[:3])
        return int(found.fetchone()[0])

    def finish_orphans(self) -> None:
        """Finish the answers of processes that were killed, and forget those processes.

        Raises:
            sqlite3.Error: nothing was written.
        """
        if not gone_writers(self._db):
            return
        with transaction(self._db):
            for writer in gone_writers(self._db):
                orphans = self._db.execute(f"{SELECT} WHERE writer IS ? AND finish_reason IS NULL", (writer,))
                for row in orphans.fetchall():
                    self._finish(row[0], as_answer(self._db, row))
                self._db.execute("DELETE FROM writers WHERE number = ?", (writer,))


def gone_writers(db: sqlite3.Connection) -> list[int | None]:
    """The numbers of those that have unfinished answers but run no more; None for one that is not known."""
    found = db.execute(
        """SELECT DISTINCT a.writer, w.number, host, pid, started, seen FROM answers a
        LEFT JOIN writers w ON w.number = a.writer WHERE a.finish_reason IS NULL"""
    )
    return [
        writer
        for writer, known, host, pid, started, seen in found.fetchall()
        if known is None or not Writer(host, pid, started).is_running(seen)
    ]


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection that any one thread may use at a time.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    if not read_only:
        return _connected(path, "rw")
    db = _connected(path, "ro")
    try:
        db.execute("PRAGMA user_version")
    except sqlite3.OperationalError as error:
        db.close()
        if _code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        # Nobody can write to this folder, so there is no log to read with it, nor room for the log's index.
        return _connected(path, "ro&immutable=1")
    return db


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def is_corrupt(error: Exception) -> bool:
    """Whether the file itself is damaged, or no database."""
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_busy(error: Exception) -> bool:
    """Whether another process holds the file."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _code(error: Exception) -> int:
    """SQLite's result code without what it says beyond; 0 where the error is none of SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def move_aside(path: Path) -> Path:
    """Rename a corrupt file and what belongs to it; return the new path.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}")
    for ending in ("-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(f"{aside}{ending}")
    path.rename(aside)
    return aside


def _make(path: Path) -> None:
    """Make the file and its folder, for their owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Only ever a file that is new: closing any descriptor of a database drops the locks this process has on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        path.parent.chmod(0o700)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at this path from another one that takes its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
