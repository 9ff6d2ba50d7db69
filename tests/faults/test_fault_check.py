"""The check that ends every fault finds damage of each kind where there is some: the control of the whole matrix.

The engine is the talking stand-in; the damage is real.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import time

import psutil
import pytest
from faults.harness import Room, is_running, kept_answers, until
from filelock import FileLock

from magistral_nb import paths
from magistral_nb.serving import registry
from magistral_nb.serving.orphans import MARK

pytestmark = pytest.mark.engine


@pytest.fixture
def process():
    """Start a process with more in its environment; its id."""
    started = []

    def start(**more: str) -> int:
        started.append(subprocess.Popen(["sleep", "60"], env=os.environ | more, start_new_session=True))
        until(lambda: psutil.Process(started[-1].pid).name() == "sleep", "it has become what it is to be")
        return started[-1].pid

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_a_server_that_is_well_is_no_damage(room, serve):
    serve()
    assert room.damage() == []


def test_an_orphan_is_found_by_its_mark(room, process):
    pid = process(**{MARK: f"4711 1.5 {room.home}/data/servers/x/default.json"})
    assert room.damage() == [f"process {pid} (sleep 60 ) belongs to no server"]


def test_an_orphan_without_a_mark_is_found_by_its_group(room, process):
    pid = process()
    assert room.damage() == []
    room._groups.add(pid)  # as after `note`
    assert room.damage() == [f"process {pid} (sleep 60 ) belongs to no server"]


def test_a_server_that_nobody_supervises_is_found(room, serve):
    server = serve()
    os.kill(server.state().supervisor.pid, signal.SIGKILL)
    until(lambda: not is_running(server.state().supervisor.pid), "the supervisor is dead")
    assert room.damage() == ["server 'default' is up, and nobody supervises it"]
    server.stop()


def test_a_port_is_found(room, serve):
    server = serve()
    port = int(server.base_url.rpartition(":")[2].removesuffix("/v1"))
    server.stop()
    assert room.damage() == []
    with socket.create_server(("127.0.0.1", port)):
        assert room.damage() == [f"port {port} of server 'default' is still listened on"]


def test_a_socket_a_bad_state_half_a_state_and_a_held_lock_are_found(room, serve):
    serve().stop()
    folder = registry.path_of("default").parent
    (paths.sockets() / "0.sock").touch()
    registry.path_of("default").write_text("{")
    half = folder / ".default.json.x7"
    half.touch()
    os.utime(half, (time.time() - 60,) * 2)
    with FileLock(folder / "default.lock"):
        assert [line.split(" ", 1)[0] for line in room.damage()] == ["socket", "state", "half", "lock"]
    (paths.sockets() / "0.sock").unlink()
    registry.path_of("default").unlink()
    half.unlink()
    assert room.damage() == []


def test_lost_text_is_found(room, serve):
    asking = room.ask(serve(), "count 10").over()
    assert room.damage() == []
    assert asking.answer == kept_answers("count 10")[0]
    asking.seen.append("more than there was")
    assert room.damage() == ["'count 10': what was shown is not in the Answer"]
    asking.seen.pop()
    with contextlib.closing(sqlite3.connect(paths.journal(), isolation_level=None)) as db:
        db.execute("UPDATE answers SET thinking = 'less'")
    assert room.damage() == ["'count 10': the Answer is not in the journal"]
    room.asked.clear()


def test_the_check_says_what_it_has_found(room, process):
    process(**{MARK: f"4711 1.5 {room.home}/data/servers/x/default.json"})
    with pytest.raises(AssertionError, match="belongs to no server"):
        room.check(patience=0.1)


def test_another_home_s_processes_are_none_of_this_room_s(room, process):
    process(**{MARK: "4711 1.5 /home/ada/servers/default.json"})
    assert room.damage() == []
    assert Room(room.home / "elsewhere").ours() == set()
