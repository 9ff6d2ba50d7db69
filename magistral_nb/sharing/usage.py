"""Who uses how much: the values that the proxy writes and the teacher's side reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from magistral_nb.private_file import read_private, write_private
from magistral_nb.processes import Process

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1


@dataclass(slots=True)
class Usage:
    """What one student has used since the first time that the server was shared.

    Attributes:
        requests: questions that were let in.
        refused: questions that were not, for any reason but the key.
        prompt_tokens: of all prompts.
        completion_tokens: of all answers, thinking included.
        last_asked: seconds since the epoch; None has not asked yet.
        running: seats that are taken now.
        waiting: requests that wait now.
    """

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_asked: float | None = None
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a proxy says of itself, in a file next to the server's state.

    Attributes:
        proxy: the process.
        host: address that it listens on.
        port: that it listens on.
        tls: whether what goes over the network is encrypted.
        seats: requests that are answered at once.
        students: usage by name, also of those whose key was revoked.
    """

    proxy: Process
    host: str
    port: int
    tls: bool
    seats: int
    students: dict[str, Usage] = field(default_factory=dict)

    @property
    def running(self) -> int:
        """Seats that are taken."""
        return sum(usage.running for usage in self.students.values())

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(usage.waiting for usage in self.students.values())

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"version": _VERSION} | asdict(self))

    @staticmethod
    def from_json(text: str) -> Report:
        """Read `to_json`'s text.

        Raises:
            ValueError: it is no such text, or of another version.
        """
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.pop("version", None) != _VERSION:
            raise ValueError("no report of this version")
        try:
            students = {name: Usage(**usage) for name, usage in raw.pop("students").items()}
            return Report(Process(**raw.pop("proxy")), students=students, **raw)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"incomplete report: {error}") from error


def path_of(state: Path) -> Path:
    """The report that belongs to this state file."""
    return state.with_suffix(".usage")


def load(path: Path) -> Report | None:
    """The report in this file; None where there is none that can be trusted and read."""
    try:
        return Report.from_json(read_private(path))
    except (FileNotFoundError, ValueError):
        return None


def save(path: Path, report: Report) -> None:
    """Replace the report as a whole."""
    write_private(path, report.to_json())
