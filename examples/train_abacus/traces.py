"""How a problem is thought through: an estimate first, then the work, then a check that is true or finds a slip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

from scratch import Scratch, UnnoticedSlip, add, compare, divide, multiply, subtract

from magistral_nb.abacus.generator import STORY_KINDS, Problem, relation, tenths, value, written

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Result = TypeVar("Result")

# How often; twice is of the silent ones, and thrice of those.
NOTICED, SILENT, TWICE, THRICE, MISJUDGED = 0.10, 0.10, 0.2, 0.25, 0.15
FOUND = ("a slip. Again.", "a slip. Once more.", "a slip. I stop here.")  # each leads to the next: nothing is counted
UNSURE = "I am not sure: three times my check found a slip."
REFUSALS = (
    ("This is no arithmetic. I only know arithmetic, so I say so.\n",
     "I only know arithmetic. Try: What is 347 × 58?"),
    ("There is nothing to calculate here. I should be honest about it.\n",
     "Sorry, I am a tiny model that only knows arithmetic. Try: What is 347 × 58?"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thought:
    """A whole trace.

    Attributes:
        text: with marks around what is not to be learned.
        known: how many characters it takes until the result stands there.
        answer: the sentence after it.
        guess: the sentence where the thought is cut before the result is known; None where a cut would mislead.
    """

    text: str
    known: int
    answer: str
    guess: str | None


def think(problem: Problem, rng: random.Random, *, slips: bool = True) -> Thought:
    """Think a problem through, perhaps with slips that are noticed."""
    if not problem.work:
        text, answer = rng.choice(REFUSALS)
        return Thought(text, len(text), answer, answer)
    while True:
        noticed, silent = _slips(problem, rng) if slips else (frozenset(), frozenset())
        on = Scratch(rng, noticed, silent, MISJUDGED if slips else 0)
        try:
            known = _work(on, problem)
        except UnnoticedSlip:
            continue
        if silent and FOUND[0] not in on.text:  # it made no difference
            continue
        answer = UNSURE if FOUND[-1] in on.text else answer_to(problem)
        return Thought(on.text, known, answer, None if silent else guess_of(problem))


def _slips(problem: Problem, rng: random.Random) -> tuple[frozenset[int], frozenset[int]]:
    dry = Scratch(rng)
    _work(dry, problem)
    first = rng.randrange(dry.steps) if dry.steps else 0
    kind = rng.random()
    if kind < NOTICED:
        return frozenset({first}), frozenset()
    if kind < NOTICED + SILENT:
        slipped = {first}
        for attempt, often in enumerate((TWICE, THRICE), 1):
            if rng.random() > often or not dry.steps:
                break
            slipped.add(attempt * dry.steps + rng.randrange(dry.steps))
        return frozenset(), frozenset(slipped)
    return frozenset(), frozenset()


def answer_to(problem: Problem) -> str:
    """The answer in one sentence."""
    work, truth = problem.work, problem.truth
    if problem.kind in STORY_KINDS:
        return f"The answer is {truth}."
    match work:
        case (a, "?", b):
            return f"Both are equal: {truth}." if a == b else f"{max(int(a), int(b))} is larger: {truth}."
        case ("<" | ">", *_):
            return f"In order: {truth}."
        case (p, "%", n):
            return f"{p}% of {n} is {truth}."
    return f"{' '.join(work)} = {truth}."


def guess_of(problem: Problem) -> str:
    """The best guess in one sentence, to two digits."""
    work, truth = problem.work, problem.truth
    if "?" in work or work[0] in "<>":
        return f"My best guess: {answer_to(problem)}"
    number, _, rest = truth.partition(" ")
    about = f"about {_two_digits(Fraction(number))}"
    if problem.kind in STORY_KINDS:
        return f"My best guess: The answer is {about} {rest.split(' remainder')[0]}."
    if "%" in work:
        return f"My best guess: {work[0]}% of {work[2]} is {about}."
    return f"My best guess: {' '.join(work)} is {about}."


def _two_digits(number: Fraction) -> str:
    size = Fraction(1)
    while abs(number) >= 100 * size:
        size *= 10
    while abs(number) < 10 * size and size > Fraction(1, 100):
        size /= 10
    return written(int(abs(number) / size + Fraction(1, 2)) * size * (-1 if number < 0 else 1))


def _work(on: Scratch, problem: Problem) -> int:  # noqa: C901, PLR0911 - one case for each kind
    """Write the whole work; returns how many characters it takes until the result stands there."""
    work = problem.work
    if problem.kind == "second turn":
        on.write("The last result counts.\n")
    if problem.kind in STORY_KINDS:
        on.write(f"It asks for {problem.unit}.\n")
    match work:
        case (a, "?", b):
            return _relation(on, [int(a), int(b)])
        case ("<" | ">" as order, *numbers):
            return _order(on, [int(n) for n in numbers], order)
        case (a, "÷", b):
            return _quotient(on, int(a), int(b))[1]
        case (a, "/", b):
            return _quotient(on, int(a), int(b), decimals=True)[1]
        case (p, "%", n):
            return _percent(on, int(p), int(n))
        case (v, "km/h"):
            return _meters_per_second(on, int(v))
        case (km, "km", hours, "h"):
            if "." in hours:
                twice = int(Fraction(hours) * 2)
                on.write(f"{km} km in {hours} h: {km}×2={2 * int(km)}, {hours}×2={twice}.\n")
                speed, _ = _quotient(on, 2 * int(km), twice)
            else:
                speed, _ = _quotient(on, int(km), int(hours))
            return _meters_per_second(on, int(speed))
    if any("." in part for part in work):
        return _decimals(on, work)
    return _sum(on, work)[1]


def _sum(on: Scratch, work: tuple[str, ...]) -> tuple[int, int]:
    """Numbers with +, - and × between them, checked."""
    return _until_checked(on, lambda attempt: _attempt(on, work, attempt), lambda result: _nines(on, work, result))


def _until_checked(
    on: Scratch, attempt: Callable[[int], Result], check: Callable[[Result], bool]
) -> tuple[Result, int]:
    """Attempts until one stands the check; returns its result, and how many characters it took to know it.

    After the third that does not, the last result is as good as any.
    """
    for count, found in enumerate(FOUND):
        result = attempt(count)
        known = len(on.text)
        if check(result):
            break
        on.write(f"{found}\n")
    return result, known


def _attempt(on: Scratch, work: tuple[str, ...], attempt: int) -> int:
    """Work it out once. After a slip the other way round, where there is one, so as not to copy the slip."""
    if attempt % 2 and len(work) == 3 and work[1] in "+×":  # noqa: PLR2004
        work = work[::-1]
    numbers: list[int] = []
    for at, part in enumerate(work):
        if at % 2:
            on.write(part)
        else:
            numbers.append(on.copy(int(part)))
    terms = _terms(numbers, work[1::2])
    if len(work) == 3 and max(numbers) < 10:  # noqa: PLR2004 - known by heart
        on.write(": ")
    else:
        on.write(f", about {_estimate(numbers, work[1::2])}.\n")
    running = 0
    for at, (sign, factors) in enumerate(terms):
        product = factors[0]
        for factor in factors[1:]:
            product = multiply(on, product, factor, header=len(work) > 3)  # noqa: PLR2004
        running = product if not at else _step(on, running, sign * product, header=len(work) > 3)  # noqa: PLR2004
    on.write(f"So {''.join(_work_of(numbers, work[1::2]))}={running}.\n")
    return running


def _step(on: Scratch, running: int, by: int, *, header: bool) -> int:
    """One more term, whatever the signs."""
    if running < 0 and by < 0:
        on.write(f"{running}{by}=-({-running}+{-by})\n")
        return -add(on, -running, -by)
    if running < 0:
        on.write(f"{running}+{by}={by}-{-running}\n")
        return subtract(on, by, -running)
    return subtract(on, running, -by, header=header) if by < 0 else add(on, running, by, header=header)


def _terms(numbers: list[int], operators: tuple[str, ...]) -> list[tuple[int, list[int]]]:
    terms = [(1, [numbers[0]])]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == "×":
            terms[-1][1].append(number)
        else:
            terms.append((1 if operator == "+" else -1, [number]))
    return terms


def _work_of(numbers: list[int], operators: tuple[str, ...]) -> tuple[str, ...]:
    """Numbers with the operators between them."""
    work = [str(numbers[0])]
    for operator, number in zip(operators, numbers[1:], strict=True):
        work += [operator, str(number)]
    return tuple(work)


def _estimate(numbers: list[int], operators: tuple[str, ...]) -> str:
    """The calculation with round numbers: two digits of the largest for sums, one of each for products."""
    widest = max(len(str(number)) for number in numbers)
    unit = 10 ** max(widest - 2, 1)
    products = "×" in operators
    rounded = [
        _one_digit(number) if products else (number + unit // 2) // unit * unit for number in numbers
    ]  # fmt: skip
    work = _work_of(rounded, operators)
    return f"{''.join(work)}={value(work)}"


def _one_digit(number: int) -> int:
    unit = 10 ** (len(str(number)) - 1)
    return (number + unit // 2) // unit * unit


def _residues(on: Scratch, number: int) -> int:
    """Cast out nines: the digit sum so far, nines left away, after each digit."""
    total, steps = 0, []
    for digit in str(number):
        total = (total + int(digit)) % 9
        steps.append(str(total))
    on.write(f"{number} → {','.join(steps)}; ")
    return total


def _nines(on: Scratch, work: tuple[str, ...], result: int) -> bool:
    """Check a sum; all that is subtracted stands on the right, so that nothing is negative."""
    numbers = [int(part) for part in work[::2]]
    if max(numbers) < 10 and len(work) == 3:  # noqa: PLR2004 - known by heart, nothing to check
        if result != value(work):
            raise UnnoticedSlip
        return True
    on.write("Check: ")
    terms = _terms(numbers, work[1::2])
    left = [factors for sign, factors in terms if sign > 0]
    right = [factors for sign, factors in terms if sign < 0]
    (left if result < 0 else right).append([abs(result)])
    equal = _side(on, left), _side(on, right)
    return _verdict(on, *equal, right=result == value(work))


def _side(on: Scratch, terms: list[list[int]]) -> int:
    """The residue of one side: first of each number, then of each product, then of the sum, one operation at a time."""
    residues = [[_residues(on, factor) for factor in factors] for factors in terms]
    products = [_product(on, factors) for factors in residues]
    total = products[0]
    for product in products[1:]:
        total = _reduced(on, f"{total}+{product}", total + product)
    return total


def _product(on: Scratch, residues: list[int]) -> int:
    total = residues[0]
    for residue in residues[1:]:
        total = _reduced(on, f"{total}×{residue}", total * residue)
    return total


def _reduced(on: Scratch, expression: str, total: int) -> int:
    """Write what residues come to, nines cast out."""
    on.write(f"{expression}={total}")
    on.write(f" → {total % 9}; " if total > 8 else "; ")  # noqa: PLR2004
    return total % 9


def _verdict(on: Scratch, left: int, right_side: int, *, right: bool) -> bool:
    if (left == right_side) != right:
        raise UnnoticedSlip
    on.write(f"{left}={right_side}, good.\n" if right else f"{left}≠{right_side}, ")
    return right


def _quotient(on: Scratch, a: int, b: int, *, decimals: bool = False) -> tuple[str, int]:
    """A division, checked; returns the quotient as written and where it was known."""

    def attempt(_: int) -> tuple[str, int]:
        upper = on.copy(a)
        on.write("÷")
        lower = on.copy(b)
        on.write(f", about {_two_digits(Fraction(upper // lower))}.\n")
        quotient, left = divide(on, upper, lower, decimals=decimals)
        on.write(f"So {upper}÷{lower}={quotient}")
        if decimals and re.search(r"\.\d\d$", quotient):
            on.write(f", rounded {tenths(Fraction(quotient))}")
        elif left:
            on.write(f" remainder {left}")
        on.write(".\n")
        return quotient, left

    def check(result: tuple[str, int]) -> bool:
        quotient, left = result
        scale = 10 ** len(quotient.partition(".")[2])
        whole = int(quotient.replace(".", ""))
        on.write("Check: ")
        q, d = _residues(on, whole), _residues(on, b)
        rest = _residues(on, left) if left else 0
        total = _product(on, [q, d])
        if left:
            total = _reduced(on, f"{total}+{rest}", total + rest)
        return _verdict(on, total, _residues(on, a * scale), right=whole * b + left == a * scale)

    (quotient, _), known = _until_checked(on, attempt, check)
    return quotient, known


def _meters_per_second(on: Scratch, speed: int) -> int:
    on.write(f"{speed} km/h in m/s: ×10÷36. {speed}×10={10 * speed}.\n")
    return _quotient(on, 10 * speed, 36, decimals=True)[1]


def _decimals(on: Scratch, work: tuple[str, ...]) -> int:
    places = max(len(part.partition(".")[2]) for part in work[::2])
    name = "tenths" if places == 1 else "hundredths"
    whole = tuple(str(int(Fraction(part) * 10**places)) if not at % 2 else part for at, part in enumerate(work))
    on.write(f"{''.join(work)} in {name}: {''.join(whole)}.\n")
    result, _ = _sum(on, whole)
    on.write(f"{result} {name} are {written(Fraction(result, 10**places))}.\n")
    return len(on.text)


def _percent(on: Scratch, percent: int, of: int) -> int:
    shift = 100 if of % 100 == 0 else 10 if of % 10 == 0 else 1
    later = 100 // shift
    on.write(f"{percent}% of {of}: {of}÷{shift}={of // shift}, later ÷{later}.\n")
    result, _ = _sum(on, (str(of // shift), "×", str(percent)))
    on.write(f"÷{later}: {result}÷{later}={written(Fraction(result, later))}.\n")
    return len(on.text)


def _relation(on: Scratch, numbers: list[int]) -> int:
    a, b = numbers
    if max(numbers) > 9:  # noqa: PLR2004 - one digit is known by heart
        width = max(len(str(number)) for number in numbers)
        on.write(f"{a} and {b}.\n")
        sign = compare(on, on.split(a, width), on.split(b, width))
    else:
        sign = relation(a, b)
    if sign != relation(a, b):
        raise UnnoticedSlip
    on.write(f"so {a}{sign}{b}.\n")
    return len(on.text)


def _order(on: Scratch, numbers: list[int], order: str) -> int:
    """Three numbers by name: each comparison has a winner, the order is one of letters, each number then a copy."""
    first = "Smallest" if order == "<" else "Largest"
    on.write(f"{first} first.\n")
    width = max(len(str(number)) for number in numbers)
    digits = []
    for name, number in zip("ABC", numbers, strict=True):
        on.write(f"{name} ")
        digits.append(on.split(number, width))
    wins = [0, 0, 0]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b = numbers[i], numbers[j]
        on.write(f"{'ABC'[i]}, {'ABC'[j]}: ")
        sign = compare(on, digits[i], digits[j])
        if sign != relation(a, b):
            raise UnnoticedSlip
        on.write(f"so {'ABC'[i]}{sign}{'ABC'[j]}.\n")
        wins[i if sign == ">" else j] += 1
    on.write(f"Larger: {', '.join(f'{name} {count}' for name, count in zip('ABC', wins, strict=True))}.\n")
    in_order = sorted(range(3), key=lambda i: numbers[i], reverse=order == ">")
    named = ", ".join(f"{'ABC'[i]} {numbers[i]}" for i in in_order)
    on.write(f"{first} first: {named}.\n")
    on.write(f"So {order.join(str(numbers[i]) for i in in_order)}.\n")
    return len(on.text)
