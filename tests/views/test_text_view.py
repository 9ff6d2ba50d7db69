from __future__ import annotations

import dataclasses
import io
import re

import pytest
from hypothesis import given, strategies as st

from magistral_nb.answers.answer import Answer, Usage
from magistral_nb.asking.draft import Progress
from magistral_nb.asking.events import Finished, Noted, Queued, Said, Thinking, UsageReported
from magistral_nb.views.text_view import QuietView, TextView

PROGRESS = Progress("thinking", 1.0, 1, None)
ANSWER = Answer(
    prompt="?", thinking="hm", text="4", finish_reason="stop", id="0", seconds=3, usage=Usage(thinking_tokens=211)
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


NOTED = dataclasses.replace(ANSWER, notes=("max_tokens was cut to 2,000.", "And so on."))


def run(view, *events, answer=ANSWER):
    for event in events:
        view.update([event], PROGRESS)
        view.update([], PROGRESS)
    view.close(answer)


def test_thinking_goes_to_one_stream_and_the_answer_to_the_other():
    err, out = io.StringIO(), io.StringIO()
    run(
        TextView(err, answer_stream=out), Thinking("2+"), Thinking("2=4."), UsageReported(), Said("4"), Finished("stop")
    )
    assert err.getvalue() == "2+2=4.\nThought for 3 s, 211 tokens\n"
    assert out.getvalue() == "4\n"


def test_only_a_terminal_gets_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    run(TextView(terminal), Thinking("a"), Thinking("b"), Said("4"))
    assert terminal.getvalue() == "\x1b[2mab\x1b[0m\n\x1b[2mThought for 3 s, 211 tokens\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    run(TextView(plain), Thinking("a"))
    assert "\x1b" not in plain.getvalue()
    forced = io.StringIO()
    run(TextView(forced, colour=True), Thinking("a"))
    assert "\x1b[2m" in forced.getvalue()


def test_what_a_question_waits_for_is_a_line_that_goes_away():
    terminal, place = Terminal(), Progress("waiting", 1.0, 0, None, "place 3 of 12")
    view = TextView(terminal, colour=False)
    view.update([Queued(3, 12)], place)
    view.update([], place)
    view.update([Queued(2, 12)], dataclasses.replace(place, waits_for="place 2 of 12"))
    assert terminal.getvalue() == "Waiting, place 3 of 12\r\x1b[KWaiting, place 2 of 12"
    run(view, Thinking("a"))
    assert terminal.getvalue().endswith("place 2 of 12\r\x1b[Ka\nThought for 3 s, 211 tokens\n")


def test_it_goes_away_also_where_no_token_comes():
    terminal = Terminal()
    view = TextView(terminal, colour=False)
    view.update([Queued(3, 12)], Progress("waiting", 1.0, 0, None, "place 3 of 12"))
    view.close(dataclasses.replace(ANSWER, thinking="", text="", finish_reason="interrupted"))
    assert "place 3 of 12\r\x1b[KStopped after" in terminal.getvalue()


def test_between_thought_and_answer_it_has_a_line_of_its_own():
    terminal = Terminal()
    view = TextView(terminal, answer_stream=terminal, colour=True)
    view.update([Thinking("a")], PROGRESS)
    view.update([Queued(1, 1)], Progress("waiting", 1.0, 1, None, "place 1 of 1"))
    run(view, Said("4"))
    shown = terminal.getvalue()
    assert shown.startswith("\x1b[2ma\x1b[0m\n\x1b[2mWaiting, place 1 of 1\x1b[0m\r\x1b[K4\n")


def test_a_log_has_no_line_of_it():
    log = io.StringIO()
    view = TextView(log)
    view.update([Queued(3, 12)], Progress("waiting", 1.0, 0, None, "place 3 of 12"))
    assert not log.getvalue()


def test_an_interrupt_in_the_middle_leaves_a_clean_line():
    terminal = Terminal()
    run(TextView(terminal, colour=True), Thinking("half a wo"))
    assert terminal.getvalue().startswith("\x1b[2mhalf a wo\x1b[0m\n")


def test_no_answer_stream_no_answer():
    err = io.StringIO()
    run(TextView(err), Said("4"))
    assert err.getvalue() == "Thought for 3 s, 211 tokens\n"


@given(st.lists(st.text()))
def test_the_model_cannot_drive_the_terminal(pieces):
    err, out = io.StringIO(), io.StringIO()
    hostile = [kind(piece) for piece in ["\x1b[2J", "\x9b31m\r", *pieces] for kind in (Thinking, Said)]
    run(TextView(err, answer_stream=out), *hostile)
    for stream in (err, out):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", stream.getvalue())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_will_do(encoding):
    raw = io.BytesIO()
    run(TextView(io.TextIOWrapper(raw, encoding=encoding)), Thinking("22.2 ≈ 🐌\x1b\ud800"))


def test_quiet_is_one_line():
    err, out = io.StringIO(), io.StringIO()
    run(QuietView(err, answer_stream=out), Thinking("a"), Said("4"))
    assert err.getvalue() == "Thought for 3 s, 211 tokens\n"
    assert out.getvalue() == "4\n"


@pytest.mark.parametrize("kind", [TextView, QuietView])
def test_notes_are_lines_below_the_one_about_it(kind):
    err, out = io.StringIO(), io.StringIO()
    run(kind(err, answer_stream=out), Noted(NOTED.notes[0]), Said("4"), answer=NOTED)
    assert err.getvalue() == "Thought for 3 s, 211 tokens\nmax_tokens was cut to 2,000.\nAnd so on.\n"
    assert out.getvalue() == "4\n"
