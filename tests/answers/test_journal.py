"""The journal: what is streamed is kept, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import stat
import time
import warnings

import pytest
from answers.keeping import an_answer, anything, in_one_home, keep, kernel, new_id, rows
from hypothesis import given, strategies as st

from magistral_nb import paths, recall
from magistral_nb.answers import journal as journal_module, journal_file
from magistral_nb.answers.answer import Pieces
from magistral_nb.answers.history import history
from magistral_nb.answers.journal import NoJournal, journal
from magistral_nb.answers.journal_row import CUT_SHORT, STILL_STREAMING


@in_one_home
@given(st.lists(st.tuples(st.sampled_from(["thinking", "text", "flush"]), anything), max_size=8))
def test_pieces_add_up(pieces):
    key, kept, arrived = new_id(), journal(), Pieces()
    kept.begin(key, "2+2?", "m", "default", arrived)
    for kind, piece in pieces:
        if kind == "flush":
            assert kept.flush()
        else:
            getattr(arrived, kind).append(piece)
    whole = {kind: "".join(piece for of, piece in pieces if of == kind) for kind in ("thinking", "text")}
    so_far, expected = recall(key), an_answer(**whole)  # which puts halves of characters together
    assert (so_far.thinking, so_far.text) == (expected.thinking, expected.text)
    kept.finish(an_answer(id=key))
    kept.flush()
    assert rows(f"SELECT count(*) FROM pieces JOIN answers a ON a.number = answer WHERE a.id = '{key}'") == [(0,)]


def test_nothing_waits_for_the_disk():
    kept, answer = journal(), an_answer()
    keep(an_answer())
    with journal_file.in_use:  # a disk that hangs
        kept.begin(answer.id, "2+2?", "m", "default", Pieces(["hm "] * 1000))
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
    monkeypatch.setattr(journal_module, "_GATHER_SECONDS", 0.001)
    kept, several = journal(), [an_answer() for _ in range(100)]
    for answer in several:
        kept.finish(answer)
        time.sleep(0.002)
    assert kept.flush()
    assert len(history(limit=200)) == 100
    while kept._thread is not None:
        time.sleep(0.01)
    assert rows("SELECT * FROM writers") == []


@pytest.mark.engine
def test_an_answer_is_kept_although_it_never_began():
    journal().finish(answer := an_answer(seconds=3.0))
    assert recall(answer.id) == answer


def test_several_kernels_at_once():
    code = """
kept = journal()
said("ready"); sys.stdin.readline()
for n in range(25):
    key, prompt = uuid.uuid4().hex, f"kernel {sys.argv[1]} question {n}"
    kept.begin(key, prompt, "m", "default", Pieces(["hm"]))
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


@pytest.mark.engine
@pytest.mark.engine
@pytest.mark.parametrize("after", [0.0, 0.15, 0.3])
def test_a_killed_process_loses_its_last_second_at_most(after):
    code = """
kept, key, pieces = journal(), uuid.uuid4().hex, Pieces()
kept.begin(key, "How long?", "m", "default", pieces)
said(key)
while True:
    pieces.thinking.append(f"{time.monotonic()} ")
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
kept.begin(key, "Well?", "m", "default", Pieces([], ["said at last"]))
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
    pieces = Pieces([], ["before"])
    kept.begin(mine.id, "2+2?", "m", "default", pieces)
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
    pieces.text.append(" after")
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
