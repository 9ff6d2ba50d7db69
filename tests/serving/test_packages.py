"""Choosing an installer of packages, and reading what it says."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from magistral_nb.errors import EngineInstallFailed
from magistral_nb.serving import packages
from magistral_nb.serving.packages import Failure, Step, clean_environment, explain, read_line


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


class TestInstaller:
    def choose(self, monkeypatch, versions, path=""):
        """The installer when the kernel's pip and then the environment's own have these versions."""
        answers = iter(versions)
        monkeypatch.setattr(packages, "_pip_version", lambda *_: next(answers))
        monkeypatch.setattr(packages, "_output", lambda *_: "")
        return packages.find_installer(Path("/env/bin/python"), {"PATH": path}).command

    def test_the_kernels_pip(self, monkeypatch):
        command = self.choose(monkeypatch, [(23, 2)])
        assert command[:6] == (sys.executable, "-P", "-m", "pip", "--python", "/env/bin/python")
        assert command[6] == "install"
        assert command[-1] == "off"

    def test_a_newer_pip_tells_how_far_a_download_is(self, monkeypatch):
        assert self.choose(monkeypatch, [(24, 1)])[-2:] == ("--progress-bar", "raw")

    def test_uv_where_pip_is_missing_or_too_old(self, tmp_path, monkeypatch):
        uv = tmp_path / "uv"
        uv.write_text("#!/bin/sh\n")
        uv.chmod(0o755)
        command = self.choose(monkeypatch, [(21, 0)], str(tmp_path))
        assert command[:3] == (str(uv), "pip", "install")
        assert command[-2:] == ("--python", "/env/bin/python")

    def test_pip_that_python_brings_along(self, monkeypatch):
        assert self.choose(monkeypatch, [(0, 0), (24, 0)])[:4] == ("/env/bin/python", "-P", "-m", "pip")

    def test_nothing(self, monkeypatch):
        with pytest.raises(EngineInstallFailed, match="python3-pip"):
            self.choose(monkeypatch, [(0, 0), (0, 0)])


LINES = [
    "Collecting numpy==2.3.5 (from -r lock.txt (line 9))",
    "  Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (62 kB)",
    "  Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl (16.6 MB)",
    "Progress 8300000 of 16600000",
    "Progress 16600000 of 16600000",
    "  Using cached idna-3.20-py3-none-any.whl (68 kB)",
    "Processing /wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
    "Installing collected packages: numpy, idna, torch",
    "Successfully installed idna-3.20 numpy-2.3.5 torch-2.13.0+cpu",
]


class TestProgress:
    def test_pips_lines(self):
        seen = [Step("packages", 0, 6)]
        for line in LINES:
            seen.append(read_line(seen[-1], line))
        assert [step.done for step in seen[1:]] == [0, 0, 1, 1, 1, 2, 3, 3, 6]
        assert seen[3].detail == "fetching numpy 2.3.5 (16.6 MB)"
        assert seen[4].detail == "fetching numpy 2.3.5 (16.6 MB), 50 %"
        assert seen[5].detail == "fetching numpy 2.3.5 (16.6 MB), 100 %"
        assert seen[7].detail == "fetching torch 2.13.0+cpu"
        assert seen[8].detail == "unpacking"

    @given(st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=40))), st.integers(0, 8))
    def test_never_backwards_and_never_too_far(self, lines, total):
        step = Step("packages", 0, total)
        for line in lines:
            after = read_line(step, line)
            assert step.done <= after.done <= total
            step = after


class TestExplain:
    @pytest.mark.parametrize(
        ("lines", "failure"),
        [
            (
                [
                    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
                    "",
                ],
                Failure("disk", "Could not install packages due to an OSError: [Errno 28] No space left on device"),
            ),
            (
                [
                    "WARNING: Retrying (Retry(total=0)) after connection broken by 'Name or service not known': /x",
                    "ERROR: Could not find a version that satisfies the requirement x (from versions: none)",
                    "ERROR: No matching distribution found for x",
                ],
                Failure(
                    "network",
                    "Retrying (Retry(total=0)) after connection broken by 'Name or service not known': /x",
                ),
            ),
            (
                [
                    "ERROR: Could not find a version",
                    "ERROR: No matching distribution found for x==1",
                    "[notice] new",
                ],
                Failure("missing", "No matching distribution found for x==1"),
            ),
            (
                ["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "    Got 00"],
                Failure("hash", "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."),
            ),
            (
                [
                    "error: No solution found when resolving dependencies",
                    "  cause: Because there is no version of x",
                ],
                Failure("missing", "Because there is no version of x"),
            ),
            (["ERROR: something odd", "at the end"], Failure("other", "something odd")),
            (["Segmentation fault"], Failure("other", "Segmentation fault")),
            ([], Failure("other", "it said nothing")),
        ],
    )
    def test_cause_and_line(self, lines, failure):
        assert explain(lines) == failure
