"""What a failed boot says, made of its state alone."""

from __future__ import annotations

import pytest
from machines import one
from planning import plan_on

from magistral_nb.serving.diagnosis import Diagnosis
from magistral_nb.serving.ending import boot_failure
from magistral_nb.serving.registry import ServerState
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes


def told(*changes, raw=(), **state):
    plan = plan_on(one("L40S"), "2509", Wishes(engine_args=raw))
    found = Diagnosis("x", "It broke", "ValueError: broken", "Mend it.", changes)
    failed = ServerState(
        **{"name": "b", "status": "failed", "plan": plan, "api_key": "k", "log_path": "", "error": "It broke"}
        | {"diagnosis": found}
        | state
    )
    return boot_failure(failed)


def test_the_line_is_the_typed_one_with_name_engine_port_price_and_raw_flags():
    text = told(
        ("--context", "4096"),
        raw=("--seed", "3"),
        wished_engine="here",
        wished_port=8000,
        terms=Terms(price_per_hour=2.5),
    )
    line = "%magistral_serve 2509 --name b --engine here --port 8000 --price-per-hour 2.5 --context 4096 -- --seed 3"
    assert f"To try that: {line}\n" in text


@pytest.mark.parametrize(
    "change", [("-- --enable-chunked-prefill", ""), ("-- --no-such-flag", None), ("--kv-cache", None)]
)
def test_a_line_that_changes_nothing_is_not_offered(change):
    assert "To try that" not in told(change)


def test_what_broke_and_what_to_do_come_before_the_log_s_own_words():
    first, second = told(name="default").splitlines()
    assert first == "Server 'default' did not boot: It broke. Mend it."
    assert second == "    ValueError: broken"
