"""An answer in the making."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import chain

import pytest
from stand_in import content, deltas, done, finish, reasoning

import magistral_nb
from magistral_nb.asking.draft import Draft
from magistral_nb.asking.endpoint import Question
from magistral_nb.asking.events import Finished, Noted, Said, Thinking
from magistral_nb.asking.running import Running
from magistral_nb.asking.stream import Stream
from magistral_nb.views.text_view import QuietView


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as the draft sees them."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_note_is_no_token(clock):
    draft = Draft("?", model="m", server="s")
    clock[0] += 1
    draft.add(Noted("max_tokens was cut to 2,000."))
    assert not draft.began
    assert draft.progress.state == "waiting"
    clock[0] += 1
    draft.add(Said("4"))
    clock[0] += 1
    for event in (Noted("And so on."), Finished("stop")):
        draft.add(event)
    answer = draft.answer()
    assert answer.notes == ("max_tokens was cut to 2,000.", "And so on.")
    assert (answer.time_to_first_token, answer.seconds) == (2, 2)
    assert answer.finish_reason == "stop"


def test_the_cost_is_the_seconds_at_the_price_per_hour(clock):
    draft, free = (Draft("?", model="m", server="s", price_per_hour=price) for price in (2.5, None))
    clock[0] += 36
    for each in (draft, free):
        each.add(Thinking("2+2=4."))
    assert draft.answer().cost == pytest.approx(0.025)
    assert draft.answer("interrupted").cost == pytest.approx(0.025)
    assert free.answer().cost is None


def test_where_the_machine_has_a_price_an_answer_has_a_cost(stand_in):
    said = deltas([reasoning("Well. "), content("4"), finish("stop"), done()])
    stand_in.enqueue(said, said)
    endpoint = magistral_nb.connect(stand_in.url).endpoint
    answers = [
        Running(replace(endpoint, price_per_hour=price), Question(text="2+2?")).follow([]) for price in (None, 7200)
    ]
    assert [each.cost for each in answers] == [None, pytest.approx(2 * answers[1].seconds)]
    assert [magistral_nb.recall(each.id) for each in answers] == answers


def test_notes_are_kept(stand_in, monkeypatch):
    """And views hear of them."""
    stand_in.enqueue(deltas([content("4"), finish("stop"), done()]))
    endpoint = magistral_nb.connect(stand_in.url).endpoint
    events = Stream.events
    monkeypatch.setattr(Stream, "events", lambda self: chain([Noted("Cut to fit.")], events(self)))
    answer = Running(endpoint, Question(text="2+2?")).follow([QuietView(shown := io.StringIO())])
    assert answer.notes == ("Cut to fit.",)
    assert magistral_nb.recall(answer.id) == answer
    assert shown.getvalue().splitlines()[1:] == ["Cut to fit."]
