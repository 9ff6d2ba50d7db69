"""Files that are this user's alone: read only where that is so, and only ever replaced as a whole."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from magistral_nb.errors import MagistralError

_MOST_BYTES = 4 * 2**20  # a thousand students are 0.3 MB


def read_private(path: Path) -> str | None:
    """The text of a file that only this user may read and write; None where there is no file.

    Raises:
        MagistralError: it is no plain file of this user's alone, too long or no text.
    """
    try:
        file = open(path, "rb", opener=_open)  # noqa: SIM115 - Path.open takes no opener; closed below
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else f"it cannot be read ({error.strerror})"
        raise _untrusted(path, why) from error
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _untrusted(path, "it is no plain file")
        if found.st_uid != os.geteuid():
            raise _untrusted(path, "it is another user's")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise _untrusted(path, "other users may read or write it")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise _untrusted(path, "it is too long")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _untrusted(path, "it is no text") from error


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


def _open(path: str, flags: int) -> int:
    """Follows no link, and does not wait until somebody writes to a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _untrusted(path: Path, why: str) -> MagistralError:
    return MagistralError(f"{path} is not trusted, since {why}: look at it, then remove it or set it right.")
