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

from magistral_nb.asking.endpoint import UNIX
from magistral_nb.processes import Process, end_group
from magistral_nb.serving.orphans import SUPERVISES, groups, marked
from magistral_nb.serving.plan import DEVELOPMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magistral_nb.serving.registry import ServerState

HOST = "127.0.0.1"
KEY_BYTES = 32
KEY_VARIABLE = "VLLM_API_KEY"  # vLLM reads its key here, where `ps` does not show it
GUARDED = ("--middleware", "magistral_nb_doors.Doors")  # or that key would guard half of its routes
_DOORS = Path(__file__).parent / "doors"
# What the kernel's environment may have for other work, and what opens doors of a server: adapters from anywhere, and
# objects that run code as they are read.
_OPENING = {DEVELOPMENT, "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ALLOW_INSECURE_SERIALIZATION"}


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

    @staticmethod
    def adopted(process: Process | None, path: Path) -> EngineGroup | None:
        """One that an earlier supervisor has started, as a state file tells; None where it is gone, or not ours.

        Args:
            process: the first of the group.
            path: of the state file, which alone is never enough to end a process: the group has to carry its mark.
        """
        if process is None or not process.is_alive() or process.pid not in groups(path):
            return None
        return EngineGroup(process)

    def has_ended(self) -> bool:
        """Whether the first process has ended."""
        return not self.process.is_alive() if self.child is None else self.child.poll() is not None

    @property
    def code(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None where nobody knows."""
        return None if self.child is None else self.child.poll()

    def listens_on(self, port: int) -> bool:
        """Whether it is this group that listens on a TCP port of the loopback address, and nobody else.

        vLLM binds its port when it starts and listens minutes later. In between any user of the machine can listen
        there, and would be handed the key.
        """
        import psutil

        for each in psutil.net_connections("tcp4"):
            if each.status == psutil.CONN_LISTEN and each.laddr == (HOST, port) and each.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    return os.getpgid(each.pid) == self.process.pid
        return False

    def end(self) -> None:
        """End whatever is left of the group, also where the first process is dead: its children may not notice."""
        if self.child is not None or self.process.is_alive():  # or its number may be a stranger's by now
            end_group(self.process.pid, self.child)


def child_environment(state: ServerState, own: Mapping[str, str], path: Path) -> dict[str, str]:
    """The environment of all that a supervisor starts: its own, but marked as this server's and as no supervisor.

    Args:
        state: of the server.
        own: the supervisor's environment.
        path: of the state file.
    """
    return {name: value for name, value in own.items() if name != SUPERVISES} | marked(state, path)


def engine_environment(state: ServerState, own: Mapping[str, str], path: Path) -> dict[str, str]:
    """The engine's environment: the kernel's, less what would break another Python, plus plan, key and mark.

    Takes what `child_environment` takes.
    """
    dropped = {"PYTHONHOME", "MPLBACKEND"} | _OPENING
    if state.plan.argv[0] != sys.executable:
        dropped.add("PYTHONPATH")
    kept = {name: value for name, value in child_environment(state, own, path).items() if name not in dropped}
    # All that vLLM can import of this package.
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_DOORS), kept.get("PYTHONPATH")]))
    # Programs that came with the engine, as ninja, which FlashInfer calls, are found as in an activated environment.
    kept["PATH"] = os.pathsep.join([str(Path(state.plan.argv[0]).parent), own.get("PATH", os.defpath)])
    return (
        kept
        | dict(state.plan.environment)
        | {
            KEY_VARIABLE: state.api_key,
            DEVELOPMENT: "1" if state.plan.wishes.sleepable else "0",  # never on a port
            "SPT_NOENV": "1",  # or setproctitle writes "VLLM::EngineCore" over the memory in which the mark is read
            "PYTHONSAFEPATH": "1",  # or a random.py beside the notebook would be imported by vLLM
        }
    )


def be_nice(pid: int, niceness: int) -> None:
    """Give a process that has just begun, and all that it will start, at least this niceness."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended already
        if os.getpriority(os.PRIO_PROCESS, pid) < niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)


def remove_socket(base_url: str | None) -> None:
    """Remove the Unix socket of a server that has ended; one on a port leaves nothing."""
    if base_url is not None and base_url.startswith(UNIX):
        path = Path(base_url.removeprefix(UNIX))
        if path.is_socket():  # whatever a state file says
            path.unlink(missing_ok=True)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on this TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
