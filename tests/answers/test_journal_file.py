"""The journal's file: what is streamed is kept, whatever happens to the disk or the file."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

import pytest
from answers.keeping import an_answer, keep, rows, told, wait_until_closed
from hypothesis import given, settings, strategies as st

from magistral_nb import Answer, Usage, paths, recall
from magistral_nb.answers import journal as journal_module, journal_file
from magistral_nb.answers.answer import Pieces
from magistral_nb.answers.file_system import network_type
from magistral_nb.answers.history import history
from magistral_nb.answers.journal import Journal, journal
from magistral_nb.answers.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path


def failing_lines(path: Path) -> list[str]:
    """What is said while answers go to a journal that cannot be written."""
    with told() as lines:
        kept = Journal(path)
        for _ in range(3):
            kept.finish(an_answer(thinking="x" * 200_000))
            assert not kept.flush()
    return lines


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = failing_lines(tmp_path / "file" / "history" / "answers.sqlite3")
    assert "not being kept" in line
    assert "MAGISTRAL_NB_HOME" in line
    assert "\n" not in line


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        gc.collect()
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts")
@pytest.mark.parametrize(("options", "says"), [("ro", "Read-only file system"), ("size=160k", "full")])
def test_a_read_only_or_full_disk_is_told_once(options, says, tmp_path):
    with mounted(tmp_path / "disk", options):
        (line,) = failing_lines(tmp_path / "disk" / "history" / "answers.sqlite3")
    assert says in line


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts")
def test_a_read_only_disk_can_still_be_searched(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "disk"))
    with mounted(tmp_path / "disk", "size=4m"):
        keep(answer := an_answer())
        journal().flush()
        wait_until_closed()
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        with told():
            assert history("2+2")["id"].tolist() == [answer.id]
            assert recall(answer.id) == answer


def test_what_failed_is_written_when_the_disk_is_well_again(monkeypatch):
    monkeypatch.setattr(journal_module, "_RETRY_SECONDS", 0.05)
    with told() as lines, monkeypatch.context() as patch:
        patch.setattr(journal_file.JournalFile, "write", disk_full)
        keep(answer := an_answer())
        assert not journal().flush()
    assert "database or disk is full" in lines[0]
    deadline = time.monotonic() + 5
    while not rows("SELECT 1 FROM answers") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert recall(answer.id) == answer


def disk_full(*_):
    raise sqlite3.OperationalError("database or disk is full")


def test_a_disk_that_fails_for_long_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(journal_module, "_KEPT_AT_MOST", 10)
    monkeypatch.setattr(journal_file.JournalFile, "write", disk_full)
    with told() as lines:
        for _ in range(30):
            keep(an_answer())
        journal().flush()
    assert len([line for line in lines if str(paths.journal()) in line]) == 1
    assert len(journal()._changed) == len(journal()._entries) == 10


def test_warnings_as_errors_do_not_stop_it(tmp_path):
    (tmp_path / "file").write_text("")
    kept = Journal(tmp_path / "file" / "answers.sqlite3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.finish(an_answer())
        assert not kept.flush()
    assert kept._thread is not None


def test_an_answer_that_cannot_be_kept_takes_no_other_with_it():
    keep(good := an_answer())
    with told() as lines:
        keep(bad := an_answer(usage=Usage(thinking_tokens=2**70)))
        journal().flush()
    assert recall(good.id) == good
    assert bad.id[:8] in lines[0]


def test_another_kernel_s_turn_is_waited_for(monkeypatch):
    keep(an_answer())
    journal().flush()
    monkeypatch.setattr(journal_file, "_BUSY_SECONDS", 0.05)
    kept, answer = Journal(paths.journal()), an_answer()
    with told() as lines, contextlib.closing(sqlite3.connect(paths.journal(), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        kept.finish(answer)
        assert not kept.flush(timeout=0.3)
        other.execute("ROLLBACK")
        assert kept.flush()
    assert lines == []
    assert recall(answer.id) == answer


@pytest.mark.parametrize("where", ["head", "middle"])
def test_a_damaged_file_is_moved_aside(where):
    for _ in range(50):
        keep(an_answer(thinking="word " * 500))
    journal().flush()
    path = paths.journal()
    wait_until_closed()
    content = bytearray(path.read_bytes())
    begin = 0 if where == "head" else 4096
    content[begin : begin + 20 * 4096] = b"\xa5" * 20 * 4096
    path.write_bytes(content)
    with told() as lines:
        keep(answer := an_answer())
        journal().flush()
    assert recall(answer.id) == answer
    (aside,) = path.parent.glob("*.corrupt-*")
    assert aside.read_bytes() == content
    assert len(lines) == 1
    assert str(aside) in lines[0]
    assert "\n" not in lines[0]


def test_a_deleted_file_is_begun_anew():
    keep(before := an_answer())
    open_ = an_answer(text="more")
    pieces = Pieces(["from the"], [])
    journal().begin(open_.id, "2+2?", "m", "default", pieces)
    journal().flush()
    for file in paths.journal().parent.iterdir():
        file.unlink()
    pieces.text.append("more")
    journal().flush()
    assert (recall(open_.id).thinking, recall(open_.id).text) == ("from the", "more"), "all of what is under way"
    assert history()["id"].tolist() == [open_.id]
    journal().finish(open_)
    assert recall(open_.id) == open_
    assert before.id not in history()["id"].tolist()


def test_a_newer_file_is_refused_and_not_touched():
    path = paths.journal()
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE answers (all_different)")
        db.execute("PRAGMA user_version = 7")
    content = path.read_bytes()
    with told() as lines:
        for _ in range(3):
            keep(an_answer())
            journal().flush()
    (line,) = lines
    assert "newer magistral_nb" in line
    assert line.endswith("pip install -U magistral-nb.")
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_version_0_is_brought_up_to_date():
    path = paths.journal()
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE answers (id, created, prompt, thinking, text, finish_reason, model, server)")
        old = [
            ("a" * 32, 1e9, "2+2?", "Let me add.", "4", "stop", "m", "s"),
            ("b" * 32, 5e8, "?", "", "", "error", "", ""),
        ]
        db.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", old)
        db.commit()
    keep(new := an_answer())
    assert history()["id"].tolist() == [new.id, "a" * 32, "b" * 32]
    assert history("let me")["id"].tolist() == ["a" * 32]
    assert recall("aaaa") == Answer(
        prompt="2+2?", thinking="Let me add.", text="4", finish_reason="stop", id="a" * 32, model="m", server="s"
    )
    assert rows("PRAGMA user_version") == [(1,)]


def test_several_processes_make_one_file():
    barrier = threading.Barrier(4)

    def begin():
        kept = Journal(paths.journal())
        barrier.wait()
        kept.finish(an_answer())
        assert kept.flush()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    with told() as lines:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert lines == []
    assert len(history()) == 4


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ada/history", "nfs4"),
        ("/home", "nfs4"),
        ("/homework", None),
        ("/", None),
        ("/data/scratch/x", "lustre"),
        ("/data/other", None),
        ("/my drive/x", "fuse.drive"),
        ("/mnt/c/Users/ada", "9p"),
        ("/covered/x", None),
        ("/ssh/x", "fuse.sshfs"),
        ("/ntfs/x", None),
    ],
)
def test_network_file_systems_are_recognised(path, kind):
    mounts = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:44 / /home rw shared:20 master:3 - nfs4 filer:/home rw,vers=4.2
24 22 0:45 / /data rw - xfs /dev/sdb1 rw
25 24 0:46 / /data/scratch rw - lustre mds@tcp:/scratch rw
26 22 0:47 / /my\\040drive rw - fuse.drive drive rw
27 22 0:48 / /mnt/c rw - 9p C:\\134 rw
28 22 0:49 / /covered rw - cifs //server/share rw
29 28 0:50 / /covered rw - tmpfs none rw
30 22 0:51 / /ssh rw - fuse.sshfs ada@host: rw
31 22 8:3 / /ntfs rw - fuseblk /dev/sdc1 rw
torn line"""
    assert network_type(path, mounts) == kind


@given(st.text(), st.text())
@settings(max_examples=50)
def test_a_strange_mount_table_does_no_harm(path, mounts):
    network_type("/" + path, mounts)


def test_on_a_network_file_system_there_is_no_write_ahead_log(monkeypatch):
    keep(an_answer())
    journal().flush()
    wait_until_closed()
    monkeypatch.setattr(journal_file, "network_file_system", lambda _: "nfs4")
    with told() as lines:
        keep(an_answer())
        journal().flush()
        wait_until_closed()
        keep(answer := an_answer())
        journal().flush()
    (line,) = lines
    assert "network file system (nfs4)" in line
    assert rows("PRAGMA journal_mode") == [("delete",)]
    assert recall(answer.id) == answer


def test_a_writer_is_told_from_a_later_one_with_its_number():
    me, now = Writer.me(), time.time()
    assert me.is_running(seen=0)
    assert not Writer(me.host, me.pid, me.started - 100).is_running(seen=now)
    assert not Writer(me.host, 2**22 + 1, me.started).is_running(seen=now)
    assert Writer("elsewhere", 2**22 + 1, 0).is_running(seen=now - 60)
    assert not Writer("elsewhere", me.pid, me.started).is_running(seen=now - 3600)


def test_what_was_given_up_too_early_is_corrected():
    kept, answer = journal(), an_answer(text="the true end")
    kept.begin(answer.id, "2+2?", "m", "default", Pieces([], ["half"]))
    kept.flush()
    wait_until_closed()
    with contextlib.closing(sqlite3.connect(paths.journal())) as db:  # as another machine sees a long silence
        db.execute("UPDATE writers SET pid = 4194305")
        db.commit()
    other = Journal(paths.journal())
    other.finish(an_answer())
    other.flush()
    assert recall(answer.id).finish_reason == "error"
    kept.finish(answer)
    assert recall(answer.id) == answer
    assert history("half").empty
    assert len(history("true end")) == 1
    assert rows("INSERT INTO words (words) VALUES ('integrity-check')") == []
