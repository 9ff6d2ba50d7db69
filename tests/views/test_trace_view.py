from __future__ import annotations

import dataclasses
import subprocess
import sys
import types

import IPython.display
import pytest

from magistral_nb.answers.answer import Answer
from magistral_nb.asking.draft import Progress
from magistral_nb.asking.events import Queued, Said, Thinking
from magistral_nb.views.trace_view import TraceView


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(state="thinking", seconds=1.0, tokens=10, rate=12.5):
    return Progress(state, seconds, tokens, rate)


def answer(**changes):
    fields = {"prompt": "?", "thinking": "hm", "text": "4", "finish_reason": "stop", "id": "0", "seconds": 2.0}
    return Answer(**{**fields, **changes})


def stream(view, clock, events, per_second=20.0, state="thinking"):
    for event in events:
        clock.now += 1 / per_second
        view.update([event], progress(state))


def test_it_is_shown_once_and_then_replaced_by_static_html(page):
    view = TraceView()
    view.open()
    view.update([Thinking("a")], progress())
    view.close(answer())
    view.close(answer())
    first, last = page.displays
    assert set(first["content"]) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert not first["update"]
    assert last["update"]
    assert last["id"] == first["id"]
    assert set(last["content"]) == {"text/html", "text/plain"}
    assert len(page.closed) == 2  # the widget and its layout


def test_an_interrupt_while_it_appears_leaves_one_output(page, monkeypatch):
    display = IPython.display.display

    def interrupted(*arguments, **options):
        display(*arguments, **options)
        raise KeyboardInterrupt

    view = TraceView()
    with monkeypatch.context() as patch:
        patch.setattr("IPython.display.display", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.open()
    view.close(answer())
    assert [shown["update"] for shown in page.displays] == [False, True]


def test_updates_after_the_end_show_nothing(page):
    view = TraceView()
    view.close(answer())
    view.update([Thinking("late")], progress())
    assert len(page.displays) == 1
    assert not page.sent


@pytest.mark.parametrize("piece", ["word ", "🐌é\n", "<script>"])
def test_the_page_gets_all_the_text(page, piece):
    clock = Clock()
    view = TraceView(clock=clock)
    stream(view, clock, [Thinking(piece)] * 100)
    stream(view, clock, [Said(piece)] * 100, state="answering")
    clock.now += 1
    view.update([], progress("answering"))  # the tail leaves without a new event
    starts = [message["thinking"][0] for message in page.sent if "thinking" in message]
    assert starts == sorted(starts) or 0 in starts
    for name in ("thinking", "answer"):
        text = ""
        for message in page.sent:
            if name in message:
                start, new = message[name]
                # JavaScript counts in UTF-16 units.
                text = (text.encode("utf-16-le")[: 2 * start]).decode("utf-16-le") + new
        assert text == piece * 100


def test_bytes_grow_with_the_text_and_not_with_its_square(page):
    sizes = []
    for tokens in (1000, 2000, 4000):
        page.messages.clear()
        clock = Clock()
        view = TraceView(clock=clock)
        stream(view, clock, [Thinking("token ")] * tokens, per_second=100)
        sizes.append(page.bytes_sent / (6 * tokens))
        assert page.read("thinking").startswith("token " * (tokens - 20))
    assert max(sizes) < 6  # three times the text at most, and 90 bytes of progress a message
    assert sizes[2] < sizes[0] * 1.5


def test_twelve_messages_a_second_at_most(page):
    clock = Clock()
    view = TraceView(clock=clock)
    stream(view, clock, [Thinking("x")] * 1000, per_second=100)
    assert 10 * 10 <= len(page.sent) <= 10 * 12 + 1


def test_nothing_is_sent_while_nothing_happens(page):
    clock = Clock()
    view = TraceView(clock=clock)
    for _ in range(100):
        clock.now += 0.05
        view.update([], progress("waiting", tokens=0, rate=None))
    assert not page.sent


def test_progress_travels_with_the_text(page):
    TraceView().update([Thinking("x")], progress(seconds=3.0, tokens=None, rate=None))
    assert page.sent[0]["progress"] == {"state": "thinking", "seconds": 3.0, "tokens": None, "rate": None}


def test_the_page_hears_of_each_place_in_the_queue_once(page):
    clock = Clock()
    view = TraceView(clock=clock)
    for waits_for in ("place 2 of 3", "place 2 of 3", "place 1 of 3", ""):
        clock.now += 1
        view.update([Queued(2, 3)], dataclasses.replace(progress("waiting"), waits_for=waits_for))
    told = [message["progress"] for message in page.sent]
    assert [each.get("waits") for each in told] == ["place 2 of 3", "place 1 of 3", None]
    assert {each["state"] for each in told} == {"waiting"}


def test_control_characters_and_broken_unicode_cannot_stop_the_stream(page):
    TraceView().update([Thinking("a\ud83d\x1b[0m\x00")], progress())
    assert page.read("thinking") == "a\N{REPLACEMENT CHARACTER}␛[0m␀"


@pytest.mark.parametrize("folded", [True, False])
def test_folded_is_the_readers_choice(page, folded):
    view = TraceView(folded=folded)
    view.open()
    assert page.opened[-1]["state"]["folded"] is folded


def test_in_colab_the_page_is_told_which_widget_manager_to_load(page, monkeypatch):
    """Colab's page has none but for its own widgets; anywidget asks its `google.colab.output` for one."""
    manager = types.SimpleNamespace(_installed_url="https://example.org/manager.js")
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: None, _widgets=manager)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    TraceView().open()
    (shown,) = page.displays
    told = shown["metadata"]["application/vnd.jupyter.widget-view+json"]["colab"]
    assert told == {"custom_widget_manager": {"url": manager._installed_url}}


def test_importing_the_views_costs_no_widgets():
    code = (
        "import sys, magistral_nb.views, magistral_nb.views.trace_view, magistral_nb.views.text_view,"
        " magistral_nb.views.boot_view;"
        "print([name for name in ('anywidget', 'ipywidgets', 'IPython', 'traitlets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
