"""pip or uv at work: a child process, its output read as progress and failures."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
from collections import deque
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Cause = Literal["disk", "network", "hash", "undated", "missing", "other"]

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
    if line.startswith(("Installing collected packages:", "Prepared ")):
        return replace(step, done=max(step.done, half), detail="unpacking")
    if line.startswith(("Successfully installed", "Installed ")):
        return replace(step, done=step.total, detail="unpacked")
    return _read_uv(step, line)


def _read_uv(step: Step, line: str) -> Step:
    if (found := _UV_RESOLVED.match(line)) and not step.total:
        return replace(step, total=2 * int(found[1]), detail=f"fetching {found[1]} packages")
    if found := _UV_FETCHING.match(line):
        return replace(step, detail=f"fetching {found['name']}{found['size']}")
    if line.startswith(" Downloaded "):
        return replace(step, done=max(step.done, min(step.done + 1, step.total // 2)))
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


def _ignore(*_: str) -> None:
    pass


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    log: IO[str],
    on_line: Callable[[str], None] = _ignore,
    on_idle: Callable[[], None] = _ignore,
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
