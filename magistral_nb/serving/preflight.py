"""What would stop a boot, looked for in seconds and before anything is started: files, disk and port."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.errors import PlanRefused
from magistral_nb.serving import download, launch, registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.serving.download import Fetch

# Bytes that stay free beside the weights: what is compiled lies in the same home as a rule, and logs grow.
_MARGIN = 2 * 10**9


def check_files(wanted: Sequence[Fetch]) -> int:
    """Bytes that a boot will fetch, which may be fetched and for which there is room.

    What lies whole in the hub's cache asks nobody. Otherwise the hub gets two small requests for each repository, each
    of which may be silent for five seconds.

    Args:
        wanted: as `download.fetches` tells.

    Raises:
        UnknownModel: a repository is gated, missing or out of reach; or it is offline mode, and not all is here.
        NotACheckpoint: a repository does not hold what is wanted.
        PlanRefused: the disk is too small, or nothing may be written there.
    """
    missing = sum(download.missing_bytes(fetch) for fetch in wanted if not download.is_cached(fetch))
    if missing:
        from huggingface_hub import constants

        folder = nearest(Path(constants.HF_HUB_CACHE))
        check_disk(missing, shutil.disk_usage(folder).free, folder, writable=os.access(folder, os.W_OK))
    return missing


def check_disk(missing: int, free: int, folder: Path, *, writable: bool = True) -> None:
    """Refuse a download that the disk has no room for.

    Args:
        missing: bytes that have still to come.
        free: bytes of the disk.
        folder: on that disk, for the message.
        writable: whether this user may write there.

    Raises:
        PlanRefused: with what is free.

    Example:
        >>> check_disk(48_000_000_000, 200_000_000_000, Path("/home/you/.cache"))
    """
    if not writable:
        raise PlanRefused(
            f"The model's files go to {folder}, where this user may not write: set HF_HOME to another folder and "
            "start this kernel again."
        )
    if missing + _MARGIN > free:
        raise PlanRefused(
            f"The model's files still take {missing / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: free "
            f"{(missing + _MARGIN - free) / 1e9:.1f} GB, or set HF_HOME to a folder on a larger disk and start this "
            "kernel again."
        )


def check_port(port: int) -> None:
    """Refuse a port of the loopback address that somebody listens on.

    Raises:
        PlanRefused: with who it is, where the system tells.
    """
    if not launch.is_free(port):
        raise PlanRefused(f"Port {port} is taken{_by_whom(port)}: leave --port away and a free one is found.")


def _by_whom(port: int) -> str:
    for state in registry.load_all():
        if state.is_alive() and str(state.base_url).endswith(f":{port}/v1"):
            return f" by server {state.name!r}"
    import psutil

    try:
        listening = (each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN)
        pid = next((each.pid for each in listening if each.laddr and each.laddr.port == port), None)
        return "" if pid is None else f" by {psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:  # another user's, or gone meanwhile
        return ""


def nearest(folder: Path) -> Path:
    """The folder, or the one above that it will be made in."""
    # Path.exists raises below a folder that may not be searched.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
