"""vLLM's log lines in, the errors among them out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from signal import Signals
from typing import TYPE_CHECKING, NamedTuple

from magistral_nb.serving.failures import ROOTS, WARNINGS, WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magistral_nb.serving.failures import Failure

    Known = tuple[Failure, Mapping[str, str | None]]

_IN_A_LOG = (*ROOTS, *WRAPPERS)
_LONGEST = 4000  # characters of a line that are read; a line with a whole configuration in it has 3000

# "(EngineCore pid=123) ERROR 11-22 05:50:11 [core.py:1330] ", older "ERROR 06-10 05:50:11 engine.py:389] ", uvicorn's
# "ERROR:    ", torch's "[rank0]: ". One blank follows each; the rest is the text's own indentation.
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WHO = re.compile(r"(?:\(\w[^()]* pid=\d+[^()]*\)|\[rank\d+\]:) ?")
_LEVEL = re.compile(
    r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)"
    r"(?::\s+|(?=\s|$)(?: \d\d-\d\d)?(?: \d\d:\d\d:\d\d)?(?: \[?[\w./-]+:\d+\])? ?)"
)
_PREFIXED = tuple("([DIWEC")
_ANYONE = "anyone"
_QUIET = ("DEBUG", "INFO", "WARNING")
# No errors either: torch's "W1121 23:51:01.8 …", Python's warnings, NCCL's chatter.
_HARMLESS = re.compile(r"\[?[WI]\d{3,4} |\S+:\d+: \w*Warning: |\S+ \[\d+\] NCCL INFO ")
# What is said while all goes down, or to a client that got an error, shows no error to be survived.
_ENDINGS = ("hut", "erminat", "xit", "top", "ill", "los", "bort", "inished", '" 4', '" 5')
_LOADED = ("Model loading took", "model weights took")

_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r"\s{4}|\s+(?:File \"|[\^|+~])")
_CHAINED = ("The above exception was the direct cause", "During handling of the above exception")
_IGNORED = "Exception ignored"
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:: |$)")  # behind the frames of a traceback
_RAISING = ("Error: ", "error: ", "Exception: ", "Interrupt: ", "Exit: ", "what(): ")
# Every known failure has one of these in its line: looking for them first makes a long log cheap.
_HINTS = (
    "rror",
    "xcept",
    "ail",
    "No",
    "not",
    "died",
    "ill",
    "legal",
    "Seg",
    "ccess",
    "atal",
    "valid",
    "issing",
    "ported",
)
_VALIDATION = re.compile(r"validation errors? for \w+$")  # pydantic's: what is wrong stands on the next line

_CODE = re.compile(r"(?:Failed core proc\(s\): \{[^}]*?|died unexpectedly \(exit code): -(\d+)")
_CRASH = re.compile(
    r"(?P<SIGKILL>\bKilled$)|(?P<SIGILL>Illegal instruction)|(?P<SIGSEGV>Segmentation fault|Segfault encountered)"
    r"|(?P<SIGBUS>Bus error)|(?P<SIGABRT>Fatal Python error: Aborted)"
)


class Line(NamedTuple):
    """A line of the log without its prefixes; `who` is the process, as it calls itself, or nothing."""

    who: str
    level: str
    text: str


def split_line(line: str) -> Line:
    """A line's process, level and text.

    Example:
        >>> split_line("(EngineCore pid=7) ERROR 11-22 05:50:11 [core.py:1330]     raise ValueError")
        Line(who='(EngineCore pid=7)', level='ERROR', text='    raise ValueError')
    """
    who, level = "", ""
    text = _ANSI.sub("", line[:_LONGEST]) if "\x1b" in line else line[:_LONGEST]
    text = text.rstrip()
    while text.startswith(_PREFIXED) and (match := _WHO.match(text) or _LEVEL.match(text)):
        who, level = (who, match[1]) if match.re is _LEVEL else (match[0].rstrip(), level)
        text = text[match.end() :]
    return Line(who, level, text)


@dataclass(slots=True)
class Finding:
    """An error in a log.

    Attributes:
        number: of its line.
        who: the process that wrote it.
        chain: equal for exceptions of which one led to the other.
        text: the line, without its prefixes.
        raised: it is an exception, and no mere line of text.
        failure: the known one that it is.
        figures: what the failure's pattern caught.
    """

    number: int
    who: str
    chain: int
    text: str
    raised: bool = True
    failure: Failure | None = None
    figures: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def points_up(self) -> bool:
        """Whether it only says that there is a cause further up."""
        return self.failure in WRAPPERS


def known_failure(text: str, failures: Sequence[Failure], *, loaded: bool = True) -> Known | None:
    """The first of the failures that the text tells of, and what its pattern caught.

    Args:
        text: a line without prefixes, or a reply.
        failures: to look for.
        loaded: whether the weights were loaded by then.

    Example:
        >>> known_failure("OSError: [Errno 28] No space left on device", ROOTS)[0].id
        'disk_full'
    """
    for failure in failures:
        if failure.loaded is None or failure.loaded is loaded:
            for pattern in failure.patterns:
                if match := pattern.search(text):
                    return failure, match.groupdict()
    return None


class LogErrors:
    """Follows a log line by line and keeps its errors.

    Attributes:
        findings: errors, known and unknown, in the log's order.
        message: the last line that calls itself an error and is no exception.
        warning: the last known warning.
        signal: the number of the signal that ended a process, and the line that tells.

    Example:
        >>> log = LogErrors()
        >>> log.feed(0, "(EngineCore pid=7) ERROR 11-22 05:50:11 [core.py:1510] ValueError: cheese")
        >>> log.findings[0].text, log.was_survived(log.findings[0])
        ('ValueError: cheese', False)
    """

    def __init__(self) -> None:
        """Nothing has been logged yet."""
        self.findings: list[Finding] = []
        self.message: Finding | None = None
        self.warning: Finding | None = None
        self.signal: tuple[int, str] | None = None
        self._progress: dict[str, int] = {}  # the line that shows that a process went on after an error
        self._loaded = False
        self._chains = 0
        self._open: dict[str, int] = {}  # in a traceback, whose chain has this number
        self._last: dict[str, int] = {}  # the chain of a process's last exception
        self._chained: set[str] = set()  # the next traceback belongs to it
        self._ignored: set[str] = set()  # the next traceback does not count
        self._unsaid: dict[str, Finding] = {}  # the next line says what was wrong
        self._seen: dict[tuple[str, bool], Known | None] = {}

    def feed(self, number: int, line: str) -> None:
        """Take in the next line."""
        who, level, text = split_line(line)
        if level in _QUIET or _HARMLESS.match(text):
            self._quiet(number, who, level, text)
        elif text and not self._is_frame(who, text):
            self._loud(number, who, level, text)

    def was_survived(self, finding: Finding) -> bool:
        """Whether the process went on after it; whose line it is nobody knows where it has no prefix."""
        who = finding.who if finding.raised and finding.who else _ANYONE
        return finding.number < self._progress.get(who, -1)

    def _quiet(self, number: int, who: str, level: str, text: str) -> None:
        if level == "INFO":
            self._loaded = self._loaded or any(words in text for words in _LOADED)
            if self.findings and not any(word in text for word in _ENDINGS):
                self._progress[who] = self._progress[_ANYONE] = number
        elif level == "WARNING" and (known := known_failure(text, WARNINGS)):
            self.warning = Finding(number, who, 0, text, failure=known[0], figures=known[1])

    def _is_frame(self, who: str, text: str) -> bool:
        """Whether the line belongs to a traceback and is not what it ends with."""
        if _TRACEBACK in text:
            self._open[who] = self._last[who] if who in self._chained & self._last.keys() else self._next_chain()
            self._chained.discard(who)
        elif text.startswith(_CHAINED):
            self._chained.add(who)
        elif text.startswith(_IGNORED):
            self._ignored.add(who)
        else:
            return _FRAME.match(text) is not None
        return True

    def _loud(self, number: int, who: str, level: str, text: str) -> None:
        known = None
        if any(hint in text for hint in _HINTS):
            known = self._known(text)
            if self._tells_of_a_signal(text) and known is None:
                return
        raised = any(mark in text for mark in _RAISING) or (who in self._open and bool(_RAISED.match(text)))
        unsaid = self._unsaid.pop(who, None)
        if raised and who in self._ignored:
            self._ignored.discard(who)
            self._open.pop(who, None)
        elif raised or known:
            chain = self._last[who] = self._open.get(who) or self._next_chain()
            finding = Finding(number, who, chain, text, raised, *(known or ()))
            self.findings.append(finding)
            if raised:
                self._open.pop(who, None)
            if known is None and _VALIDATION.search(text):
                self._unsaid[who] = finding
        elif unsaid is not None:
            unsaid.text = f"{unsaid.text}: {text.strip()}"
        elif level:
            self.message = Finding(number, who, 0, text, raised=False)

    def _tells_of_a_signal(self, text: str) -> bool:
        if code := _CODE.search(text):
            self.signal = int(code[1]), text
        elif crash := _CRASH.search(text):
            self.signal = Signals[str(crash.lastgroup)].value, text
        return bool(code or crash)

    def _known(self, text: str) -> Known | None:
        key = text, self._loaded  # errors repeat: each process of many prints the same one
        if key not in self._seen:
            self._seen[key] = known_failure(text, _IN_A_LOG, loaded=self._loaded)
        return self._seen[key]

    def _next_chain(self) -> int:
        self._chains += 1
        return self._chains
