"""From a log that ends badly to the cause, the line that shows it, and what to type next. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magistral_nb.serving.failures import REQUESTS, ROOTS, SIGNALS, WRAPPERS
from magistral_nb.serving.log_errors import LogErrors, known_failure, split_line
from magistral_nb.serving.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from magistral_nb.serving.failures import Change, Failure
    from magistral_nb.serving.log_errors import Finding

_LONGEST = 300  # characters of a line that is shown
_LONGEST_FIGURE = 120  # of a part of it within a sentence
_BEFORE, _AFTER = 6, 2  # lines shown around an error that is in no table
_NEAR = 60  # lines among which these are looked for: other processes may have written in between
_BARE = "Leave raw flags and --engine away, if there are any; %magistral_logs shows the log."
_LOGS = "The lines around it say where; %magistral_logs shows the whole log."

_NOISE = re.compile(r" \[type=\w+, input_.*")  # pydantic repeats every argument
_MODULE = re.compile(r"^(?:[a-z_]\w*\.)+(?=[A-Z])")
_UNTOLD = ("", "{}", "internal server error")  # replies that leave the cause to the log
_SHELL = 128  # a shell adds it to the number of the signal that ended its command
_SIGNALS = 64


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a boot failed. Secrets are masked in every text.

    Attributes:
        id: of the failure in the table; "unknown" for an error that is in none.
        cause: what happened and why, in one sentence, with the figures of the log.
        evidence: the line that shows it, without its prefixes, at most 300 characters.
        remedy: what to do, in one line.
        changes: safe ones to what was typed, as `serve_line` takes them; none where none is safe.
        context: the lines around an error that is in no table.
    """

    id: str
    cause: str
    evidence: str
    remedy: str
    changes: tuple[Change, ...] = ()
    context: tuple[str, ...] = ()

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Diagnosis:
        """Read what `dataclasses.asdict` made, as it comes back from JSON.

        Raises:
            KeyError, TypeError: it is no such dictionary.
        """
        changes = tuple((option, value) for option, value in raw["changes"])
        return Diagnosis(**raw | {"changes": changes, "context": tuple(raw["context"])})


def diagnose(lines: Iterable[str], *, exit_code: int | None = None, reply: str | None = None) -> Diagnosis | None:
    """The root of a failed boot; None where nothing tells of one.

    Takes time in proportion to the log: a fifth of a second for 5 MB.

    Args:
        lines: of the log.
        exit_code: of the engine, where it has ended; minus the signal's number where one ended it.
        reply: what the server answered to its first question, where that was an error.

    Example:
        >>> log = ["OSError: [Errno 28] No space left on device", "RuntimeError: Engine core initialization failed."]
        >>> diagnose(log).evidence
        'OSError: [Errno 28] No space left on device'
    """
    kept = list(lines)
    log = LogErrors()
    for number, line in enumerate(kept):
        log.feed(number, line)
    root = _root([found for found in log.findings if not log.was_survived(found)])
    if reply is not None and (told := _of_reply(reply)):
        return told
    if root is None and (ended := _ended(exit_code, log)):
        return _of_signal(*ended)
    found = root or _root(log.findings)  # one after which its process went on, or seemed to, is better than none
    found = found or next((found for found in log.findings if found.points_up), None) or log.message
    if found is None and exit_code:
        found = log.warning
    if found is None:
        return None if reply is None else _refused(reply)
    return _told(found, kept)


def _root(findings: Sequence[Finding]) -> Finding | None:
    """The error that the others follow from.

    It stands above the first exception that points up: from there on all falls down. Of known failures the first is
    the root, as the rest of its chain and the other processes only follow. Of unknown ones it is the first of the last
    chain, since an unknown one further up was mostly survived; where it stands several times, that is its first place.
    """
    points_up = next((found.number for found in findings if found.points_up and found.raised), None)
    causes = [found for found in findings if not found.points_up]
    above = [found for found in causes if points_up is None or found.number < points_up]
    part = above or causes
    if not part:
        return None
    known = next((found for found in part if found.failure is not None), None)
    unknown = next(found for found in part if found.chain == part[-1].chain)
    return known or next(found for found in part if found.text == unknown.text)


def _ended(exit_code: int | None, log: LogErrors) -> tuple[int, str] | None:
    """The signal that ended the engine, and what shows it."""
    if exit_code is not None and (exit_code < 0 or _SHELL < exit_code <= _SHELL + _SIGNALS):
        number = -exit_code if exit_code < 0 else exit_code - _SHELL
        return number, log.signal[1] if log.signal else f"exit code {exit_code}"
    return log.signal


def _of_signal(number: int, evidence: str) -> Diagnosis:
    if number in SIGNALS:
        return _explained(SIGNALS[number], _shown(evidence), {})
    return Diagnosis("signal", f"Signal {number} ended the engine.", _shown(evidence), _LOGS)


def _of_reply(reply: str) -> Diagnosis | None:
    """What the reply itself tells; None where it leaves that to the log."""
    if known := known_failure(reply, (*ROOTS, *REQUESTS)):
        return _explained(known[0], _shown(reply), known[1])
    points_up = known_failure(reply, WRAPPERS)
    return None if points_up or reply.strip().rstrip(".").lower() in _UNTOLD else _refused(reply)


def _refused(reply: str) -> Diagnosis:
    cause = f"The server is up, but answers a question with an error: {_shown(reply).rstrip('.')}."
    return Diagnosis("question_refused", cause, _shown(reply), _BARE)


def _told(found: Finding, kept: Sequence[str]) -> Diagnosis:
    evidence = _shown(found.text)
    if found.failure is not None:
        return _explained(found.failure, evidence, found.figures)
    return Diagnosis("unknown", _MODULE.sub("", evidence), evidence, _LOGS, context=_around(found, kept))


def _explained(failure: Failure, evidence: str, figures: Mapping[str, str | None]) -> Diagnosis:
    shown = {name: _shortened(value.strip(), _LONGEST_FIGURE) for name, value in figures.items() if value}
    cause, remedy = (masked(text.format_map(shown)) for text in (failure.cause, failure.remedy))
    return Diagnosis(failure.id, cause, evidence, remedy, failure.safe_changes(figures))


def _around(found: Finding, kept: Sequence[str]) -> tuple[str, ...]:
    near = range(max(0, found.number - _NEAR), min(len(kept), found.number + _NEAR))
    own = [
        (number, text) for number in near for who, _, text in [split_line(kept[number])] if who == found.who and text
    ]
    at = [number for number, _ in own].index(found.number)
    return tuple(_shortened(_clean(text), _LONGEST) for _, text in own[max(0, at - _BEFORE) : at + _AFTER + 1])


def _shown(text: str) -> str:
    return _shortened(_clean(text).strip(), _LONGEST)


def _clean(text: str) -> str:
    return masked(_NOISE.sub("", text))


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
