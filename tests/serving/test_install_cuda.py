"""Making a CUDA engine for a driver: the real uv and the real pip, against an index of the test's own."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from machines import machine, one
from package_index import VLLM, Pages, make_wheel, serve_index

from magistral_nb import paths
from magistral_nb.errors import EngineInstallFailed, UnsupportedPlatform
from magistral_nb.serving import engine as engines, install, installer, packages, recipe
from magistral_nb.serving.engine import find_engine
from magistral_nb.serving.install import install_engine
from magistral_nb.serving.releases import releases

COLAB = dataclasses.replace(one("T4"), driver="550.54.15", cuda=(12, 4))
UV = installer.find_uv(os.environ)
needs_uv = pytest.mark.skipif(UV is None, reason="uv is not here")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """On Colab, and not even a link to a real engine."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    on(monkeypatch, COLAB)
    return tmp_path / "home"


@pytest.fixture
def index(tmp_path, monkeypatch):
    with serve_index(tmp_path / "www", monkeypatch) as served:
        yield served


def on(monkeypatch, hardware):
    monkeypatch.setattr(install.hardware, "detect", lambda: hardware)


def publish(index, version, *requires):
    """A vLLM of the table, and what it is pinned with."""
    make_wheel(index.folder / "user/vllm", "vllm", version, VLLM | {"torch/__init__.py": ""}, requires)
    release = next(each for each in releases() if each.version == version)
    for pin in release.pins:
        name, newest = pin.split("<=")
        make_wheel(index.folder / "user" / name, name.replace("-", "_"), newest, {})


def without_uv(monkeypatch):
    monkeypatch.setattr(installer, "find_uv", lambda _: None)


def commands():
    """What the installs of this test have run, in their order."""
    logs = sorted(paths.engines().glob("*.log"), key=lambda log: log.stat().st_mtime)
    return [line for log in logs for line in log.read_text().splitlines() if line.startswith("$ ") and "vllm==" in line]


def left():
    return [path.name for path in paths.engines().glob("*") if path.is_dir()]


@pytest.mark.engine
class TestInstall:
    @pytest.mark.parametrize("program", [pytest.param("uv", marks=needs_uv), "pip"])
    def test_what_the_driver_wants_from_nothing_to_a_command_that_runs(self, index, monkeypatch, program):
        publish(index, "0.19.1")
        publish(index, "0.32.0")
        if program == "pip":
            without_uv(monkeypatch)
        steps = []
        made = install_engine(gpu=True, progress=steps.append)

        assert (made.version, made.build) == ("0.19.1", "cuda")
        assert made == find_engine(None, gpu=True)
        done = subprocess.run([*made.command, "serve"], capture_output=True, text=True, check=True)
        assert done.stdout == "0.19.1 serve\n"
        folder = Path(made.command[0]).parents[1]
        assert folder.name == recipe.Recipe(install._running(), releases()[10]).name
        assert not (folder / "tmp").exists()
        assert list(dict.fromkeys(step.name for step in steps)) == [
            "driver",
            "release",
            "environment",
            "packages",
            "checking",
        ]
        assert steps[0].detail == "550.54.15 knows CUDA 12.4"
        assert steps[1].detail.startswith("vLLM 0.19.1, built with CUDA 12.9, on Python 3.")
        if program == "uv":
            assert next(step.done for step in reversed(steps) if step.name == "packages") == 2 * 5
            # The index does not tell when its files came.
            first, second = commands()
            assert "--exclude-newer 2026-04-20T00:00:00Z vllm==0.19.1 fastapi<=0.136.0" in first
            assert "--exclude-newer" not in second
            assert "uv pip install" in second

        # The second time there is nothing to do.
        monkeypatch.setattr(packages, "run", None)
        assert install_engine(gpu=True) == made

    @needs_uv
    def test_nothing_that_came_later_comes_along(self, index, monkeypatch):
        publish(index, "0.19.1", "unpinned")
        for version in ("1.0", "2.0"):
            make_wheel(index.folder / "user/unpinned", "unpinned", version, {})
        wheels = {wheel.name: "2026-04-01T00:00:00Z" for wheel in index.folder.glob("user/*/*.whl")}
        monkeypatch.setattr(Pages, "uploaded", wheels | {"unpinned-2.0-py3-none-any.whl": "2026-04-20T00:00:01Z"})
        made = install_engine(gpu=True)
        library = engines.libraries(Path(made.command[0]).parents[1])[0]
        assert (library / "unpinned-1.0.dist-info").exists()
        assert len(commands()) == 1

    @pytest.mark.parametrize("program", [pytest.param("uv", marks=needs_uv), "pip"])
    def test_one_that_cannot_be_had_any_more_gives_way_to_the_one_before(self, index, monkeypatch, program):
        publish(index, "0.19.1", "certifi>=2026.10.19")
        publish(index, "0.18.1")
        make_wheel(index.folder / "user/certifi", "certifi", "2026.10.18", {})
        if program == "pip":
            without_uv(monkeypatch)
        steps = []
        made = install_engine(gpu=True, progress=steps.append)
        assert made.version == "0.18.1"
        assert made == find_engine(None, gpu=True)
        told = next(step.detail for step in steps if step.name == "instead")
        assert told.startswith("vLLM 0.18.1, since 0.19.1 cannot be had here: ")
        assert "certifi" in told
        assert left() == [Path(made.command[0]).parents[1].name]
        # It is not made a second time, though the first is looked for again.
        count = len(commands())
        assert install_engine(gpu=True) == made
        assert all("vllm==0.19.1" in each for each in commands()[count:])

    @needs_uv
    def test_after_three_it_is_said_what_to_do(self, index):
        steps = []
        with pytest.raises(EngineInstallFailed) as caught:
            install_engine(gpu=True, progress=steps.append)
        message = str(caught.value)
        assert "\n" not in message
        assert "vllm==0.17.1" in message
        assert "set UV_DEFAULT_INDEX to one that has it, then type %magistral_serve --install again" in message
        assert [step.detail[:11] for step in steps if step.name == "instead"] == ["vLLM 0.18.1", "vLLM 0.17.1"]
        assert left() == []

    @needs_uv
    def test_no_network_is_no_reason_for_an_older_one(self, index, monkeypatch):
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        steps = []
        with pytest.raises(EngineInstallFailed, match=r"uv reaches its package index .* UV_DEFAULT_INDEX"):
            install_engine(gpu=True, progress=steps.append)
        assert "instead" not in [step.name for step in steps]

    @needs_uv
    def test_a_python_that_uv_finds_where_this_one_is_too_new(self, index, monkeypatch):
        publish(index, "0.19.1")
        monkeypatch.setattr(install, "_running", lambda: (3, 99))
        monkeypatch.setattr(recipe, "_USUAL_PYTHON", install.sys.version_info[:2])  # where uv finds none that fits
        made = install_engine(gpu=True)
        folder = Path(made.command[0]).parents[1]
        marker = json.loads((folder / engines.MARKER).read_text())
        own = subprocess.run([made.command[0], "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
        assert marker["python"] == own
        assert folder.name == f"vllm-cuda-0.19.1-py{'.'.join(own.split('.')[:2])}"

    @needs_uv
    def test_a_python_that_uv_cannot_get(self, index, monkeypatch):
        monkeypatch.setattr(recipe, "choose_python", lambda *_: (3, 99))
        with pytest.raises(EngineInstallFailed) as caught:
            install_engine(gpu=True)
        message = str(caught.value)
        assert "uv could not get Python 3.99: " in message
        assert "install Python 3.99, then type %magistral_serve --install again" in message
        assert "\n" not in message
        assert left() == []

    @pytest.mark.parametrize(("program", "needed"), [pytest.param("uv", "12.0", marks=needs_uv), ("pip", "22.0")])
    def test_room_is_looked_for_before_anything_is_fetched(self, index, monkeypatch, program, needed):
        if program == "pip":
            without_uv(monkeypatch)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 11 * 10**9))
        with pytest.raises(
            EngineInstallFailed, match=rf"needs {needed} GB and .* has 11\.0 GB left: make room, or"
        ) as caught:
            install_engine(gpu=True)
        assert ("UV_CACHE_DIR" in str(caught.value)) == (program == "uv")
        assert commands() == left() == []

    @needs_uv
    def test_a_machine_without_a_driver_is_told_the_doubt(self, index, monkeypatch):
        on(monkeypatch, machine())
        publish(index, releases()[-1].version)
        steps = []
        assert install_engine(gpu=True, progress=steps.append).version == releases()[-1].version
        assert steps[0].name == "release"
        assert "; but there is no driver here" in steps[0].detail


def test_a_driver_that_is_too_old_is_refused_before_anything_is_written(monkeypatch, home):
    on(monkeypatch, dataclasses.replace(COLAB, cuda=(11, 4)))
    with pytest.raises(UnsupportedPlatform, match="update the NVIDIA driver"):
        install_engine(gpu=True)
    assert not home.exists()


def test_without_uv_a_python_that_is_too_new_is_told_of_uv(monkeypatch):
    without_uv(monkeypatch)
    monkeypatch.setattr(install, "_running", lambda: (3, 99))
    with pytest.raises(UnsupportedPlatform, match="pip install uv"):
        install_engine(gpu=True)
