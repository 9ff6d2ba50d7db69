"""Several Answers as one value."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from answers.keeping import an_answer, answers
from hypothesis import given, settings, strategies as st

from magistral_nb import Answers
from magistral_nb.errors import InvalidOption

FOUR, FAILED, LONG = (
    an_answer(text="It is **4**."),
    an_answer(text="", finish_reason="error", error="<b>refused"),
    an_answer(text="<script>\n\n- a\n- b"),
)
SEVERAL = Answers([FOUR, FAILED, LONG])


def test_it_is_a_sequence():
    assert len(SEVERAL) == 3
    assert list(SEVERAL) == [FOUR, FAILED, LONG]
    assert (SEVERAL[0], SEVERAL[-1]) == (FOUR, LONG)
    assert SEVERAL[1:] == Answers([FAILED, LONG])
    assert isinstance(SEVERAL[::2], Answers)
    assert FAILED in SEVERAL
    assert SEVERAL.index(LONG) == 2
    with pytest.raises(IndexError):
        SEVERAL[3]


def test_it_is_a_value():
    same = Answers(iter([FOUR, FAILED, LONG]))
    assert same == SEVERAL
    assert hash(same) == hash(SEVERAL)
    assert Answers([FAILED, FOUR, LONG]) != SEVERAL
    assert SEVERAL != [FOUR, FAILED, LONG]
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEVERAL._answers = ()
    with pytest.raises(TypeError):
        SEVERAL[0] = FAILED


@given(st.lists(answers, max_size=3).map(Answers))
@settings(max_examples=20, deadline=None)
def test_json_and_pickle_give_it_back(several):
    assert Answers.from_dict(json.loads(json.dumps(several.to_dict()))) == several
    assert pickle.loads(pickle.dumps(several)) == several


@pytest.mark.parametrize("values", [{}, [], {"answers": 5}, {"answers": [{}]}, {"answers": FOUR.to_dict()}])
def test_what_are_no_answers_is_refused(values):
    with pytest.raises(InvalidOption, match=r"no Answer.*to_dict\(\)"):
        Answers.from_dict(values)


def test_a_row_for_each_with_the_same_columns():
    frame = SEVERAL.to_frame()
    assert frame["text"].tolist() == [each.text for each in SEVERAL]
    assert frame.index.tolist() == [0, 1, 2]
    for other in (FOUR.to_frame(), Answers().to_frame()):
        assert frame.columns.equals(other.columns)


def test_texts():
    assert str(SEVERAL[:2]) == "It is **4**.\n\n"
    assert str(Answers([FOUR, FOUR])) == "It is **4**.\n\nIt is **4**."
    assert repr(SEVERAL[:1]) == "<Answers ['It is **4**.']>"
    assert len(repr(Answers([an_answer(text="long " * 1000)] * 100))) < 300


def test_it_displays_each_under_its_number():
    bundle = SEVERAL._repr_mimebundle_()
    assert bundle["text/markdown"] == (
        "**1.**\n\nIt is **4**.\n\n**2.**\n\n*No answer: &lt;b&gt;refused*\n\n**3.**\n\n&lt;script&gt;\n\n- a\n- b"
    )
    assert bundle["text/plain"] == "1. It is **4**.\n\n2. No answer: <b>refused\n\n3. <script>\n\n- a\n- b"
