"""What vLLM is given so that its key guards every route. On the real vLLM: tests/faults/test_open_doors.py."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from magistral_nb.serving import launch

sys.path.append(str(launch._DOORS))

import magistral_nb_doors

KEY = "correct horse"


def asked(path: str, *authorization: str, kind: str = "http") -> list[str | int]:
    """What a request comes to: "vLLM", or the messages that are sent instead of it."""
    said: list[str | int] = []

    async def app(_scope, _receive, _send) -> None:
        said.append("vLLM")

    async def send(message) -> None:
        said.append(message.get("status") or message.get("code") or message["body"].decode())

    headers = [(b"host", b"x"), *((b"authorization", value.encode()) for value in authorization)]
    asyncio.run(magistral_nb_doors.Doors(app)({"type": kind, "path": path, "headers": headers}, None, send))
    return said


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(launch.KEY_VARIABLE, KEY)


@pytest.mark.parametrize("path", ["/v1/models", "/invocations", "/pause", "/health/", "//health", ""])
def test_every_route_wants_the_key(path):
    assert asked(path, f"Bearer {KEY}") == ["vLLM"]
    for wrong in ((), ("",), (KEY,), (f"bearer {KEY}x",), ("Bearer ",), ("Bearer ü",), (f"Bearer {KEY}", "Bearer x")):
        assert asked(path, *wrong) == [401, '{"error": "Unauthorized"}']


@pytest.mark.parametrize("path", sorted(magistral_nb_doors._OPEN))
def test_that_it_lives_is_told_to_everybody(path):
    assert asked(path) == ["vLLM"]


def test_a_websocket_is_closed_and_vllm_s_own_beginning_is_let_through():
    assert asked("/v1/realtime", kind="websocket") == [1008]
    assert asked("/v1/realtime", f"Bearer {KEY}", kind="websocket") == ["vLLM"]
    assert asked("", kind="lifespan") == ["vLLM"]


def test_vllm_can_import_it_and_nothing_else_of_this_package():
    module, _, name = launch.GUARDED[1].rpartition(".")
    code = f"import importlib; importlib.import_module({module!r}).{name}\ntry: import magistral_nb\n"
    code += "except ImportError: print('alone')"
    environment = {"PYTHONPATH": str(launch._DOORS)}
    command = [sys.executable, "-P", "-S", "-c", code]
    assert subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout == b"alone\n"
