"""One question asked several times at once, against a scripted server (no engine)."""

from __future__ import annotations

import asyncio
import inspect
import time

import pytest
from stand_in import content, deltas, done, finish, hang, reasoning, refuse, usage

import magistral_nb
from magistral_nb import Answer, Answers, errors
from magistral_nb.asking import samples
from magistral_nb.asking.events import Said, Thinking
from magistral_nb.asking.reason import How
from magistral_nb.asking.running import Running


def saying(text: str, delay: float = 0.0):
    chunks = [reasoning("Well. ", [1]), content(text, [2]), finish("stop"), usage(9, 2, 1), done()]
    return deltas(chunks, delay=delay)


BEGUN = deltas([reasoning("Well. ", [1])], ending="hang")


@pytest.fixture
def server(stand_in):
    return magistral_nb.connect(stand_in.url)


@pytest.fixture
def by_seed(stand_in, server, monkeypatch):
    """Replies that go to the samples of these seeds, in whatever order they ask."""
    replies = {}
    reply_to = stand_in._reply_to

    def choose(request):
        first = reply_to(request)  # which notes that it was asked
        return replies[request.json["seed"]] if request.path.endswith("/chat/completions") else first

    monkeypatch.setattr(stand_in, "_reply_to", choose)
    return replies


class View:
    """Keeps what it is shown; `act` is called once the first thought has come."""

    def __init__(self, act=lambda: None):
        self.said, self.closed, self.act = "", [], act

    def update(self, events, progress):
        self.said += "".join(event.text for event in events if isinstance(event, Thinking | Said))
        if progress.state == "thinking":
            self.act()

    def close(self, answer):
        self.closed.append(answer)


def ask(**options):
    return magistral_nb.reason("2+2?", **options)


def await_(**options):
    options.pop("views", None)
    return asyncio.run(magistral_nb.areason("2+2?", **options))


both_ways = pytest.mark.parametrize("way", [ask, await_])


@both_ways
def test_each_is_a_stream_of_its_own_and_they_come_in_order(stand_in, by_seed, way):
    by_seed.update({7: saying("four", delay=0.03), 8: saying("4"), 9: saying("IV", delay=0.01)})
    view = View()
    answers = way(samples=3, seed=7, temperature=0, max_tokens=100, views=[view])
    assert isinstance(answers, Answers)
    assert [each.text for each in answers] == ["four", "4", "IV"]
    assert len({each.id for each in answers}) == 3
    assert sorted(request.json["seed"] for request in stand_in.requests) == [7, 8, 9]
    assert all("n" not in request.json for request in stand_in.requests)
    assert sorted(magistral_nb.history()["id"]) == sorted(each.id for each in answers)
    if way is ask:
        assert view.said == "Well. four"
        assert view.closed == [answers[0]]


@both_ways
def test_without_a_seed_none_is_sent_and_one_is_an_answer(stand_in, server, way):
    stand_in.enqueue(*[saying("4")] * 3)
    assert [each.text for each in way(samples=2)] == ["4", "4"]
    assert isinstance(way(samples=1), Answer)
    assert not any("seed" in request.json for request in stand_in.requests)


def test_the_handle_asks_too(stand_in, server):
    stand_in.enqueue(saying("4"), saying("4"))
    assert len(server.reason("2+2?", samples=2)) == 2


@both_ways
@pytest.mark.parametrize("refused", [7, 8])
def test_one_that_fails_before_its_first_token_leaves_the_others(by_seed, way, refused):
    by_seed.update({7: saying("4"), 8: saying("4"), 9: saying("4")} | {refused: refuse(400, "no room")})
    view = View()
    answers = way(samples=3, seed=7, views=[view])
    failed = answers[refused - 7]
    assert (failed.finish_reason, failed.text) == ("error", "")
    assert "no room" in failed.error
    assert [each.text for each in answers if each is not failed] == ["4", "4"]
    assert view.closed == ([answers[0]] if way is ask else [])


@both_ways
def test_if_all_fail_it_is_raised(stand_in, server, way):
    stand_in.enqueue(*[refuse(400, "no room")] * 3)
    with pytest.raises(errors.Rejected, match="no room"):
        way(samples=3)
    assert magistral_nb.history()["finish_reason"].tolist() == ["error"] * 3


@both_ways
def test_a_stream_that_breaks_off_later_is_no_failure_of_all(by_seed, way):
    by_seed.update({7: refuse(400, "no room"), 8: deltas([reasoning("Well. ", [1])], ending="die")})
    answers = way(samples=2, seed=7)
    assert [(each.finish_reason, each.thinking) for each in answers] == [("error", ""), ("error", "Well. ")]


@both_ways
@pytest.mark.parametrize("number", [0, -3, 2.0, "two", None])
def test_less_than_one_is_refused_before_anything_is_sent(stand_in, server, way, number):
    with pytest.raises(errors.InvalidOption, match=f"samples is {number}.*try 4"):
        way(samples=number)
    assert not stand_in.requests


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_stops_all_and_keeps_what_had_arrived(stand_in, by_seed):
    by_seed.update({1: BEGUN, 2: saying("4"), 3: refuse(400, "no room"), 4: hang()})

    def when_all_have_asked():
        if len(stand_in.requests) == 4 and (magistral_nb.history()["finish_reason"].notna()).sum() == 2:
            interrupt()

    view = View(when_all_have_asked)
    with pytest.raises(errors.Interrupted) as caught:
        ask(samples=4, seed=1, views=[view])
    answers = caught.value.answer
    assert isinstance(answers, Answers)
    assert [(each.finish_reason, each.thinking) for each in answers] == [
        ("interrupted", "Well. "),
        ("stop", "Well. "),
        ("error", ""),
        ("interrupted", ""),
    ]
    assert view.closed == [answers[0]]
    hung = [request for request in stand_in.requests if request.json["seed"] in {1, 4}]
    assert all(request.disconnected.wait(2) for request in hung), "the server was not told"


def test_ctrl_c_when_the_first_has_ended_already(stand_in, by_seed, monkeypatch):
    by_seed.update({1: saying("4"), 2: BEGUN, 3: BEGUN})
    follow = Running.follow

    def impatient(self, views):
        if not views:
            stand_in.wait_for(3)
            interrupt()
        return follow(self, views)

    monkeypatch.setattr(Running, "follow", impatient)
    view, began = View(), time.monotonic()
    with pytest.raises(errors.Interrupted) as caught:
        ask(samples=3, seed=1, views=[view])
    assert time.monotonic() - began < 2
    assert [each.finish_reason for each in caught.value.answer] == ["stop", "interrupted", "interrupted"]
    assert view.closed == [caught.value.answer[0]], "closed once"


def hang_up_on_all(stand_in, number):
    return all(stand_in.wait_for(nth).disconnected.wait(2) for nth in range(1, number + 1))


def test_a_view_that_fails_hangs_up_on_all(stand_in, server):
    stand_in.enqueue(BEGUN, BEGUN, BEGUN)

    def broken_pipe():
        stand_in.wait_for(3)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        ask(samples=3, views=[View(broken_pipe)])
    assert hang_up_on_all(stand_in, 3)


def test_where_one_cannot_begin_those_that_have_are_ended(stand_in, server, monkeypatch):
    stand_in.enqueue(hang(), hang())
    begun = []

    def at_most_two(*arguments, **options):
        if len(begun) == 2:
            stand_in.wait_for(2)
            raise RuntimeError("can't start new thread")
        begun.append(Running(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(samples, "Running", at_most_two)
    with pytest.raises(RuntimeError, match="new thread"):
        ask(samples=3)
    assert hang_up_on_all(stand_in, 2)


@both_ways
def test_a_mistake_of_ours_is_not_taken_for_an_answer(by_seed, way, monkeypatch):
    by_seed.update({1: saying("4"), 2: saying("4")})
    outcome = Running._collect

    def mistaken(self):
        if self._stream.question.seed == 2:
            self.error = ZeroDivisionError()
        else:
            outcome(self)

    monkeypatch.setattr(Running, "_collect", mistaken)
    with pytest.raises(ZeroDivisionError):
        way(samples=2, seed=1)


def test_cancelling_cancels_all(stand_in, server):
    stand_in.enqueue(BEGUN, BEGUN, hang())

    async def ask_and_cancel():
        task = asyncio.create_task(magistral_nb.areason("2+2?", samples=3))
        await asyncio.to_thread(stand_in.wait_for, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask_and_cancel())
    assert hang_up_on_all(stand_in, 3)


def test_both_ways_of_asking_take_the_same_keywords():
    own = {"question", "server", "samples"}
    assert set(inspect.signature(magistral_nb.reason).parameters) - own - {"views"} == set(How.__annotations__)
    assert set(inspect.signature(magistral_nb.areason).parameters) - own == set(How.__annotations__)
