"""A server's processes, told by a mark of ours in their environment, and those that dead servers have left.

Neither the number of a process group, which a stranger's may get once the whole group has ended, nor a state file tells
whose a process is. Only what carries the mark is ever ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.processes import Process, end_group, is_leaderless, members
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

    from magistral_nb.serving.registry import ServerState

MARK = "MAGISTRAL_NB_SERVER"  # the variable in which an engine's processes carry whose they are
SUPERVISES = "MAGISTRAL_NB_SUPERVISES"  # the variable in which a supervisor carries the path of its state file


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose process it is.

    Attributes:
        supervisor: that started the engine; each boot has another one.
        path: of the server's state file.

    Example:
        >>> mark = Mark(Process(4711, 1767225600.25), Path("/home/ada/servers/default.json"))
        >>> mark.text
        '4711 1767225600.25 /home/ada/servers/default.json'
        >>> Mark.read(mark.text) == mark
        True
    """

    supervisor: Process
    path: Path

    @property
    def text(self) -> str:
        """The variable's value."""
        return f"{self.supervisor.pid} {self.supervisor.started!r} {self.path}"

    @staticmethod
    def read(text: str) -> Mark | None:
        """Read `text`; None where it is none."""
        with contextlib.suppress(ValueError):
            pid, started, path = text.split(" ", 2)
            return Mark(Process(int(pid), float(started)), Path(path))
        return None


@dataclass(frozen=True, slots=True)
class Orphan:
    """What a dead server left.

    Attributes:
        process: the process.
        group: its process group.
        name: its own, such as "VLLM::EngineCore".
        server: the dead server's name.
    """

    process: Process
    group: int
    name: str
    server: str

    @property
    def title(self) -> str:
        """Who it is.

        Example:
            >>> Orphan(Process(815, 0.0), 814, "VLLM::EngineCore", "default").title
            "VLLM::EngineCore (process 815), which server 'default' left,"
        """
        return f"{self.name} (process {self.process.pid}), which server {self.server!r} left,"


def marked(state: ServerState, path: Path) -> dict[str, str]:
    """The variable by which a process is known as this server's, with its value."""
    return {MARK: Mark(state.starter, path).text} if state.starter else {}


def engine_processes(state: ServerState) -> list[psutil.Process]:
    """The processes of a server's engine that run, also where the first of them is dead; never a stranger's."""
    if state.engine is None or state.starter is None:
        return []
    found = members(state.engine.pid)
    marks = map(_mark_of, found)
    return found if any(mark is not None and mark.supervisor == state.starter for mark in marks) else []


def supervisors(path: Path) -> list[Process]:
    """All that supervise the server with this state file, whatever the file says."""
    return [process for process, environment in _running() if _is_same(environment.get(SUPERVISES, ""), path)]


def groups(path: Path) -> set[int]:
    """The process groups of the engines that were started for this state file, whatever the file says."""
    found = set()
    for process, environment in _running():
        mark = Mark.read(environment.get(MARK, ""))
        if mark is not None and _is_same(mark.path, path):
            with contextlib.suppress(ProcessLookupError):
                found.add(os.getpgid(process.pid))
    return found


def find_orphans(home: Path | None = None) -> list[Orphan]:
    """All that this user's supervisors started on this machine and that belongs to no running server.

    A server whose supervisor alone is dead runs on, and counts as running.

    Args:
        home: only of the servers whose state files lie in this folder.
    """
    import psutil

    found = []
    for process, environment in _running():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
            mark = Mark.read(environment.get(MARK, ""))
            if mark and (home is None or _is_same(mark.path.parent, home)):
                group = os.getpgid(process.pid)
                if not _runs(mark, group):
                    found.append(Orphan(process, group, psutil.Process(process.pid).name(), mark.path.stem))
    return found


def end_orphans(home: Path | None = None) -> list[Orphan]:
    """End what `find_orphans` finds, which is returned; `process.is_alive()` tells of one that could not be ended."""
    found = find_orphans(home)
    for group in {orphan.group for orphan in found}:
        end_group(group)
    return found


def _mark_of(process: psutil.Process) -> Mark | None:
    """What a process of this user's carries."""
    return Mark.read(_environment(process).get(MARK, ""))


def _running() -> Iterator[tuple[Process, dict[str, str]]]:
    """This user's processes and their environments, as these were when the process began."""
    import psutil

    if sys.platform != "linux":  # where no engine of ours runs
        return
    for each in psutil.process_iter():
        if environment := _environment(each):
            with contextlib.suppress(psutil.Error):
                process = Process.of(each.pid)
                if process.is_alive():
                    yield process, environment


def _environment(process: psutil.Process) -> dict[str, str]:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
        # Root reads everybody's, and a container's processes have numbers of their own, which here are others'.
        if process.uids().real == os.getuid() and _pid_namespace(process.pid) == _pid_namespace(os.getpid()):
            return process.environ()
    return {}


def _is_same(one: str | Path, other: Path) -> bool:
    """Whether both are one file or folder, which may be gone; a home can have several names."""
    return bool(one) and os.path.realpath(one) == os.path.realpath(other)


def _pid_namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()


def _runs(mark: Mark, group: int) -> bool:
    """Whether a server still owns the group; where a state file cannot be used, nobody knows, and it does."""
    if mark.supervisor.is_alive():
        return True
    state = registry.look(mark.path)
    if is_leaderless(group) or state is None:
        return False
    return isinstance(state, registry.Unusable) or (state.starter == mark.supervisor and not state.seen().is_down)
