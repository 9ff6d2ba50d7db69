from __future__ import annotations

import pytest

from magistral_nb.answers.answer import Answer
from magistral_nb.views.answer_view import answer_bundle


def bundle(**changes):
    fields = {"prompt": "?", "thinking": "hm", "text": "4", "finish_reason": "stop", "id": "0"}
    return answer_bundle(Answer(**{**fields, **changes}))


def test_markdown_for_a_notebook_and_text_for_a_terminal():
    assert bundle(text="**a** <b> \x1b[2J") == {
        "text/markdown": "**a** &lt;b&gt; &#91;2J",
        "text/plain": "**a** <b> ␛[2J",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"finish_reason": "interrupted"}, "Stopped before the answer began."),
        ({"finish_reason": "length"}, "Cut by the length limit before the answer began."),
        ({"finish_reason": "error", "error": "The server died."}, "No answer: The server died."),
        ({"finish_reason": "stop"}, "The model gave no answer."),
    ],
)
def test_an_empty_answer_says_why(changes, words):
    shown = bundle(text=" \n", **changes)
    assert shown["text/plain"] == words
    assert shown["text/markdown"] == f"*{words}*"


def test_the_reason_is_no_markdown():
    assert "<img" not in bundle(text="", finish_reason="error", error="<img src=x onerror=1> *")["text/markdown"]


def test_an_answer_shows_itself_so():
    answer = Answer(prompt="?", thinking="", text="<b>", finish_reason="stop", id="0")
    assert answer._repr_mimebundle_() == {"text/markdown": "&lt;b&gt;", "text/plain": "<b>"}
