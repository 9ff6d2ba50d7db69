"""When something goes wrong: the server behind, the keys, the proxy itself; a stand-in is behind it (no engine)."""

from __future__ import annotations

import dataclasses
import os
import threading
import time

import httpx
import pytest
from classroom import QUESTION, UPSTREAM_KEY, Stream, error_of, until
from stand_in import (
    Reply,
    StandIn,
    answer,
    content,
    deltas,
    done,
    event,
    finish,
    hang,
    reasoning,
    refuse,
    role,
    silence,
    usage,
)

from magistral_nb.private_file import write_private
from magistral_nb.processes import Process
from magistral_nb.serving import registry
from magistral_nb.serving.terms import Terms
from magistral_nb.sharing import key_ring, proxy, reply as reply_module, upstream
from magistral_nb.sharing.share import Share

SHARE = {"at_once": 1, "per_student": 1}
SHORT = [role([1, 2, 3]), reasoning("Hm.", [5, 6]), content("4", [7]), finish("stop"), usage(3, 4, 2), done()]
WHOLE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "booting", "base_url": None}, "is booting"),
        ({"status": "failed"}, "is down"),
        ({"status": "sleeping"}, "is sleeping"),
    ],
)
def test_a_server_that_cannot_answer_is_told_in_one_line(room, ada, changes, says):
    room.write(**changes)
    try:
        reply = room.ask(ada)
        with room.client(ada) as client:
            health, models, state = (client.get(page) for page in ("/health", "/v1/models", "/state"))
    finally:
        room.write()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "10")
    assert error_of(reply)["message"] == f"The teacher's server {says}: ask again in a while."
    assert (health.status_code, models.status_code, state.status_code) == (503, 503, 200)
    assert state.json()["status"] == changes["status"]


def test_a_server_that_is_gone_is_told_and_found_again_where_it_comes_back(room, ada):
    with StandIn(key=UPSTREAM_KEY) as other:
        room.write(base_url=other.url)
        other.enqueue(deltas(SHORT))
        assert room.ask(ada).status_code == 200
        assert len(other.requests) == 1
    reply = room.ask(ada)
    assert (reply.status_code, error_of(reply)["message"]) == (
        503,
        "The teacher's server is down: ask again in a while.",
    )
    room.write()
    room.vllm.enqueue(deltas(SHORT))
    assert room.ask(ada).status_code == 200


def test_a_server_that_dies_in_mid_stream_ends_it_with_an_error(room, ada):
    room.vllm.enqueue(deltas([role([1]), reasoning("Hm", [5])], ending="die"))
    reply = room.ask(ada)
    assert reply.status_code == 200
    assert '"reasoning":"Hm"' in reply.text
    assert "[DONE]" not in reply.text
    assert error_of(reply.text)["message"] == "The teacher's server broke off: ask again in a while."


def test_a_stream_without_its_end_mark_has_broken_off(room, ada):
    room.vllm.enqueue(deltas([role([1]), reasoning("Hm", [5])]))
    assert error_of(room.ask(ada).text)["message"] == "The teacher's server broke off: ask again."


def test_a_server_that_says_nothing_is_given_up_in_time(room, ada, monkeypatch):
    monkeypatch.setattr(upstream, "_TIMEOUT", httpx.Timeout(0.1))
    room.write(base_url=room.vllm.url.replace("127.0.0.1", "localhost"))  # so that a new client is made
    room.vllm.enqueue(silence())
    reply = room.ask(ada)
    room.write()
    assert (reply.status_code, "broke off" in error_of(reply)["message"]) == (503, True)


def test_who_goes_while_the_server_says_nothing_frees_the_seat(room, ada):
    room.vllm.enqueue(silence())
    with room.client(ada) as client, pytest.raises(httpx.TimeoutException):
        client.post("/v1/chat/completions", json={"messages": QUESTION, "stream": True}, timeout=0.1)
    assert room.vllm.requests[0].disconnected.wait(0.5)
    until(lambda: room.room.running == 0, 0.5)


def test_an_error_after_waiting_comes_as_an_event(room, ada, ben):
    room.vllm.enqueue(hang(), refuse(400, "too hot"))
    with Stream(room, ada) as first, Stream(room, ben) as second:
        assert second.line() == ": magistral_nb queue 1 of 1"
        first.close()
        assert error_of(second.rest())["message"] == "too hot."


def test_a_server_that_goes_while_some_wait_tells_them_at_their_turn(room, ada, ben):
    room.vllm.enqueue(hang())
    with Stream(room, ada) as first, Stream(room, ben) as second:
        second.line()
        room.write(status="failed")
        first.close()
        told = error_of(second.rest())
    room.write()
    assert (told["code"], "is down" in told["message"]) == (503, True)


ME = Process.of(os.getpid())
AGAIN = Terms(share=Share(students=("ada",), **SHARE), restart="on-failure")


@pytest.fixture
def kept(room, monkeypatch):
    """The server has a supervisor, which starts it again where it ends."""
    monkeypatch.setattr(upstream, "_LOOK_SECONDS", 0.01)
    room.write(terms=AGAIN, supervisor=ME, engine=ME)
    yield room
    room.write()


def test_while_the_server_is_started_again_whoever_waits_goes_on_waiting(kept, ada, ben):
    kept.vllm.enqueue(hang(), deltas(SHORT))
    with Stream(kept, ada) as first, Stream(kept, ben) as second:
        assert second.line() == ": magistral_nb queue 1 of 1"
        kept.write(terms=AGAIN, status="booting", supervisor=ME, base_url=None)
        first.close()
        until(lambda: kept.room.running == 0)
        assert len(kept.vllm.requests) == 1
        cleo = kept.ask(next(kept.names))
        assert (cleo.status_code, "is booting" in error_of(cleo)["message"]) == (503, True), "who comes now is told"
        kept.write(terms=AGAIN, supervisor=ME, engine=ME)
        assert second.rest().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("blocks", "engine", "seats"), [(750, Process(4, 0.0), 6), (9, Process(2, 0.0), 1), (10**6, Process(3, 0.0), 64)]
)
def test_there_are_as_many_seats_as_have_room_in_the_engine_s_memory(room, monkeypatch, blocks, engine, seats):
    monkeypatch.setattr(proxy, "_REPORT_SECONDS", 0.05)
    share = Share(students=("ada",), max_tokens=1000, prompt_tokens=1000)
    plan = dataclasses.replace(registry.read(room.path).plan, argv=("vllm", "serve", "--max-num-seqs", "64"))
    page = f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{blocks}"}} 1.0\n'
    monkeypatch.setitem(room.vllm.pages, "/metrics", Reply(chunks=(page.encode(),)))
    room.write(terms=Terms(share=share), plan=plan, engine=engine)
    try:
        until(lambda: (room.room.seats, room.report.seats) == (seats, seats))
    finally:
        room.write()
        room.room.resize(SHARE["at_once"])


def test_a_supervisor_that_dies_meanwhile_leaves_nobody_waiting(kept, ada, ben):
    kept.vllm.enqueue(hang())
    with Stream(kept, ada) as first, Stream(kept, ben) as second:
        second.line()
        kept.write(terms=AGAIN, status="booting", supervisor=Process(2**22 + 1, 0.0), base_url=None)
        first.close()
        assert error_of(second.rest())["code"] == 503


DEAD = event({"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}})


@pytest.mark.parametrize(
    ("ending", "streams"),
    [
        (deltas([], ending="die"), True),
        (deltas([], ending="die"), False),
        (refuse(500, "EngineCore"), True),
        (refuse(500, "EngineCore"), False),
        (deltas([DEAD, done()]), True),
        (deltas([]), True),
    ],
)
def test_a_question_without_a_token_is_asked_once_more_where_the_server_comes_back(kept, ada, ending, streams):
    kept.vllm.enqueue(ending, deltas(SHORT) if streams else answer(WHOLE))
    replies = []
    thread = threading.Thread(target=lambda: replies.append(kept.ask(ada, stream=streams)))
    thread.start()
    kept.vllm.wait_for(1)
    time.sleep(0.05)
    kept.write(terms=AGAIN, status="booting", supervisor=ME, base_url=None)
    time.sleep(0.05)
    kept.write(terms=AGAIN, supervisor=ME, engine=ME)
    thread.join()
    assert replies[0].status_code == 200
    assert "error" not in replies[0].text
    assert len(kept.vllm.requests) == 2
    assert kept.room.usage[ada].requests == 1


def test_a_revoked_key_ends_what_runs_and_what_waits_with_it(room, ada, ben):
    path = key_ring.path_of(room.path)
    cleo = next(room.names)
    room.vllm.enqueue(hang(), deltas(SHORT))
    with Stream(room, ada) as running, Stream(room, ben) as waiting, Stream(room, cleo) as other:
        waiting.line()
        began = time.monotonic()
        write_private(path, key_ring.load(path).without(ada).without(ben).to_json())  # both at once
        for stream in (running, waiting):
            assert error_of(stream.rest())["message"] == "This key was revoked: ask your teacher."
        assert time.monotonic() - began < 1
        assert other.rest().endswith("data: [DONE]"), "the seat was given to who is left"
        reply = room.ask(ada)
    assert (reply.status_code, "revoked" in error_of(reply)["message"]) == (401, True)


def test_a_new_student_is_known_before_the_next_request(room):
    ring = key_ring.add(key_ring.path_of(room.path), ["zoë"])
    with room.client(Authorization=f"Bearer {ring.keys['zoë']}") as client:
        assert client.get("/state").json()["you"]["student"] == "zoë"


def test_keys_that_others_may_read_let_nobody_in(room, ada):
    path = key_ring.path_of(room.path)
    path.chmod(0o644)
    reply = room.ask(ada)
    path.chmod(0o600)
    assert (reply.status_code, "cannot be read" in error_of(reply)["message"]) == (503, True)
    with room.client(ada) as client:
        assert client.get("/state").status_code == 200


def test_a_student_who_reads_nothing_loses_the_seat(room, ada, monkeypatch):
    monkeypatch.setattr(reply_module, "_STALLED_SECONDS", 0.2)
    room.vllm.enqueue(deltas([role([1]), *[reasoning("x" * 100_000, [5])] * 200], ending="hang"))
    with Stream(room, ada):
        request = room.vllm.wait_for(1)
        assert request.disconnected.wait(5)
        until(lambda: room.room.running == 0)
