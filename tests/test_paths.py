"""Where the package writes, on real disks."""

from __future__ import annotations

import os
import re
import socket
import stat

import pytest

from magistral_nb import errors, paths
from magistral_nb.place import Place


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def test_each_machine_has_a_folder_of_its_own_that_nobody_else_can_enter(root):
    folder = paths.servers()
    assert folder.parent == root / "data" / "servers"
    assert folder.name == re.sub(r"[^A-Za-z0-9._-]", "-", Place.here().node)[:64]
    for each in (folder, folder.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    folder.chmod(0o755)
    assert stat.S_IMODE(paths.servers().stat().st_mode) == 0o700, "it is closed again"


def test_files_of_other_machines_are_found_beside_one_s_own(root):
    own = paths.servers() / "default.json"
    other = own.parents[1] / "login01" / "default.json"
    for path in (own, other):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    assert paths.of_all_nodes("default.json") == sorted([own, other])


def test_a_link_in_its_place_is_not_followed(root, tmp_path):
    (tmp_path / "theirs").mkdir()
    (root / "data").mkdir(parents=True)
    (root / "data" / "servers").symlink_to(tmp_path / "theirs")
    with pytest.raises(errors.MagistralError, match=r"it is a link.*MAGISTRAL_NB_HOME"):
        paths.servers()
    assert not list((tmp_path / "theirs").iterdir())


def test_a_folder_of_another_user_is_refused(root, monkeypatch):
    paths.servers()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(errors.MagistralError, match=r"it belongs to user \d+, and you are 12345"):
        paths.servers()


def test_so_is_a_disk_that_knows_no_permissions(root, monkeypatch):
    paths.servers().chmod(0o755)
    monkeypatch.setattr("pathlib.Path.chmod", lambda *_: None)  # as on FAT, or a disk of Windows
    with pytest.raises(errors.MagistralError, match="others could read keys"):
        paths.servers()


@pytest.mark.parametrize("name", ["é" * 120, "a" * 250])
def test_a_unix_socket_fits_however_long_the_home_s_path_is(tmp_path, monkeypatch, name):
    home = tmp_path / name / name
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(paths.HOME_VARIABLE, str(home / "ours"))
    monkeypatch.setattr("tempfile.tempdir", str(home))
    path = paths.sockets() / f"{'f' * 16}.sock"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.unlink()


def test_a_socket_lies_beside_the_state_file_where_it_fits(monkeypatch):
    monkeypatch.setattr(paths, "_SOCKET_FOLDER", 10**4)  # pytest's own paths are long
    assert paths.sockets() == paths.servers()


def test_a_folder_for_sockets_that_somebody_else_made_is_refused_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"magistral_nb-{os.getuid()}").symlink_to(tmp_path / "theirs")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(paths, "_fits", lambda folder: folder.parent == tmp_path)
    with pytest.raises(errors.MagistralError, match=r"it is a link\): set TMPDIR to a folder that can"):
        paths.sockets()
