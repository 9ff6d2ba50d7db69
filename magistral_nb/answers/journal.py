"""Every answer goes to one SQLite file while it streams, so that a killed kernel loses its last second at most.

Whoever reads a stream only appends to lists. One thread for each process and file looks at them and commits twice
a second; it ends when there is nothing to do and is started again by the next question.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sqlite3
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

from magistral_nb import paths
from magistral_nb.answers import journal_file
from magistral_nb.answers.answer import Answer, Pieces
from magistral_nb.answers.journal_file import Entry, JournalFile
from magistral_nb.answers.journal_schema import NewerJournal

if TYPE_CHECKING:
    from pathlib import Path


SWITCH_VARIABLE = "MAGISTRAL_NB_JOURNAL"

_TICK_SECONDS = 0.5  # from a piece to its commit
_GATHER_SECONDS = 0.1  # from a beginning or an end to its commit, which others may then share
_LINGER_SECONDS = 5.0  # of the thread, when all is written
_RETRY_SECONDS = 5.0  # after a write that failed
_BUSY_SECONDS = 0.2  # after one that another process was in the way of
_PATIENCE_SECONDS = 30.0  # with another process that holds the file, before anything is said
_KEPT_AT_MOST = 5_000  # finished answers, if the disk fails for long
_FAREWELL_SECONDS = 5.0  # for the last write when the process ends


class _Finished(NamedTuple):
    answer: Answer
    at: float


class Journal:
    """Keeps answers in one file. No method waits for the disk, but for `flush`; none raises.

    Example:
        >>> from magistral_nb.answers.answer import Answer, Pieces
        >>> import tempfile; from pathlib import Path
        >>> kept = Journal(Path(tempfile.mkdtemp()) / "answers.sqlite3")
        >>> pieces = Pieces()
        >>> kept.begin("0" * 32, "2+2?", "abacus", "default", pieces); pieces.thinking.append("2+2=4.")
        >>> kept.finish(Answer(prompt="2+2?", thinking="2+2=4.", text="4", finish_reason="stop", id="0" * 32))
        >>> kept.flush()
        True
    """

    def __init__(self, path: Path) -> None:
        """Touch nothing yet."""
        self.path = path
        self._queue: queue.SimpleQueue[Entry | _Finished | threading.Event] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of `_thread`
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._file: JournalFile | None = None
        self._entries: dict[str, Entry] = {}  # unfinished, or not written yet
        self._changed: dict[str, Entry] = {}  # not written yet, in order
        self._told: set[str] = set()
        self._refused = False
        self._waiting: list[threading.Event] = []  # of `flush`
        self._retry_at = 0.0
        self._failing_since: float | None = None

    def begin(self, id: str, prompt: str, model: str, server: str, pieces: Pieces) -> None:  # noqa: A002
        """A question is being sent; what arrives will be found in `pieces`."""
        self._put(Entry(id, time.time(), prompt, model, server, pieces))

    def finish(self, answer: Answer) -> None:
        """It has ended, in whatever way."""
        self._put(_Finished(answer, time.time()))

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all that was handed over is written, in seconds at most; return whether it is."""
        done = threading.Event()
        self._put(done)
        self._hurry.set()
        return done.wait(timeout) and not self._changed

    def _put(self, item: Entry | _Finished | threading.Event) -> None:
        self._queue.put(item)
        if self._thread is None:
            with self._lock, contextlib.suppress(RuntimeError):  # no thread can start while Python shuts down
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="magistral_nb journal", daemon=True)
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        while True:
            try:
                self._take(self._queue.get(timeout=self._pause()))
            except queue.Empty:
                if not self._entries and self._retire():
                    return
            else:
                self._hurry.wait(_GATHER_SECONDS)
                self._hurry.clear()
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._take(self._queue.get_nowait())
            if self._waiting or time.monotonic() >= self._retry_at:
                self._commit()

    def _pause(self) -> float:
        """Seconds to wait for the next item: until the next look at open streams, or try where one has failed."""
        if self._failing_since is None:
            return _TICK_SECONDS if self._entries else _LINGER_SECONDS
        return min(max(self._retry_at - time.monotonic(), 0.01), _LINGER_SECONDS)

    def _retire(self) -> bool:
        """End the thread, unless something has just come in: `_put` looks in the opposite order."""
        with journal_file.in_use:
            self._close()
        with self._lock:
            thread, self._thread = self._thread, None
            if not self._queue.empty():
                self._thread = thread
            return self._thread is None

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, item: Entry | _Finished | threading.Event) -> None:
        """Sort an item to its answer."""
        match item:
            case Entry() as entry:
                self._entries[entry.id] = entry
            case _Finished(answer, at):
                known = self._entries.get(answer.id)
                begun = at - answer.seconds
                entry = known or Entry(answer.id, begun, answer.prompt, answer.model, answer.server, Pieces())
                entry.answer = answer
                self._entries[answer.id] = entry
            case _:
                self._waiting.append(item)
                return
        self._changed[entry.id] = entry

    def _commit(self) -> None:
        """Write what has changed, and let those go who wait for it."""
        self._changed |= {key: entry for key, entry in self._entries.items() if entry.has_more}
        try:
            # Looking at a history that there is not must not make it.
            if not self._refused and (self._changed or self.path.exists()):
                with journal_file.in_use:
                    self._write()
        except NewerJournal as newer:
            self._refused = True
            self._tell("refused", str(newer))
        except Exception as error:  # noqa: BLE001 - whatever the disk does, the question goes on
            self._fail(error)
            if journal_file.is_busy(error):
                return
        else:
            self._failing_since = None
        if self._failing_since is None:
            self._forget_written()
        while self._waiting:
            self._waiting.pop().set()

    def _write(self) -> None:
        """Write to the open file; open it first, anew where another file has taken its place."""
        if self._file is not None and not self._file.is_in_place():
            self._close()
        before = journal_file.identity(self.path)
        try:
            self._write_to(self._file)
        except sqlite3.Error as error:
            self._close()
            if not journal_file.is_corrupt(error):
                raise
            if journal_file.identity(self.path) == before:  # else another kernel has moved it already
                aside = journal_file.move_aside(self.path)
                self._tell(
                    str(aside), f"The history was damaged ({error}): a new one is begun, the old one is {aside}."
                )
            self._write_to(None)

    def _write_to(self, file: JournalFile | None) -> None:
        if file is None:
            file = self._file = JournalFile(self.path, lambda line: self._tell("network", line))
        elif self._waiting:  # somebody is going to read it
            file.finish_orphans()
        file.write(self._changed.values(), lambda line: self._tell("entry", line))

    def _fail(self, error: Exception) -> None:
        """Keep what could not be written for another try; say so, unless it is another kernel's turn."""
        now = time.monotonic()
        busy = journal_file.is_busy(error)
        self._retry_at = now + (_BUSY_SECONDS if busy else _RETRY_SECONDS)
        if self._failing_since is None:
            self._failing_since = now
        if not busy or now - self._failing_since > _PATIENCE_SECONDS:
            self._tell(
                "failing",
                f"Answers are not being kept in {self.path} ({error}): MAGISTRAL_NB_HOME=/another/folder moves it, "
                f"{SWITCH_VARIABLE}=off switches it off.",
            )
        finished = [entry.id for entry in self._changed.values() if entry.answer is not None]
        for key in finished[:-_KEPT_AT_MOST]:
            del self._entries[key], self._changed[key]

    def _forget_written(self) -> None:
        for entry in self._changed.values():
            entry.written = entry.seen
            if entry.answer is not None:
                self._entries.pop(entry.id, None)
        self._changed.clear()

    def _tell(self, matter: str, line: str) -> None:
        """One line for people, once for each matter."""
        if matter not in self._told:
            self._told.add(matter)
            with contextlib.suppress(Warning):  # where warnings are errors, they still do not stop the journal
                warnings.warn(line, stacklevel=2)


class NoJournal:
    """Keeps nothing: the journal is switched off."""

    def begin(self, id: str, prompt: str, model: str, server: str, pieces: Pieces) -> None:  # noqa: A002
        """Keep nothing."""

    def finish(self, answer: Answer) -> None:
        """Keep nothing."""

    def flush(self, timeout: float = 30.0) -> bool:  # noqa: ARG002
        """All of nothing is written."""
        return True


class _Here:
    """The journals of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.journals: dict[Path, Journal] = {}
        self.key: tuple[str | None, str | None] | None = None
        self.current: Journal | NoJournal = NoJournal()
        self.forking: int | None = None  # the thread that holds `in_use` for a fork
        self.watching = False
        self.parents: _Here | None = None  # kept, so that what the parent has open is not closed here


_here = _Here()


def journal() -> Journal | NoJournal:
    """The journal of the current home; hold on to it for as long as a stream runs.

    Example:
        >>> journal().flush()
        True
    """
    if _here.key != (key := _key()):
        with _here.lock:
            _here.current, _here.key = _open(key[1]), key
    return _here.current


def _key() -> tuple[str | None, str | None]:
    return os.environ.get(paths.HOME_VARIABLE), os.environ.get(SWITCH_VARIABLE)


def _open(switch: str | None) -> Journal | NoJournal:
    if (switch or "").strip().lower() in {"off", "0", "no", "false"}:
        return NoJournal()
    if not _here.watching:
        _here.watching = True
        atexit.register(_at_exit)
        if (processes := sys.modules.get("multiprocessing.util")) is not None:
            processes.Finalize(None, _at_exit, exitpriority=0)  # its children leave without calling atexit's
    try:
        path = paths.journal()
    except (OSError, RuntimeError):  # a home that cannot be: whatever writes there first says so
        return NoJournal()
    return _here.journals.setdefault(path, Journal(path))


def _at_exit() -> None:
    for each in _here.journals.values():
        if each._thread is not None:  # noqa: SLF001
            each.flush(_FAREWELL_SECONDS)


def _before_fork() -> None:
    """Close every connection: SQLite must not be carried over a fork."""
    if journal_file.in_use.acquire(timeout=2):
        _here.forking = threading.get_ident()
        for each in _here.journals.values():
            with contextlib.suppress(sqlite3.Error):
                each._close()  # noqa: SLF001 - it is opened again by the next write


def _after_fork() -> None:
    if _here.forking == threading.get_ident():
        _here.forking = None
        journal_file.in_use.release()


def _in_child() -> None:
    """The writing thread has stayed with the parent, and so have the answers it was writing."""
    global _here  # noqa: PLW0603
    parents = _here
    _here = _Here()
    if parents.forking == threading.get_ident():
        journal_file.in_use.release()
    else:  # the parent was writing: this process's SQLite believes that the file is in use for ever
        _here.parents = parents
        _here.key = _key()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
