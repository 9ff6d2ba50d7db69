"""Whose a process is, and what is ended of it: real processes, small ones."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given, strategies as st

from magistral_nb import cli, paths
from magistral_nb.asking import client
from magistral_nb.processes import Process
from magistral_nb.serving import freeing, orphans, registry, tending
from magistral_nb.serving.engine import find_engine
from magistral_nb.serving.kept_proxy import KeptProxy
from magistral_nb.serving.launch import EngineGroup, engine_environment
from magistral_nb.serving.orphans import Mark
from magistral_nb.serving.server import Server

ALIVE = Process.of(os.getpid())


def killed(leader):
    leader.kill()
    leader.wait()


def runs(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def found():
    return [orphan.process.pid for orphan in orphans.find_orphans()]


@given(st.integers(1), st.floats(0, allow_infinity=False), st.text())
def test_a_mark_is_read_as_it_was_written(pid, started, path):
    mark = Mark(Process(pid, started), Path("/home") / path)
    assert Mark.read(mark.text) == mark


@given(st.text())
def test_what_is_no_mark_is_nobody_s(text):
    assert Mark.read(f"x{text}") is None
    assert Mark.read("") is None


# Whose it is


def test_what_outlived_its_engine_and_its_supervisor_is_an_orphan(started):
    _, leader, child = started()
    assert found() == [], "its engine serves on without a supervisor"
    killed(leader)
    (orphan,) = orphans.find_orphans()
    assert (orphan.process.pid, orphan.server) == (child, "second")
    assert orphan.title == f"sleep (process {child}), which server 'second' left,"


def test_whoever_has_a_supervisor_is_no_orphan(started):
    _, leader, _ = started(supervisor=ALIVE)
    registry.forget("second")
    killed(leader)
    assert found() == []


def test_an_engine_that_no_state_file_knows_is_an_orphan(started):
    state, leader, child = started()
    path = registry.path_of("second")
    path.write_text("{}")
    assert found() == [], "what this version cannot read may be a newer one's"
    registry.save(path, state.with_(starter=dataclasses.replace(state.starter, started=1.0)))
    assert set(found()) == {leader.pid, child}, "that is another boot's"
    registry.save(path, state.with_(status="booting"))
    assert set(found()) == {leader.pid, child}, "nobody looks after it any more"
    registry.forget("second")
    assert set(found()) == {leader.pid, child}


def test_a_server_of_another_home_runs_as_well(started, monkeypatch, tmp_path):
    started()
    monkeypatch.setenv("MAGISTRAL_NB_HOME", str(tmp_path / "elsewhere"))
    assert registry.load_all() == []
    assert found() == []


def test_what_others_have_started_is_none_of_ours(group, started, monkeypatch):
    somebody_s, _ = group()
    killed(somebody_s)
    assert found() == []
    _, leader, child = started()
    killed(leader)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        assert found() == [], "that is another user's"
    with monkeypatch.context() as patch:
        patch.setattr(orphans, "_pid_namespace", lambda pid: pid)
        assert found() == [], "that is another container's, whose supervisor has a number that is nobody's here"
    assert found() == [child]


def test_a_server_s_processes_are_known_with_and_without_the_first_of_them(started):
    state, leader, child = started()
    assert {process.pid for process in orphans.engine_processes(state)} == {leader.pid, child}
    killed(leader)
    assert [process.pid for process in orphans.engine_processes(state)] == [child]
    another_boot = state.with_(starter=ALIVE)
    assert orphans.engine_processes(another_boot) == []
    assert orphans.engine_processes(state.with_(engine=None)) == []


# Ending it


def test_stopping_a_server_whose_first_process_was_killed_ends_the_others(started):
    state, leader, child = started()
    killed(leader)
    tending.stop(state.name)
    assert not runs(child)
    assert registry.load("second") is None


def test_stopping_a_dead_server_leaves_a_stranger_alone_that_got_its_number(started, group):
    state, *_ = started()
    stranger, child = group()
    path = registry.path_of(state.name)
    reused = Process(stranger.pid, Process.of(stranger.pid).started - 60)
    registry.save(path, state.with_(engine=reused))
    tending.stop(state.name)
    assert runs(stranger.pid)
    killed(stranger)
    registry.save(path, state.with_(engine=reused))
    tending.stop(state.name)
    assert runs(child), "also one whose own first process is dead"


def test_stop_orphans_ends_what_dead_servers_have_left_and_lists_it(started, capsys):
    lists = {}
    for name in ("first", "second"):
        _, leader, child = started(name)
        killed(leader)
        lists[child] = f"sleep (process {child}), which server '{name}' left, has ended."
    _, serving, _ = started("third")
    assert cli.main(["stop", "--orphans"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(lists.values())
    assert not any(map(runs, lists))
    assert runs(serving.pid)
    assert cli.main(["stop", "--orphans"]) == 0
    assert "nothing to stop" in capsys.readouterr().out


def test_stop_all_ends_servers_whose_files_are_not_believed_as_well(started, capsys):
    _, leader, _ = started("first")
    _, second, _ = started("second")
    registry.path_of("second").write_text("{}")
    (paths.servers() / "copy of second.json").write_text("{}")
    assert cli.main(["stop", "--all"]) == 0
    assert capsys.readouterr().out == "Server 'first' has ended.\nServer 'second' has ended.\n"
    assert not any(runs(process.pid) for process in (leader, second))
    assert [found.path.stem for found in registry.unusable()] == ["copy of second"]


def test_the_socket_of_a_server_that_was_killed_is_removed_and_nothing_else_is(started, tmp_path):
    place = paths.sockets() / "0.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    (tmp_path / "kept").touch()
    for path in (place, tmp_path / "kept"):
        started(base_url=f"unix:{path}")
        tending.stop("second")
    assert not place.exists()
    assert (tmp_path / "kept").exists()


def test_connections_to_a_server_are_closed_with_it(started):
    started(base_url="http://127.0.0.1:9/v1")
    server = Server("second")
    client.client_for(server.endpoint)
    server.stop()
    assert not client._clients


def test_memory_that_stays_held_is_told_by_stop(started, capsys, monkeypatch):
    started()
    monkeypatch.setattr(freeing.Freeing, "wait", lambda _: "Some GPU is not free.")
    assert cli.main(["stop"]) == 0
    assert capsys.readouterr().out == "Server 'second' has ended.\nSome GPU is not free.\n"


def test_what_does_not_end_is_told(started, capsys, monkeypatch):
    _, leader, _ = started()
    killed(leader)
    monkeypatch.setattr(orphans, "end_group", lambda _: None)  # as where it hangs in the driver
    assert cli.main(["stop", "--orphans"]) == 0
    assert "which server 'second' left, does not end" in capsys.readouterr().out


# Taken over from a dead supervisor


def test_what_a_state_file_names_is_taken_over_only_with_its_mark(started):
    _, leader, _ = started()
    process, path = Process.of(leader.pid), registry.path_of("second")
    assert EngineGroup.adopted(process, path) == EngineGroup(process)
    assert EngineGroup.adopted(process, registry.path_of("first")) is None
    assert EngineGroup.adopted(dataclasses.replace(process, started=1.0), path) is None
    assert EngineGroup.adopted(None, path) is None


def test_a_stranger_named_as_proxy_outlives_the_server(started):
    started()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        KeptProxy(registry.path_of("second"), Process.of(stranger.pid)).end()
        assert stranger.poll() is None
        stranger.kill()


# With the real engine's Python


@pytest.mark.engine
def test_vllm_s_own_name_for_a_process_leaves_the_mark_readable(started):
    """Unless told otherwise, setproctitle writes the name over the memory in which the environment is read."""
    state, *_ = started()
    registry.forget("second")
    python, *_ = find_engine(gpu=False).command
    code = (
        "import setproctitle, sys; setproctitle.setproctitle('VLLM::EngineCore'); print(flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    environment = engine_environment(state, os.environ, registry.path_of("second"))
    with subprocess.Popen([python, "-c", code], env=environment, stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        names = {orphan.process.pid: orphan.name for orphan in orphans.find_orphans()}
        process.kill()
    assert names.get(process.pid) == "VLLM::EngineCore"
