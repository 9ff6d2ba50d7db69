"""The Answer as a value."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from magistral_nb import Answer, Usage

ANSWER = Answer(
    prompt="2+2?",
    thinking="2+2=4.",
    text="It is **4**.",
    finish_reason="stop",
    id="0" * 32,
    usage=Usage(9, 3, 2, 5),
    seconds=2.5,
    time_to_first_token=0.5,
    model="m",
    server="default",
)


def test_text_and_rate():
    assert str(ANSWER) == "It is **4**."
    assert ANSWER.tokens_per_second == pytest.approx(2)
    assert dataclasses.replace(ANSWER, usage=Usage()).tokens_per_second is None


def test_it_is_a_value():
    assert pickle.loads(pickle.dumps(ANSWER)) == ANSWER
    assert json.loads(json.dumps(ANSWER.to_dict()))["usage"]["thinking_tokens"] == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        ANSWER.text = "5"


def test_one_row_with_a_column_per_field():
    frame = ANSWER.to_frame()
    assert frame.shape[0] == 1
    assert frame.loc[0, "thinking_tokens"] == 3
    assert "usage" not in frame.columns


def test_it_displays_as_markdown_and_text():
    bundle = ANSWER._repr_mimebundle_()
    assert bundle["text/markdown"].strip() == "It is **4**."
    assert bundle["text/plain"] == "It is **4**."
