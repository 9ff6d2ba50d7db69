"""A hub for the tests of this room; without one, whoever asks finds nobody."""

from __future__ import annotations

import pytest
from scripted_hub import NOBODY, ScriptedHub


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """The folder of an empty hub's cache. Nobody listens where the hub should be, so nothing leaves this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOBODY)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    return tmp_path / "cache"


@pytest.fixture
def hub(no_hub, monkeypatch):
    """A scripted hub and an empty cache."""
    with ScriptedHub() as scripted:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", scripted.url)
        yield scripted
