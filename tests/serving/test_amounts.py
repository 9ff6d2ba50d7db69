"""Bytes and waits in words: pure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from magistral_nb.serving import amounts

STEPS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "s": 1, "min": 60, "h": 3600, "days": 86_400}


def value(text):
    number, unit = text.split()
    return float(number) * STEPS[unit]


@given(st.integers(1, 10**13))
def test_a_size_is_told_to_a_twentieth_and_never_as_nothing(count):
    assert value(amounts.size(count)) == pytest.approx(count, rel=0.05)


@given(st.floats(1, 1e8))
def test_a_wait_is_told_to_a_third_and_never_as_nothing(seconds):
    assert value(amounts.wait(seconds)) == pytest.approx(seconds, rel=1 / 3)


@given(st.integers(0, 10**13), st.integers(1, 10**13))
def test_what_is_here_is_told_in_a_unit_that_fits_it(done, more):
    here, total = amounts.part_of(done, done + more).split(" of ")
    unit = total.split()[1]
    assert value(here if " " in here else f"{here} {unit}") == pytest.approx(done, rel=0.05)
    assert value(total) == pytest.approx(done + more, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5_399, "90 min"),
        (5_400, "1.5 h"),
        (46_980, "13.1 h"),
        (4e5, "4.6 days"),
    ],
)
def test_waits_change_their_unit(seconds, words):
    assert amounts.wait(seconds) == words


def test_words_are_short():
    assert re.fullmatch(r"[\d.]{1,5} \w+", amounts.size(999_999_999))
