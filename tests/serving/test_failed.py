"""What is said of a server that failed to boot or went down, made of its state alone."""

from __future__ import annotations

import pytest
from machines import one
from planning import plan_on

from magistral_nb.serving.diagnosis import Diagnosis
from magistral_nb.serving.ending import boot_failure, ending, restarting, stopped
from magistral_nb.serving.registry import ServerState
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes


def state_of(*changes, raw=(), **state):
    plan = plan_on(one("L40S"), "2509", Wishes(engine_args=raw))
    found = Diagnosis("x", "It broke", "ValueError: broken", "Mend it.", changes)
    return ServerState(
        **{"name": "b", "status": "failed", "plan": plan, "api_key": "k", "log_path": "", "error": "It broke"}
        | {"diagnosis": found}
        | state
    )


def told(*changes, **state):
    return boot_failure(state_of(*changes, **state))


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


# After it was ready: one line that says why, and what to type next

AGAIN = "To start it again: %magistral_serve 2509 --name b"
UNKNOWN = Diagnosis("unknown", "ValueError: x", "ValueError: x", "The lines around it say where.", (), ("a", "b"))


def test_a_known_cause_comes_with_its_remedy_and_the_line_that_has_it():
    died = state_of(("--context", "4096"), context=40_960)
    assert ending(died) == f"Server 'b' has died: It broke. Mend it. {AGAIN} --context 4096"


@pytest.mark.parametrize("found", [None, UNKNOWN])
def test_of_an_unknown_one_the_log_says_more(found):
    died = state_of(context=40_960, diagnosis=found)
    assert ending(died) == f"Server 'b' has died: It broke. %magistral_logs b shows more. {AGAIN}"


def test_one_that_never_was_ready_did_not_boot():
    assert ending(state_of()).startswith("Server 'b' did not boot: It broke.")


def test_what_ended_for_a_reason_has_not_died():
    ended = state_of(status="ended", context=40_960, error="nobody asked it for 1h", diagnosis=None)
    assert ending(ended) == f"Server 'b' has ended: nobody asked it for 1h. {AGAIN}"
    assert stopped(ended) == f"Server 'b' was stopped, here or in another notebook. {AGAIN}"


@pytest.mark.parametrize(("error", "why"), [("It broke.", "It broke"), (None, "its vLLM answers no more")])
def test_what_comes_back_by_itself_is_not_to_be_started_again(error, why):
    text = restarting(state_of(status="booting", error=error))
    assert text.startswith(f"Server 'b' has died ({why}) and is being started again: ask again then")
    assert "%magistral_serve" not in text
