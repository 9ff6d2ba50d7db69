"""The proxy behind the real jupyter-server-proxy, as on a hub; a stand-in for vLLM is behind it (no engine)."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import httpx
import pytest
from classroom import QUESTION, ProxyProcess, until
from stand_in import content, deltas, done, finish, hang, reasoning, role, usage

import magistral_nb
from magistral_nb.asking.client import HUB_ADDRESSES, HUB_VARIABLE
from magistral_nb.serving.launch import free_port

pytestmark = pytest.mark.engine

TOKEN = "of-jupyter"
SLOW = [
    role([1, 2, 3]),
    *[reasoning(f"{n} ", [n]) for n in range(5)],
    content("4", [7]),
    finish(),
    usage(3, 6, 5),
    done(),
]


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """The address of a Jupyter server with jupyter-server-proxy, where a hub would put it."""
    folder, port = tmp_path_factory.mktemp("jupyter"), free_port()
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"),
        "--ServerApp.base_url=/user/ada/",
    ]
    own |= {"JUPYTER_PREFER_ENV_PATH": "1"}
    process = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = f"http://127.0.0.1:{port}/user/ada"

    def answers():
        try:
            return httpx.get(f"{root}/api", trust_env=False).is_success
        except httpx.TransportError:
            return False

    until(answers, 60)
    yield root
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    with ProxyProcess(tmp_path_factory.mktemp("class"), "ada,ben", at_once=1) as room:
        yield room


@pytest.fixture
def url(jupyter, room):
    """The proxy's address through Jupyter."""
    room.vllm.requests.clear()
    return f"{jupyter}/proxy/{room.report.port}"


def with_key(room):
    return {"Authorization": f"token {TOKEN}", "X-API-Key": room.keys["ada"]}


def test_the_key_alone_does_not_get_past_jupyter_nor_its_token_past_us(room, url):
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/state", headers={"X-API-Key": room.keys["ada"]}).status_code in {302, 403}
        assert client.get("/state", headers={"Authorization": f"token {TOKEN}"}).status_code == 401
        assert client.get("/state", headers=with_key(room)).json()["you"]["student"] == "ada"
        assert client.get("/metrics", headers=with_key(room)).status_code == 404


def arrivals(room, url, headers, **more):
    """When each piece of a slow stream arrived."""
    room.vllm.enqueue(deltas(SLOW, delay=0.1))
    body = {"messages": QUESTION, "stream": True}
    with (
        httpx.Client(trust_env=False, headers=headers, **more) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply,
    ):
        assert reply.status_code == 200
        times = [time.monotonic() for line in reply.iter_lines() if '"reasoning"' in line]
    assert len(times) == 5
    return times[-1] - times[0]


def test_a_stream_arrives_piece_by_piece(room, url):
    assert arrivals(room, url, with_key(room) | {"Accept": "text/event-stream"}) > 0.3
    assert arrivals(room, url, with_key(room)) < 0.1, "without that header jupyter-server-proxy holds it back"


def test_the_key_can_be_the_bearer_where_jupyter_takes_its_token_elsewhere(room, url, jupyter):
    key = {"Authorization": f"Bearer {room.keys['ada']}", "Accept": "text/event-stream"}
    assert arrivals(room, url, key, params={"token": TOKEN}) > 0.3
    with httpx.Client(trust_env=False) as browser:
        browser.get(f"{jupyter}/?token={TOKEN}")
        cookies = browser.cookies
    assert cookies
    assert arrivals(room, url, key, cookies=cookies) > 0.3


def test_our_own_client_gets_there_with_the_hubs_token_in_the_environment(room, url, monkeypatch):
    monkeypatch.setenv(HUB_VARIABLE, TOKEN)
    monkeypatch.setenv(HUB_ADDRESSES[0], url)
    server = magistral_nb.connect(f"{url}/v1", api_key=room.keys["ada"])
    assert server.endpoint.system_prompt == "Think first."
    room.vllm.enqueue(deltas(SLOW, delay=0.1))
    answer = magistral_nb.reason("2+2?", server=server)
    assert (answer.text, answer.thinking, answer.usage.thinking_tokens) == ("4", "0 1 2 3 4 ", 5)
    assert answer.time_to_first_token < answer.seconds - 0.3, "it was streamed"
    assert TOKEN not in repr(server) + repr(server.endpoint)


def test_the_place_in_the_queue_arrives_while_one_waits(room, url):
    room.vllm.enqueue(hang(), deltas(SLOW))
    headers = with_key(room) | {"Accept": "text/event-stream"}
    body = {"messages": QUESTION, "stream": True}
    holder = room.client("ben")
    with holder.stream("POST", "/v1/chat/completions", json=body) as held, httpx.Client(trust_env=False) as client:
        room.vllm.wait_for(1)
        with client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
            lines = (line for line in reply.iter_lines() if line)
            assert next(lines) == ": magistral_nb queue 1 of 1"
            held.close()
            holder.close()
            assert list(lines)[-1] == "data: [DONE]"


def test_who_hangs_up_is_not_told_by_jupyter_so_that_only_the_limit_of_tokens_ends_it(room, url):
    """Should this fail, a newer jupyter-server-proxy tells it, and the README need no longer warn."""
    room.vllm.enqueue(deltas([role([1]), *[reasoning("x", [1])] * 30, finish(), done()], delay=0.05))
    headers = with_key(room) | {"Accept": "text/event-stream"}
    body = {"messages": QUESTION, "stream": True}
    with (
        httpx.Client(trust_env=False, headers=headers) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply,
    ):
        next(reply.iter_lines())
    assert not room.vllm.wait_for(1).disconnected.wait(0.5)
    with room.client("ada") as client:
        until(lambda: client.get("/state").json()["queue"]["running"] == 0, 20)
