"""Queue and limits over real sockets: two seats, one for each student; a stand-in is behind it (no engine)."""

from __future__ import annotations

import contextlib
import threading
import time

import httpx
import pytest
from classroom import QUESTION, Stream, error_of, until
from stand_in import answer, content, deltas, done, finish, hang, reasoning, refuse, role, silence, usage

from magistral_nb.sharing import app
from magistral_nb.sharing.room import MOST_OPEN

SHARE = {"at_once": 2, "per_student": 1, "max_tokens": 100, "tokens_per_minute": 600, "prompt_tokens": 2000}
SHORT = [role([1, 2, 3]), reasoning("Hm.", [5, 6]), content("4", [7]), finish("stop"), usage(3, 4, 2), done()]
WHOLE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


@pytest.fixture
def full(room):
    """Two streams that take both seats and never end by themselves."""
    room.vllm.enqueue(hang(), hang())
    streams = [Stream(room, next(room.names)) for _ in range(2)]
    room.vllm.wait_for(2)
    yield streams
    for each in streams:
        each.close()


def test_who_waits_is_told_the_place_whenever_it_changes(room, full, ada, ben):
    with Stream(room, ada) as first, Stream(room, ben) as second:
        assert first.response.headers["content-type"].startswith("text/event-stream")
        assert first.line() == ": magistral_nb queue 1 of 1"
        assert first.line() == ": magistral_nb queue 1 of 2"
        assert second.line() == ": magistral_nb queue 2 of 2"
        room.vllm.enqueue(deltas(SHORT, delay=0.02), deltas(SHORT))
        full[0].close()
        rest = first.rest()
        assert rest.startswith('data: {"id"')
        assert rest.endswith("data: [DONE]")
        lines = second.rest().split("\n")
        assert (lines[0], lines[-1]) == (": magistral_nb queue 1 of 1", "data: [DONE]")


def test_the_place_is_told_again_while_nothing_changes(room, full, ada, monkeypatch):
    monkeypatch.setattr(app, "_PLACE_SECONDS", 0.05)
    with Stream(room, ada) as stream:
        assert [stream.line() for _ in range(4)] == [": magistral_nb queue 1 of 1"] * 4


def test_the_state_tells_ones_own_places(room, full, ada, ben):
    with Stream(room, ada), Stream(room, ben), room.client(ben) as client:
        state = client.get("/state").json()
    assert state["queue"] == {"seats": 2, "running": 2, "waiting": 2}
    assert state["you"]["places"] == [2]


def test_a_question_in_one_piece_just_waits(room, full, ada):
    room.vllm.enqueue(answer(WHOLE))
    replies = []
    thread = threading.Thread(target=lambda: replies.append(room.ask(ada, stream=False)))
    thread.start()
    until(lambda: room.room.waiting == 1)
    full[0].close()
    thread.join()
    assert replies[0].json() == WHOLE


def test_who_goes_leaves_the_queue_at_once(room, full, ada, ben):
    with Stream(room, ada) as first, Stream(room, ben) as second:
        first.line()
        assert second.line() == ": magistral_nb queue 2 of 2"
        began = time.monotonic()
        first.close()
        assert second.line() == ": magistral_nb queue 1 of 1"
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("streams", [True, False])
def test_who_goes_stops_the_server(room, ada, streams):
    room.vllm.enqueue(hang())
    client = room.client(ada)
    body = {"messages": QUESTION, "stream": streams}
    thread = threading.Thread(target=_quietly, args=(client.post, "/v1/chat/completions"), kwargs={"json": body})
    thread.start()
    request = room.vllm.wait_for(1)
    client._transport._pool._connections[0]._connection._network_stream.get_extra_info("socket").shutdown(2)
    assert request.disconnected.wait(0.5)
    thread.join()


def _quietly(call, *args, **kwargs):
    with contextlib.suppress(httpx.HTTPError):
        call(*args, **kwargs)


def test_a_student_has_one_seat_however_often_asked(room, ada, ben):
    room.vllm.enqueue(hang(), deltas(SHORT))
    with Stream(room, ada), Stream(room, ada) as again:
        assert again.line() == ": magistral_nb queue 1 of 1"
        assert room.ask(ben).text.endswith("data: [DONE]\n\n"), "the other seat is free for others"


def test_several_answers_need_as_many_seats_as_one_may_have(room, ada):
    reply = room.ask(ada, n=2)
    assert reply.status_code == 400
    assert error_of(reply)["message"] == "n is 2, and here a request has at most 1: ask again for more."


def test_too_many_requests_of_one_student_are_refused(room, full, ada):
    streams = [Stream(room, ada) for _ in range(MOST_OPEN)]
    reply = room.ask(ada)
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "5"
    for each in streams:
        each.close()
    until(lambda: room.room.waiting == 0)


def test_tokens_of_a_request_are_limited(room, ada):
    room.vllm.enqueue(*[deltas(SHORT)] * 4)
    for asked in ({}, {"max_tokens": 5000}, {"max_tokens": 7}, {"max_completion_tokens": 8, "max_tokens": 9}):
        room.ask(ada, **asked)
    assert [request.json["max_tokens"] for request in room.vllm.requests] == [100, 100, 7, 8]
    assert all("max_completion_tokens" not in request.json for request in room.vllm.requests)


def test_tokens_a_minute_are_limited(room, ada, ben):
    ids = list(range(350))
    room.vllm.enqueue(*[deltas([role([1]), reasoning("x", ids), finish("length"), done()])] * 2)
    with room.client(ada) as client:
        for left in (250, 0):
            room.ask(ada)
            assert left - 1 <= client.get("/state").json()["you"]["tokens_left_this_minute"] <= left + 100
    reply = room.ask(ada)
    assert reply.status_code == 429
    assert error_of(reply)["message"].startswith("You have used up your 600 tokens a minute: ask again in ")
    assert 0 < int(reply.headers["retry-after"]) <= 60
    assert len(room.vllm.requests) == 2
    room.vllm.enqueue(deltas(SHORT))
    assert room.ask(ben).status_code == 200, "another student's tokens are another's"
    assert room.room.usage[ada].refused == 1


@pytest.mark.parametrize("streams", [True, False])
def test_four_tokens_of_a_prompt_count_as_one_of_a_completion(room, ada, streams):
    """Or a thousand prompts of the largest size would be free, if only a token was answered to each."""
    whole = answer({"choices": [], "usage": {"prompt_tokens": 1200, "completion_tokens": 1}})
    streamed = deltas([role(list(range(1200))), content("4", [7]), finish(), usage(1200, 1, 0), done()])
    room.vllm.enqueue(streamed if streams else whole)
    room.ask(ada, stream=streams)
    used = room.room.usage[ada]
    assert (used.prompt_tokens, used.completion_tokens) == (1200, 1)
    with room.client(ada) as client:
        assert 298 <= client.get("/state").json()["you"]["tokens_left_this_minute"] <= 330
    assert room.room._queue.had(ada, time.monotonic()) == pytest.approx(302, abs=1), "and behind others in the queue"


@pytest.mark.parametrize("streams", [True, False])
def test_a_prompt_that_nobody_has_counted_counts_by_its_bytes(room, ada, streams):
    room.vllm.enqueue(silence())
    body = {"messages": [{"role": "user", "content": "x" * 600}], "stream": streams}
    with room.client(ada) as client, pytest.raises(httpx.TimeoutException):
        client.post("/v1/chat/completions", json=body, timeout=0.1)
    until(lambda: room.room.running == 0)
    assert 150 <= room.room.usage[ada].prompt_tokens <= 200


def test_what_was_streamed_until_a_student_went_counts(room, ada):
    room.vllm.enqueue(deltas([role([1, 2]), reasoning("x", list(range(50)))], ending="hang"))
    with Stream(room, ada) as stream:
        stream.line()
        stream.line()
    until(lambda: room.room.usage[ada].completion_tokens == 50)
    until(lambda: room.room.usage[ada].prompt_tokens == 2)


def test_what_ran_unseen_until_a_student_went_counts_by_its_time(room, ada):
    room.vllm.enqueue(hang())
    began = time.monotonic()
    with room.client(ada) as client, pytest.raises(httpx.TimeoutException):
        client.post("/v1/chat/completions", json={"messages": QUESTION}, timeout=0.5)
    until(lambda: room.room.running == 0)
    most = 10 * (time.monotonic() - began) + 1
    assert 4 <= room.room.usage[ada].completion_tokens <= most, "ten a second"


def test_a_long_prompt_is_counted_and_refused(room, ada):
    reply = room.ask(ada, messages=[{"role": "user", "content": "two words " * 1001}])
    assert reply.status_code == 400
    assert error_of(reply)["message"] == "The prompt has 2,002 tokens, and may have 2,000 here: shorten it."
    reply = room.ask(ada, messages=[{"role": "user", "content": "x" * 50_000}])
    assert error_of(reply)["message"].startswith("The prompt is far longer than the 2,000 tokens")


def test_a_prompt_that_may_fill_the_context_is_counted_and_the_rest_is_left_to_the_answer(room, ada):
    room.write(context=1500)
    try:
        room.vllm.enqueue(deltas(SHORT))
        room.ask(ada, messages=[{"role": "user", "content": "word " * 1450}])
        reply = room.ask(ada, messages=[{"role": "user", "content": "word " * 1500}])
    finally:
        room.write()
    assert room.vllm.requests[0].json["max_tokens"] == 50
    assert error_of(reply)["message"] == "The prompt has 1,500 tokens, and may have 1,499 here: shorten it."


@pytest.mark.parametrize("says", [refuse(404, "Not Found"), refuse(500, "no"), answer({"tokens": []}), answer(5)])
def test_a_prompt_that_could_not_be_counted_is_refused_since_it_may_be_of_any_length(room, ada, says):
    room.vllm.pages["/tokenize"] = says
    try:
        reply = room.ask(ada, messages=[{"role": "user", "content": "word " * 1450}])
    finally:
        del room.vllm.pages["/tokenize"]
    assert (reply.status_code, "could not count the prompt" in error_of(reply)["message"]) == (503, True)
    assert not room.vllm.requests


def test_small_replies_are_sent_at_once(room, ada):
    """A connection that waits for acknowledgements takes 40 ms for each."""
    with room.client(ada) as client:
        client.get("/state")
        began = time.monotonic()
        for _ in range(10):
            client.get("/state")
    assert time.monotonic() - began < 0.3
