"""A hub for the tests of this room; without one, whoever asks finds nobody."""

from __future__ import annotations

import pytest
from scripted_hub import NOBODY, ScriptedHub


def _point_to(monkeypatch, endpoint):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in ("constants", "file_download"):  # before 1.0 the second has one of its own
        name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(name, template, raising=False)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """The folder of an empty hub's cache. Nobody listens where the hub should be, so nothing leaves this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _point_to(monkeypatch, NOBODY)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    return tmp_path / "cache"


@pytest.fixture
def hub(no_hub, monkeypatch):
    """A scripted hub and an empty cache."""
    with ScriptedHub() as scripted:
        _point_to(monkeypatch, scripted.url)
        yield scripted
