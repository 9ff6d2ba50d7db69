"""Files that are this user's alone: read only where that is so, and only ever replaced as a whole."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

# On Windows a home is its owner's alone by inheritance, and there are no links that anybody may make, nor these flags.
HAS_OWNERS = hasattr(os, "getuid")
OTHERS = stat.S_IRWXG | stat.S_IRWXO
# Neither a link is followed nor a pipe waited for.
_FLAGS = os.O_RDONLY | (os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC if HAS_OWNERS else 0)
_MOST_BYTES = 2**20  # a state has a few thousand, and a class of a thousand 0.3 MB


class Untrusted(ValueError):
    """Somebody else may have written the file, or it is none; the message says why, as "it is a link"."""


def read_private(path: Path) -> str:
    """The text of a file that nobody but this user can have written.

    Raises:
        FileNotFoundError: there is none.
        Untrusted: it is not to be believed.
    """
    try:
        handle = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else f"it cannot be read: {error.strerror}"
        raise Untrusted(why) from error
    if why := _doubt(os.fstat(handle)):
        os.close(handle)
        raise Untrusted(why)
    with os.fdopen(handle, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise Untrusted("it is too large")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Untrusted("it is no text") from error


def write_private(path: Path, text: str) -> None:
    """Replace the file as a whole, so that nobody ever reads half of one; no other user may read it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _doubt(found: os.stat_result) -> str:
    """Why it is not to be believed; empty where it is."""
    if not stat.S_ISREG(found.st_mode):
        return "it is no file"
    if not HAS_OWNERS:
        return ""
    if found.st_uid != os.getuid():
        return f"it belongs to user {found.st_uid}"
    return "others may read or write it" if found.st_mode & OTHERS else ""
