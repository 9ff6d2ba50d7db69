"""A server by the talking engine in a room of its own, whose check ends every test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults.harness import Room, runtime_folder

import magistral_nb
from magistral_nb import cli
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def room(home: Path) -> Iterator[Room]:
    """All that this test starts. In the end its servers are stopped, and then nothing may be left."""
    found = Room(home)
    with runtime_folder():
        yield found
        try:
            found.check()
            found.note()
            bad = {unusable.path.stem for unusable in registry.unusable()}
            for name in {server.name for server in magistral_nb.servers()} | bad:
                magistral_nb.Server(name).stop()
            found.check()
        finally:
            found.sweep()


@pytest.fixture
def engine(fake_engine: str) -> str:
    """The folder of an environment whose vLLM is tests/faults/talking_engine.py."""
    python = Path(fake_engine, "bin", "python")
    python.write_text(python.read_text().replace("fake_engine.py", "faults/talking_engine.py"))
    return fake_engine


@pytest.fixture
def behave(checkpoint: Path):
    """Say how the engine behaves from its next start on."""
    return (checkpoint / "behaviour").write_text


@pytest.fixture
def serve(room: Room, engine: str, checkpoint: Path):
    """Serve the checkpoint with the talking engine."""

    def call(**options):
        server = magistral_nb.serve(**({"model": str(checkpoint), "engine": engine} | options))
        room.note()
        return server

    return call


@pytest.fixture
def status(capsys):
    """What `magistral-nb status` says, which also sees to what has lost its supervisor."""

    def look() -> str:
        capsys.readouterr()
        assert cli.main(["status"]) == 0
        return capsys.readouterr().out

    return look
