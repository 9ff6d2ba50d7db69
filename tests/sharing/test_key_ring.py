"""Keys and the files that hold them."""

from __future__ import annotations

import json
import pydoc
import stat
import threading

import pytest

from magistral_nb import errors
from magistral_nb.private_file import write_private
from magistral_nb.sharing import key_ring
from magistral_nb.sharing.key_ring import KeyRing
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


def test_a_new_class_keeps_the_keys_of_those_who_are_named_and_of_nobody_else(path):
    before = key_ring.add(path, ["ada", "ben", "cleo"]).keys
    key_ring.revoke(path, "ben")
    after = key_ring.begin(path, ["dan", "ben", "ada"]).keys
    assert list(after) == ["dan", "ben", "ada"]
    assert after["ada"] == before["ada"]
    assert after["ben"] != before["ben"], "named again: with a new one"
    assert key_ring.load(path).keys == after


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


def test_keys_are_in_no_repr_of_what_holds_them(path):
    ring = key_ring.add(path, ["ada"])
    text = path.read_text()
    key = json.loads(text)["keys"]["ada"]
    assert ring.keys["ada"] == key
    shown = [pydoc.text.repr(each) for each in (ring.keys, [*ring.keys.items()], text, key_ring.load(path).keys)]
    assert not [each for each in shown if key in each or key[-8:] in each or key[:8] in each]


def test_two_who_add_at_once_lose_nobody(path):
    names = [f"student-{n}" for n in range(12)]
    threads = [threading.Thread(target=key_ring.add, args=(path, [name])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(key_ring.load(path).keys) == set(names)


def test_a_file_that_others_could_have_written_is_not_believed(path):
    write_private(path, KeyRing({"eve": "k"}).to_json())
    path.chmod(0o640)
    with pytest.raises(errors.MagistralError, match=r"\(others may read or write it\): remove it"):
        key_ring.load(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 9, "keys": {}}', '{"version": 1}', '{"version": 1, "keys": {"a": ""}}']
)
def test_what_holds_no_keys_is_told(path, text):
    write_private(path, text)
    with pytest.raises(errors.MagistralError, match="is not to be believed"):
        key_ring.load(path)


def test_a_file_that_is_not_there_holds_nothing(path):
    assert key_ring.load(path).keys == {}


def test_a_watched_file_is_read_again_only_when_it_has_changed(path):
    reads = []

    def read(path):
        reads.append(path)
        return json.loads(path.read_text()) if path.exists() else None

    watched = Watched(path, read)
    assert (watched.now, watched.now, len(reads)) == (None, None, 1)
    for value in range(5):
        write_private(path, json.dumps(value))
        assert (watched.now, watched.now) == (value, value)
    assert len(reads) == 6
    path.unlink()
    assert watched.now is None
