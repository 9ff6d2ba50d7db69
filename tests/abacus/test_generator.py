"""The problems that abacus is measured with: their truths are true, and training has never seen them."""

import random
import re
from fractions import Fraction

import pytest
from abacus.verify import value
from hypothesis import given, settings, strategies as st

from magistral_nb.abacus import elsewhere, generator, problems
from magistral_nb.abacus.generator import LEVELS, belongs, draw, evaluation, is_right
from magistral_nb.abacus.phrasings import FRAMES, WORDINGS
from magistral_nb.abacus.stories import STORIES
from magistral_nb.errors import InvalidOption

CELLS = [(kind, level) for kind, levels in LEVELS.items() for level in range(1, levels + 1)]
LISTS = {
    **WORDINGS,
    **{f"story {at}": story.wordings for at, story in enumerate(STORIES)},
    **{f"word {key}": words for key, words in elsewhere._WORDS.items()},
    "frames": FRAMES,
    "elsewhere": elsewhere._QUESTIONS,
}


def plain(wording):
    """Without what hardly changes a wording: case, punctuation, spaces."""
    return re.sub(r"[\W_]", "", wording.replace("{", "<").casefold())


def words(wordings):
    return {plain(word) for line in wordings for word in (line.split() if "{" not in line else [line])}


# Nothing that is measured was seen in training


@pytest.mark.parametrize("name", LISTS)
def test_no_wording_is_both_seen_and_held_out(name):
    lists = LISTS[name]
    assert lists.seen
    assert lists.held_out
    if name.startswith("word "):
        assert not words(lists.seen) & words(lists.held_out)
    else:
        symbols = {"+", "-", "−", "×", "*", "÷", "/", ":", "<", ">", "=", ","}
        seen = {(plain(each), *(s for s in each if s in symbols - {",", ":"})) for each in lists.seen}
        held_out = {(plain(each), *(s for s in each if s in symbols - {",", ":"})) for each in lists.held_out}
        assert not seen & held_out


@given(st.lists(st.integers(0, 999_999), min_size=2, max_size=4), st.sampled_from("+-×"))
def test_a_calculation_belongs_to_one_side_unless_it_is_known_by_heart(numbers, operator):
    work = tuple(part for number in numbers for part in (operator, str(number)))[1:]
    sides = [belongs(work, "training"), belongs(work, "evaluation")]
    if sum(len(str(number)) for number in numbers) <= 4:
        assert sides == [True, True]
    else:
        assert sorted(sides) == [False, True]


@pytest.mark.parametrize("kind", LEVELS)
def test_training_and_evaluation_share_no_question(kind):
    rng = random.Random("training 1 0 0")
    levels = range(1, LEVELS[kind] + 1)
    trained = {draw(rng, kind, level, "training", seen=True).question for level in levels for _ in range(1000)}
    asked = {problem.question for problem in evaluation(kind, 200 * len(levels), 1, None, seen=False)}
    assert not trained & asked


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("seen", [True, False], ids=["seen wordings", "held-out wordings"])
def test_evaluation_keeps_to_calculations_that_training_leaves_out(kind, seen):
    for problem in evaluation(kind, 100 * LEVELS[kind], 2, None, seen=seen):
        numbers = [part for part in problem.work if part[0].isdigit()]
        if sum(map(len, numbers)) > 4:
            assert not belongs(problem.work, "training")


def test_the_random_streams_of_evaluation_have_names_that_training_never_uses(monkeypatch):
    names = []

    class Named(random.Random):
        def __init__(self, name):
            names.append(name)
            super().__init__(name)

    monkeypatch.setattr(generator.random, "Random", Named)
    for kind, level in CELLS:
        for seen in (True, False):
            evaluation(kind, 1, 7, level, seen=seen)
    assert len(set(names)) == len(names)
    assert all(name.startswith("evaluation ") for name in names)  # examples.stream's start with "training "


# The truths are true


def drawn(kind, times):
    rng = random.Random(f"drawn {kind}")
    for at in range(times * LEVELS[kind]):
        level, split = 1 + at % LEVELS[kind], rng.choice(["training", "evaluation"])
        yield draw(rng, kind, level, split, seen=rng.random() < 0.5)


@pytest.mark.parametrize("kind", LEVELS)
def test_truths_are_recomputed(kind):
    for problem in drawn(kind, 200):
        assert problem.truth == truth(problem.work, problem.unit), problem


def truth(work, unit):  # noqa: PLR0911 - one case for each kind
    """The same by other means."""
    end = f" {unit}" if unit else ""
    match work:
        case ():
            return "not arithmetic"
        case (a, "÷", b):
            quotient = remainder = 0
            for digit in a:  # as on paper
                remainder = 10 * remainder + int(digit)
                quotient, remainder = 10 * quotient + remainder // int(b), remainder % int(b)
            return f"{quotient}{end}" + (f" remainder {remainder}" if remainder else "")
        case (a, "?", b):
            sign = "<" if float(a) < float(b) else ">" if float(a) > float(b) else "="
            return f"{a} {sign} {b}"
        case ("<" | ">" as sign, *numbers):
            first, second, third = sorted(map(int, numbers))
            return f" {sign} ".join(map(str, (first, second, third) if sign == "<" else (third, second, first)))
        case (a, "/", b):
            return decimal(Fraction(round(Fraction(a) / int(b) * 10 + Fraction(1, 10**9)), 10)) + end
        case (v, "km/h"):
            return meters(int(v)) + end
        case (km, "km", hours, "h"):
            return meters(Fraction(km) / Fraction(hours)) + end
        case (p, "%", n):
            return decimal(Fraction(int(p) * int(n), 100))
    return decimal(value("".join(work))) + end


def meters(speed):
    return decimal(Fraction(round(Fraction(speed) * 1000 / 3600 * 10 + Fraction(1, 10**9)), 10))


def decimal(number):
    text = f"{float(number):.2f}"
    return text.rstrip("0").rstrip(".")


@pytest.mark.parametrize("kind", [kind for kind in LEVELS if kind not in {"second turn", "off-domain"}])
def test_the_question_holds_the_numbers_of_the_calculation_however_they_are_written(kind):
    for problem in drawn(kind, 150):
        joined = re.sub(r"(?<=\d)[, ](?=\d\d\d(?!\d))", "", problem.question)
        written = re.findall(r"\d+(?:\.\d+)?", joined)
        assert sorted(written) == sorted(part for part in problem.work if part[0].isdigit()), problem


def test_a_second_turn_starts_from_the_answer_to_the_first():
    for problem in evaluation("second turn", 200, 3, None, seen=False):
        first, said, _ = problem.question.split("\n")
        assert first
        assert said == f"{said.rpartition(' = ')[0]} = {problem.work[0]}."
        assert value(said.rpartition(" = ")[0].replace(" ", "")) == Fraction(problem.work[0])


def test_the_question_of_the_seeds_can_be_drawn():
    problem = generator.truth_of(("120", "km", "1.5", "h"), "m/s")
    assert problem == "22.2 m/s"


# Answers are judged fairly


@pytest.mark.parametrize(
    ("truth", "text", "right"),
    [
        ("20126", "347 × 58 = 20126.", True),
        ("20126", "347 × 58 = 20127.", False),
        ("-35", "10 - 45 = -35.", True),
        ("35", "10 - 45 = -35.", False),
        ("12", "12 × 1 = 13.", False),
        ("14", "100 ÷ 7 = 14 remainder 2.", False),
        ("14 remainder 2", "100 ÷ 7 = 14 remainder 2.", True),
        ("14 remainder 2", "100 ÷ 7 = 14.", False),
        ("36", "15% of 240 is 36.", True),
        ("16.5", "My best guess: 12.75 + 3.75 is about 16.5.", True),
        ("12 apples", "The answer is 12 apples.", True),
        ("12 apples", "The answer is 12 pears.", False),
        ("34 < 512", "512 is larger: 34 < 512.", True),
        ("34 < 512", "34 is larger: 34 > 512.", False),
        ("34 = 34", "Both are equal: 34 = 34.", True),
        ("7 < 34 < 512", "In order: 7 < 34 < 512.", True),
        ("not arithmetic", "I only know arithmetic. Try: What is 347 × 58?", True),
        ("20126", "I only know arithmetic. Try: What is 347 × 58?", False),
        ("not arithmetic", "The answer is 12 apples.", False),
    ],
)
def test_answers_are_judged(truth, text, right):
    assert is_right(truth, text) is right


# What users call


def test_a_frame_of_problems():
    frame = problems("multiply", 20, seed=1, level=4)
    assert list(frame.columns) == ["question", "truth", "kind", "level"]
    assert len(frame) == 20
    assert set(frame["level"]) == {4}
    assert frame.equals(problems("multiply", 20, seed=1, level=4))
    assert not frame.equals(problems("multiply", 20, seed=2, level=4))
    assert not frame.equals(problems("multiply", 20, seed=1, level=4, wording="seen"))


def test_without_a_level_all_are_mixed():
    assert set(problems("divide", 10, seed=1)["level"]) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("call", [("cooking", 1, 1), ("add", 1, 1, 7), ("add", 1, 1, 0)])
def test_what_does_not_exist_is_named(call):
    with pytest.raises(InvalidOption, match=r"kind|level"):
        problems(*call)


@settings(max_examples=50)
@given(st.sampled_from(CELLS), st.integers(0, 10**6))
def test_any_seed_gives_as_many_as_asked_for(cell, seed):
    assert len(evaluation(cell[0], 3, seed, cell[1], seen=False)) == 3
