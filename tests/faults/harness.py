"""What every fault is followed by: one check that nothing is left behind and nothing was lost.

It looks at the system itself (/proc, sockets, files) and not through the package's own eyes, but for reading a state
file. tests/faults/test_fault_check.py shows that it finds each kind of damage where there is some.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock, Timeout

import magistral_nb
from magistral_nb import paths
from magistral_nb.asking.events import Said, Thinking
from magistral_nb.processes import Process
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magistral_nb import Answer, Server

PATIENCE = 20.0  # seconds in which what a fault has left must be gone
_WRITING = 1.0  # seconds for which a state may be half written
SETTLED = 1.5  # seconds after which what was streamed is in the journal, whoever is killed; it commits twice a second


def until(true: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until it is; fail with `what` otherwise."""
    deadline = time.monotonic() + patience
    while not (found := _tried(true)):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(0.02)
    return found


def _tried(true: Callable[[], Any]) -> Any:
    with contextlib.suppress(magistral_nb.MagistralError):
        return true()
    return None


def send(number: int, *processes: Process) -> None:
    """A signal to each, in this order; SIGKILL is waited for."""
    for process in processes:
        os.kill(process.pid, number)
    if number == signal.SIGKILL:
        until(lambda: not any(process.is_alive() for process in processes), "they are dead")


def supervisor_of(server: Server) -> Process:
    """The process that owns it now."""
    return server.state().supervisor


def engine_of(server: Server) -> Process:
    """The first process of its engine, once there is one."""
    return until(lambda: server.state().engine, "the engine is started")


def is_running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    return _stat(pid)[:1] not in {"", "Z", "X"}


def group_of(pid: int) -> int:
    """The process's group, 0 where it is gone."""
    words = _stat(pid).split()
    return int(words[2]) if words else 0


def _stat(pid: int) -> str:
    """What stands behind the name in /proc/PID/stat: state, parent, group, …; see proc_pid_stat(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def running() -> Iterator[int]:
    """Every process of the machine."""
    yield from filter(is_running, (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()))


@contextlib.contextmanager
def runtime_folder() -> Iterator[None]:
    """A folder for sockets that no other test uses; pytest's own have paths too long for one."""
    with tempfile.TemporaryDirectory(prefix="mnb-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr("tempfile.tempdir", None)
        yield


class Asking:
    """A question on its way in a thread of this process, and all that its view was shown."""

    def __init__(self, server: Server, question: str, **how: Any) -> None:
        self.question = question
        self.seen: list[str] = []
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._ask, args=(server, how), name=question)
        self._thread.start()

    def _ask(self, server: Server, how: Any) -> None:
        try:
            self.answer = server.reason(self.question, views=[self], **how)
        except BaseException as error:  # noqa: BLE001 - looked at by whoever waits
            self.error = error

    def update(self, events, _progress) -> None:
        self.seen += [event.text for event in events if isinstance(event, Thinking | Said)]

    def close(self, _answer) -> None:
        pass

    def begun(self) -> Asking:
        until(lambda: len(self.seen) > 3, "the answer begins to arrive", 60)
        return self

    def over(self, patience: float = PATIENCE) -> Asking:
        self._thread.join(patience)
        assert not self._thread.is_alive(), f"{self.question!r} is not answered"
        return self


class Room:
    """A home, and all that was ever seen to run by it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: list[Asking] = []
        self.strangers: set[int] = set()  # whose numbers a forged state may tell
        self._ports: dict[int, str] = {}
        self._groups: set[int] = set()

    def ask(self, server: Server, question: str = "count", **how: Any) -> Asking:
        """Ask, and wait until the answer has begun to arrive."""
        self.asked.append(Asking(server, question, **how))
        return self.asked[-1].begun()

    def note(self) -> list[registry.ServerState]:
        """Keep in mind where the servers listen and which groups they have; their states."""
        states = []
        for path in self._state_files():
            with contextlib.suppress(OSError, ValueError):
                state = registry.ServerState.from_json(path.read_text())
                states.append(state)
                if state.base_url and state.base_url.startswith("http:"):
                    self._ports[int(state.base_url.rpartition(":")[2].removesuffix("/v1"))] = state.name
                found = (state.engine, state.supervisor, state.proxy)
                self._groups |= {process.pid for process in found if process is not None} - self.strangers
        return states

    def ours(self) -> set[int]:
        """Processes that run and carry this home's mark, or are in a group of its servers."""
        return {pid for pid in running() if group_of(pid) in self._groups or self._is_marked(pid)}

    def damage(self) -> list[str]:
        """What is wrong at this moment, a line each."""
        states = [state.seen() for state in self.note() if state.place == registry.Place.here()]
        up = [state for state in states if not state.is_down]
        kept = {state.supervisor.pid for state in up if state.supervisor is not None and state.supervisor.is_alive()}
        lines = [
            f"server {state.name!r} is up, and nobody supervises it"
            for state in up
            if state.supervisor is None or state.supervisor.pid not in kept
        ]
        groups = {process.pid for state in up for process in (state.engine, state.proxy) if process is not None}
        lines += [
            f"process {pid} ({_command(pid)}) belongs to no server"
            for pid in sorted(self.ours() - kept)
            if group_of(pid) not in groups and is_running(pid)
        ]
        listening = {state.base_url for state in up}
        lines += [
            f"port {port} of server {name!r} is still listened on"
            for port, name in self._ports.items()
            if f"http://127.0.0.1:{port}/v1" not in listening and is_listened_on(port)
        ]
        lines += [
            f"socket {path} is left" for path in paths.sockets().glob("*.sock") if f"unix:{path}" not in listening
        ]
        return lines + self._bad_files() + self._lost_answers()

    def check(self, patience: float = PATIENCE) -> None:
        """Fail with the damage, unless it is gone soon."""
        deadline = time.monotonic() + patience
        while lines := self.damage():
            assert time.monotonic() < deadline, "\n".join(lines)
            time.sleep(0.05)

    def sweep(self) -> None:
        """End what a test that failed has left."""
        for pid in self.ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_marked(self, pid: int) -> bool:
        home, marks = os.fsencode(self.home), (b"MAGISTRAL_NB_SERVER=", b"MAGISTRAL_NB_SUPERVISES=")
        return any(each.startswith(marks) and home in each for each in _environment(pid).split(b"\0"))

    def _state_files(self) -> list[Path]:
        folder = self.home / "data" / "servers"
        return sorted(path for path in folder.glob("*/*.json") if not path.is_symlink() and path.is_file())

    def _bad_files(self) -> list[str]:
        folder = self.home / "data" / "servers"
        found = map(registry.look, sorted(folder.glob("*/*.json")))
        bad = [each for each in found if isinstance(each, registry.Unusable) and not each.elsewhere]
        lines = [f"state {each.path.name} cannot be used: {each.why}" for each in bad]
        halves = [path for path in folder.glob("*/.*.json.*") if time.time() - path.lstat().st_mtime > _WRITING]
        lines += [f"half a state is left: {path.name}" for path in halves]
        return lines + [f"lock {path.name} is held" for path in folder.glob("*/*.lock") if _is_held(path)]

    def _lost_answers(self) -> list[str]:
        """Of this process's questions: what was shown is in the Answer, and the Answer in the journal."""
        lines = []
        for asking in self.asked:
            if (answer := asking.answer) is not None:
                if "".join(asking.seen) != answer.thinking + answer.text:
                    lines.append(f"{asking.question!r}: what was shown is not in the Answer")
                if _kept(answer.id) != answer:
                    lines.append(f"{asking.question!r}: the Answer is not in the journal")
        return lines


def _is_held(path: Path) -> bool:
    try:
        FileLock(path, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    return False


def _kept(answer_id: str) -> Answer | None:
    with contextlib.suppress(magistral_nb.MagistralError):
        return magistral_nb.recall(answer_id)
    return None


def kept_answers(question: str) -> list[Answer]:
    """What the journal has of this question, newest first."""
    found = magistral_nb.history()
    return [magistral_nb.recall(row.id) for row in found.itertuples() if row.prompt == question]


def sent_before(checkpoint: Path, question: str, moment: float) -> str:
    """What the talking engine had sent of its answer by then, by `time.monotonic`, which all processes share."""
    told = [line.split(" ", 2) for line in (checkpoint / "sent").read_text().splitlines()]
    return "".join(f" {number}" for at, number, asked in told if asked == question and float(at) < moment)


def is_listened_on(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _environment(pid: int) -> bytes:
    """What it was started with; empty where that may not be read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return "gone"


class Stranger:
    """A process of somebody else's, in a group of its own, that no fault may ever end."""

    def __init__(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAGISTRAL_NB")}
        self._child = subprocess.Popen(["sleep", "600"], env=clean, start_new_session=True)
        self.process = Process.of(self._child.pid)

    def is_unharmed(self) -> bool:
        return self._child.poll() is None

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
