"""Files that are this user's alone, on a real disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from magistral_nb.private_file import Untrusted, read_private, write_private


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


def test_what_is_written_is_read_and_nobody_else_may(path):
    write_private(path, "naïve")
    assert read_private(path) == "naïve"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_private(path, "anew")
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == [path.name]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(path):
    write_private(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert read_private(path) == "before"
    assert [each.name for each in path.parent.iterdir() if each.is_file()] == [path.name]


def test_a_link_is_replaced_and_not_written_through(path, tmp_path):
    theirs = tmp_path / "theirs"
    write_private(theirs, "precious")
    path.symlink_to(theirs)
    with pytest.raises(Untrusted, match="it is a link"):
        read_private(path)
    write_private(path, "ours")
    assert (theirs.read_text(), read_private(path)) == ("precious", "ours")


UNTRUSTED = {
    "readable by others": (lambda path: (path.touch(), path.chmod(0o640)), "others may read or write it"),
    "a folder": (Path.mkdir, "it is no file"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "it is no file"),
    "long": (lambda path: write_private(path, " " * (2**20 + 1)), "it is too large"),
    "no text": (lambda path: (write_private(path, ""), path.write_bytes(b"\xff")), "it is no text"),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_what_is_not_this_user_s_alone_is_not_believed(path, kind):
    make, why = UNTRUSTED[kind]
    make(path)
    with pytest.raises(Untrusted, match=why):
        read_private(path)


def test_another_user_s_file_is_not_believed(path, monkeypatch):
    write_private(path, "")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(Untrusted, match=r"it belongs to user \d+"):
        read_private(path)


def test_where_there_is_none_that_is_told_apart(path):
    with pytest.raises(FileNotFoundError):
        read_private(path)
