"""The disks that are written to, and the models that lie on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb import paths
from magistral_nb.serving import download, hub
from magistral_nb.serving.catalogue import CATALOGUE
from magistral_nb.serving.doctor.page import Line
from magistral_nb.serving.preflight import nearest
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LEAST = 10**9  # bytes that any of these places wants free
_SHARED = Path("/dev/shm")  # noqa: S108 - where NCCL's and vLLM's processes meet
_LEAST_SHARED = 2**30  # bytes for several GPUs; Docker gives 64 MiB


def disks(environment: Mapping[str, str], gpus: int) -> Iterator[Line]:
    """The room where engines, models and answers are kept.

    Args:
        environment: of this process.
        gpus: how many there are.
    """
    from huggingface_hub import constants

    caches = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield disk("engines", paths.engines(), f"set {paths.HOME_VARIABLE} to a folder on another disk")
    yield disk("models", Path(constants.HF_HUB_CACHE), "set HF_HOME to a folder on another disk")
    compiled = Path(environment.get("VLLM_CACHE_ROOT") or caches / "vllm")
    yield disk("what vLLM compiles", compiled, "set VLLM_CACHE_ROOT to a folder on another disk")
    yield disk("journal", paths.journal().parent, f"set {paths.HOME_VARIABLE} to a folder on another disk")
    yield disk("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder on another disk")
    if _SHARED.is_dir():
        least = _LEAST_SHARED if gpus > 1 else 0
        yield disk("shared memory", _SHARED, "start the container with --shm-size=8g, or --ipc=host", least=least)


def disk(label: str, folder: Path, remedy: str, *, least: int = _LEAST) -> Line:
    """The room in a folder, or in the one above that it will be made in.

    Args:
        label: what is kept there.
        folder: there yet or not.
        remedy: what to do where there is no room or no right to write.
        least: bytes that have to be free.

    Example:
        >>> disk("models", Path("/nowhere/yet"), "set HF_HOME", least=10**18).remedy
        'make room, or set HF_HOME'
    """
    there = nearest(folder)
    room = shutil.disk_usage(there)
    told = f"{room.free / 1e9:.1f} of {room.total / 1e9:.1f} GB free, {folder}"
    if not os.access(there, os.W_OK | os.X_OK):
        return Line(label, f"{told}, which may not be written to", remedy)
    return Line(label, told, f"make room, or {remedy}" if room.free < least else "")


def models(environment: Mapping[str, str]) -> Iterator[Line]:
    """Which models of the catalogue lie in the hub's cache; of others nothing is told, as their names may be private.

    Args:
        environment: of this process.
    """
    from huggingface_hub import constants

    found = False
    for name, profile in CATALOGUE.items():
        wanted = download.fetches(profile, Wishes())
        size = _size(hub.folder_of(profile.source))
        if size:
            found = True
            whole = "whole" if all(map(download.is_cached, wanted)) else f"in part, of {profile.download / 1e9:.0f} GB"
            yield Line(name, f"{size / 1e9:.1f} GB, {whole}")
    if not found:
        yield Line("catalogue", "none of its models is here")
    in_file = Path(constants.HF_TOKEN_PATH).is_file()
    login = "in the environment" if environment.get("HF_TOKEN") else "in a file" if in_file else "none"
    yield Line("login", f"{login}{', HF_HUB_OFFLINE' if constants.HF_HUB_OFFLINE else ''}")


def _size(folder: Path) -> int:
    """Bytes that a repository takes, unfinished files included, which are longer than what has arrived of them."""
    size = 0
    with contextlib.suppress(OSError):  # a download that goes on renames its files
        for path in folder.rglob("*"):
            size += 0 if path.is_symlink() or path.is_dir() else path.stat().st_blocks * 512
    return size
