"""How long boots took, and what is left of the next one."""

from __future__ import annotations

import os
import stat
from itertools import accumulate

import pytest
from hypothesis import given, strategies as st

from magistral_nb import paths
from magistral_nb.serving import durations
from magistral_nb.serving.boot_log import DOWNLOADING

LAST = (("Starting vLLM", 9.0), ("Loading the weights", 31.0), ("Compiling", 20.0), ("Asking a first question", 2.0))
stages = st.lists(st.floats(0, 1e4), min_size=1, max_size=6).map(
    lambda seconds: tuple((f"stage {number}", each) for number, each in enumerate(seconds))
)


def reached(last, count):
    """The first stages of a boot that goes as the last one went."""
    return tuple(zip((name for name, _ in last), accumulate([0.0, *(s for _, s in last)]), strict=False))[:count]


@given(stages, st.data())
def test_a_boot_that_goes_as_the_last_one_is_told_to_the_second(last, data):
    total = sum(seconds for _, seconds in last)
    count = data.draw(st.integers(1, len(last)))
    begun = reached(last, count)[-1][1]
    elapsed = begun + data.draw(st.floats(0, 1)) * last[count - 1][1]
    left = durations.seconds_left(last, reached(last, count), elapsed)
    assert left == pytest.approx(total - elapsed, abs=1e-6 * (1 + total))


@given(
    stages, st.lists(st.tuples(st.sampled_from(["stage 0", "stage 3", "new"]), st.floats(0, 1e5))), st.floats(0, 1e5)
)
def test_whatever_happens_what_is_left_is_none_or_more_and_at_most_all(last, begun, elapsed):
    left = durations.seconds_left(last, begun, elapsed)
    assert (left is None) == bool(begun and begun[-1][0] not in dict(last))
    assert (
        left is None
        or 0 <= left <= sum(seconds for _, seconds in last) + max(0, *(at - elapsed for _, at in begun), 0) + 1e-6
    )


@given(stages, st.floats(0, 1e4))
def test_what_was_kept_is_what_was_measured(last, more):
    begun = reached(last, len(last))
    ready = begun[-1][1] + more
    kept = durations.durations_of(begun, ready)
    assert [name for name, _ in kept] == [name for name, _ in last]
    assert sum(seconds for _, seconds in kept) == pytest.approx(ready, abs=1e-6)


def test_a_stage_that_takes_longer_leaves_the_others_to_come():
    assert durations.seconds_left(LAST, [("Starting vLLM", 0.0), ("Loading the weights", 9.0)], 600.0) == 22.0


def test_a_quick_stage_shortens_the_rest_by_what_it_saved():
    begun = [("Starting vLLM", 0.0), ("Loading the weights", 1.0), ("Compiling", 2.0)]
    assert durations.seconds_left(LAST, begun, 2.0) == 22.0


def test_in_a_stage_that_the_last_boot_had_not_nothing_is_promised():
    assert durations.seconds_left(LAST, [(DOWNLOADING, 0.0)], 300.0) is None
    assert durations.seconds_left(LAST, [("Starting vLLM", 0.0), ("Something new", 9.0)], 10.0) is None
    assert durations.seconds_left(LAST, [("Starting vLLM", 0.0), ("New", 9.0), ("Compiling", 10.0)], 10.0) == 22.0
    assert durations.seconds_left(LAST, [(DOWNLOADING, 0.0), ("Starting vLLM", 300.0)], 303.0) == 59.0


def test_the_next_boot_of_a_plan_knows_the_last_and_other_plans_do_not():
    durations.save("plan", [(DOWNLOADING, 600.0), *LAST])
    assert durations.load("plan") == LAST, "without the download"
    assert durations.load("other") is None
    durations.save("plan", LAST[:1])
    assert durations.load("plan") == LAST[:1]
    (path,) = (paths.servers() / "durations").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_few_dozen_plans_are_kept_the_newest_ones():
    folder = paths.servers() / "durations"
    for number in range(60):
        durations.save(f"plan-{number}", LAST)
        os.utime(folder / f"plan-{number}.json", (number, number))
    assert durations.load("plan-0") is None
    assert durations.load("plan-59") == LAST
    assert 40 < len(list(folder.iterdir())) < 50


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '[["Loading", "soon"]]', "null", "\x00"])
def test_what_cannot_be_read_is_as_if_it_were_not_there(text):
    durations.save("plan", LAST)
    (paths.servers() / "durations" / "plan.json").write_text(text)
    assert durations.load("plan") is None


def test_a_disk_that_takes_no_more_costs_the_estimate_alone(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dump", full)
    durations.save("plan", LAST)
    monkeypatch.undo()
