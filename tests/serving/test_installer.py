"""Choosing who fetches packages, and what of the user's settings it is told."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from magistral_nb.errors import EngineInstallFailed
from magistral_nb.serving import installer
from magistral_nb.serving.installer import clean_environment


class TestEnvironment:
    def test_where_packages_come_from_stays_and_where_they_go_does_not(self):
        kept = {
            "PIP_INDEX_URL": "i",
            "PIP_PROXY": "p",
            "PIP_CONFIG_FILE": "c",
            "UV_INDEX_URL": "u",
            "PATH": "/bin",
        }
        dropped = dict.fromkeys(
            [
                "PIP_TARGET",
                "PIP_PREFIX",
                "PIP_CONSTRAINT",
                "PIP_QUIET",
                "PYTHONPATH",
                "PYTHONHOME",
                "UV_PYTHON",
            ],
            "x",
        )
        out = clean_environment(kept | dropped | {"PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1"})
        assert kept.items() <= out.items()
        assert not set(dropped) & set(out)
        assert (out["PIP_USER"], out["PIP_REQUIRE_VIRTUALENV"]) == ("0", "0")

    def test_uv_is_told_pips_index_unless_it_has_one(self):
        assert clean_environment({"PIP_INDEX_URL": "i"})["UV_DEFAULT_INDEX"] == "i"
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"):
            out = clean_environment({"PIP_INDEX_URL": "i", name: "u"})
            assert [out[each] for each in out if each.startswith("UV_")] == ["u"]
        assert "UV_DEFAULT_INDEX" not in clean_environment({"PIP_EXTRA_INDEX_URL": "i"})


@pytest.fixture
def put_uv(tmp_path, monkeypatch):
    """Put a uv that says this into a folder; without it there is none, not even beside this Python."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))

    def put(says="uv 0.13.9 (x86_64-unknown-linux-gnu)", folder="elsewhere"):
        path = tmp_path / folder / "uv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
        path.chmod(0o755)
        return str(path)

    return put


class TestInstaller:
    def choose(self, monkeypatch, versions, path="", **options):
        """The installer when the kernel's pip and then the environment's own have these versions."""
        answers = iter(versions)
        monkeypatch.setattr(installer, "_pip_version", lambda *_: next(answers))
        environment = {"PATH": f"{path}{os.pathsep}/bin"}
        return installer.find_installer(Path("/env/bin/python"), environment, **options)

    @pytest.fixture(autouse=True)
    def _no_uv_here(self, put_uv):
        """Neither beside this Python nor, but for the tests that put one there, on the path."""
        if shutil.which("uv", path="/bin"):
            pytest.skip("uv lies in /bin here")

    def test_the_kernels_pip(self, monkeypatch):
        command = self.choose(monkeypatch, [(23, 2)]).command
        assert command[:6] == (sys.executable, "-P", "-m", "pip", "--python", "/env/bin/python")
        assert command[6] == "install"
        assert command[-1] == "off"

    def test_a_newer_pip_tells_how_far_a_download_is(self, monkeypatch):
        assert self.choose(monkeypatch, [(24, 1)]).command[-2:] == ("--progress-bar", "raw")

    @pytest.mark.parametrize(("version", "cutoff"), [((25, 3), None), ((26, 0), "--uploaded-prior-to")])
    def test_pip_leaves_out_what_came_later_from_26_on(self, monkeypatch, version, cutoff):
        assert self.choose(monkeypatch, [version]).cutoff == cutoff

    def test_uv_where_pip_is_missing_or_too_old(self, monkeypatch, put_uv):
        uv = put_uv()
        found = self.choose(monkeypatch, [(21, 0)], str(Path(uv).parent))
        assert found.command[:3] == (uv, "pip", "install")
        assert found.command[-2:] == ("--python", "/env/bin/python")
        assert (found.program, found.cutoff) == ("uv", "--exclude-newer")

    def test_uv_before_a_pip_that_is_there_only_when_asked(self, monkeypatch, put_uv):
        path = str(Path(put_uv()).parent)
        assert self.choose(monkeypatch, [(26, 1)], path).program == "pip"
        assert self.choose(monkeypatch, [(26, 1)], path, uv_first=True).program == "uv"
        assert self.choose(monkeypatch, [(26, 1)], uv_first=True).program == "pip"

    def test_uv_beside_this_python_though_the_path_does_not_lead_there(self, monkeypatch, put_uv):
        uv = put_uv(folder="bin")
        assert self.choose(monkeypatch, [], uv_first=True).command[0] == uv

    def test_a_stand_in_for_no_uv_is_no_uv(self, monkeypatch, put_uv):
        path = str(Path(put_uv(says="pyenv: uv: command not found")).parent)
        assert self.choose(monkeypatch, [(24, 0)], path, uv_first=True).program == "pip"

    def test_pip_that_python_brings_along(self, monkeypatch):
        command = self.choose(monkeypatch, [(0, 0), (24, 0)]).command
        assert command[:4] == ("/env/bin/python", "-P", "-m", "pip")

    def test_nothing(self, monkeypatch):
        with pytest.raises(EngineInstallFailed, match="python3-pip"):
            self.choose(monkeypatch, [(0, 0), (0, 0)])


class TestPythons:
    LISTED = (
        ("3.15.0rc1", "cpython", "default"),
        ("3.14.2", "cpython", "freethreaded"),
        ("3.13.9", "cpython", "default"),
        ("3.11.7", "cpython", "default"),
        ("3.12.1", "pypy", "default"),
    )

    def test_whole_releases_of_cpython_alone(self, put_uv):
        keys = ("version", "implementation", "variant")
        uv = put_uv(says=json.dumps([dict(zip(keys, each, strict=True)) for each in self.LISTED]))
        assert installer.uv_pythons(uv, {"PATH": "/bin"}) == [(3, 13), (3, 11)]

    def test_a_uv_that_cannot_list_them_knows_of_none(self):
        assert installer.uv_pythons("/nowhere/uv", {}) == []
