"""Fetching packages into an environment: pip or uv as a child, its output read as progress and failures."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import psutil

from magistral_nb.errors import EngineInstallFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Cause = Literal["disk", "network", "hash", "undated", "missing", "other"]
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
_TAIL = 400  # lines; pip's reasons stand within its last few dozen

_FETCHED = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?(?P<file>[^\s/]+\.whl)(?P<size> \([^)]+\))?$"
)
_UV_RESOLVED = re.compile(r"Resolved (\d+) packages? in ")
_UV_FETCHING = re.compile(r"Downloading (?P<name>[\w-]+)(?P<size> \([^)]+\))$")  # it tells those of a megabyte or more
_ERROR = re.compile(r"\s*(?:ERROR|error|[Cc]aused by|cause): ")  # as pip and as uv say it
_PERCENT = re.compile(r"Progress (\d+) of (\d+)$")
_CAUSES: tuple[tuple[Cause, re.Pattern[str]], ...] = (
    ("disk", re.compile(r"No space left on device|Disk quota exceeded|os error 28|os error 122")),
    ("hash", re.compile(r"DO NOT MATCH THE HASHES|[Hh]ash mismatch")),
    (
        "network",
        re.compile(
            r"connection broken by|Failed to establish a new connection|Name or service not known|timed out|"
            r"Connection (?:refused|reset|aborted)|[Ff]ailed to fetch|dns error|Max retries exceeded"
        ),
    ),
    # An index that does not tell when its files came: uv's words and pip's.
    ("undated", re.compile(r"missing an upload date|does not provide upload-time metadata")),
    (
        "missing",
        re.compile(r"No matching distribution found|ResolutionImpossible|Because |No solution"),
    ),
)


@dataclass(frozen=True, slots=True)
class Step:
    """How far an install is.

    Attributes:
        name: the step, such as "packages".
        done: of `total`; each package counts twice, once fetched and once unpacked.
        total: 0 where the step cannot be counted.
        detail: what is under way, such as "fetching numpy 2.3.5 (16.6 MB)".
    """

    name: str
    done: int = 0
    total: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why pip or uv gave up: the kind of cause and their own line about it."""

    cause: Cause
    line: str


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
    """uv, if it is beside this Python, where `pip install uv` puts it and a kernel's path often does not lead, or there.

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


def read_line(step: Step, line: str) -> Step:
    """The progress after one more line of pip's or uv's output; what tells nothing changes nothing.

    Example:
        >>> read_line(Step("packages", 0, 4), "  Downloading numpy-2.3.5-cp311-cp311-x.whl (16.6 MB)")
        Step(name='packages', done=1, total=4, detail='fetching numpy 2.3.5 (16.6 MB)')
    """
    half = step.total // 2
    if found := _FETCHED.match(line):
        name, version = [*found["file"].split("-"), ""][:2]
        detail = f"fetching {name} {version}{found['size'] or ''}"
        return replace(step, done=max(step.done, min(step.done + 1, half)), detail=detail)
    if (found := _PERCENT.match(line)) and step.detail and int(found[2]):
        percent = 100 * int(found[1]) // int(found[2])
        return replace(step, detail=re.sub(r"(, \d+ %)?$", f", {percent} %", step.detail, count=1))
    if (found := _UV_RESOLVED.match(line)) and not step.total:
        return replace(step, total=2 * int(found[1]), detail=f"fetching {found[1]} packages")
    if found := _UV_FETCHING.match(line):
        return replace(step, detail=f"fetching {found['name']}{found['size']}")
    if line.startswith(" Downloaded "):
        return replace(step, done=max(step.done, min(step.done + 1, half)))
    if line.startswith(("Installing collected packages:", "Prepared ")):
        return replace(step, done=max(step.done, half), detail="unpacking")
    if line.startswith(("Successfully installed", "Installed ")):
        return replace(step, done=step.total, detail="unpacked")
    return step


def explain(lines: Sequence[str]) -> Failure:
    """Why a failed pip or uv gave up, from the end of its output.

    Example:
        >>> explain(["ERROR: [Errno 28] No space left on device"])
        Failure(cause='disk', line='[Errno 28] No space left on device')
    """
    errors = [line.strip() for line in lines if _ERROR.match(line)]
    text = "\n".join(lines)
    for cause, pattern in _CAUSES:
        if not pattern.search(text):
            continue
        # A lost connection is told by warnings; pip's error is then only that it found no such package.
        telling = [line.strip() for line in lines if pattern.search(line)]
        return Failure(cause, _bare(telling[-1]))
    rest = [line.strip() for line in lines if line.strip()]
    return Failure("other", _bare((errors or rest or ["it said nothing"])[-1]))


def _bare(line: str) -> str:
    return _ERROR.sub("", line).removeprefix("WARNING: ").removeprefix("╰─▶ ")  # older versions of uv draw


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    log: IO[str],
    on_line: Callable[[str], None],
    on_idle: Callable[[], None],
) -> Failure | None:
    """Run pip or uv to its end, or kill it with all its children when this is interrupted.

    Args:
        command: the whole command line.
        environment: variables for the child.
        folder: where the child runs; not the notebook's, which may hold files called like modules.
        log: gets the command and every line.
        on_line: called with each line.
        on_idle: called twice a second while there is no line.

    Returns:
        None if it succeeded.
    """
    tail: deque[str] = deque(maxlen=_TAIL)

    def take(line: str) -> None:
        on_line(line)
        if not _PERCENT.match(line):
            log.write(line + "\n")
            tail.append(line)

    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    # The kernel's own process group: when Jupyter kills the kernel's group, this child goes with it.
    child = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        _pump(child, take, on_idle)
        code = child.wait()
    except BaseException:
        _kill(child)
        raise
    finally:
        if child.stdout:
            child.stdout.close()
        log.flush()
    return explain(tail) if code else None


def _pump(child: subprocess.Popen[bytes], take: Callable[[str], None], on_idle: Callable[[], None]) -> None:
    if child.stdout is None:
        return
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=0.5):
                on_idle()
                continue
            data = os.read(child.stdout.fileno(), 65536)
            *lines, pending = (pending + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines if data else [pending]:
                if line.strip():
                    take(line.decode(errors="replace").rstrip())
            if not data:
                return


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started: pip --python runs a second pip."""
    try:
        parent = psutil.Process(child.pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    child.wait()
