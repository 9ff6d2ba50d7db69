from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from typing import Any

import openai
import pytest
from stand_in import (
    Reply,
    StandIn,
    answer,
    content,
    deltas,
    done,
    finish,
    hang,
    reasoning,
    recut,
    refuse,
    role,
    silence,
    usage,
)

pytestmark = pytest.mark.long  # a tool of the tests, tested where time is no matter

QUESTION = {"model": "stand-in", "messages": [{"role": "user", "content": "2+2?"}], "stream": True}
STORY = [role(), reasoning("2 + 2 é 思 🤔", [7, 8]), content("4"), finish("stop"), usage(3, 4, 2), done()]


@pytest.fixture
def server() -> Any:
    with StandIn() as server:
        yield server


def ask(server: StandIn) -> http.client.HTTPResponse:
    port = int(server.root.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body, headers = json.dumps(QUESTION), {"Content-Type": "application/json", "Authorization": "Bearer key"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    response.connection = connection  # type: ignore[attr-defined] # keeps it from being collected
    return response


def client(server: StandIn) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="key", max_retries=0, timeout=10)


def test_an_openai_client_reads_the_story(server: StandIn) -> None:
    server.enqueue(deltas(STORY))
    chunks = list(client(server).chat.completions.create(**QUESTION))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert choices[1].delta.reasoning == "2 + 2 é 思 🤔"
    assert choices[1].token_ids == [7, 8]
    assert "".join(choice.delta.content or "" for choice in choices) == "4"
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 2
    assert chunks[-1].usage.total_tokens == 7


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bytes_arrive_as_they_were_cut(server: StandIn, size: int) -> None:
    server.enqueue(deltas(recut(STORY, size), delay=0.0 if size == 1 else 0.01))
    response = ask(server)
    pieces = list(iter(response.read1, b""))
    assert b"".join(pieces) == b"".join(STORY)
    if size == 7:
        assert {len(piece) for piece in pieces[:-1]} == {7}


def test_the_delay_lies_between_the_chunks(server: StandIn) -> None:
    server.enqueue(deltas(STORY[:3], delay=0.1))
    response = ask(server)
    start = time.monotonic()
    response.read1()
    assert time.monotonic() - start > 0.05
    response.read()
    assert time.monotonic() - start > 0.25


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refuse(401, "no such key"), openai.AuthenticationError),
        (refuse(404, "no such model"), openai.NotFoundError),
        (refuse(429, "slow down", {"Retry-After": "3"}), openai.RateLimitError),
        (refuse(500, b"<html>not JSON</html>"), openai.InternalServerError),
        (refuse(503), openai.InternalServerError),
        (answer({"error": "overloaded"}, status=529), openai.InternalServerError),
    ],
)
def test_refusals(server: StandIn, reply: Reply, error: type[openai.APIStatusError]) -> None:
    server.enqueue(reply)
    with pytest.raises(error) as caught:
        client(server).chat.completions.create(**QUESTION)
    assert caught.value.status_code == reply.status
    assert caught.value.response.content == reply.chunks[0]
    assert caught.value.response.headers.get("Retry-After") == reply.headers.get("Retry-After")


def test_waiting_for_a_question(server: StandIn) -> None:
    with pytest.raises(TimeoutError, match="0 of 1"):
        server.wait_for(1, timeout=0.05)
    server.enqueue(hang())
    response = ask(server)
    assert server.wait_for().json == QUESTION
    response.connection.close()  # type: ignore[attr-defined]


def test_a_question_without_a_reply_fails_and_says_so(server: StandIn) -> None:
    with pytest.raises(openai.InternalServerError, match="enqueued no reply"):
        client(server).chat.completions.create(**QUESTION)


def test_replies_come_in_order_and_questions_are_recorded(server: StandIn) -> None:
    server.enqueue(deltas([content("one")]), deltas([content("two")]))
    assert b"one" in ask(server).read()
    assert b"two" in ask(server).read()
    assert [request.json for request in server.requests] == [QUESTION, QUESTION]
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == "Bearer key"
    assert not server.requests[0].disconnected.is_set()


def test_a_death_in_mid_stream(server: StandIn) -> None:
    server.enqueue(deltas(STORY[:2], ending="die"))
    response = ask(server)
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert not server.requests[0].disconnected.is_set(), "it was not the client who went"


@pytest.mark.parametrize("reply", [hang(), deltas(STORY[:2], ending="hang"), deltas(STORY, delay=60)])
def test_a_client_that_gives_up_is_noticed(server: StandIn, reply: Reply) -> None:
    server.enqueue(reply)
    response = ask(server)
    assert not server.requests[0].disconnected.is_set()
    response.close()
    response.connection.close()  # type: ignore[attr-defined]
    assert server.requests[0].disconnected.wait(2)


def test_silence_sends_no_status(server: StandIn) -> None:
    server.enqueue(silence())
    with pytest.raises(openai.APITimeoutError):
        client(server).with_options(timeout=0.2).chat.completions.create(**QUESTION)
    assert server.requests[0].disconnected.wait(2)


def test_pages(server: StandIn) -> None:
    api = client(server)
    assert api.models.list().data[0].to_dict()["max_model_len"] == 40960
    port = int(server.root.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def get(path: str) -> tuple[int, bytes]:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    assert json.loads(get("/version")[1]) == {"version": "0.32.0"}
    assert get("/health") == (200, b"")
    assert get("/metrics")[0] == 404
    server.pages["/metrics"] = Reply(chunks=(b"vllm:num_requests_running 1.0\n",))
    assert get("/metrics") == (200, b"vllm:num_requests_running 1.0\n")
    connection.request("POST", "/tokenize", json.dumps({"messages": QUESTION["messages"]}))
    assert json.loads(connection.getresponse().read())["count"] == 1
    connection.close()
    assert server.requests == []


def test_leaving_ends_everything() -> None:
    before = set(threading.enumerate())
    with StandIn() as server:
        server.enqueue(hang(), silence())
        response = ask(server)
        sleeper = socket.create_connection(("127.0.0.1", int(server.root.rpartition(":")[2])))
    assert set(threading.enumerate()) == before
    assert not server.requests[0].disconnected.is_set()
    with pytest.raises(OSError, match="refused"):
        ask(server)
    sleeper.close()
    response.connection.close()  # type: ignore[attr-defined]
