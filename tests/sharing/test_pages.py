"""The proxy's pages and keys, over real sockets; a stand-in is behind it (no engine)."""

from __future__ import annotations

import dataclasses
import gc
import json
import socket
import time

import pytest
from classroom import QUESTION, UPSTREAM_KEY, error_of, events_of, until
from stand_in import answer, content, deltas, done, finish, reasoning, refuse, role, usage

from magistral_nb.serving import registry
from magistral_nb.serving.wishes import Wishes
from magistral_nb.sharing import app
from magistral_nb.sharing.bucket import Bucket
from magistral_nb.sharing.room import Job

GOOD = [
    role([1, 2, 3]),
    reasoning("2 + 2 = 4.", [5, 6]),
    content("4", [7]),
    finish("stop"),
    usage(prompt=3, completion=4, reasoning=2),
    done(),
]
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
OPEN = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/state")}


def raw(room, data: bytes) -> bytes:
    """What the proxy answers to these bytes."""
    host, port = room.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_a_question_is_streamed(room, ada):
    room.vllm.enqueue(deltas(GOOD))
    reply = room.ask(ada)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event["choices"][0]["delta"].get("content") for event in events_of(reply.text)] == ["", None, "4", None]
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "queue" not in reply.text, "nobody waited"


def test_a_question_is_answered_in_one_piece(room, ada):
    room.vllm.enqueue(answer(WHOLE))
    reply = room.ask(ada, stream=False)
    assert reply.json() == WHOLE
    assert room.room.usage[ada].completion_tokens == 4


def test_a_plain_completion_is_answered(room, ada):
    body = {"choices": [{"index": 0, "text": "4"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    room.vllm.enqueue(answer(body))
    with room.client(ada) as client:
        assert client.post("/v1/completions", json={"prompt": "2+2="}).json() == body
    assert room.vllm.requests[0].path == "/v1/completions"
    assert room.vllm.requests[0].json["max_tokens"] == 8192, "not vLLM's 16"


def test_what_goes_on_is_built_anew(room, ada):
    room.vllm.enqueue(deltas(GOOD))
    with room.client(ada, **{"X-Request-Id": "mine", "X-Forwarded-For": "1.2.3.4", "Cookie": "a=b"}) as client:
        client.post("/v1/chat/completions?cache_salt=x", json={"messages": QUESTION, "user": "me", "stream": True})
    [request] = room.vllm.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    known = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
    assert set(request.headers) == known | {"user-agent"}
    assert room.keys[ada] not in str(request.headers)


def test_no_header_of_the_server_behind_comes_back(room, ada):
    room.vllm.enqueue(answer(WHOLE, headers={"X-Vllm": "0.32", "Server": "uvicorn", "Set-Cookie": "a=b"}))
    reply = room.ask(ada, stream=False)
    assert set(reply.headers) == {"date", "cache-control", "content-length", "content-type"}


def test_the_state_tells_what_a_student_may_know(room, ada):
    with room.client(ada) as client:
        text = client.get("/state").text
    state = json.loads(text)
    assert (state["model"], state["context"], state["system_prompt"]) == ("stand-in", 40960, "Think first.")
    assert state["sampling"] == {"temperature": 0.7, "top_p": 0.95}
    assert state["queue"] == {"seats": 8, "running": 0, "waiting": 0}
    assert state["you"] == {"student": ada, "places": [], "tokens_left_this_minute": 6000, "max_tokens": 8192}
    assert UPSTREAM_KEY not in text
    assert room.vllm.url not in text


def test_models_and_health(room, ada):
    with room.client(ada) as client:
        [card] = client.get("/v1/models").json()["data"]
        assert client.get("/health").json() == {"status": "ready"}
    expected = {"id": "stand-in", "object": "model", "owned_by": "magistral_nb", "max_model_len": 40960}
    assert card == expected | {"created": 1_750_000_000}
    with room.client() as client:
        assert client.get("/health").status_code == 200, "a hub may look without a key"


@pytest.mark.parametrize(("method", "path"), sorted(OPEN))
def test_a_key_is_needed(room, method, path):
    with room.client() as client:
        missing = client.request(method, path)
        assert (missing.status_code, error_of(missing)["type"]) == (401, "authentication_error")
        for scheme in ("Bearer", "bearer", "Basic", "token"):
            assert client.request(method, path, headers={"Authorization": f"{scheme} wrong"}).status_code == 401
    assert not room.vllm.requests


NOTHING = """
    / /v1 /v1/ /v1/models/ //v1/models /v1//models /v1/../v1/models /v1/%2e%2e/metrics /v1%2Fmodels /%761/models
    /v1/models;x /v1/models/stand-in /V1/models /metrics /version /tokenize /detokenize /docs /openapi.json
    /v1/responses /v1/embeddings /collective_rpc /server_info /state/ /state/keys
    http://127.0.0.1/v1/models http://127.0.0.1/metrics
"""


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_nothing_else(room, ada, method):
    for path in NOTHING.split():
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {room.keys[ada]}\r\n"
        reply = raw(room, f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        assert reply.startswith(b"HTTP/1.1 404 "), path
        assert b"llm" not in reply.lower()
    assert not room.vllm.requests


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
def test_a_page_has_one_method(room, ada, method):
    for path in ("/v1/chat/completions", "/v1/models", "/state", "/health"):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {room.keys[ada]}\r\n\r\n"
        reply = raw(room, head.encode())
        assert reply.startswith(b"HTTP/1.1 405 "), path
        assert b"allow: " in reply.lower()
        assert room.keys[ada].encode() not in reply


def test_the_other_method_is_wrong_as_well(room, ada):
    with room.client(ada) as client:
        assert client.get("/v1/chat/completions").headers["allow"] == "POST"
        assert client.post("/state").headers["allow"] == "GET"


def test_no_upgrade_leads_anywhere(room, ada):
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    key = f"Authorization: Bearer {room.keys[ada]}\r\n"
    assert raw(room, f"GET /metrics HTTP/1.1\r\nHost: x\r\n{upgrade}{key}\r\n".encode()).startswith(b"HTTP/1.1 404 ")
    assert b" 101 " not in raw(room, f"GET /state HTTP/1.1\r\nHost: x\r\n{upgrade}{key}\r\n".encode())[:20]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /state HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"v" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /state\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /state HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /state HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["huge header", "huge path", "no version", "TLS", "two lengths", "two hosts", "no text"],
)
def test_nonsense_gets_no_further(room, data):
    reply = raw(room, data)
    assert reply == b"" or reply.split()[1] in {b"400", b"401", b"404", b"405"}
    assert b"llm" not in reply.lower()
    assert not room.vllm.requests


def test_a_key_stands_in_either_header(room, ada):
    key = room.keys[ada]
    for headers in (
        {"X-API-Key": key},
        {"X-API-Key": key, "Authorization": "token of-jupyter"},
        {"X-API-Key": key, "Authorization": "Bearer of-jupyter"},
        {"Authorization": f"bearer  {key}"},
    ):
        with room.client(**headers) as client:
            assert client.get("/state").json()["you"]["student"] == ada
    with room.client(**{"X-API-Key": "wrong", "Authorization": f"Bearer {key}"}) as client:
        assert client.get("/state").status_code == 401


def test_wrong_keys_take_their_time_and_are_limited_while_right_ones_pass(room, ada, monkeypatch):
    monkeypatch.setattr(room.app, "_wrong", Bucket.full(3, time.monotonic()))
    monkeypatch.setattr(app, "_WRONG_SECONDS", 0.1)
    with room.client(Authorization="Bearer wrong") as client:
        began = time.monotonic()
        codes = [client.get("/state").status_code for _ in range(3)]
        assert (codes, time.monotonic() - began > 0.3) == ([401] * 3, True)
        limited = client.get("/state")
    assert limited.status_code == 429
    assert 10 < int(limited.headers["retry-after"]) <= 20
    with room.client(ada) as client:
        assert client.get("/state").status_code == 200
    with room.client() as client:
        assert client.get("/state").status_code == 401, "no key is no guess"


def refused(room, student, body: str):
    """What is said of it, and that nobody else heard of it."""
    with room.client(student) as client:
        reply = client.post("/v1/chat/completions", content=body)
    assert not room.vllm.requests
    return reply.status_code, error_of(reply)["message"]


def test_a_request_has_room_for_its_prompt_and_no_more(room, ada):
    large = json.dumps({"messages": QUESTION, "stop": "x" * (16 * 8192 + 65536)})
    assert refused(room, ada, large) == (413, "The request is larger than 196 kB: shorten it.")


def test_where_images_are_taken_a_request_has_room_for_some_and_for_no_more_values(room, ada):
    plan = registry.read(room.path).plan
    room.write(plan=dataclasses.replace(plan, wishes=Wishes(images=True)))
    try:
        image = json.dumps({"messages": QUESTION, "stop": "x" * 1_000_000})
        assert refused(room, ada, image)[0] == 400, "read, though it makes no sense"
        values = f'{{"messages": [{",".join(["{}"] * 1_000_000)}]}}'
        assert refused(room, ada, values) == (413, "The request holds far more values than a prompt has: shorten it.")
        assert refused(room, ada, "x" * 8_400_000) == (413, "The request is larger than 8,388 kB: shorten it.")
    finally:
        room.write()


def test_of_a_request_that_is_refused_nothing_stays(room, ada):
    """Without the collector: what only that frees, stays for minutes in a process that does little else."""
    gc.collect()
    gc.disable()
    try:
        refused(room, ada, json.dumps({"messages": [{"made_up": 1}] * 100}))
        refused(room, ada, json.dumps({"messages": QUESTION, "n": 2, "stop": [""]}))
        room.vllm.enqueue(refuse(400, "too hot"))
        room.ask(ada)
        until(lambda: not room.room._open)
        assert not [each for each in gc.get_objects() if type(each) is Job]  # isinstance would wake lazy proxies
    finally:
        gc.enable()


def test_what_is_refused_costs_a_hundredth_of_a_minute(room, ada):
    with room.client(ada) as client:
        for _ in range(10):
            assert client.post("/v1/chat/completions", content="{}").status_code == 400
        assert 5400 <= client.get("/state").json()["you"]["tokens_left_this_minute"] <= 5500


def test_a_request_that_never_arrives_is_given_up(room, ada, monkeypatch):
    monkeypatch.setattr(app, "_BODY_SECONDS", 0.1)
    host, port = room.root.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {room.keys[ada]}\r\nContent-Length: 99\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_what_does_not_pass_is_told_with_the_fields_name(room, ada):
    reply = room.ask(ada, cache_salt="x")
    assert (reply.status_code, "cache_salt" in error_of(reply)["message"]) == (400, True)
    assert not room.vllm.requests
    assert room.room.usage[ada].refused == 1
    assert room.room.usage[ada].requests == 0


def test_what_the_server_says_of_a_request_comes_back_in_one_line(room, ada):
    room.vllm.enqueue(refuse(400, "n must be 1\nwhen using greedy sampling"))
    reply = room.ask(ada, n=2, temperature=0)
    assert reply.status_code == 400
    assert error_of(reply)["message"] == "n must be 1 when using greedy sampling."


@pytest.mark.parametrize("status", [401, 403, 404, 500, 502])
def test_what_is_not_the_students_fault_is_not_told(room, ada, status):
    room.vllm.enqueue(refuse(status, "secrets of the server"))
    reply = room.ask(ada)
    assert reply.status_code == 503
    assert "secrets" not in reply.text
    assert "could not answer" in error_of(reply)["message"]
