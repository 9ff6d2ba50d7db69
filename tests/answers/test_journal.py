"""The journal: what is streamed is kept, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import uuid
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from magistral_nb import Answer, Usage, paths, recall
from magistral_nb.answers import journal as journal_module, journal_file
from magistral_nb.answers.file_system import network_type
from magistral_nb.answers.history import history
from magistral_nb.answers.journal import Journal, NoJournal, journal
from magistral_nb.answers.journal_row import CUT_SHORT, STILL_STREAMING, without_keys
from magistral_nb.answers.writer import Writer

anything = st.text(st.characters(exclude_categories=()))  # halves of characters and NUL too
tokens = st.none() | st.integers(0, 2**40)
seconds = st.floats(0, 1e9)
answers = st.builds(
    Answer,
    prompt=anything,
    thinking=anything,
    text=anything,
    finish_reason=st.sampled_from(["stop", "length", "budget", "interrupted", "error"]),
    id=st.uuids(version=4).map(lambda each: each.hex),
    usage=st.builds(Usage, tokens, tokens, tokens, tokens),
    seconds=seconds,
    time_to_first_token=st.none() | seconds,
    model=st.text(),
    server=st.text(),
    error=st.none() | st.sampled_from(["The endpoint answered 500.", "The stream broke off: ü\n"]),
    cost=st.none() | seconds,
    parsed=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists),
)
in_one_home = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def new_id() -> str:
    return uuid.uuid4().hex


def an_answer(**changes) -> Answer:
    given = {"prompt": "2+2?", "thinking": "2+2=4.", "text": "4", "finish_reason": "stop", "id": new_id()}
    return Answer(**(given | changes))


def keep(answer: Answer) -> None:
    """As whoever reads a stream does it."""
    kept = journal()
    kept.begin(answer.id, answer.prompt, answer.model, answer.server)
    kept.add(answer.id, "thinking", answer.thinking)
    kept.add(answer.id, "text", answer.text)
    kept.finish(answer)


def rows(statement: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(paths.journal())) as db:
        return db.execute(statement).fetchall()


@contextlib.contextmanager
def told():
    """The lines that people are told meanwhile."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lines
    lines += [str(each.message) for each in caught]


def kernel(code: str, *arguments: str) -> subprocess.Popen:
    """Another process that keeps answers; `said` in it writes a line to us."""
    head = """
import sys, time, uuid
from magistral_nb.answers.answer import Answer
from magistral_nb.answers.journal import journal
def said(*words): print(*words, flush=True)
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@in_one_home
@given(answers)
def test_a_recalled_answer_is_the_original(answer):
    keep(answer)
    assert recall(answer.id) == answer


@in_one_home
@given(st.lists(st.tuples(st.sampled_from(["thinking", "text", "flush"]), anything), max_size=8))
def test_pieces_add_up(pieces):
    key, kept = new_id(), journal()
    kept.begin(key, "2+2?", "m", "default")
    for kind, piece in pieces:
        if kind == "flush":
            assert kept.flush()
        else:
            kept.add(key, kind, piece)
    so_far = recall(key)
    for kind in ("thinking", "text"):
        assert getattr(so_far, kind) == "".join(piece for of, piece in pieces if of == kind)
    kept.finish(an_answer(id=key))
    kept.flush()
    assert rows(f"SELECT count(*) FROM pieces JOIN answers a ON a.number = answer WHERE a.id = '{key}'") == [(0,)]


def test_an_object_is_parsed_again_as_json_has_it():
    keep(answer := an_answer(parsed=Usage(1, 2, 3, 4)))
    assert recall(answer.id).parsed["answer_tokens"] == 3


def test_nothing_waits_for_the_disk():
    kept, answer = journal(), an_answer()
    keep(an_answer())
    with journal_file.in_use:  # a disk that hangs
        kept.begin(answer.id, "2+2?", "m", "default")
        for _ in range(1000):
            kept.add(answer.id, "thinking", "hm ")
        kept.finish(answer)
        assert not kept.flush(timeout=0.01)
    assert recall(answer.id) == answer


def test_only_the_owner_may_read_it():
    keep(an_answer())
    journal().flush()
    assert stat.S_IMODE(paths.journal().parent.stat().st_mode) == 0o700
    for file in paths.journal().parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("MAGISTRAL_NB_JOURNAL", "off")
    assert isinstance(journal(), NoJournal)
    keep(an_answer())
    assert history().empty
    assert not paths.journal().parent.exists()


def test_looking_makes_nothing():
    assert history().empty
    assert not paths.journal().parent.exists()


def test_it_follows_the_home(monkeypatch, tmp_path):
    first = journal()
    assert journal() is first
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "other"))
    keep(answer := an_answer())
    assert history()["id"].tolist() == [answer.id]
    monkeypatch.undo()
    assert journal().path != first.path
    monkeypatch.setenv(paths.HOME_VARIABLE, "~nobody-of-this-name")
    assert isinstance(journal(), NoJournal)


def test_an_idle_journal_ends_its_thread_and_begins_again(monkeypatch):
    monkeypatch.setattr(journal_module, "_LINGER_SECONDS", 0.001)
    monkeypatch.setattr(journal_module, "_TICK_SECONDS", 0.001)
    kept, several = journal(), [an_answer() for _ in range(100)]
    for answer in several:
        kept.finish(answer)
        time.sleep(0.002)
    assert kept.flush()
    assert len(history(limit=200)) == 100
    while kept._thread is not None:
        time.sleep(0.01)
    assert rows("SELECT * FROM writers") == []


def test_an_answer_is_kept_although_it_never_began():
    journal().finish(answer := an_answer(seconds=3.0))
    assert recall(answer.id) == answer


def test_several_kernels_at_once():
    code = """
kept = journal()
said("ready"); sys.stdin.readline()
for n in range(25):
    key, prompt = uuid.uuid4().hex, f"kernel {sys.argv[1]} question {n}"
    kept.begin(key, prompt, "m", "default")
    kept.add(key, "thinking", "hm")
    time.sleep(0.005)
    kept.finish(Answer(prompt=prompt, thinking="hm", text="4", finish_reason="stop", id=key))
"""
    several = [kernel(code, str(n)) for n in range(3)]
    for each in several:
        each.stdout.readline()
    for each in several:
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [each.wait(30) for each in several] == [0] * 3
    found = history("kernel question", limit=1000)
    assert sorted(found["prompt"]) == sorted(f"kernel {k} question {n}" for k in range(3) for n in range(25))
    assert set(found["finish_reason"]) == {"stop"}


@pytest.mark.parametrize("after", [0.0, 0.15, 0.3])
def test_a_killed_process_loses_its_last_second_at_most(after):
    code = """
kept, key = journal(), uuid.uuid4().hex
kept.begin(key, "How long?", "m", "default")
said(key)
while True:
    kept.add(key, "thinking", f"{time.monotonic()} ")
    time.sleep(0.002)
"""
    process = kernel(code)
    key = process.stdout.readline().strip()
    while history().empty or not recall(key).thinking:  # the first commit may hold the question alone
        time.sleep(0.02)
    time.sleep(after)
    assert history()["finish_reason"].tolist() == [None], "it still streams"
    assert recall(key).error == STILL_STREAMING
    process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    process.wait()
    answer = recall(key)
    assert (answer.finish_reason, answer.error, answer.prompt) == ("error", CUT_SHORT, "How long?")
    assert killed - float(answer.thinking.split()[-1]) < 10  # on a busy machine; tests/bench has the figure
    assert history()["finish_reason"].tolist() == ["error"]
    assert history("how long")["id"].tolist() == [key], "whoever looks next folds the pieces and indexes them"
    assert rows("SELECT count(*) FROM pieces") == [(0,)]
    assert recall(key) == answer


def test_a_process_that_ends_writes_what_it_has():
    code = """
kept, key = journal(), uuid.uuid4().hex
kept.begin(key, "Well?", "m", "default")
kept.add(key, "text", "said at last")
import multiprocessing
def ask():
    journal().finish(Answer(prompt="", thinking="", text="child", finish_reason="stop", id="c" * 32))
child = multiprocessing.get_context("fork").Process(target=ask)
child.start(); child.join()
said(key)
"""
    with kernel(code) as process:
        key = process.communicate(timeout=30)[0].strip()
    assert recall(key).text == "said at last"
    assert recall("c" * 32).text == "child"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_has_a_journal_of_its_own():
    kept, mine, childs = journal(), an_answer(), an_answer(text="child")
    kept.begin(mine.id, "2+2?", "m", "default")
    kept.add(mine.id, "text", "before")
    kept.flush()
    assert kept._file is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            keep(childs)
            good = journal() is not kept and journal().flush(10)
            os._exit(0 if good and recall(childs.id) == childs else 1)
        finally:
            os._exit(2)
    kept.add(mine.id, "text", " after")
    assert os.waitpid(child, 0)[1] == 0
    assert recall(mine.id).text == "before after", "the parent's answer is not finished by its child"
    assert history()["finish_reason"].tolist() == ["stop", None]
    assert recall(childs.id) == childs


def test_a_fork_in_the_middle_of_a_write_keeps_nothing(monkeypatch):
    keep(an_answer())
    here = journal_module._here
    try:
        with journal_file.in_use:
            journal_module._in_child()
            assert isinstance(journal(), NoJournal)
    finally:
        journal_module._here = here


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


def wait_until_closed():
    with journal_file.in_use:
        journal()._close()


def test_a_deleted_file_is_begun_anew():
    keep(before := an_answer())
    open_ = an_answer(text="more")
    journal().begin(open_.id, "2+2?", "m", "default")
    journal().flush()
    for file in paths.journal().parent.iterdir():
        file.unlink()
    journal().add(open_.id, "text", "more")
    journal().flush()
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


def test_keys_are_left_out_of_errors():
    errors = [
        "401: Incorrect API key provided: {}.",
        "sent Authorization: Bearer {}",
        "bad header {{'Authorization': 'Bearer {}'}}",
        "http://localhost/v1?api_key={}&x=1 was refused",
        "http://user:{}@host/v1 was refused",
    ]
    for key in ("hf_aBcDeFgHiJkLmNoP", "sk-proj-a1B2_c3-D4e5F6", "gsk_0123456789abcdef"):
        for error in errors:
            keep(answer := an_answer(finish_reason="error", error=error.format(key)))
            assert key not in (recall(answer.id).error or key)
        wait_until_closed()
        assert key.encode() not in paths.journal().read_bytes()


def test_a_key_without_a_known_beginning_is_left_out_where_a_header_or_an_address_has_it():
    assert without_keys("Bearer 0123abcd, api_key=0123abcd http://0123abcd@host") == (
        "Bearer (key), api_key=(key) http://(key)@host"
    )


@given(st.text())
@settings(max_examples=50)
def test_errors_without_keys_stay(text):
    assert without_keys(f"The endpoint answered 500: {text.replace('_', '').replace('-', '')[:6]}").startswith("The e")


def test_a_writer_is_told_from_a_later_one_with_its_number():
    me, now = Writer.me(), time.time()
    assert me.is_running(seen=0)
    assert not Writer(me.host, me.pid, me.started - 100).is_running(seen=now)
    assert not Writer(me.host, 2**22 + 1, me.started).is_running(seen=now)
    assert Writer("elsewhere", 2**22 + 1, 0).is_running(seen=now - 60)
    assert not Writer("elsewhere", me.pid, me.started).is_running(seen=now - 3600)


def test_what_was_given_up_too_early_is_corrected():
    kept, answer = journal(), an_answer(text="the true end")
    kept.begin(answer.id, "2+2?", "m", "default")
    kept.add(answer.id, "text", "half")
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
