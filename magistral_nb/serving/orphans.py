"""A server's processes, told by a mark of ours in their environment, and those that dead servers have left.

A process group's number alone does not tell whose it is: once a whole group has ended, a stranger's may get its number.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.processes import Process, end_group, is_leaderless, members
from magistral_nb.serving import registry

if TYPE_CHECKING:
    import psutil

    from magistral_nb.serving.registry import ServerState

MARK = "MAGISTRAL_NB_SERVER"  # the variable in which an engine's processes carry whose they are


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


def engine_processes(state: ServerState) -> list[psutil.Process]:
    """The processes of a server's engine that run, also where the first of them is dead; never a stranger's."""
    if state.engine is None:
        return []
    found = members(state.engine.pid)
    ours = state.engine.is_alive() or any(
        mark.supervisor == state.supervisor for process in found if (mark := _mark_of(process))
    )
    return found if ours else []


def find_orphans() -> list[Orphan]:
    """All that this user's supervisors started on this machine and that belongs to no running server.

    A server whose supervisor alone is dead runs on, and counts as running.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
            if mark := _mark_of(process):
                group = os.getpgid(process.pid)
                if process.status() != psutil.STATUS_ZOMBIE and not _runs(mark, group):
                    this = Process(process.pid, process.create_time())
                    found.append(Orphan(this, group, process.name(), mark.path.stem))
    return found


def end_orphans() -> list[Orphan]:
    """End what `find_orphans` finds, which is returned; `process.is_alive()` tells of one that could not be ended."""
    found = find_orphans()
    for group in {orphan.group for orphan in found}:
        end_group(group)
    return found


def _mark_of(process: psutil.Process) -> Mark | None:
    """What a process of this user's carries."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
        mark = Mark.read(process.environ().get(MARK, ""))
        # Root reads everybody's, and a container's processes have numbers of their own, which here are others'.
        if mark and process.uids().real == os.getuid() and _pid_namespace(process.pid) == _pid_namespace(os.getpid()):
            return mark
    return None


def _pid_namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()


def _runs(mark: Mark, group: int) -> bool:
    """Whether a server still owns the group; where a state file cannot be read, nobody knows, and it does."""
    if mark.supervisor.is_alive():
        return True
    if is_leaderless(group) or not mark.path.exists():
        return False
    state = registry.read(mark.path)
    return state is None or (state.supervisor == mark.supervisor and state.seen().status != "failed")
