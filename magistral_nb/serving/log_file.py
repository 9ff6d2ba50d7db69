"""A server's log: vLLM writes it by itself, so that it goes on where nobody supervises, and here it is kept short."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 10_000_000  # of a log; as much again is kept of what was before
_BLOCK = 2**20
_TRIED = 2**16  # bytes; a state has a few thousand


def fresh(path: Path) -> Path:
    """An empty log; the one of the boot before is kept beside it.

    Raises:
        OSError: the disk takes none.
    """
    if path.exists():
        path.replace(_before(path))
    path.touch(mode=0o600)
    path.write_bytes(bytes(_TRIED))  # an empty file fits on a full disk
    os.truncate(path, 0)
    return path


def rotate(path: Path, most: int = MOST_BYTES) -> bool:
    """Where the log has grown beyond `most` bytes, move what is in it beside it; whether it had.

    It is copied and cut, as vLLM keeps the file open and always writes at its end. What is written in between, within
    a millisecond or two, is lost.

    Raises:
        OSError: the disk takes no copy, or the log is gone.
    """
    if path.stat().st_size <= most:
        return False
    before = _before(path)
    before.unlink(missing_ok=True)
    with (
        path.open("r+b") as log,
        os.fdopen(os.open(before, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy,
    ):
        while block := log.read(_BLOCK):
            copy.write(block)
        copy.flush()
        log.truncate(0)
    return True


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def tail(path: Path, begin: int, most: int = MOST_BYTES) -> list[str]:
    """The log's lines from a byte on; where it was rotated since, or is very long, the last ones.

    Args:
        path: of the log.
        begin: of the boot, in bytes.
        most: bytes to read at most, from the end.
    """
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(begin if begin <= size else 0, size - most))
        return log.read().decode(errors="replace").splitlines()
