"""The token bucket."""

from __future__ import annotations

from hypothesis import given, strategies as st

from magistral_nb.sharing.bucket import Bucket

AMOUNTS = st.lists(st.tuples(st.floats(0, 120), st.integers(0, 5000)), max_size=40)


@given(amounts=AMOUNTS, per_minute=st.integers(1, 10_000))
def test_over_any_time_no_more_is_let_through_than_flows_in_and_was_there(amounts, per_minute):
    """Each taking is let through only while something is left; it alone may go beyond."""
    bucket, now, taken, last = Bucket.full(per_minute, 0.0), 0.0, 0, 0
    for pause, amount in amounts:
        now += pause
        if bucket.wait(now) == 0:
            bucket.take(amount, now)
            taken, last = taken + amount, max(last, amount)
        assert taken <= per_minute + per_minute * now / 60 + last + 1e-3
        assert bucket.left(now) <= per_minute


@given(amounts=AMOUNTS, per_minute=st.integers(1, 10_000))
def test_after_the_wait_that_it_names_there_is_something_to_take(amounts, per_minute):
    bucket, now = Bucket.full(per_minute, 0.0), 0.0
    for pause, amount in amounts:
        now += pause
        bucket.take(amount, now)
        later = now + bucket.wait(now)
        assert bucket.left(later) >= 1 - 1e-6


def test_what_was_taken_too_much_is_given_back():
    bucket = Bucket.full(60, 0.0)
    bucket.take(50, 0.0)
    bucket.take(-20, 0.0)
    assert bucket.left(0.0) == 30
    bucket.take(-500, 0.0)
    assert bucket.left(0.0) == 60, "a minute's worth at most"


def test_a_clock_that_stands_still_gives_nothing():
    bucket = Bucket.full(60, 10.0)
    bucket.take(60, 10.0)
    assert bucket.left(5.0) == 0
