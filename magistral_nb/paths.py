"""Where the package writes: one place to look, one environment variable to move it all."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

from magistral_nb.errors import MagistralError
from magistral_nb.place import Place
from magistral_nb.private_file import HAS_OWNERS, OTHERS

HOME_VARIABLE = "MAGISTRAL_NB_HOME"
_APP = "magistral_nb"
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]")
_SOCKET_FOLDER = 85  # bytes; the system allows 107 for a socket's whole path, and its name has 22 with its slash


def _root(kind: str) -> Path:
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home).expanduser().absolute() / kind
    import platformdirs

    return Path(platformdirs.user_cache_dir(_APP) if kind == "cache" else platformdirs.user_data_dir(_APP))


def engines() -> Path:
    """Environments with a vLLM in each (for a CPU 2.3 GB, for CUDA up to 11 GB) and the logs of how they were made.

    Safe to delete while no server runs: `magistral-nb install` makes them anew.
    """
    return _root("cache") / "engines"


def servers() -> Path:
    """State files and logs of this machine's servers, in a folder that only its owner can read.

    Each machine has one of its own, since machines that share a home share no processes.

    Raises:
        MagistralError: it cannot be made, or be kept to oneself.
    """
    return _private(_private(_root("data") / "servers") / _NO_NAME.sub("-", Place.here().node or "here")[:64])


def of_all_nodes(name: str) -> list[Path]:
    """Files of this name in `servers`, of this machine and of others that share the home."""
    return sorted(servers().parent.glob(f"*/{name}"))


def sockets() -> Path:
    """A folder that only its owner can enter, with a path so short that a Unix socket fits in it.

    The one of the state files, or one in a folder for temporary files. Not XDG_RUNTIME_DIR, which is removed when its
    user logs out, while a server goes on.

    Raises:
        MagistralError: it cannot be made, or be kept to oneself.
    """
    roots = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108 - what is made there is looked at by _private
    folders = [root.absolute() / f"{_APP}-{os.getuid()}" for root in roots]
    if _fits(beside := servers()):
        return beside
    return _private(next(filter(_fits, folders), folders[-1]), "TMPDIR")


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) <= _SOCKET_FOLDER


def _private(folder: Path, variable: str = HOME_VARIABLE) -> Path:
    """Make a folder that nobody else can enter, or see that it is one; links are not followed.

    Args:
        folder: where.
        variable: of the environment, that leads elsewhere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not HAS_OWNERS:
            return folder
        if found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode) and found.st_mode & OTHERS:
            folder.chmod(stat.S_IRWXU)
            found = folder.lstat()
    except OSError as error:
        why = error.strerror
    else:
        if not stat.S_ISDIR(found.st_mode):
            why = "it is a link"
        elif found.st_uid != os.getuid():
            why = f"it belongs to user {found.st_uid}, and you are {os.getuid()}"
        elif found.st_mode & OTHERS:
            why = "its disk knows no permissions, so that others could read keys"
        else:
            return folder
    raise MagistralError(f"{folder} cannot be used ({why}): set {variable} to a folder that can.")


def journal() -> Path:
    """The file that keeps every answer. Nothing is made here: a question does not wait for a disk."""
    return _root("data") / "history" / "answers.sqlite3"
