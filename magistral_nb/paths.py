"""Where the package writes: one place to look, one environment variable to move it all."""

from __future__ import annotations

import os
from pathlib import Path

from magistral_nb.errors import MagistralError

HOME_VARIABLE = "MAGISTRAL_NB_HOME"
_APP = "magistral_nb"


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
    """State files and logs of servers, in a folder that only its owner can read."""
    folder = _root("data") / "servers"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise MagistralError(
            f"{folder} cannot be written to ({error.strerror}): set {HOME_VARIABLE} to a folder that can."
        ) from error
    return folder


def journal() -> Path:
    """The file that keeps every answer. Nothing is made here: a question does not wait for a disk."""
    return _root("data") / "history" / "answers.sqlite3"
