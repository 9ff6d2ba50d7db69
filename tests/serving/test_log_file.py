"""Logs that are kept short, with a real writer that keeps its file open."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest

from magistral_nb.serving import log_file


@pytest.fixture
def log(tmp_path):
    return log_file.fresh(tmp_path / "default.log")


def test_a_fresh_log_is_empty_and_private_and_the_one_before_is_kept(log):
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    log.write_text("first boot\n")
    log_file.fresh(log)
    assert log.read_text() == ""
    assert log.with_name("default.log.1").read_text() == "first boot\n"


def test_a_log_that_is_short_stays(log):
    log.write_text("short\n")
    assert not log_file.rotate(log, most=100)
    assert log.read_text() == "short\n"


def test_a_long_one_moves_aside_while_its_writer_goes_on(log):
    code = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)"
    with log.open("ab") as out, subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=out, text=True
    ) as writer:  # fmt: skip

        def write(word):
            writer.stdin.write(f"{word}\n")
            writer.stdin.flush()
            while word not in log.read_text():
                pass

        write("before" * 30)
        assert log_file.rotate(log, most=100)
        assert log.stat().st_size == 0, "no hole is left where the writer had been"
        write("after")
        writer.stdin.close()
    assert log.read_text() == "after\n"
    before = log.with_name("default.log.1")
    assert before.read_text() == "before" * 30 + "\n"
    assert stat.S_IMODE(before.stat().st_mode) == 0o600


def test_only_one_is_kept_of_what_was_before(log):
    for word in ("one", "two", "three"):
        log.write_text(word * 50)
        assert log_file.rotate(log, most=100)
    assert [path.name for path in sorted(log.parent.glob("default*"))] == ["default.log", "default.log.1"]
    assert "three" in log.with_name("default.log.1").read_text()


def test_a_link_that_somebody_has_put_in_its_way_is_not_written_through(log, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    log.with_name("default.log.1").symlink_to(theirs)
    log.write_text("x" * 200)
    assert log_file.rotate(log, most=100)
    assert theirs.read_text() == "precious"


def test_the_tail_begins_with_the_boot_or_with_what_is_left(log):
    log.write_text("download\nboot\nready\n")
    assert log_file.tail(log, len("download\n")) == ["boot", "ready"]
    assert log_file.tail(log, 10**6) == ["download", "boot", "ready"], "it was rotated since"
    assert log_file.tail(log, 0, most=7) == ["", "ready"]
