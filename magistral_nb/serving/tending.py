"""Supervisors as a kernel sees them: started, told to end and, where one has died, replaced.

Of what a dead one has left, a server that still answers is given a new supervisor, and anything else is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb import paths
from magistral_nb.errors import BootFailed, MagistralError
from magistral_nb.processes import end_group
from magistral_nb.serving import orphans, registry, supervisor
from magistral_nb.serving.freeing import freed
from magistral_nb.serving.launch import remove_socket

if TYPE_CHECKING:
    from magistral_nb.processes import Process
    from magistral_nb.serving.registry import ServerState

_SUPERVISOR_SECONDS = 30.0  # a cold disk may take some to start a Python
_STOP_SECONDS = 60.0  # the engine's grace time, and until a GPU's memory is free

_children: list[subprocess.Popen[bytes]] = []


def tend_all() -> list[str]:
    """See to every server of this machine; returns what was done, in a line each."""
    done = [line for state in registry.load_all() if (line := tend(state))]
    ended = orphans.end_orphans(paths.servers())
    return done + [f"{orphan.title} has ended." for orphan in ended if not orphan.process.is_alive()]


def tend(state: ServerState) -> str | None:
    """See to one server; returns what was done, if anything had to be."""
    if not _is_left(state):
        return None
    with registry.lock(state.name):
        now = registry.load(state.name)
        if now is None or not _is_left(now):  # another notebook was faster
            return None
        if now.seen().status == "ready":
            try:
                start_supervisor(now, adopt=True)
            except MagistralError as error:
                return f"Server {now.name!r} has lost its supervisor, and has no new one: {error}"
            return f"Server {now.name!r} had lost its supervisor and has a new one: it goes on."
        end_engine(registry.path_of(now.name), now)
        with contextlib.suppress(OSError):  # who looks at its processes sees the same
            registry.save(registry.path_of(now.name), now.seen())
        return f"Server {now.name!r} had lost its supervisor: what was left of it has ended."


def _is_left(state: ServerState) -> bool:
    """Whether processes of a server run that nobody supervises."""
    is_supervised = state.supervisor is not None and state.supervisor.is_alive()
    return not is_supervised and bool(orphans.engine_processes(state))


def end_engine(path: Path, state: ServerState | None) -> None:
    """End what was started for this state file, and wait until its GPUs are free.

    Args:
        path: of the state file.
        state: what is in it, if that can be used.
    """
    for group in orphans.groups(path):
        with contextlib.nullcontext() if state is None else freed(state.plan, group):
            end_group(group)
    if state is not None:
        remove_socket(state.base_url)


def stop(name: str) -> None:
    """`end`, and nobody attaches to it or starts another one meanwhile.

    Raises:
        MagistralError: see `end` and `registry.lock`.
    """
    with registry.lock(name):
        end(name)


def end(name: str) -> None:
    """End a server of ours, or what a dead one has left, and wait until its processes are gone.

    Whoever calls this holds the lock.

    Raises:
        MagistralError: it runs on another machine, or a process hangs in the system.
    """
    path = registry.path_of(name)
    state = registry.look(path)
    if isinstance(state, registry.Unusable):
        if state.elsewhere:
            raise MagistralError(f"Server {name!r} cannot be ended from here: {state.why}. End it there.")
        state = None
    supervisors = orphans.supervisors(path)
    for process in supervisors:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, supervisor.ASKED)
            os.kill(process.pid, signal.SIGCONT)  # or one that is stopped would hear nothing
    deadline = time.monotonic() + _STOP_SECONDS
    while any(process.is_alive() for process in supervisors) and time.monotonic() < deadline:
        reap()
        time.sleep(0.05)
    for process in supervisors:
        with contextlib.suppress(ProcessLookupError):
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
    end_engine(path, state)
    if stuck := [*(process.pid for process in supervisors if process.is_alive()), *orphans.groups(path)]:
        raise MagistralError(
            f"Server {name!r} does not end: process {stuck[0]} hangs in the system, and only a restart of this machine "
            "helps."
        )
    registry.forget(name)


def start_supervisor(state: ServerState, *, adopt: bool = False) -> None:
    """Start a process that owns this server, and wait until it does.

    The state goes to it by its standard input, since it holds the key; it alone writes the state file.

    Raises:
        BootFailed: it did not start.
    """
    path = registry.path_of(state.name)
    try:
        log = Path(state.log_path).open("ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BootFailed(
            f"{state.log_path} cannot be written ({error.strerror}): make room, then try again."
        ) from error
    with log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", supervisor.__name__, str(path)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {orphans.SUPERVISES: str(path)},
            start_new_session=True,
        )
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError), child.stdin as pipe:  # it may have ended at once
            if not adopt:
                pipe.write(state.to_json().encode())
    reap()
    _children.append(child)
    deadline = time.monotonic() + _SUPERVISOR_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        if _is_owned_by(child.pid, registry.load(state.name)):
            return
        time.sleep(0.02)
    child.kill()
    child.wait()
    if not adopt:
        end_engine(path, state)  # it may have come so far
    raise BootFailed(f"The supervisor of {state.name!r} did not start: {state.log_path} says why.")


def reap() -> None:
    """Collect supervisors that have ended, or they would stay as zombies of this kernel."""
    _children[:] = [child for child in _children if child.poll() is None]


def _is_owned_by(pid: int, state: ServerState | None) -> bool:
    owner: Process | None = None if state is None else state.supervisor
    return owner is not None and owner.pid == pid
