"""What the real vLLM (CPU) lets whom do: every route that it lists, without a key, and as another user of the machine.

The first server is abacus as users boot it, on TCP. The second is what `--sleepable` starts where there is a GPU: the
same command in development mode, on a Unix socket in `paths.sockets()`. Only root can become another user; elsewhere
those tests are skipped.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from faults.harness import until

import magistral_nb
from magistral_nb import paths
from magistral_nb.asking.endpoint import UNIX
from magistral_nb.asking.engine_api import OK, EngineApi
from magistral_nb.serving import registry
from magistral_nb.serving.launch import GUARDED, engine_environment
from magistral_nb.serving.server import find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

NOBODY = 65534
OPEN = {"/health", "/ping", "/version", "/metrics"}  # that it lives, which version it is and how busy
# vLLM's development mode, which needs no key: whoever reaches it owns the server.
DOORS = {"/collective_rpc", "/pause", "/resume", "/is_paused", "/server_info", "/sleep", "/wake_up", "/is_sleeping"}
DOORS |= {"/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"}


def asked(base_url: str, method: str, path: str) -> int:
    """The status of a request without a key, whose body no route takes for its own."""
    request = urllib.request.Request(
        base_url.removesuffix("/v1") + path, b"{}" if method == "POST" else None, {"Content-Type": "application/json"}
    )
    request.method = method
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


def as_nobody(do: Callable[[], Any]) -> Any:
    """What another user of this machine gets; an exception is its name."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writing, "wb") as pipe:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                found = do()
            except BaseException as error:  # noqa: BLE001 - told to the parent
                found = type(error).__name__
            pickle.dump(found, pipe)
            pipe.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pickle.load(pipe)
    os.waitpid(child, 0)
    return found


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """One that everybody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="magistral-nb-doors-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def routes_of(name: str) -> dict[str, list[str]]:
    """Every route and its methods, as vLLM itself lists them."""
    endpoint = find_server(name).endpoint
    request = urllib.request.Request(f"{endpoint.root_url}/openapi.json")
    request.add_header("Authorization", f"Bearer {endpoint.api_key}")
    page = json.load(urllib.request.urlopen(request, timeout=20))
    return {path: [method.upper() for method in methods] for path, methods in page["paths"].items()}


def test_every_route_on_tcp_wants_the_key_or_tells_next_to_nothing(abacus):
    base_url = find_server(abacus).base_url
    routes = routes_of(abacus)
    rows = [(path, method, asked(base_url, method, path)) for path in routes for method in routes[path]]
    print()
    for path, method, status in sorted(rows):
        print(f"{method:5} {path:40} {status}")
    assert len(rows) > 15
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize"} <= set(routes)
    assert {path for path, _, status in rows if status != 401} <= OPEN
    assert not DOORS & set(routes), "no development mode on TCP"
    tried = {path: asked(base_url, method, path) for path in DOORS for method in ("GET", "POST")}
    assert set(tried.values()) <= {401, 404}


def test_nobody_asks_by_a_door_that_vllm_leaves_open(abacus):
    """By vLLM's own words its key does not guard /invocations, which answers whatever /v1 does."""
    server = find_server(abacus)
    body = {"model": server.model, "messages": [{"role": "user", "content": "2 + 2"}], "max_tokens": 5}
    address = server.base_url.removesuffix("/v1") + "/invocations"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(address, body)
    assert post(address, body, server.api_key)["choices"], "a control: it does answer"


def post(address: str, body: Any, key: str | None = None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=60))


def test_it_listens_for_this_machine_alone(abacus):
    """Beside its API there are the ports of torch's processes, by which they find each other."""
    state = registry.load(abacus)
    port = int(state.base_url.rpartition(":")[2].removesuffix("/v1"))
    listening = _listening(state.engine.pid)
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert [each for _, each in listening if _answers(each)] == [port]
    assert find_server(abacus).reason("2 + 2").finish_reason == "stop", "all the same"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        address = probe.getsockname()[0]
    if address in {"0.0.0.0", "127.0.0.1"}:
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address, port), timeout=5)


def test_another_user_asks_without_a_key_like_anybody_and_reads_no_file(
    open_folder, fake_engine, checkpoint, monkeypatch
):
    """The engine is the stand-in here: files and folders are the package's own."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(open_folder / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(open_folder))
    server = magistral_nb.serve(str(checkpoint), engine=fake_engine)
    try:
        state, state_file = server.state(), registry.path_of("default")
        assert as_nobody(lambda: list(open_folder.iterdir())), "a control: the folder itself is open"
        assert asked(state.base_url, "GET", "/health") == OK  # also imports what nobody may not
        assert as_nobody(lambda: asked(state.base_url, "GET", "/health")) == OK
        assert as_nobody(lambda: asked(state.base_url, "GET", "/v1/models")) == 401
        for path in (state_file, Path(state.log_path), state_file.with_suffix(".lock")):
            path.stat()
            assert as_nobody(path.read_bytes) == "PermissionError"
        for folder in (paths.servers(), paths.servers().parent, paths.sockets()):
            assert as_nobody(lambda folder=folder: list(folder.iterdir())) == "PermissionError"
        for pid in (state.engine.pid, state.supervisor.pid):
            assert as_nobody(Path(f"/proc/{pid}/environ").read_bytes) == "PermissionError"
            assert state.api_key.encode() not in as_nobody(Path(f"/proc/{pid}/cmdline").read_bytes)
            assert as_nobody(lambda pid=pid: os.kill(pid, signal.SIGTERM)) == "PermissionError"
    finally:
        server.stop()


@pytest.mark.long
def test_development_mode_is_out_of_another_user_s_reach(abacus, open_folder, monkeypatch):
    """What `--sleepable` starts, but for sleeping itself, which a CPU cannot."""
    monkeypatch.setattr("tempfile.tempdir", str(open_folder))
    state = registry.load(abacus)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(open_folder / ("long" * 25)))  # no room for a socket's path beside it
    path = paths.sockets() / "doors.sock"
    assert path.is_relative_to(open_folder)
    environment = engine_environment(state, os.environ, open_folder / "doors.json") | {"VLLM_SERVER_DEV_MODE": "1"}
    command = [*state.plan.argv, "--uds", str(path), *GUARDED]
    with (
        (open_folder / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            api, stranger = EngineApi(f"{UNIX}{path}", state.api_key), EngineApi(f"{UNIX}{path}", "")
            until(lambda: api.is_healthy() or process.poll() is not None, "it is up", 300)
            assert process.poll() is None, (open_folder / "log").read_text()[-2000:]
            assert api.request("GET", "/is_paused")[0] == OK, "a control: it is in development mode"
            assert api.request("POST", "/reset_prefix_cache", {})[0] == OK
            assert {stranger.request("GET", door)[0] for door in DOORS} == {401}
            assert {stranger.request("POST", door, {})[0] for door in DOORS} == {401}
            assert stranger.request("GET", "/v1/models")[0] == 401

            def reach() -> str:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                return "reached"

            assert reach() == "reached"
            assert as_nobody(reach) == "PermissionError"
            path.parent.chmod(0o755)
            path.chmod(0o777)
            assert as_nobody(reach) == "reached", "a control: it is the folder that keeps him out"
            assert not any(_answers(port) for _, port in _listening(process.pid)), "and there is no port"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _listening(pid: int) -> list[tuple[str, int]]:
    """Where a process and its children listen on TCP."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    connections = [each for process in family for each in process.net_connections("tcp")]
    return [(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN]


def _answers(port: int) -> bool:
    """Whether HTTP is spoken there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return bool(connection.getresponse().status)
    return False
