from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, strategies as st

from magistral_nb.answers.answer import Answer, Usage
from magistral_nb.views.trace_view.resting import resting_html, resting_text


class Reader(HTMLParser):
    """The tree of a page: tags, attributes and text; knows whether all tags were closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], {}
        self.balanced = True
        self.feed(page)
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        where = self.open[-1] if self.open else ""
        self.text[where] = self.text.get(where, "") + data


def answer(**changes):
    fields = {"prompt": "?", "thinking": "2+2=4.", "text": "4", "finish_reason": "stop", "id": "0", "seconds": 14.2}
    return Answer(**{**fields, **changes})


USAGE = Usage(prompt_tokens=30, thinking_tokens=1655, answer_tokens=20, completion_tokens=1675)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"usage": USAGE, "time_to_first_token": 0.2}, "Thought for 14 s, 1,655 tokens, 120 tok/s"),
        ({}, "Thought for 14 s"),
        ({"thinking": "", "seconds": 2.0}, "Answered in 2 s without thinking"),
        ({"thinking": " \n", "seconds": 0.31}, "Answered in 0.3 s without thinking"),
        (
            {"finish_reason": "interrupted", "usage": Usage(completion_tokens=301)},
            "Stopped after 14 s, 301 tokens kept",
        ),
        ({"finish_reason": "interrupted", "thinking": "", "text": ""}, "Stopped after 14 s, nothing had arrived"),
        ({"finish_reason": "interrupted"}, "Stopped after 14 s"),
        ({"finish_reason": "length", "usage": USAGE}, "Cut after 14 s, 1,675 tokens, the length limit was reached"),
        ({"finish_reason": "budget", "usage": USAGE}, "Thought for 14 s, 1,655 tokens, the whole budget"),
        ({"finish_reason": "error", "error": "The server died."}, "Failed after 14 s, The server died."),
        ({"finish_reason": "error", "error": "refused", "thinking": "", "text": ""}, "Failed after 14 s"),
        ({"seconds": 125.0}, "Thought for 2 min 05 s"),
        ({"usage": USAGE, "cost": 0.00312}, "Thought for 14 s, 1,655 tokens, cost 0.0031"),
        ({"finish_reason": "budget", "cost": 12.3}, "Thought for 14 s, the whole budget, cost 12.30"),
        ({"cost": 0.0}, "Thought for 14 s"),
    ],
)
def test_what_happened_is_said_in_words(changes, words):
    assert resting_text(answer(**changes)) == words
    page = Reader(resting_html(answer(**changes)))
    assert page.text.get("b", page.text.get("span")).startswith(words.split(", ")[0])
    assert "None" not in resting_html(answer(**changes))


def test_without_thinking_there_is_nothing_to_unfold():
    assert "<details" not in resting_html(answer(thinking=""))
    assert "<details>" in resting_html(answer())  # and folded: it has no attribute "open"


def test_every_part_of_the_line_is_in_the_html():
    page = Reader(resting_html(answer(usage=USAGE, time_to_first_token=0.2, cost=0.5)))
    assert page.text["span"] == "1,655 tokens120 tok/scost 0.50"


@pytest.mark.parametrize("thinking", ["2+2=4.", ""])
def test_notes_stand_under_the_line_also_when_it_is_folded(thinking):
    noted = answer(thinking=thinking, notes=("max_tokens was cut to 2,000.", "<b>two\nlines\x1b[2J"))
    first, *below = resting_text(noted).split("\n")
    assert first == resting_text(answer(thinking=thinking))
    assert below == ["max_tokens was cut to 2,000.", "<b>two lines␛[2J"]
    page = resting_html(noted)
    assert Reader(page).text["small"] == "".join(below)
    assert "<small" not in page.partition("</details>" if thinking else "</span>")[0]
    assert Reader(page).tags.count("b") == (1 if thinking else 0)


def test_the_trace_stays_as_it_was():
    text = "a < b & c\n\n  two  blanks $x$ <img src=x onerror=alert(1)>"
    assert Reader(resting_html(answer(thinking=text))).text["pre"] == text


@given(st.text(), st.text(), st.text())
def test_hostile_text_is_only_text(thinking, error, extra):
    for reason in ("stop", "error", "interrupted"):
        hostile = f"</pre></details><img src=x onerror=alert(1)>{thinking}<script>{extra}"
        said = answer(thinking=hostile, error=f"<b>{error}", finish_reason=reason, notes=(hostile,))
        page = Reader(resting_html(said))
        assert page.balanced
        assert set(page.tags) <= {"div", "style", "details", "summary", "b", "span", "pre", "small"}
        assert set(page.attributes) <= {"class", "data-state", "data-lm-suppress-shortcuts", "tabindex", "style"}


@given(st.text(st.characters()))
def test_it_can_always_be_written_to_a_file(text):
    said = answer(thinking=text, error=text, finish_reason="error", notes=(text,))
    resting_html(said).encode()
    resting_text(said).encode()
