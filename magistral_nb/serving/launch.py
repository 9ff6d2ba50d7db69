"""vLLM's process group: started, looked at and ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb import paths
from magistral_nb.asking.endpoint import UNIX
from magistral_nb.processes import Process, end_group
from magistral_nb.serving.orphans import SUPERVISES, marked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magistral_nb.serving.registry import ServerState

HOST = "127.0.0.1"
KEY_VARIABLE = "VLLM_API_KEY"  # vLLM reads its key here, where `ps` does not show it
GUARDED = ("--middleware", "magistral_nb_doors.Doors")  # or that key would guard half of its routes
_DOORS = Path(__file__).parent / "doors"


@dataclass(frozen=True, slots=True)
class EngineGroup:
    """The processes of one vLLM.

    Attributes:
        process: the first of them, whose id is the group's.
        child: the same where this process has started it; an adopted one's exit code nobody learns.
    """

    process: Process
    child: subprocess.Popen[bytes] | None = None

    @staticmethod
    def start(argv: Sequence[str], log_path: str, environment: Mapping[str, str], niceness: int = 0) -> EngineGroup:
        """Start a command in a session of its own, which writes to the log.

        Raises:
            OSError: the log cannot be written, or the command not be started.
        """
        with Path(log_path).open("ab") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        be_nice(child.pid, niceness)
        return EngineGroup(Process.of(child.pid), child)

    def has_ended(self) -> bool:
        """Whether the first process has ended."""
        return not self.process.is_alive() if self.child is None else self.child.poll() is not None

    @property
    def code(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None where nobody knows."""
        return None if self.child is None else self.child.poll()

    def end(self) -> None:
        """End whatever is left of the group, also where the first process is dead: its children may not notice."""
        if self.child is not None or self.process.is_alive():  # or its number may be a stranger's by now
            end_group(self.process.pid, self.child)


def engine_environment(state: ServerState, own: Mapping[str, str], path: Path) -> dict[str, str]:
    """The engine's environment: the kernel's, less what would break another Python, plus plan, key and mark.

    Args:
        state: of the server.
        own: the supervisor's environment.
        path: of the state file.
    """
    dropped = {"PYTHONHOME", "MPLBACKEND", SUPERVISES}
    if state.plan.argv[0] != sys.executable:
        dropped.add("PYTHONPATH")
    kept = {name: value for name, value in own.items() if name not in dropped}
    # All that vLLM can import of this package.
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_DOORS), kept.get("PYTHONPATH")]))
    # Programs that came with the engine, as ninja, which FlashInfer calls, are found as in an activated environment.
    kept["PATH"] = os.pathsep.join([str(Path(state.plan.argv[0]).parent), own.get("PATH", os.defpath)])
    return (
        kept
        | dict(state.plan.environment)
        | marked(state, path)
        | {
            KEY_VARIABLE: state.api_key,
            "SPT_NOENV": "1",  # or setproctitle writes "VLLM::EngineCore" over the memory in which the mark is read
            "PYTHONSAFEPATH": "1",  # or a random.py beside the notebook would be imported by vLLM
        }
    )


def be_nice(pid: int, niceness: int) -> None:
    """Give a process that has just begun, and all that it will start, at least this niceness."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended already
        if os.getpriority(os.PRIO_PROCESS, pid) < niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def remove_socket(base_url: str | None) -> None:
    """Remove the Unix socket that a server which has ended listened on; nothing else that a state file may name."""
    path = Path((base_url or "").removeprefix(UNIX))
    if path.is_socket() and path.parent.name == paths.sockets().name:
        path.unlink(missing_ok=True)


def is_free(port: int) -> bool:
    """Whether nobody listens on this TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
