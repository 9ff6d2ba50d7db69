"""The Answer as a value."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from answers.keeping import answers
from hypothesis import given, settings, strategies as st

from magistral_nb import Answer, Usage
from magistral_nb.errors import InvalidOption

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
    cost=0.0031,
    notes=("max_tokens was cut to 2,000, which the context leaves.",),
)


def through_json(answer: Answer) -> Answer:
    return Answer.from_dict(json.loads(json.dumps(answer.to_dict())))


def test_text_and_rate():
    assert str(ANSWER) == "It is **4**."
    assert ANSWER.tokens_per_second == pytest.approx(2)
    assert dataclasses.replace(ANSWER, usage=Usage()).tokens_per_second is None


def test_it_is_a_value():
    assert pickle.loads(pickle.dumps(ANSWER)) == ANSWER
    assert {ANSWER, dataclasses.replace(ANSWER), dataclasses.replace(ANSWER, cost=None)} == {
        ANSWER,
        dataclasses.replace(ANSWER, cost=None),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        ANSWER.text = "5"
    with pytest.raises(TypeError, match="unhashable"):
        hash(dataclasses.replace(ANSWER, parsed=[4]))


@given(answers)
@settings(max_examples=50, deadline=None)
def test_json_gives_it_back(answer):
    assert through_json(answer) == answer
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_halves_of_a_character():
    """The end of a stream that was cut, and two pieces that were cut between the halves."""
    half = dataclasses.replace(ANSWER, text="\ud83d", notes=("\udc0c",))
    assert through_json(half) == half
    assert (half.text, half.notes) == ("\ud83d", ("\udc0c",))
    both = dataclasses.replace(ANSWER, text="a \ud83d\udc0c", notes=("\ud83d\udc0c",))
    assert through_json(both) == both
    assert (both.text, both.notes) == ("a 🐌", ("🐌",))


def test_all_fields_and_the_rate_as_json_has_them():
    values = ANSWER.to_dict()
    assert set(values) == {each.name for each in dataclasses.fields(Answer)} | {"tokens_per_second"}
    assert values == json.loads(json.dumps(values))
    assert values["usage"]["thinking_tokens"] == 3
    assert values["tokens_per_second"] == pytest.approx(2)


class Model:
    """As pydantic's."""

    def model_dump(self, mode):
        return {"mode": mode}


@pytest.mark.parametrize(
    ("parsed", "comes_back_as"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: Usage(1)}, {"1": dataclasses.asdict(Usage(1))}),
        ([Model()], [{"mode": "json"}]),
        (1j, "1j"),
    ],
)
def test_what_is_no_json_is_parsed_again_as_json_has_it(parsed, comes_back_as):
    answer = dataclasses.replace(ANSWER, parsed=parsed)
    assert answer.parsed is parsed
    assert through_json(answer).parsed == comes_back_as


def test_what_a_newer_version_has_is_left_out():
    values = ANSWER.to_dict()
    assert Answer.from_dict(values | {"mood": "good", "usage": values["usage"] | {"joules": 3}}) == ANSWER


def test_what_an_older_version_did_not_have_is_the_default():
    least = {name: ANSWER.to_dict()[name] for name in ("prompt", "thinking", "text", "finish_reason", "id")}
    assert Answer.from_dict(least) == Answer(**least)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "it has no prompt"),
        ([], "it is a list"),
        ({"id": 5}, "id is 5"),
        ({"finish_reason": "tired"}, "finish_reason is 'tired'"),
        ({"usage": None}, "usage is None"),
        ({"usage": {"prompt_tokens": "many"}}, "prompt_tokens is 'many'"),
        ({"seconds": "long"}, "seconds is 'long'"),
        ({"seconds": None}, "seconds is None"),
        ({"notes": "one"}, "notes is 'one'"),
        ({"notes": [1]}, "a note is no text"),
        ({"error": "x" * 9, "cost": ["y" * 9999]}, "cost is "),
    ],
)
def test_what_is_no_answer_is_refused_in_one_line(values, says):
    if values:
        values = ANSWER.to_dict() | values
    with pytest.raises(InvalidOption, match=says) as caught:
        Answer.from_dict(values)
    assert len(str(caught.value)) < 200
    assert "to_dict()" in str(caught.value)


@pytest.mark.parametrize(
    ("thinking", "steps"),
    [
        ("", []),
        (" \n\n ", []),
        ("one", ["one"]),
        (" one \n\n two\ntwo \n \t\n\n three\n", ["one", "two\ntwo", "three"]),
        ("one\r\n\r\ntwo\r\n", ["one", "two"]),
        ("\n\n one\r\n two \n\n", ["one", "two"]),
    ],
)
def test_steps_are_paragraphs_or_lines(thinking, steps):
    assert dataclasses.replace(ANSWER, thinking=thinking).steps() == steps


@given(st.text(st.sampled_from("ab \t\r\n")))
@settings(max_examples=50)
def test_steps_lose_nothing_but_blanks(thinking):
    steps = dataclasses.replace(ANSWER, thinking=thinking).steps()
    assert "".join("".join(steps).split()) == "".join(thinking.split())
    assert all(step == step.strip() and step for step in steps)


def test_one_row_with_a_column_per_field():
    frame = ANSWER.to_frame()
    assert frame.shape[0] == 1
    assert frame.loc[0, "thinking_tokens"] == 3
    assert frame.loc[0, "notes"] == list(ANSWER.notes)
    assert "usage" not in frame.columns


def test_it_displays_as_markdown_and_text():
    bundle = ANSWER._repr_mimebundle_()
    assert bundle["text/markdown"].strip() == "It is **4**."
    assert bundle["text/plain"] == "It is **4**."
