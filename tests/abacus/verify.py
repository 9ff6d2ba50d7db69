"""Read a trace as a strict teacher does: every equation in it is true, or called a slip."""

from __future__ import annotations

import re
from fractions import Fraction

_EQUATION = re.compile(
    r"(?<![\d.×+÷-])(-?[\d.]+(?:[-+×÷(]+[\d.]+\)?)+)(=|<|≠)"
    r"(-?(?:[\d.]*\d|\([\d+]+\))(?:[-+][\d]+)*)"
)


def value(expression: str) -> Fraction:
    """What an expression comes to, by another way than the package's."""
    python = re.sub(r"\d+(?:\.\d+)?", lambda number: f"Fraction('{number[0]}')", expression)
    return eval(python.replace("×", "*").replace("÷", "/"), {"Fraction": Fraction})


def false_equations(text: str) -> list[str]:
    """Equations that are wrong, and not taken back by a "Wait" at once."""
    return [
        match[0]
        for match in _EQUATION.finditer(text)
        if not _holds(match) and not text.startswith((". Wait", " remainder", ", rounded"), match.end())
    ]


def _holds(match: re.Match[str]) -> bool:
    try:
        left, right = value(match[1]), value(match[3])
    except (SyntaxError, ValueError, ZeroDivisionError, TypeError):  # a model may write anything
        return False
    return {"=": left == right, "<": left < right, "≠": left != right}[match[2]]


def last_verdict(text: str) -> str | None:
    """What the last check line says: "good", "slip", or None where nothing was checked."""
    verdicts = re.findall(r"^Check: .*(good|slip)", text, re.MULTILINE)
    return verdicts[-1] if verdicts else None


def false_checks(text: str) -> list[str]:
    """Check lines that claim what is not so: their residues, their verdict, or the numbers they check."""
    false = []
    for line in re.findall(r"^Check: .*$", text, re.MULTILINE):
        sums = all(_cast_out(number) == steps for number, steps in re.findall(r"(\d+) → ([\d,]+);", _plain(line)))
        verdict = re.search(r"(\d)([=≠])(\d), (good\.|a slip)", line)
        if not (verdict and sums):
            false.append(line)
            continue
        left, sign, right, said = verdict.groups()
        if (left == right) != (sign == "=") or (sign == "=") != (said == "good."):
            false.append(line)
    return false


def _plain(line: str) -> str:
    """Without `7+6=13 → 4`, which is no number with its digits."""
    return re.sub(r"[\d+×]+=\d+( → \d)?;", "", line)


def _cast_out(number: str) -> str:
    total, steps = 0, []
    for digit in number:
        total = (total + int(digit)) % 9
        steps.append(str(total))
    return ",".join(steps)


def without_slips(text: str) -> str:
    """The trace as the model reads it."""
    return text.replace("\x01", "").replace("\x02", "")


def attempts(text: str) -> list[str]:
    """What stands between the checks that found a slip, the good attempt last."""
    return re.split(r"a slip\. (?:Again|Once more|I stop here)\.\n", without_slips(text))
