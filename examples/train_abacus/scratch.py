"""The scratch paper: written calculations step by step, now and then with a slip as people make them.

Every step needs only what stands at a known place: numbers are split into places first, a place name finds its
digits again, and each line ends with the result so far, so that the last one is a copy. Text between `SILENT` marks
is read by the model but never learned: those are the slips that only the check will find.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magistral_nb.abacus.generator import relation

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

PLACES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands", "millions")
SILENT = "\x01", "\x02"


class UnnoticedSlip(Exception):
    """A slip that nothing would find: a trace must not end with a wrong result."""


@dataclass
class Scratch:
    """Collects the text and counts the steps at which a slip could happen.

    Attributes:
        rng: decides what a slip looks like.
        noticed: the steps at which a slip is noticed at once and corrected.
        silent: the steps at which one goes unnoticed.
        misjudge: how often the digit of a quotient is first tried too large or too small.
    """

    rng: random.Random
    noticed: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()
    misjudge: float = 0
    parts: list[str] = field(default_factory=list)
    steps: int = 0

    def write(self, text: str) -> None:
        """Put down some text."""
        self.parts.append(text)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)

    def calculate(self, expression: str, result: int, fits: Callable[[int], bool] = lambda v: v >= 0) -> int:
        """Write `expression=result`, perhaps with a slip; returns what the work goes on with."""
        step = self.steps
        self.steps += 1
        wrongs = [result + by for by in (-10, -2, -1, -1, 1, 1, 2, 3, 10) if fits(result + by)]
        if step in self.silent and wrongs:
            wrong = self.rng.choice(wrongs)
            self.write(f"{expression}={SILENT[0]}{wrong}{SILENT[1]}")
            return wrong
        self.write(f"{expression}=")
        if step in self.noticed and wrongs:
            for wrong in dict.fromkeys(self.rng.choices(wrongs, k=self.rng.choice([1, 1, 1, 1, 2]))):
                self.write(f"{wrong}. Wait, {expression}=")
        self.write(f"{result}")
        return result

    def copy(self, number: int) -> int:
        """Copy a number, perhaps with one digit wrong; returns what was written."""
        step = self.steps
        self.steps += 1
        if step in self.silent and number > 9:  # noqa: PLR2004 - one digit is always copied well
            digits = list(str(number))
            at = self.rng.randrange(1, len(digits))
            digits[at] = str((int(digits[at]) + self.rng.choice([1, 2, 8, 9])) % 10)
            number = int("".join(digits))
            self.write(f"{SILENT[0]}{number}{SILENT[1]}")
        else:
            self.write(str(number))
        return number

    def split(self, number: int, width: int) -> list[int]:
        """Write a number by its places; returns the digits, ones first."""
        digits = [int(digit) for digit in reversed(str(number).zfill(width))]
        self.write(f"{number}:")
        for place, digit in enumerate(digits):
            step = self.steps
            self.steps += 1
            if step in self.silent:
                digits[place] = (digit + self.rng.choice([1, 2, 8, 9])) % 10
                self.write(f" {PLACES[place]} {SILENT[0]}{digits[place]}{SILENT[1]}")
            else:
                self.write(f" {PLACES[place]} {digit}")
        self.write("\n")
        return digits


def add(on: Scratch, a: int, b: int, *, header: bool = True) -> int:
    """Column addition of two numbers of at least 0."""
    if max(a, b) < 10:  # noqa: PLR2004 - one digit is known by heart
        result = on.calculate(f"{a}+{b}", a + b)
        on.write("\n")
        return result
    if header:
        on.write(f"{a}+{b}:\n")
    width = max(len(str(a)), len(str(b)))
    upper, lower = on.split(a, width), on.split(b, width)
    carry, done = 0, ""
    for place in range(width):
        on.write(f"{PLACES[place]} ")
        expression = f"{upper[place]}+{lower[place]}" + (f"+{carry}" if carry else "")
        column = on.calculate(expression, upper[place] + lower[place] + carry)
        carry, done = _set_down(on, column, done, last=place == width - 1)
    return int(done)


def compare(on: Scratch, upper: list[int], lower: list[int]) -> str:
    """Compare the digits of two split numbers from the highest place; returns "<", "=" or ">"."""
    for place in reversed(range(len(upper))):
        sign = relation(upper[place], lower[place])
        on.write(f"{PLACES[place]} {upper[place]}{sign}{lower[place]}, ")
        if sign != "=":
            return sign
    return "="


def subtract(on: Scratch, a: int, b: int, *, header: bool = True) -> int:
    """Column subtraction of two numbers of at least 0; the smaller one from the larger, then the sign."""
    if max(a, b) < 10:  # noqa: PLR2004 - one digit is known by heart
        result = on.calculate(f"{a}-{b}", a - b, lambda _: True)
        on.write("\n")
        return result
    if header:
        on.write(f"{a}-{b}:\n")
    width = max(len(str(a)), len(str(b)))
    upper, lower = on.split(a, width), on.split(b, width)
    sign = compare(on, upper, lower)
    if sign == "=":
        on.write("so 0.\n")
        return 0
    if sign == "<":
        on.write(f"so negative: {b}-{a}.\n")
        upper, lower = on.split(b, width), on.split(a, width)
    else:
        on.write("so positive.\n")
    left = _columns(on, upper, lower)
    return -left if sign == "<" else left


def _columns(on: Scratch, upper: list[int], lower: list[int]) -> int:
    """Subtract split numbers, the smaller one from the larger."""
    borrowed, done = 0, ""
    for place in range(len(upper)):
        on.write(f"{PLACES[place]} ")
        rest = f"-{lower[place]}" + (f"-{borrowed}" if borrowed else "")
        column = upper[place] - lower[place] - borrowed
        if column < 0:
            on.write(f"{upper[place]}{rest}<0, ")
        digit = on.calculate(
            f"{upper[place] + 10 * (column < 0)}{rest}", column % 10, lambda v: 0 <= v <= 9  # noqa: PLR2004
        )  # fmt: skip
        borrowed, done = int(column < 0), f"{digit}{done}"
        if borrowed:
            on.write(", borrow 1")
        on.write(f" → {done}\n")
    return int(done)


def multiply(on: Scratch, a: int, b: int, *, header: bool = True) -> int:
    """Long multiplication, from the highest digit of the shorter number, so that the sum soon comes near."""
    if max(a, b) < 10:  # noqa: PLR2004 - one digit is known by heart
        result = on.calculate(f"{a}×{b}", a * b)
        on.write("\n")
        return result
    if len(str(a)) < len(str(b)):
        a, b = b, a
        header = True
    parts = [int(digit) * 10**power for power, digit in enumerate(reversed(str(b))) if digit != "0"][::-1]
    if len(str(b)) > 1 and len(parts) > 1:
        on.write(f"{a}×{b}, {b}={'+'.join(map(str, parts))}.\n")
    elif header:
        on.write(f"{a}×{b}:\n")
    digits = on.split(a, len(str(a)))
    total = 0
    for part in parts or [0]:
        if len(parts) > 1:
            on.write(f"{a}×{part}:\n")
        product = _times(on, digits, part)
        total = add(on, total, product) if part != (parts or [0])[0] else product
    return total


def _times(on: Scratch, digits: list[int], part: int) -> int:
    """The product with one digit and its zeros."""
    factor, done, carry = int(str(part)[0]), str(part)[1:], 0
    for place, digit in enumerate(digits):
        on.write(f"{PLACES[place]} ")
        value = on.calculate(f"{digit}×{factor}", digit * factor)
        if carry:
            on.write(", ")
            value = on.calculate(f"{value}+{carry}", value + carry)
        carry, done = _set_down(on, value, done, last=place == len(digits) - 1)
    return int(done)


def _set_down(on: Scratch, value: int, done: str, *, last: bool) -> tuple[int, str]:
    """Write the result so far with the ones of a place's value before it, or all of it at the last place.

    Returns the carry and the result so far.
    """
    carry, digits = (0, value) if last else divmod(value, 10)
    if carry:
        on.write(f", carry {carry}")
    on.write(f" → {digits}{done}\n")
    return carry, f"{digits}{done}"


def divide(on: Scratch, a: int, b: int, *, decimals: bool = False) -> tuple[str, int]:
    """Long division; returns the quotient as written and the remainder.

    With decimals it goes on to two places, unless nothing is left before.
    """
    digits = on.split(a, len(str(a)))
    done, left = "", 0
    for place in reversed(range(len(digits))):
        done, left = _quotient_digit(on, PLACES[place], 10 * left + digits[place], b, done)
    done = str(int(done))
    for name in ("tenths", "hundredths") if decimals else ():
        if not left:
            break
        done, left = _quotient_digit(on, name, 10 * left, b, done + "." * ("." not in done))
    return done, left


def _quotient_digit(on: Scratch, place: str, now: int, by: int, done: str) -> tuple[str, int]:
    """One digit of a quotient: a guess, made smaller or larger until what is left is less than the divisor."""
    if now < by:
        on.write(f"{place} {now}<{by} → {done}0\n")
        return f"{done}0", now
    on.write(f"{place} {now}÷{by}: ")
    for wrong in _guesses(on, now, by):
        product = _multiple(on, wrong, by)
        if product > now:
            on.write(f">{now}, too much, ")
            continue
        left = _left(on, now, product, by)
        if left != now - product:
            raise UnnoticedSlip
        on.write(f"{'>' if left > by else '='}{by}, too little, ")
    digit = now // by
    left = _left(on, now, _multiple(on, digit, by, lambda v: 0 <= now - v < by), by)
    if not 0 <= left < by:
        raise UnnoticedSlip
    done = f"{done}{digit}"
    on.write(f"<{by} → {done}\n")
    return done, left


def _left(on: Scratch, now: int, product: int, by: int) -> int:
    """What a multiple of the divisor leaves; in columns, unless the divisor is of one digit."""
    on.write(", ")
    if by < 10:  # noqa: PLR2004
        return on.calculate(f"{now}-{product}", now - product, lambda v: 0 <= v < by)
    on.write(f"{now}-{product}:\n")
    width = len(str(now))
    left = _columns(on, on.split(now, width), on.split(product, width))
    on.write(f"{left}")
    return left


def _guesses(on: Scratch, now: int, by: int) -> range:
    """The digits that are tried before the right one.

    A divisor of one digit is known by heart, unless it is misjudged. With two digits the first guess is that of the
    tens, so that every step remains a look-up.
    """
    digit = now // by
    first = digit
    if by > 9:  # noqa: PLR2004 - two digits
        first = min(9, now // 10 // ((by + 5) // 10))
    elif on.rng.random() < on.misjudge:
        first = on.rng.choice([digit - 1, digit + 1])
    first = max(1, min(9, first))
    return range(first, digit, 1 if first < digit else -1)


def _multiple(on: Scratch, digit: int, by: int, fits: Callable[[int], bool] = lambda _: False) -> int:
    """A digit times the divisor, tens and ones apart; only what fits may be a slip."""
    tens, ones = by // 10 * 10, by % 10
    if not tens or not ones:
        return on.calculate(f"{digit}×{by}", digit * by, fits)
    on.write(f"{digit}×{tens}={digit * tens}, {digit}×{ones}={digit * ones}, ")
    return on.calculate(f"{digit * tens}+{digit * ones}", digit * by, fits)
