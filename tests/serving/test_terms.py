"""On what terms a server runs. Pure."""

from __future__ import annotations

import pytest

from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes
from magistral_nb.sharing.share import Share


@pytest.mark.parametrize("raw", ["--disable-log-stats", "--disable_log_stats"])
def test_the_plan_says_where_an_idle_stop_cannot_work(raw):
    def why(terms, wishes):
        return next(choice.why for choice in terms.choices(wishes) if choice.what == "idle stop")

    assert why(Terms(idle_stop=60), Wishes()) == "it ends when nobody asks"
    assert why(Terms(idle_stop=60), Wishes(engine_args=(raw,))).startswith("it never ends: raw --disable-log-stats")
    assert why(Terms(), Wishes(sleepable=True, engine_args=(raw,))).startswith("it never sleeps: raw")
    assert "raw" not in why(Terms(idle_stop=None), Wishes(engine_args=(raw,)))


CLASS = Share(students=("ada", "ben"))


@pytest.mark.parametrize(
    ("wished", "running", "kept"),
    [
        (Terms(), Terms(idle_stop=60, restart="on-failure", share=CLASS), True),
        (Terms(price_per_hour=3), Terms(price_per_hour=2), True),
        (Terms(share=CLASS), Terms(share=CLASS), True),
        (Terms(share=CLASS), Terms(), False),
        (Terms(restart="on-failure"), Terms(idle_stop=60), False),
        (Terms(idle_stop=None), Terms(), False),
    ],
)
def test_a_running_server_keeps_what_is_wished_for_or_does_not(wished, running, kept):
    assert wished.are_kept_by(running) == kept
