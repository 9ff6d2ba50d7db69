"""An Answer as a row of the journal, and back."""

from __future__ import annotations

from answers.keeping import an_answer, answers, in_one_home, keep, wait_until_closed
from hypothesis import given, settings, strategies as st

from magistral_nb import Usage, paths, recall
from magistral_nb.answers.journal_row import without_keys


@in_one_home
@given(answers)
def test_a_recalled_answer_is_the_original(answer):
    keep(answer)
    assert recall(answer.id) == answer


def test_an_object_is_parsed_again_as_json_has_it():
    keep(answer := an_answer(parsed=Usage(1, 2, 3, 4)))
    assert recall(answer.id).parsed["answer_tokens"] == 3


def test_keys_are_left_out_of_errors():
    errors = [
        "401: Incorrect API key provided: {}.",
        "sent Authorization: Bearer {}",
        "bad header {{'Authorization': 'Bearer {}'}}",
        "http://localhost/v1?api_key={}&x=1 was refused",
        "http://user:{}@host/v1 was refused",
    ]
    for key in ("hf_aBcDeFgHiJkLmNoP", "sk-proj-a1B2_c3-D4e5F6", "gsk_0123456789abcdef"):
        for error in errors:
            keep(answer := an_answer(finish_reason="error", error=error.format(key)))
            assert key not in (recall(answer.id).error or key)
        wait_until_closed()
        assert key.encode() not in paths.journal().read_bytes()


def test_a_key_without_a_known_beginning_is_left_out_where_a_header_or_an_address_has_it():
    assert without_keys("Bearer 0123abcd, api_key=0123abcd http://0123abcd@host") == (
        "Bearer (key), api_key=(key) http://(key)@host"
    )


@given(st.text())
@settings(max_examples=50)
def test_errors_without_keys_stay(text):
    assert without_keys(f"The endpoint answered 500: {text.replace('_', '').replace('-', '')[:6]}").startswith("The e")
