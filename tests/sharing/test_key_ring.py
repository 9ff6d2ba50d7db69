"""Keys and the files that hold them."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from magistral_nb import errors
from magistral_nb.sharing import key_ring
from magistral_nb.sharing.key_ring import KeyRing
from magistral_nb.sharing.private_file import read_private, write_private
from magistral_nb.sharing.watched import Watched


@pytest.fixture
def path(tmp_path):
    return key_ring.path_of(tmp_path / "a.b.json")


def test_each_student_has_a_key_of_256_bits(path):
    ring = key_ring.add(path, ["ada", "ben"])
    assert path.name == "a.b.keys"
    assert len(set(ring.keys.values())) == 2
    assert all(len(key) == 43 for key in ring.keys.values()), "32 bytes in base64"
    assert ring.student_of(ring.keys["ben"]) == "ben"
    assert ring.student_of(ring.keys["ben"][:-1]) is None
    assert ring.student_of("") is None
    assert ring.student_of("\ud800é") is None


def test_who_has_a_key_keeps_it(path):
    before = key_ring.add(path, ["ada"]).keys["ada"]
    ring = key_ring.add(path, ["ben", "ada"])
    assert ring.keys["ada"] == before
    assert key_ring.load(path).keys == ring.keys


def test_a_revoked_key_is_gone_and_a_new_one_is_another(path):
    before = key_ring.add(path, ["ada", "ben"]).keys["ada"]
    key_ring.revoke(path, "ada")
    assert list(key_ring.load(path).keys) == ["ben"]
    with pytest.raises(errors.InvalidOption, match="'ada' has no key"):
        key_ring.revoke(path, "ada")
    assert key_ring.add(path, ["ada"]).keys["ada"] != before


def test_the_file_is_this_users_alone(path):
    key_ring.add(path, ["ada"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in path.parent.iterdir()} <= {path.name, f"{path.name}.lock", "home"}


def test_keys_are_in_no_repr():
    assert "secret" not in repr(KeyRing({"ada": "secret"}))


def test_two_who_add_at_once_lose_nobody(path):
    names = [f"student-{n}" for n in range(12)]
    threads = [threading.Thread(target=key_ring.add, args=(path, [name])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(key_ring.load(path).keys) == set(names)


def make_link(path):
    other = path.with_suffix(".other")
    write_private(other, "{}")
    path.symlink_to(other)


def make_readable(path):
    write_private(path, "{}")
    path.chmod(0o640)


UNTRUSTED = {
    "a link": (make_link, "it is a link"),
    "readable by others": (make_readable, "other users may read or write it"),
    "a folder": (Path.mkdir, "Is a directory"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "it is no plain file"),
    "long": (lambda path: write_private(path, " " * (4 * 2**20 + 1)), "it is too long"),
    "no text": (lambda path: (write_private(path, ""), path.write_bytes(b"\xff")), "it is no text"),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_a_file_that_is_not_this_users_alone_is_not_trusted(path, kind):
    make, why = UNTRUSTED[kind]
    make(path)
    with pytest.raises(errors.MagistralError, match=why) as caught:
        key_ring.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_not_trusted(path):
    write_private(path, KeyRing({"eve": "k"}).to_json())
    os.chown(path, 12345, 12345)
    with pytest.raises(errors.MagistralError, match="another user's"):
        key_ring.load(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 9, "keys": {}}', '{"version": 1}', '{"version": 1, "keys": {"a": ""}}']
)
def test_what_holds_no_keys_is_told(path, text):
    write_private(path, text)
    with pytest.raises(errors.MagistralError, match="holds no keys"):
        key_ring.load(path)


def test_a_file_that_is_not_there_holds_nothing(path):
    assert read_private(path) is None
    assert key_ring.load(path).keys == {}


def test_a_watched_file_is_read_again_only_when_it_has_changed(path):
    reads = []

    def read(path):
        reads.append(path)
        return json.loads(read_private(path) or "null")

    watched = Watched(path, read)
    assert (watched.now, watched.now, len(reads)) == (None, None, 1)
    for value in range(5):
        write_private(path, json.dumps(value))
        assert (watched.now, watched.now) == (value, value)
    assert len(reads) == 6
    path.unlink()
    assert watched.now is None
