"""Arithmetic problems with known answers: what abacus was trained on is drawn here, and what it is measured with.

Both never meet: their random streams carry different names, every wording belongs to one of the two, and so does
every calculation that is not so short that it has to be known by heart.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from magistral_nb.abacus.elsewhere import elsewhere
from magistral_nb.abacus.phrasings import FRAMES, MONEY, NAMES, THINGS, WORDINGS
from magistral_nb.abacus.stories import STORIES
from magistral_nb.errors import InvalidOption

if TYPE_CHECKING:
    import pandas as pd

    from magistral_nb.abacus.story import Story

Split = Literal["training", "evaluation"]

LEVELS = {
    "add": 6,  # digits
    "subtract": 6,  # digits; a sixth of the results are negative
    "terms": 3,  # three terms of up to 2 and 3 digits, four of up to 3
    "multiply": 6,  # digits 1×1, 2×1, 3×1, 2×2, 3×2, 3×3
    "divide": 5,  # digits 2÷1, 3÷1, 4÷1, 3÷2, 4÷2
    "compare": 3,  # two numbers of up to 3 and 6 digits; three to be sorted
    "decimals": 3,  # one place, two places, mixed
    "percent": 2,  # tens of hundreds, fives of tens
    "shopping": 2,
    "counting": 2,
    "sharing": 1,
    "ages": 1,
    "money": 2,
    "speed": 3,  # km/h, km/h to m/s, both in one
    "second turn": 1,
    "off-domain": 1,
}
STORY_KINDS = ("shopping", "counting", "sharing", "ages", "money", "speed")
NOT_ARITHMETIC = "not arithmetic"
_FACTORS = ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (3, 3))
_DIVISIONS = ((2, 1), (3, 1), (4, 1), (3, 2), (4, 2))
_KNOWN_BY_HEART = 4  # digits in all, up to which training and evaluation share their calculations
_MEASURED = 8  # one in so many of the others is kept for the evaluation


@dataclass(frozen=True, slots=True)
class Problem:
    """One question and how its answer is found.

    Attributes:
        question: as it is asked; of a second turn, the first question, its answer and the second one, a line each.
        kind: a key of LEVELS.
        level: from 1, how hard.
        work: the calculation, e.g. ("347", "×", "58"); empty where there is none.
        unit: the noun of the answer.
    """

    question: str
    kind: str
    level: int
    work: tuple[str, ...]
    unit: str = ""

    @property
    def truth(self) -> str:
        """The answer in short: a number, with remainder or unit, a relation, or that it is not arithmetic."""
        return truth_of(self.work, self.unit)


def problems(
    kind: str, n: int, seed: int, level: int | None = None, *, wording: Literal["held out", "seen"] = "held out"
) -> pd.DataFrame:
    """Problems that training has never seen, with their answers.

    Args:
        kind: what is asked, a key of LEVELS.
        n: how many.
        seed: the same seed gives the same problems.
        level: from 1 to LEVELS[kind]; None mixes them.
        wording: "held out" asks in wordings that training never saw, "seen" in those that it knows.

    Returns:
        A row for each, with the columns question, truth, kind and level.

    Example:
        >>> problems("multiply", 2, seed=1, level=4)["truth"].tolist()
        ['3162', '6992']
    """
    import pandas as pd

    if kind not in LEVELS:
        raise InvalidOption(f"There is no kind {kind!r}: take one of {', '.join(LEVELS)}.")
    if level is not None and not 1 <= level <= LEVELS[kind]:
        raise InvalidOption(f"{kind} has no level {level}: they go from 1 to {LEVELS[kind]}.")
    rows = evaluation(kind, n, seed, level, seen=wording == "seen")
    columns = ["question", "truth", "kind", "level"]
    return pd.DataFrame([[getattr(row, name) for name in columns] for row in rows], columns=columns)


def evaluation(kind: str, n: int, seed: int, level: int | None, *, seen: bool) -> list[Problem]:
    """The rows of `problems`."""
    rng = random.Random(f"evaluation {kind} {level} {seed} {seen}")  # noqa: S311 - no secret
    return [draw(rng, kind, level or 1 + at % LEVELS[kind], "evaluation", seen=seen) for at in range(n)]


def draw(rng: random.Random, kind: str, level: int, split: Split, *, seen: bool) -> Problem:
    """The next problem of a stream, whose calculation belongs to this split."""
    while True:
        problem = _draw(rng, kind, level, seen=seen)
        if belongs(problem.work, split):
            return problem


def belongs(work: tuple[str, ...], split: Split) -> bool:
    """Whether a calculation may occur here: the long ones are told apart by a checksum of their numbers.

    Example:
        >>> belongs(("7", "×", "8"), "training") and belongs(("7", "×", "8"), "evaluation")
        True
        >>> belongs(("347", "×", "58"), "training") == belongs(("58", "×", "347"), "training")
        True
    """
    numbers = sorted(part for part in work if part[:1].isdigit())
    if sum(map(len, numbers)) <= _KNOWN_BY_HEART:
        return True
    return (zlib.crc32(" ".join(numbers).encode()) % _MEASURED == 0) == (split == "evaluation")


def framed(rng: random.Random, problem: Problem, *, seen: bool) -> Problem:
    """The same problem with a greeting or a request around its question."""
    frame = rng.choice(FRAMES.seen if seen else FRAMES.held_out)
    return replace(problem, question=frame.format(q=problem.question))


def is_right(truth: str, text: str) -> bool:
    """Whether an answer in a sentence says what is true.

    Example:
        >>> is_right("20126", "347 × 58 = 20126."), is_right("14", "100 ÷ 7 = 14 remainder 2.")
        (True, False)
    """
    if truth == NOT_ARITHMETIC:
        return is_refusal(text)
    if is_refusal(text):
        return False
    ends = r": " if re.search(r"[<>]|^\d+ = \d+$", truth) else r"= | is "
    said = re.split(ends, text.strip().removesuffix("."))[-1]
    return said.removeprefix("about ") == truth


def is_refusal(text: str) -> bool:
    """Whether the answer says that the question is not arithmetic."""
    return "only know arithmetic" in text or "only knows arithmetic" in text


def value(work: tuple[str, ...]) -> Fraction:
    """What numbers with +, - and × between them come to.

    Example:
        >>> int(value(("50", "-", "3", "×", "7")))
        29
    """
    total, term, sign = Fraction(0), Fraction(work[0]), 1
    for operator, number in zip(work[1::2], work[2::2], strict=True):
        if operator == "×":
            term *= Fraction(number)
        else:
            total += sign * term
            term, sign = Fraction(number), 1 if operator == "+" else -1
    return total + sign * term


def written(number: Fraction) -> str:
    """A number of at most two decimal places as it is written.

    Example:
        >>> written(Fraction(-33, 2)), written(Fraction(40))
        ('-16.5', '40')
    """
    hundredths = abs(number) * 100
    if hundredths.denominator != 1:
        raise ValueError(f"{number} has more than two decimal places")
    whole, rest = divmod(int(hundredths), 100)
    return f"{'-' * (number < 0)}{whole}" + (f".{rest:02d}".rstrip("0") if rest else "")


def truth_of(work: tuple[str, ...], unit: str = "") -> str:
    """The answer to a calculation in short."""
    match work:
        case ():
            return NOT_ARITHMETIC
        case (a, "÷", b):
            quotient, remainder = divmod(int(a), int(b))
            return f"{quotient}{f' {unit}' * bool(unit)}" + (f" remainder {remainder}" if remainder else "")
        case (a, "/", b):
            short = tenths(Fraction(a) / Fraction(b))
        case (p, "%", n):
            short = written(Fraction(p) * Fraction(n) / 100)
        case (a, "?", b):
            return f"{a} {relation(int(a), int(b))} {b}"
        case ("<" | ">" as order, *numbers):
            return f" {order} ".join(sorted(numbers, key=int, reverse=order == ">"))
        case (v, "km/h"):
            short = tenths(Fraction(v) * 10 / 36)
        case (a, "km", b, "h"):
            short = tenths(Fraction(a) / Fraction(b) * 10 / 36)
        case _:
            short = written(value(work))
    return f"{short} {unit}".strip()


def tenths(number: Fraction) -> str:
    """A number of at least 0, rounded to one decimal place, as it is written.

    Example:
        >>> tenths(Fraction(200, 9)), tenths(Fraction(5, 100))
        ('22.2', '0.1')
    """
    return written(Fraction(int(number * 10 + Fraction(1, 2)), 10))


def relation(a: int, b: int) -> str:
    """The sign between two numbers.

    Example:
        >>> relation(34, 512)
        '<'
    """
    return "<" if a < b else ">" if a > b else "="


def _draw(rng: random.Random, kind: str, level: int, *, seen: bool) -> Problem:
    if kind == "off-domain":
        return Problem(elsewhere(rng, seen=seen), kind, level, ())
    if kind == "second turn":
        return _second_turn(rng, seen=seen)
    if kind in STORY_KINDS:
        return _story(rng, kind, level, seen=seen)
    asked, work = _calculation(rng, kind, level)
    numbers = [part for part in work if part[:1].isdigit()]
    shown = {name: show(rng, number) for name, number in zip("abcd", numbers, strict=False)}
    expression = " ".join(show(rng, part) for part in work)
    if rng.random() < 0.2:  # noqa: PLR2004 - as hasty people type
        expression = expression.replace(" ", "")
    spoken = " ".join({"+": "plus", "-": "minus"}.get(part, part) for part in work)
    question = _wording(rng, asked, seen=seen).format(**shown, e=expression, w=spoken)
    return Problem(question, kind, level, work)


def _calculation(  # noqa: C901, PLR0911 - one case for each kind
    rng: random.Random, kind: str, level: int
) -> tuple[str, tuple[str, ...]]:
    """Which wordings ask, and what."""
    match kind:
        case "add" | "subtract":
            a, b = _digits(rng, level), _digits(rng, level if rng.random() < 0.7 else rng.randint(1, level))  # noqa: PLR2004
            if rng.random() < 0.5:  # noqa: PLR2004
                a, b = b, a
            if kind == "subtract" and a < b and rng.random() < 0.67:  # noqa: PLR2004
                a, b = b, a
            return kind, (str(a), "+" if kind == "add" else "-", str(b))
        case "multiply":
            sizes = rng.sample(_FACTORS[level - 1], 2)
            return kind, (str(_digits(rng, sizes[0])), "×", str(_digits(rng, sizes[1])))
        case "divide":
            size, divisor = _DIVISIONS[level - 1]
            return kind, (str(_digits(rng, size)), "÷", str(max(2, _digits(rng, divisor))))
        case "terms":
            work = [str(_up_to(rng, 2 if level == 1 else 3))]
            for _ in range(3 if level == LEVELS[kind] else 2):
                work += [rng.choice("+-"), str(_up_to(rng, 2 if level == 1 else 3))]
            return kind, tuple(work)
        case "decimals":
            places = [(1, 1), (2, 2), rng.choice([(1, 2), (2, 1), (0, 2), (2, 0), (0, 1), (1, 0), (2, 2)])][level - 1]
            first, second = (_decimal(rng, 3 if level == LEVELS[kind] else 2, count) for count in places)
            return kind, (first, rng.choice("+-"), second)
        case "percent" if level == 1:
            return kind, (str(10 * rng.randint(1, 9)), "%", str(100 * rng.randint(1, 99)))
        case "percent":
            return kind, (str(5 * rng.randint(1, 19)), "%", str(10 * rng.randint(1, 99)))
        case _:
            return _comparison(rng, level)


def _comparison(rng: random.Random, level: int) -> tuple[str, tuple[str, ...]]:
    size = 3 if level == 1 else 6
    a = _up_to(rng, size)
    b, c = (_near(rng, a) if rng.random() < 0.6 else _up_to(rng, size) for _ in range(2))  # noqa: PLR2004
    if level == LEVELS["compare"]:
        descending = rng.random() < 0.5  # noqa: PLR2004
        numbers = tuple(map(str, (a, b, c)))
        return "descending" if descending else "ascending", (">" if descending else "<", *numbers)
    return rng.choice(["compare", "compare", "is larger", "is smaller"]), (str(a), "?", str(b))


def _second_turn(rng: random.Random, *, seen: bool) -> Problem:
    kind, highest = rng.choice([("add", 4), ("subtract", 4), ("multiply", 4), ("terms", 2)])
    while True:
        first = _draw(rng, kind, rng.randint(1, highest), seen=seen)
        result, operator = first.truth, rng.choice("++--×÷")
        if (operator in "+-" or len(result) < 4) and not result.startswith("-"):  # noqa: PLR2004
            break
    number = _up_to(rng, 3) if operator in "+-" else rng.randint(2, 9)
    follow = _wording(rng, f"follow {operator}", seen=seen).format(b=show(rng, str(number)))
    said = f"{' '.join(first.work)} = {result}."
    return Problem(f"{first.question}\n{said}\n{follow}", "second turn", 1, (result, operator, str(number)))


def _story(rng: random.Random, kind: str, level: int, *, seen: bool) -> Problem:
    story = rng.choice([story for story in STORIES if story.kind == kind and story.level == level])
    numbers = _sizes(rng, story)
    names, things = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
    told = dict(zip("nmts", [*names, *things], strict=True)) | {"u": rng.choice(MONEY)}
    work = tuple(numbers.get(part, part) for part in story.work.split())
    if kind == "speed" and "÷" in work:
        work = (work[0], "/", work[2])
    unit = story.unit.format(**told)
    question = rng.choice(story.wordings.seen if seen else story.wordings.held_out)
    shown = {name: show(rng, number) for name, number in numbers.items()}
    return Problem(question.format(**told, **shown), kind, level, work, unit)


def _sizes(rng: random.Random, story: Story) -> dict[str, str]:
    """Numbers that make the story possible: nobody gives away what he has not, and cars keep to a speed."""
    while True:
        drawn = [max(2, _up_to(rng, size)) if size else rng.randint(2, 9) for size in story.sizes]
        numbers = dict(zip("abcd", map(str, drawn), strict=False))
        if story.kind == "speed":
            numbers |= _trip(rng, story.work)
        work = [numbers.get(part, part) for part in story.work.split()]
        if set(work) <= {*numbers.values(), "+", "-", "×"} and value(tuple(work)) <= 0:
            continue
        if "÷" not in work or drawn[0] >= drawn[1]:
            return numbers


def _trip(rng: random.Random, work: str) -> dict[str, str]:
    speed = rng.choice([rng.randint(2, 200), 5 * rng.randint(1, 60), 18 * rng.randint(1, 16)])
    halves = rng.randint(1, 9) if "km b" in work and rng.random() < 0.5 else 2 * rng.randint(2, 9)  # noqa: PLR2004
    if "km b" in work:
        speed *= 1 + speed * halves % 2
        return {"a": str(speed * halves // 2), "b": written(Fraction(halves, 2))}
    if work == "a ÷ b":
        distance = speed * halves // 2 if rng.random() < 0.6 else rng.randint(20, 999)  # noqa: PLR2004
        return {"a": str(max(distance, halves // 2)), "b": str(halves // 2)}
    return {"a": str(speed), "b": str(rng.randint(2, 12))}


def show(rng: random.Random, number: str) -> str:
    """A number as people write it: 1234, 1,234 or 1 234."""
    if not number.isdigit() or int(number) < 1000 or rng.random() < 0.8:  # noqa: PLR2004
        return number
    return f"{int(number):,}".replace(",", rng.choice([",", ",", " "]))


def _wording(rng: random.Random, asked: str, *, seen: bool) -> str:
    wordings = WORDINGS[asked]
    return rng.choice(wordings.seen if seen else wordings.held_out)


def _digits(rng: random.Random, count: int) -> int:
    return rng.randrange(10 ** (count - 1) if count > 1 else 0, 10**count)


def _up_to(rng: random.Random, count: int) -> int:
    return _digits(rng, max(rng.randint(max(1, count - 2), count) for _ in range(2)))


def _decimal(rng: random.Random, count: int, places: int) -> str:
    whole = _up_to(rng, count)
    if not places:
        return str(whole)
    return f"{whole}.{_digits(rng, places) if places == 1 else rng.randrange(100):0{places}d}"


def _near(rng: random.Random, number: int) -> int:
    """A number that looks much like another one."""
    digits = list(str(number))
    digits[rng.randrange(len(digits))] = str(rng.randrange(10))
    if rng.random() < 0.3:  # noqa: PLR2004
        rng.shuffle(digits)
    return int("".join(digits))
