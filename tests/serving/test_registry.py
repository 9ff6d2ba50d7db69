"""State files."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import pytest
from serving.test_plan import H100, VLLM

from magistral_nb import errors
from magistral_nb.private_file import read_private
from magistral_nb.processes import Process
from magistral_nb.serving import registry, server
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes


@pytest.fixture
def state():
    return registry.ServerState(
        name="default",
        status="ready",
        plan=make_plan(H100, RELEASES["2506"], Wishes(), VLLM),
        api_key="k" * 43,
        log_path="/tmp/x.log",
        base_url="http://127.0.0.1:1/v1",
        terms=Terms(price_per_hour=2.5),
        stages=(("Starting vLLM", 0.0), ("Loading", 1.5)),
        engine=Process.of(os.getpid()),
    )


def test_round_trip(state):
    path = registry.path_of("default")
    registry.save(path, state)
    assert registry.load("default") == state
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["default.json"], "no temporary file stays"


def test_terms_that_make_no_sense_are_not_believed(state):
    raw = json.loads(state.to_json())
    raw["terms"]["restart"] = "always"
    with pytest.raises(ValueError, match="it is incomplete: restart is 'always'"):
        registry.ServerState.from_json(json.dumps(raw))


def test_another_price_counts_for_this_process_and_this_server(state):
    registry.save(registry.path_of("default"), state)
    assert server.Server().endpoint.price_per_hour == 2.5
    server.set_price(state, 3)
    assert server.Server().endpoint.price_per_hour == 3
    assert registry.load("default").terms.price_per_hour == 2.5
    registry.save(registry.path_of("default"), state.with_(created=state.created + 60))  # replaced by another process
    assert server.Server().endpoint.price_per_hour == 2.5


def written(state, name="default", **changes):
    path = registry.path_of(name)
    registry.save(path, state.with_(**changes))
    return path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is torn"),
        ("{", "it is torn"),
        ("[" * 10**5, "recursion"),
        ("[]", "another version of magistral_nb has written it"),
        ("{}", "another version of magistral_nb has written it"),
        ('{"version": 99}', "another version of magistral_nb has written it"),
        ('{"version": 3, "name": "default"}', "it is incomplete"),
        ('{"version": 3, "colour": "red"}', "it has unknown fields, such as colour"),
        ("\xff", "it is no text"),
        ("x" * 2**21, "it is too large"),
    ],
)
def test_what_is_no_state_is_not_believed(text, why):
    path = registry.path_of("default")
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    assert registry.load("default") is None
    assert registry.load_all() == []
    (found,) = registry.unusable()
    assert found.path == path
    assert why in found.why
    assert not found.elsewhere


@pytest.mark.parametrize("number", [0, 1, -1, True, "7"])
def test_a_number_that_means_a_group_or_the_first_process_is_not_believed(state, number):
    raw = json.loads(state.to_json())
    raw["engine"]["pid"] = number
    with pytest.raises(ValueError, match="its engine is no process"):
        registry.ServerState.from_json(json.dumps(raw))


def test_neither_links_nor_pipes_nor_folders_are_followed(state, tmp_path):
    path = registry.path_of("default")
    theirs = written(state).rename(tmp_path / "theirs.json")
    path.symlink_to(theirs)
    assert registry.look(path).why == "it is a link"
    registry.save(path, state)
    assert not path.is_symlink(), "it is replaced, not written through"
    path.unlink()
    os.mkfifo(path, 0o600)
    assert registry.look(path).why == "it is no file", "and nobody waits for a writer"
    path.unlink()
    path.mkdir()
    assert registry.look(path).why == "it is no file"


def test_a_file_that_others_could_have_written_is_not_believed(state, monkeypatch):
    path = written(state)
    path.chmod(0o644)
    assert registry.look(path).why == "others may read or write it"
    path.chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match="it belongs to user"):
        read_private(path)


def test_a_copy_under_another_name_is_not_believed(state):
    path = written(state)
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    assert registry.look(copy).why == "it is the one of server 'default'"


def test_a_server_of_another_machine_is_elsewhere_and_not_here(state):
    there = dataclasses.replace(state.place, node="gpu07", boot="another")
    path = written(state, place=there)
    found = registry.look(path)
    assert found.elsewhere
    assert found.why == "its server runs on 'gpu07', out of reach from here"
    assert [each.place.node for each in registry.elsewhere()] == ["gpu07"]
    os.utime(path, (1, 1))
    assert registry.elsewhere() == [], "no sign of life for years"
    gone = registry.load("default")
    assert (gone.status, gone.error, gone.engine) == ("failed", "this machine was started again since", None)


def test_after_a_restart_of_the_machine_its_numbers_mean_nothing(state):
    path = written(state, place=dataclasses.replace(state.place, boot="before"))
    found = registry.look(path)
    assert found.status == "failed"
    assert found.engine is None
    assert found.supervisor is None


def test_a_lock_that_nobody_gives_back_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(registry, "_LOCK_SECONDS", 0.05)
    with (
        registry.lock("default"),
        pytest.raises(errors.MagistralError, match=r"Another notebook has been .*%magistral_status"),
        registry.lock("default"),
    ):
        pytest.fail("it was given twice")
    with registry.lock("default"):
        pass


def test_a_disk_without_locks_is_told_in_a_line(monkeypatch):
    def no_locks(*_):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    with pytest.raises(errors.MagistralError, match=r"no flock.*MAGISTRAL_NB_HOME"), registry.lock("default"):
        pytest.fail("it was given")


SUPERVISED = {"supervisor": Process.of(os.getpid())}
LOST = {"supervisor": Process(2**22 + 1, 0.0)}
DEAD = {"engine": Process(2**22 + 1, 0.0)}
RESTARTED = {"terms": Terms(restart="on-failure")}


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        (SUPERVISED, "ready", None),
        (LOST, "ready", None),
        (LOST | DEAD, "failed", "its vLLM process is gone"),
        (SUPERVISED | DEAD, "failed", "its vLLM process is gone"),
        (SUPERVISED | DEAD | RESTARTED, "booting", None),
        (LOST | DEAD | RESTARTED, "failed", "its vLLM process is gone"),
        (SUPERVISED | {"status": "booting"}, "booting", None),
        (LOST | {"status": "booting"}, "failed", "its supervisor was killed during the boot"),
        (LOST | DEAD | {"status": "ended", "error": "nobody asked"}, "ended", "nobody asked"),
    ],
)
def test_what_a_state_says_is_held_against_its_processes(state, changes, status, error):
    seen = state.with_(**changes).seen()
    assert (seen.status, seen.error) == (status, error)


def test_a_process_is_told_by_when_it_started():
    me = Process.of(os.getpid())
    assert me.is_alive()
    assert not dataclasses.replace(me, started=me.started - 60).is_alive(), "a reused process id"
    assert not Process(2**22 + 1, 0.0).is_alive()


def test_a_clock_that_is_set_changes_nothing(monkeypatch):
    """psutil adds the machine's start to a process's, and Linux moves that whenever its clock is set."""
    me = Process.of(os.getpid())
    monkeypatch.setattr("psutil.boot_time", lambda: 0.0)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 0.0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert me.is_alive()
    assert Process.of(os.getpid()) == me


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 65, "é"])
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(errors.InvalidOption):
        registry.path_of(name)


def test_key_is_in_no_repr(state):
    assert "kkk" not in repr(state)
