"""Faults of the state file while its server runs: gone, torn, forged, of another place or time. Nobody else is ended.

Real supervisors; the engine is the talking stand-in. After each fault a person types status, serve and stop; whatever
these say, in the end nothing of the server is left, and a stranger who got one of its numbers lives.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from faults.harness import Stranger, engine_of, send, supervisor_of, until

import magistral_nb
from magistral_nb import errors, paths
from magistral_nb.commands import status_table
from magistral_nb.place import Place
from magistral_nb.processes import Process
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.engine


@pytest.fixture
def stranger(room):
    found = Stranger()
    room.strangers.add(found.process.pid)
    yield found
    found.end()


def changed(path: Path, **changes) -> None:
    """Replace the state file by one that says something else."""
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | changes))
    path.chmod(0o600)


def _torn(path: Path, _stranger: Stranger) -> None:
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def _empty(path: Path, _stranger: Stranger) -> None:
    path.write_text("")


def _linked(path: Path, _stranger: Stranger) -> None:
    path.rename(path.with_suffix(".theirs"))
    path.symlink_to(path.with_suffix(".theirs"))


def _linked_into_nothing(path: Path, _stranger: Stranger) -> None:
    path.unlink()
    path.symlink_to(path.with_suffix(".nothing"))


def _readable(path: Path, _stranger: Stranger) -> None:
    path.chmod(0o644)


def _owned_by_somebody_else(path: Path, _stranger: Stranger) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, 12345)


def _outdated(path: Path, _stranger: Stranger) -> None:
    changed(path, version=2)


def _from_the_future(path: Path, _stranger: Stranger) -> None:
    changed(path, version=99)


def _of_another_name(path: Path, _stranger: Stranger) -> None:
    changed(path, name="other")


def _a_pipe(path: Path, _stranger: Stranger) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _huge(path: Path, _stranger: Stranger) -> None:
    path.write_text(" " * 2**21)


def _with_a_stranger_s_group(path: Path, stranger: Stranger) -> None:
    changed(path, engine=dataclasses.asdict(stranger.process))


def _with_a_stranger_as_engine_of_a_dead_supervisor(path: Path, stranger: Stranger) -> None:
    _without_supervisor(path, engine=dataclasses.asdict(stranger.process))


def _with_a_stranger_as_proxy_of_a_dead_supervisor(path: Path, stranger: Stranger) -> None:
    """Whoever takes the server over ends its proxy with it."""
    _without_supervisor(path, proxy=dataclasses.asdict(stranger.process))


def _without_supervisor(path: Path, **changes) -> None:
    send(signal.SIGKILL, registry.read(path).supervisor)
    changed(path, **changes)


def _with_a_number_that_was_used_again(path: Path, stranger: Stranger) -> None:
    reused = dataclasses.replace(stranger.process, started=stranger.process.started - 60)
    changed(path, engine=dataclasses.asdict(reused))


def _with_a_stranger_as_supervisor(path: Path, stranger: Stranger) -> None:
    changed(path, supervisor=dataclasses.asdict(stranger.process), starter=dataclasses.asdict(stranger.process))


def _with_the_first_process_of_all(path: Path, _stranger: Stranger) -> None:
    changed(path, engine={"pid": 1, "started": Process.of(1).started})


def _with_everybody_s_number(path: Path, _stranger: Stranger) -> None:
    changed(path, engine={"pid": -1, "started": 0.0}, supervisor={"pid": 0, "started": 0.0})


FAULTS: list[Callable[[Path, Stranger], None]] = [
    _torn,
    _linked,
    _readable,
    _owned_by_somebody_else,
    _outdated,
    _of_another_name,
    _with_a_stranger_s_group,
    _with_a_stranger_as_engine_of_a_dead_supervisor,
    _with_a_stranger_as_proxy_of_a_dead_supervisor,
    _with_a_number_that_was_used_again,
    _with_a_stranger_as_supervisor,
]
RARER: list[Callable[[Path, Stranger], None]] = [
    _empty,
    _linked_into_nothing,
    _from_the_future,
    _a_pipe,
    _huge,
    _with_the_first_process_of_all,
    _with_everybody_s_number,
]


@pytest.mark.parametrize(
    "fault",
    [*FAULTS, *(pytest.param(fault, marks=pytest.mark.long) for fault in RARER)],
    ids=lambda fault: fault.__name__.strip("_").replace("_", " "),
)
def test_status_serve_and_stop_end_what_is_ours_and_nobody_else(serve, room, stranger, status, fault):
    serve()
    path = registry.path_of("default")
    fault(path, stranger)
    status()
    try:
        assert serve().reason("count 3").text == "Done."
    except errors.NameTaken as refused:
        assert "%magistral_stop default ends it" in str(refused)  # noqa: PT017 - one of two good ends
    magistral_nb.Server().stop()
    room.check()
    assert room.ours() == set()
    assert stranger.is_unharmed()
    assert serve().reason("count 3").text == "Done."
    path.with_suffix(".theirs").unlink(missing_ok=True)


def test_removed_the_next_serve_ends_the_old_one_and_boots_anew(serve, room):
    before = engine_of(serve())
    registry.path_of("default").unlink()
    assert engine_of(serve()) != before
    assert len(room.ours()) == 2


@pytest.mark.long  # the supervisor gives a sign of life every 15 seconds
def test_removed_it_is_written_again(serve, room):
    server = serve()
    before = engine_of(server)
    registry.path_of("default").unlink()
    until(magistral_nb.servers, "it is known again", registry.BEAT_SECONDS + 10)
    assert engine_of(server) == before
    assert server.reason("count 3").text == "Done."


def test_the_whole_folder_is_removed_the_next_serve_ends_the_old_one(serve, room):
    before = engine_of(serve())
    shutil.rmtree(room.home / "data")
    assert engine_of(serve()) != before
    assert len(room.ours()) == 2


# Another place


def move(monkeypatch, **changes) -> None:
    """This process is in another container, or the machine was started again."""
    here = dataclasses.replace(Place.here(), **changes)
    monkeypatch.setattr(Place, "here", staticmethod(lambda: here))


def test_a_login_node_sees_a_compute_node_s_server_and_leaves_it_alone(serve, room, engine, checkpoint):
    """Another process, and all that it starts, takes itself for another machine that shares the home."""
    server = serve()
    site = room.home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import platform\nplatform.node = lambda: 'login01'\n")

    def there(*words: str) -> str:
        path = f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        command = [sys.executable, "-m", "magistral_nb.cli", *words]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    assert f"default: runs on {platform.node()}, which shares this home" in there("status")
    assert "ask it there" in there("stop", "default")
    assert "ready after" in there("serve", str(checkpoint), "--engine", engine)
    assert sorted(path.parent.name for path in paths.of_all_nodes("default.json")) == sorted(
        ["login01", platform.node()]
    )
    assert "default: runs on login01" in status_table([server])
    assert "has ended" in there("stop")
    assert server.reason("count 3").text == "Done."


def test_two_containers_of_one_name_and_home_leave_each_other_alone(serve, room, monkeypatch, status):
    server = serve()
    with monkeypatch.context() as patch:
        move(patch, room="pid:[1]")
        assert "runs on" in status()
        with pytest.raises(errors.NameTaken, match="out of reach from here"):
            serve()
        with pytest.raises(errors.MagistralError, match="End it there"):
            server.stop()
    assert server.reason("count 3").text == "Done."


def test_after_a_restart_of_the_machine_a_state_s_numbers_are_strangers(room, stranger, serve, monkeypatch, status):
    server = serve()
    state = server.state()
    server.stop()
    before = dataclasses.replace(Place.here(), boot="another")
    reused = state.with_(place=before, engine=stranger.process, supervisor=stranger.process, starter=stranger.process)
    registry.save(registry.path_of("default"), reused)
    assert "this machine was started again since" in status()
    assert server.status() == "failed"
    server.stop()
    assert stranger.is_unharmed()


def test_after_a_restart_of_the_container_likewise(room, stranger, serve, status):
    server = serve()
    state = server.state()
    server.stop()
    path = registry.path_of("default")
    before = dataclasses.replace(Place.here(), room="pid:[1]")
    registry.save(path, state.with_(place=before, engine=stranger.process, supervisor=stranger.process))
    os.utime(path, (time.time() - 3600,) * 2)  # its supervisor has long been silent
    assert "failed" in status()
    assert serve().reason("count 3").text == "Done."
    assert stranger.is_unharmed()


# The clock


@pytest.mark.parametrize("days", [-400, pytest.param(400, marks=pytest.mark.long)])
def test_a_clock_that_is_set_decides_nothing(serve, room, monkeypatch, status, days):
    """The wall clock as this process and, by a module that Python loads at its start, the supervisor see it."""
    site = room.home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import itertools, time\nreal, jumps = time.time, itertools.cycle([0, {86_400.0 * days}])\n"
        "time.time = lambda: real() + next(jumps)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400.0 * days)
    server = serve(idle_stop=60.0, restart="on-failure")
    before = engine_of(server)
    monkeypatch.setattr(time, "time", real)
    assert "ready" in status()
    assert engine_of(serve(idle_stop=60.0)) == before
    assert server.state().supervisor.is_alive()
    send(signal.SIGKILL, supervisor_of(server))
    assert "has a new one" in status()
    send(signal.SIGKILL, before)
    assert server.wait(20).reason("count 3").text == "Done."
    assert server.state().restarts == 1
