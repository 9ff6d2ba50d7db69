"""The traces that training learns from: every line is true, or is called a slip and put right."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "train_abacus"))

from abacus.verify import attempts, false_checks, false_equations, last_verdict, without_slips
from scratch import SILENT, Scratch
from traces import FOUND, UNSURE, think

from magistral_nb.abacus.generator import LEVELS, STORY_KINDS, draw, is_refusal, is_right

CELLS = [(kind, level) for kind, levels in LEVELS.items() for level in range(1, levels + 1)]
TIMES = 25


def drawn(kind):
    rng = random.Random(f"traces {kind}")
    for at in range(TIMES * LEVELS[kind]):
        problem = draw(rng, kind, 1 + at % LEVELS[kind], "training", seen=True)
        yield problem, think(problem, rng)


@pytest.mark.parametrize("kind", LEVELS)
def test_traces_are_true_and_end_in_the_truth(kind):
    for problem, thought in drawn(kind):
        assert not false_checks(without_slips(thought.text)), (problem, thought.text)
        if thought.answer == UNSURE:
            continue
        assert is_right(problem.truth, thought.answer), problem
        good = attempts(thought.text)[-1]
        assert not false_equations(good), (problem, thought.text)
        assert last_verdict(thought.text) in {"good", None}


def test_who_slips_three_times_stops_and_says_so():
    rng = random.Random(8)
    thoughts = [think(draw(rng, "multiply", 6, "training", seen=True), rng) for _ in range(1500)]
    unsure = [thought for thought in thoughts if thought.answer == UNSURE]
    assert 1 < len(unsure) < 30
    assert all([each in thought.text for each in FOUND] == [True] * 3 for thought in unsure)
    assert max(thought.text.count("a slip.") for thought in thoughts) == 3
    assert not is_refusal(UNSURE)


@pytest.mark.parametrize("kind", LEVELS)
def test_a_silent_slip_is_found_and_nothing_else_is_called_one(kind):
    for _, thought in drawn(kind):
        assert (SILENT[0] in thought.text) == (len(attempts(thought.text)) > 1)
        for failed in attempts(thought.text)[:-1]:
            assert failed


@pytest.mark.parametrize("kind", LEVELS)
def test_the_result_stands_where_it_is_said_to_be_known(kind):
    for problem, thought in drawn(kind):
        if thought.answer != UNSURE and problem.work and "?" not in problem.work and problem.work[0] not in "<>":
            number = problem.truth.split()[0].lstrip("-")
            assert number in thought.text[: thought.known].rstrip().rpartition("\n")[2], (problem, thought.text)


@pytest.mark.parametrize("kind", LEVELS)
def test_a_guess_is_near(kind):
    for problem, thought in drawn(kind):
        if thought.guess and " about " in thought.guess:
            after = thought.guess.rpartition("about ")[2].removesuffix(".").split()
            true = float(problem.truth.split()[0])
            assert abs(float(after[0]) - true) <= 0.05 * abs(true) + 0.05
            assert problem.kind not in STORY_KINDS or after[1] == problem.unit


def test_most_traces_hold_no_slip_and_some_hold_two():
    rng = random.Random(5)
    texts = [think(draw(rng, "multiply", 6, "training", seen=True), rng).text for _ in range(400)]
    failed = [len(attempts(text)) - 1 for text in texts]
    assert 0.75 < failed.count(0) / len(failed) < 0.97
    assert failed.count(2)
    assert any("Wait" in text for text in texts)


def test_without_slips_a_trace_holds_none():
    rng = random.Random(6)
    for kind, level in CELLS:
        text = think(draw(rng, kind, level, "training", seen=True), rng, slips=False).text
        assert "Wait" not in text
        assert "slip" not in text


def test_traces_fit_the_context_and_grow_with_difficulty():
    rng = random.Random(7)
    for kind in ("add", "subtract", "multiply", "terms"):
        lengths = [
            sum(len(think(draw(rng, kind, level, "training", seen=True), rng, slips=False).text) for _ in range(30))
            for level in range(1, LEVELS[kind] + 1)
        ]
        assert lengths == sorted(lengths)
        assert lengths[-1] / 30 < 1600  # characters, at 2 to 3 a token


def test_scratch_counts_every_step_at_which_a_slip_could_happen():
    on = Scratch(random.Random(1), noticed=frozenset({1}))
    on.split(347, 3)
    assert on.steps == 3
    assert on.calculate("7×8", 56) == 56
    assert on.steps == 4
    assert on.text == "347: ones 7 tens 4 hundreds 3\n7×8=56"
