"""One question, from Python, against a scripted server (no engine): ends of every kind."""

from __future__ import annotations

import asyncio
import time

import pytest
from stand_in import StandIn, content, deltas, done, finish, hang, reasoning, refuse, usage

import magistral_nb
from magistral_nb import errors
from magistral_nb.asking import client
from magistral_nb.asking.events import Said, Thinking

GOOD = [
    reasoning("2 + 2 = 4.", [1, 2, 3]),
    content("4", [4]),
    finish("stop"),
    usage(prompt=9, completion=5, reasoning=3),
    done(),
]


@pytest.fixture
def server(stand_in):
    return magistral_nb.connect(stand_in.url, api_key="k-123")


class Recorder:
    """A view that keeps what it is shown."""

    def __init__(self):
        self.events, self.closed, self.updates = [], None, 0

    def update(self, events, _progress):
        self.events += events
        self.updates += 1

    def close(self, answer):
        assert self.closed is None
        self.closed = answer


def test_answer_has_trace_text_and_counts(stand_in, server):
    stand_in.enqueue(deltas(GOOD))
    view = Recorder()
    answer = magistral_nb.reason("2+2?", views=[view])
    assert (answer.thinking, answer.text, str(answer)) == ("2 + 2 = 4.", "4", "4")
    assert answer.finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.thinking_tokens) == (9, 3)
    assert (answer.usage.answer_tokens, answer.usage.completion_tokens) == (2, 5)
    assert 0 < answer.time_to_first_token <= answer.seconds
    assert (answer.model, answer.server, answer.prompt) == ("stand-in", "default", "2+2?")
    assert [type(e) for e in view.events[:2]] == [Thinking, Said]
    assert view.closed == answer
    request = stand_in.requests[0]
    assert {k.lower(): v for k, v in request.headers.items()}["authorization"] == "Bearer k-123"


def test_the_handle_asks_too(stand_in, server):
    stand_in.enqueue(deltas(GOOD))
    assert server.reason("2+2?").text == "4"


def test_max_tokens_are_fitted_to_the_context(stand_in, server):
    stand_in.enqueue(deltas(GOOD))
    magistral_nb.reason("2+2?", max_tokens=10**6)
    sent = stand_in.requests[-1].json["max_tokens"]
    assert 40_000 < sent < 40_960


@pytest.mark.parametrize(("wished", "noted"), [(None, True), (10**6, True), (5, False)])
def test_the_answer_says_when_the_context_cut_it(stand_in, server, wished, noted):
    stand_in.enqueue(deltas([*GOOD[:1], finish("length"), done()]))
    answer = magistral_nb.reason("2+2?", max_tokens=wished)
    assert answer.finish_reason == "length"
    assert [note.startswith("Cut by the context of 40,960 tokens") for note in answer.notes] == [True] * noted


def test_a_question_longer_than_the_context_says_so(stand_in, server):
    with pytest.raises(errors.Rejected, match="context is 40,960"):
        magistral_nb.reason("word " * 50_000, max_tokens=10)


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (refuse(401, "no"), errors.Unauthorized, "refused the key"),
        (refuse(400, "max_tokens is wrong"), errors.Rejected, "400: max_tokens is wrong"),
        (refuse(404, "no such model"), errors.Rejected, "404: no such model"),
    ],
)
def test_refusals_are_typed_and_one_line(stand_in, server, reply, error, says):
    stand_in.enqueue(reply)
    view = Recorder()
    with pytest.raises(error, match=says) as caught:
        magistral_nb.reason("2+2?", views=[view])
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert view.closed.finish_reason == "error"


def test_a_server_that_went_away_is_unreachable(stand_in, server, monkeypatch):
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    stand_in.close()
    with pytest.raises(errors.Unreachable, match="Nothing answers"):
        magistral_nb.reason("2+2?")


def test_death_in_mid_stream_keeps_what_had_arrived(stand_in, server):
    stand_in.enqueue(deltas(GOOD[:1], ending="die"))
    view = Recorder()
    answer = magistral_nb.reason("2+2?", views=[view])
    assert (answer.finish_reason, answer.thinking, answer.text) == ("error", "2 + 2 = 4.", "")
    assert "broke off" in answer.error
    assert view.closed == answer


def test_a_stream_without_an_end_is_an_error(stand_in, server):
    stand_in.enqueue(deltas(GOOD[:2]))
    answer = magistral_nb.reason("2+2?")
    assert (answer.finish_reason, answer.text) == ("error", "4")
    assert "without a finish reason" in answer.error


@pytest.mark.parametrize("reply", [hang(), deltas(GOOD[:1], ending="hang")])
def test_ctrl_c_keeps_the_partial_answer_and_hangs_up(stand_in, server, ctrl_c, reply):
    stand_in.enqueue(reply)
    ctrl_c()
    began = time.monotonic()
    with pytest.raises(errors.Interrupted) as caught:
        magistral_nb.reason("2+2?")
    assert time.monotonic() - began < 2
    answer = caught.value.answer
    assert answer.finish_reason == "interrupted"
    assert answer.thinking == ("2 + 2 = 4." if reply.chunks else "")
    assert stand_in.requests[0].disconnected.wait(2), "the server was not told"


def test_areason_many_at_once(stand_in, server):
    stand_in.enqueue(*[deltas(GOOD, delay=0.05) for _ in range(20)])

    async def ask_all():
        return await asyncio.gather(*[magistral_nb.areason(f"{n}?") for n in range(20)])

    began = time.monotonic()
    answers = asyncio.run(ask_all())
    assert [a.prompt for a in answers] == [f"{n}?" for n in range(20)]
    assert {a.text for a in answers} == {"4"}
    assert time.monotonic() - began < 20 * 0.05 * len(GOOD), "they ran one after the other"


def test_areason_cancelled_hangs_up(stand_in, server):
    stand_in.enqueue(deltas(GOOD[:1], ending="hang"))

    async def ask_and_cancel():
        task = asyncio.create_task(magistral_nb.areason("2+2?"))
        await asyncio.to_thread(stand_in.wait_for)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask_and_cancel())
    assert stand_in.requests[0].disconnected.wait(2)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"question": "  "}, errors.EmptyQuestion, "empty"),
        ({"temperature": -1}, errors.InvalidOption, "temperature"),
        ({"top_p": 0}, errors.InvalidOption, "top_p"),
        ({"max_tokens": 0}, errors.InvalidOption, "max_tokens"),
        ({"server": "defualt"}, errors.ServerNotFound, "did you mean default"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(stand_in, server, options, error, says):
    with pytest.raises(error, match=says):
        magistral_nb.reason(**({"question": "2+2?"} | options))
    assert not stand_in.requests


def test_no_server_says_what_to_type():
    with pytest.raises(errors.ServerNotFound, match="%magistral_serve"):
        magistral_nb.reason("2+2?")


def test_a_proxy_is_not_told_what_stays_on_this_machine(stand_in, monkeypatch):
    """What runs here is asked directly, and the key goes nowhere else."""
    with StandIn() as proxy:
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.root)
        stand_in.enqueue(deltas(GOOD))
        magistral_nb.connect(stand_in.url, api_key="k-123")
        assert magistral_nb.reason("2+2?").text == "4"
        assert not proxy.requests


def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch):
    monkeypatch.setenv("all_proxy", "nonsense://127.0.0.1:9")
    with pytest.raises(errors.Unreachable, match="proxy"):
        magistral_nb.connect("http://models.example/v1", api_key="k")


def test_the_key_is_in_no_traceback_however_verbose(stand_in, server, capsys):
    from IPython.core.ultratb import VerboseTB

    stand_in.enqueue(refuse(400, "no"))
    try:
        magistral_nb.reason("2+2?")
    except errors.Rejected as error:
        text = VerboseTB().text(type(error), error, error.__traceback__)
    assert "Rejected" in text
    assert "k-123" not in text


@pytest.mark.parametrize("question", [5, None, b"2+2?", "\udcff"])
def test_what_is_no_text_is_refused(server, question):
    with pytest.raises(errors.InvalidOption):
        magistral_nb.reason(question)


def test_connecting_does_not_hide_a_server_of_ours(stand_in, fake_engine, checkpoint):
    ours = magistral_nb.serve(str(checkpoint), engine=fake_engine)
    with pytest.raises(errors.NameTaken, match=r"--name.*%magistral_stop"):
        magistral_nb.connect(stand_in.url)
    magistral_nb.connect(stand_in.url, name="other")
    ours.stop()
    assert [s.name for s in magistral_nb.servers()] == ["other"]


def test_a_web_page_is_no_server(stand_in):
    stand_in.pages["/v1/models"] = refuse(404, b"<!DOCTYPE html><html>" + b"x" * 5000)
    with pytest.raises(errors.Rejected, match="a web page") as caught:
        magistral_nb.connect(stand_in.url)
    assert len(str(caught.value)) < 300


def test_every_way_of_asking_is_kept(stand_in, server, ctrl_c):
    """Blocking, awaited, interrupted, broken off and refused: the journal has them all, as they were returned."""
    stand_in.enqueue(deltas(GOOD), deltas(GOOD), deltas(GOOD[:1], ending="die"), deltas(GOOD[:1], ending="hang"))
    kept = [magistral_nb.reason("first?"), asyncio.run(magistral_nb.areason("second?")), magistral_nb.reason("third?")]
    ctrl_c(4)
    with pytest.raises(errors.Interrupted) as caught:
        magistral_nb.reason("fourth?")
    kept.append(caught.value.answer)
    stand_in.enqueue(refuse(400, "no"))
    with pytest.raises(errors.Rejected):
        magistral_nb.reason("fifth?")
    frame = magistral_nb.history()
    assert list(frame["prompt"]) == ["fifth?", "fourth?", "third?", "second?", "first?"]
    assert list(frame["finish_reason"]) == ["error", "interrupted", "error", "stop", "stop"]
    assert [magistral_nb.recall(answer.id) for answer in kept] == kept
    assert list(magistral_nb.history("third")["prompt"]) == ["third?"]


def test_the_journal_can_be_switched_off(stand_in, server, monkeypatch):
    monkeypatch.setenv("MAGISTRAL_NB_JOURNAL", "off")
    stand_in.enqueue(deltas(GOOD))
    magistral_nb.reason("2+2?")
    monkeypatch.delenv("MAGISTRAL_NB_JOURNAL")
    assert magistral_nb.history().empty
