"""Faults of the disk: full, read-only, gone, with names that are long and not English.

Real supervisors; the engine is the talking stand-in. A small disk is a tmpfs of its own, which only root may mount;
elsewhere those tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from faults.harness import Room, engine_of, send, supervisor_of, until

import magistral_nb
from magistral_nb import errors, paths
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.engine

LONG = "Größenordnungen 漢字 тест" + "-é" * 70  # 243 bytes, and a name may have 255


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(room: Room) -> Iterator[Path]:
    """The home's data folder, on a disk of its own of a megabyte."""
    folder = room.home / "data"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)):
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    room.sweep()
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is free meanwhile."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Meanwhile nothing is opened for writing any more; what is open stays so."""
    assert mount("--bind", str(disk), str(disk))
    assert mount("-o", "remount,bind,ro", str(disk))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_nothing_is_started_and_one_line_says_why(serve, room, small_disk):
    registry.path_of("default")
    with full(small_disk), pytest.raises(errors.MagistralError, match=r"[Nn]o space left on device") as caught:
        serve()
    assert "\n" not in str(caught.value)
    assert paths.HOME_VARIABLE in str(caught.value)
    assert room.ours() == set()
    assert serve().reason("count 3").text == "Done."


def test_full_while_it_runs_it_goes_on_and_can_be_stopped(serve, small_disk, status, room):
    server = serve()
    with full(small_disk):
        assert "ready" in status()
        assert server.reason("count 20").text == "Done."
        server.stop()
        room.check()
        assert room.ours() == set()


def test_full_while_it_runs_its_end_is_told_all_the_same(serve, small_disk, status):
    """The state of its end is not written; that its process is gone is seen by whoever looks."""
    server = serve()
    with full(small_disk):
        send(signal.SIGKILL, engine_of(server))
        until(lambda: server.status() == "failed", "it is seen to have failed")
        assert "failed" in status()


@pytest.mark.parametrize("fault", [full, read_only])
def test_neither_full_nor_read_only_keeps_a_server_without_a_supervisor_from_being_stopped(
    serve, small_disk, room, status, fault
):
    server = serve()
    with fault(small_disk):
        send(signal.SIGKILL, supervisor_of(server))
        began = time.monotonic()
        assert "has lost its supervisor, and has no new one" in status()
        assert time.monotonic() - began < 10
        assert server.reason("count 3").text == "Done."
        with contextlib.suppress(errors.MagistralError):  # its state file cannot be removed
            server.stop()
        assert room.ours() == set()


def test_full_for_a_while_it_is_adopted_later(serve, small_disk, status):
    server = serve()
    with full(small_disk):
        send(signal.SIGKILL, supervisor_of(server))
        status()
    assert "has a new one" in status()


def test_full_during_the_boot_the_boot_goes_on(serve, behave, small_disk, room):
    behave("mute")
    server = serve(wait=False)
    engine_of(server)
    with full(small_disk):
        assert server.status() == "booting"
        server.stop()
        assert room.ours() == set()


def test_files_may_not_grow_one_line_says_why(room, engine, checkpoint):
    """A quota, as many a cluster has one for a home: here the limit on the size of files."""
    code = "import sys, magistral_nb\ntry: magistral_nb.serve(sys.argv[1], engine=sys.argv[2])\n"
    code += "except magistral_nb.MagistralError as error: print(type(error).__name__, error)"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(checkpoint), engine],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    assert room.ours() == set()


def test_read_only_one_line_says_why(serve, room, small_disk):
    registry.path_of("default")
    with read_only(small_disk), pytest.raises(errors.MagistralError, match=r"[Rr]ead-only file system") as caught:
        serve()
    assert "\n" not in str(caught.value)
    assert paths.HOME_VARIABLE in str(caught.value)
    assert room.ours() == set()


def test_read_only_while_it_runs_it_answers_and_can_be_stopped(serve, small_disk, status, room):
    server = serve()
    with read_only(small_disk):
        assert "ready" in status()
        assert server.reason("count 3").text == "Done."
        with pytest.raises(errors.MagistralError, match=r"has ended, but .* cannot be removed \(Read-only file system"):
            server.stop()
        assert room.ours() == set()
        assert server.status() == "failed"


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null/home"])
def test_a_home_that_cannot_be_made_is_told_in_one_line(monkeypatch, engine, checkpoint, home):
    monkeypatch.setenv(paths.HOME_VARIABLE, home)
    with pytest.raises(errors.MagistralError, match="cannot be used") as caught:
        magistral_nb.serve(str(checkpoint), engine=engine)
    assert "\n" not in str(caught.value)
    assert paths.HOME_VARIABLE in str(caught.value)


def test_a_home_with_a_long_name_that_is_not_english(tmp_path, monkeypatch, engine, checkpoint, status):
    home = tmp_path / LONG
    assert len(os.fsencode(home)) > 255
    monkeypatch.setenv(paths.HOME_VARIABLE, str(home))
    room = Room(home)
    try:
        server = magistral_nb.serve(str(checkpoint), engine=engine)
        asking = room.ask(server, "count 10").over()
        assert asking.answer.text == "Done."
        send(signal.SIGKILL, supervisor_of(server))
        assert "has a new one" in status()
        assert len(os.fsencode(paths.sockets())) < 100, "a socket's path has room for 107 bytes"
        room.check()
        server.stop()
        room.check()
        assert room.ours() == set()
    finally:
        room.sweep()


def test_a_model_with_a_long_name_that_is_not_english(serve, checkpoint, tmp_path):
    there = checkpoint.rename(tmp_path / LONG)
    assert serve(model=str(there)).reason("count 3").text == "Done."
