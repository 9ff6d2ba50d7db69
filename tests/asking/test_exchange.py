"""Retries and limits of one exchange, against a scripted server (no engine)."""

from __future__ import annotations

import email.utils
import threading
import time

import openai
import pytest
from stand_in import StandIn, content, deltas, done, finish, hang, reasoning, refuse, silence

import magistral_nb
from magistral_nb import errors
from magistral_nb.asking import client
from magistral_nb.asking.endpoint import Endpoint, Limits, Question, chat_request
from magistral_nb.asking.events import Finished
from magistral_nb.asking.exchange import Exchange
from magistral_nb.asking.pace import PAUSE_SECONDS, Pace
from magistral_nb.asking.running import Running

GOOD = [reasoning("2 + 2 = 4.", [1, 2, 3]), content("4", [4]), finish("stop"), done()]
BEAT = b": keep-alive\n\n"


@pytest.fixture
def server(stand_in):
    return magistral_nb.connect(stand_in.url)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, a hundredth as long."""
    taken = []
    decide = client.pause_before_retry

    def shorter(error, tries):
        pause = decide(error, tries)
        taken.append(pause)
        return None if pause is None else pause / 100

    monkeypatch.setattr("magistral_nb.asking.exchange.pause_before_retry", shorter)
    return taken


def asked(stand_in, **limits):
    return Running(Endpoint(stand_in.url, "m", limits=Limits(**limits)), Question(text="2+2?"))


def test_a_stream_is_asked_for_as_one(stand_in, server):
    stand_in.enqueue(deltas(GOOD))
    magistral_nb.reason("2+2?")
    assert stand_in.requests[0].headers["accept"] == "text/event-stream", "or jupyter-server-proxy holds it back"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_until_it_has_time(stand_in, server, pauses, status):
    stand_in.enqueue(*[refuse(status, "busy")] * 3, deltas(GOOD))
    assert magistral_nb.reason("2+2?").text == "4"
    assert pauses == [0.5, 1.0, 2.0]


def test_a_busy_server_is_not_asked_for_ever(stand_in, server, pauses):
    stand_in.enqueue(*[refuse(503, "busy")] * 9)
    with pytest.raises(errors.Rejected, match="503: busy"):
        magistral_nb.reason("2+2?")
    assert len(stand_in.requests) == 6


@pytest.mark.parametrize("said", ["7", "7.0", "a date"])
def test_it_is_asked_again_when_it_says(stand_in, server, pauses, said):
    if said == "a date":
        said = email.utils.formatdate(time.time() + 7.5, usegmt=True)
    stand_in.enqueue(refuse(429, "slow down", {"Retry-After": said}), deltas(GOOD))
    assert magistral_nb.reason("2+2?").text == "4"
    assert pauses[0] == pytest.approx(7, abs=1)


def test_who_asks_to_wait_for_long_is_given_up_on(stand_in, server):
    stand_in.enqueue(refuse(429, "quota", {"Retry-After": "3600"}))
    with pytest.raises(errors.Rejected, match="asks to wait 3600 s"):
        magistral_nb.reason("2+2?")


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_other_refusals_are_final(stand_in, server, status):
    stand_in.enqueue(refuse(status, "no"), deltas(GOOD))
    with pytest.raises(errors.AskFailed):
        magistral_nb.reason("2+2?")
    assert len(stand_in.requests) == 1


def test_a_connection_is_tried_again_twice(pauses):
    running = Running(Endpoint("http://127.0.0.1:9/v1", "m"), Question(text="2+2?"))
    with pytest.raises(errors.Unreachable):
        running.follow([])
    assert pauses == [0.5, 1.0, None]


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_connection_that_was_closed_under_the_question_is_opened_again(pauses, is_kept):
    """As one that had been idle, when the server gives it up in the same moment."""

    class Curt(StandIn):
        def _reply_to(self, request):
            reply = super()._reply_to(request)
            if len(self.requests) == 1:
                raise ConnectionAbortedError
            return reply

    with Curt() as server:
        server.enqueue(deltas([]), deltas(GOOD))
        body = chat_request(Endpoint(server.url, "m"), Question(text="2+2?"), None)
        assert Finished("stop") in list(Exchange(Endpoint(server.url, "m"), body, is_kept=is_kept).events())


def test_where_somebody_knows_whether_it_is_up_nobody_is_not_asked_twice(pauses):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m")
    with pytest.raises(errors.Unreachable):
        list(Exchange(endpoint, chat_request(endpoint, Question(text="2+2?"), None), is_kept=True).events())
    assert pauses == [0.5]


def test_a_server_that_comes_up_meanwhile_is_reached(monkeypatch):
    with StandIn() as first:
        url, port = first.url, first._server.server_address[1]
    with pytest.raises(errors.Unreachable):
        magistral_nb.connect(url)
    running = Running(Endpoint(url, "m"), Question(text="2+2?"))
    time.sleep(0.1)
    monkeypatch.setattr("stand_in.ThreadingHTTPServer.server_bind", _bind_to(port))
    with StandIn() as second:
        second.enqueue(deltas(GOOD))
        assert running.follow([]).text == "4"


def _bind_to(port):
    from http.server import ThreadingHTTPServer

    bind = ThreadingHTTPServer.server_bind

    def bound(self):
        self.server_address = ("127.0.0.1", port)
        bind(self)

    return bound


def test_never_again_once_tokens_have_arrived(stand_in, server):
    stand_in.enqueue(deltas(GOOD[:1], ending="die"), deltas(GOOD))
    result = magistral_nb.reason("2+2?")
    assert (result.finish_reason, result.thinking) == ("error", "2 + 2 = 4.")
    assert len(stand_in.requests) == 1


def test_a_stop_does_not_wait_for_the_next_try(stand_in):
    stand_in.enqueue(refuse(429, "busy", {"Retry-After": "50"}), deltas(GOOD))
    running = asked(stand_in)
    stand_in.wait_for(1)
    time.sleep(0.1)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 0.5
    assert running.outcome().finish_reason == "interrupted"
    assert len(stand_in.requests) == 1


@pytest.mark.parametrize("reply", [hang(), silence(), deltas([BEAT] * 40, delay=0.02, ending="hang")])
def test_no_first_token_in_time(stand_in, reply):
    """Also where the server shows signs of life."""
    stand_in.enqueue(reply)
    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match=r"no token within 0\.3 s|did not answer in time"):
        asked(stand_in, first_token=0.3).follow([])
    assert time.monotonic() - began < 1.5
    assert stand_in.requests[0].disconnected.wait(2), "the server was not told"


def test_silence_in_mid_stream_keeps_what_had_arrived(stand_in):
    stand_in.enqueue(deltas(GOOD[:1], ending="hang"))
    result = asked(stand_in, silence=0.2).follow([])
    assert (result.finish_reason, result.thinking) == ("error", "2 + 2 = 4.")
    assert "fell silent for 0.2 s" in result.error
    assert stand_in.requests[0].disconnected.wait(2)


def test_signs_of_life_are_no_silence(stand_in):
    stand_in.enqueue(deltas([GOOD[0], *[BEAT] * 8, *GOOD[1:]], delay=0.06))
    assert asked(stand_in, silence=0.5).follow([]).finish_reason == "stop"


def test_one_watchdog_for_all(stand_in):
    stand_in.enqueue(*[hang()] * 8)
    running = [asked(stand_in) for _ in range(8)]
    stand_in.wait_for(8)
    time.sleep(0.1)
    assert [thread.name for thread in threading.enumerate()].count("magistral_nb watchdog") == 1
    for each in running:
        each.stop()


def test_one_client_for_an_endpoint_and_none_left_open(stand_in):
    endpoint = Endpoint(stand_in.url, "m")
    first = client.client_for(endpoint)
    assert client.client_for(Endpoint(stand_in.url, "other model", server="b")) is first
    client.close_clients(stand_in.url)
    assert first.is_closed()
    assert client.client_for(endpoint) is not first


def test_every_failure_of_the_client_has_an_explanation():
    for kind in (openai.APITimeoutError, openai.APIConnectionError):
        error = kind(request=None)
        assert "http://h/v1" in str(client.explain(error, Endpoint("http://h/v1", "m")))


def test_a_fast_stream_is_read_in_gulps_and_a_slow_one_at_once():
    fast, slow = Pace(), Pace()
    # 80 arrive within each pause
    rests = [fast.pause_pays(0.0003 if piece % 80 == 79 else 10e-6) for piece in range(1000)]
    assert sum(rests) == pytest.approx(1000 / 80, abs=2)
    rests = [slow.pause_pays(max(0.0, 0.1 - PAUSE_SECONDS)) for _ in range(1000)]
    assert sum(rests) <= 12, "ten a second need no gathering"
