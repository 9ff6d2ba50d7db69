"""Who puts packages into an environment, uv or pip, and what of the user's settings it is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magistral_nb.errors import EngineInstallFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Program = Literal["pip", "uv"]

# Where packages come from and how the network is reached stays the user's choice. Which they are and where
# they go is ours: PIP_USER, PIP_TARGET, PIP_CONSTRAINT and the like are meant for other environments.
_KEPT_OF_PIP = frozenset(
    {
        "PIP_CACHE_DIR",
        "PIP_CERT",
        "PIP_CLIENT_CERT",
        "PIP_CONFIG_FILE",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_INDEX_URL",
        "PIP_KEYRING_PROVIDER",
        "PIP_NO_CACHE_DIR",
        "PIP_NO_INDEX",
        "PIP_PROXY",
        "PIP_RETRIES",
        "PIP_TIMEOUT",
        "PIP_TRUSTED_HOST",
        "PIP_USE_DEPRECATED",
        "PIP_USE_FEATURE",
    }
)
_DROPPED_OF_UV = frozenset(
    {
        "UV_BUILD_CONSTRAINT",
        "UV_CONSTRAINT",
        "UV_EXCLUDE",
        "UV_EXCLUDE_NEWER",
        "UV_EXCLUDE_NEWER_PACKAGE",
        "UV_NO_BINARY",
        "UV_OVERRIDE",
        "UV_PREFIX",
        "UV_PRERELEASE",
        "UV_PYTHON",
        "UV_REQUIRE_HASHES",
        "UV_RESOLUTION",
        "UV_SYSTEM_PYTHON",
        "UV_TARGET",
        "UV_TORCH_BACKEND",
    }
)
_UV_INDEXES = frozenset({"UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL"})
# A variable beats a configuration file, so that `user = true` there does not reach this environment either.
_SET = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_REQUIRE_HASHES": "0"}
_OLDEST_PIP = (22, 3)  # the first with --python
_PIP_WITH_RAW_PROGRESS = (24, 1)
_PIP_WITH_CUTOFF = (26, 0)
_QUIET_UV = ("--no-progress", "--color", "never")


@dataclass(frozen=True, slots=True)
class Installer:
    """The command that puts packages into one environment.

    Attributes:
        command: what goes before a request.
        program: which of the two it is.
        cutoff: its option that leaves out what came later; None where this version has none.
    """

    command: tuple[str, ...]
    program: Program = "pip"
    cutoff: str | None = None

    def argv(self, request: Sequence[str]) -> list[str]:
        """The whole command line for a request such as ["--no-deps", "torch==2.13.0+cpu"]."""
        return [*self.command, *request]


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables for a child whose Python is not the notebook's.

    PYTHONPATH and PYTHONHOME would mix this kernel's packages into the environment that is being made. uv, which reads
    nothing of pip's, is told pip's index where it has none of its own.

    Example:
        >>> clean_environment({"PYTHONPATH": "/x", "PIP_TARGET": "/y", "PIP_INDEX_URL": "i"})["UV_DEFAULT_INDEX"]
        'i'
    """
    kept = {name: value for name, value in variables.items() if not _is_dropped(name)} | _SET
    if (index := kept.get("PIP_INDEX_URL")) and not _UV_INDEXES & set(kept):
        kept["UV_DEFAULT_INDEX"] = index
    return kept


def _is_dropped(name: str) -> bool:
    if name.startswith("PIP_"):
        return name not in _KEPT_OF_PIP
    return name.startswith(("PYTHON", "_PIP_")) or name in _DROPPED_OF_UV


def find_uv(environment: Mapping[str, str]) -> str | None:
    """uv, if it is beside this Python or on the path: a kernel's often leaves out where `pip install uv` puts it.

    Args:
        environment: variables for the children, from clean_environment().
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    uv = shutil.which("uv", path=path)
    # Run, as it may be a version manager's stand-in for none.
    return uv if uv and _output([uv, "--version"], environment).startswith("uv ") else None


def uv_pythons(uv: str, environment: Mapping[str, str]) -> list[tuple[int, int]]:
    """The Pythons that uv finds on this machine, as the first two numbers of their versions."""
    listed = _output([uv, "python", "list", "--only-installed", "--output-format", "json"], environment)
    found = []
    for each in json.loads(listed or "[]"):
        # Neither "3.15.0rc1" nor a build without the global lock, which few packages have wheels for.
        numbers = re.fullmatch(r"(\d+)\.(\d+)\.\d+", each["version"])
        if numbers and each["implementation"] == "cpython" and each["variant"] == "default":
            found.append((int(numbers[1]), int(numbers[2])))
    return found


def uv_venv(uv: str, python: str, folder: Path) -> list[str]:
    """The command that makes an environment on a Python which uv finds or fetches."""
    return [uv, "venv", *_QUIET_UV, "--no-project", "--python", python, str(folder)]


def find_installer(python: Path, environment: Mapping[str, str], *, uv_first: bool = False) -> Installer:
    """The way to put packages into the environment of `python`, which has no pip of its own.

    Args:
        python: of the environment.
        environment: variables for the children, from clean_environment().
        uv_first: prefer uv, which has a hundred packages to choose resolved in seconds. pip alone knows what its own
            configuration says about where packages are.

    Raises:
        EngineInstallFailed: there is neither pip nor uv, nor can Python bring its own pip.
    """
    uv = find_uv(environment)
    if uv and uv_first:
        return _uv_installer(uv, python)
    # -P: a file called pip.py beside the notebook is not pip.
    version = _pip_version([sys.executable, "-P", "-m", "pip"], environment)
    if version >= _OLDEST_PIP:
        return pip_installer((sys.executable, "-P", "-m", "pip", "--python", str(python)), version)
    if uv:
        return _uv_installer(uv, python)
    own = [str(python), "-P", "-m", "pip"]
    _output([str(python), "-P", "-m", "ensurepip"], environment)
    version = _pip_version(own, environment)
    if version >= _OLDEST_PIP:
        return pip_installer(tuple(own), version)
    raise EngineInstallFailed(
        f"Nothing here can fetch packages: neither pip {'.'.join(map(str, _OLDEST_PIP))} or newer for "
        f"{sys.executable} nor uv was found; install one of them (Debian, Ubuntu: apt install python3-pip) "
        "and type %magistral_serve --install."
    )


def _uv_installer(uv: str, python: Path) -> Installer:
    return Installer((uv, "pip", "install", *_QUIET_UV, "--python", str(python)), "uv", "--exclude-newer")


def pip_installer(pip: tuple[str, ...], version: tuple[int, int]) -> Installer:
    """An installer on top of `pip`, its output made fit for reading by a program of that version."""
    bar = "raw" if version >= _PIP_WITH_RAW_PROGRESS else "off"
    quiet = ("--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar", bar)
    cutoff = "--uploaded-prior-to" if version >= _PIP_WITH_CUTOFF else None
    return Installer((*pip, "install", *quiet), "pip", cutoff)


def _pip_version(pip: list[str], environment: Mapping[str, str]) -> tuple[int, int]:
    found = re.match(r"pip (\d+)\.(\d+)", _output([*pip, "--version"], environment))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
