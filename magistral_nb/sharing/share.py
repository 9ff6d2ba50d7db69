"""What was decided about sharing one server with a class. Values only."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_nb.errors import InvalidOption
from magistral_nb.serving.plan import last_value

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

CLASS_SIZE = 30  # students where nobody says how many

_LARGEST_CLASS = 999
_SEATS = 8  # requests at once where the plan leaves them to vLLM, as on a CPU
_NAME = re.compile(r"\w[\w .@'-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How one server is shared.

    The defaults let a student keep one stream of 100 tokens a second for ever, and end a thought after three minutes
    at 45 tokens a second.

    Attributes:
        students: names, to each of which a key belongs.
        host: address to listen on; 127.0.0.1 is for hubs and tunnels, 0.0.0.0 for the same network.
        port: None finds a free one, and keeps it over a restart.
        cert: file of the TLS certificate (PEM), absolute in the end; None serves without TLS.
        certkey: file of the certificate's key, likewise; None where the certificate's own file holds it.
        at_once: requests that are answered at once in all; None takes as many as vLLM has memory for.
        per_student: requests of one student that are answered at once.
        max_tokens: completion tokens of one request at most, thinking included.
        tokens_per_minute: completion tokens of one student, with one minute's worth to begin with; four tokens of a
            prompt count as one.
        prompt_tokens: of one request at most.

    Raises:
        InvalidOption: a number is not above 0, a name cannot be one or stands there twice, there is none, or a key
            stands there without its certificate.

    Example:
        >>> Share(students=("ada", "ben"), host="0.0.0.0").has_tls
        False
    """

    students: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int | None = None
    cert: str | None = None
    certkey: str | None = None
    at_once: int | None = None
    per_student: int = 2
    max_tokens: int = 8192
    tokens_per_minute: int = 6000
    prompt_tokens: int = 8192

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("at_once", "per_student", "max_tokens", "tokens_per_minute", "prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOption(f"{_option(name)} is {value}, but it is a number above 0.")
        if self.certkey is not None and self.cert is None:
            raise InvalidOption("--share-certkey belongs to a certificate: add --share-cert FILE.")
        object.__setattr__(self, "students", _checked(self.students))
        for name in ("cert", "certkey"):
            if (file := getattr(self, name)) is not None:  # the proxy has another working folder
                object.__setattr__(self, name, str(Path(file).expanduser().absolute()))

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Share:
        """Read what `dataclasses.asdict` made, as it comes back from JSON.

        Raises:
            TypeError: it is no such dictionary.
        """
        try:
            return Share(**raw | {"students": tuple(raw["students"])})
        except InvalidOption as error:
            raise TypeError(str(error)) from error

    @staticmethod
    def typed(chosen: argparse.Namespace) -> Share | None:
        """What was typed: the --share options of `options.serve_options`; None where nothing is to be shared.

        Raises:
            InvalidOption: the students make no sense, or --share itself is missing.
        """
        limits = [field.name for field in fields(Share) if field.name != "students"]
        given = {name: value for name in limits if (value := getattr(chosen, f"share_{name}")) is not None}
        if chosen.share is None:
            if given:
                raise InvalidOption(f"{_option(next(iter(given)))} says how to share: add --share, too.")
            return None
        if chosen.model is None and re.fullmatch(r"[^,\d][^,]*", chosen.share):
            raise InvalidOption(
                f"--share {chosen.share}: is that the model? Then write it before --share. A single student is written "
                f"--share {chosen.share}, with the comma."
            )
        return Share(students=students_of(chosen.share), **given)

    def words(self) -> list[str]:
        """What would have to be typed behind %magistral_serve to share like this.

        Example:
            >>> Share(students=students_of("30"), max_tokens=4096).words(), Share(students=("ada",)).words()
            (['--share', '30', '--share-max-tokens', '4096'], ['--share', 'ada,'])
        """
        size = len(self.students)
        numbered = self.students == tuple(f"student-{each:02d}" for each in range(1, size + 1))
        words = ["--share", str(size) if numbered else ",".join(self.students) + "," * (size == 1)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "students" and value != field.default:
                words += [_option(field.name), str(value)]
        return words

    @property
    def has_tls(self) -> bool:
        """Whether what goes over the network is encrypted."""
        return self.cert is not None

    def seats(self, argv: Sequence[str], *, context: int, kv_tokens: int | None) -> int:
        """Requests that are answered at once.

        As many as the largest that this share allows find room in the KV cache together: more would be put back by
        vLLM in the middle of an answer, and computed again.

        Args:
            argv: of the vLLM.
            context: in tokens, which no request exceeds.
            kv_tokens: that its KV cache holds; None does not know yet.

        Example:
            >>> share, argv = Share(students=("ada",)), ["vllm", "serve", "--max-num-seqs", "64"]
            >>> [share.seats(argv, context=40_960, kv_tokens=tokens) for tokens in (593_488, 33_760, None)]
            [36, 2, 64]
        """
        if self.at_once is not None:
            return self.at_once
        planned = last_value(argv, "--max-num-seqs") or ""
        seats = int(planned) if planned.isdecimal() and int(planned) else _SEATS
        if kv_tokens is None:
            return seats
        return max(1, min(seats, kv_tokens // min(self.prompt_tokens + self.max_tokens, context)))


def students_of(text: str) -> tuple[str, ...]:
    """The names that were typed, or as many as were asked for.

    Raises:
        InvalidOption: a name that cannot be one, or one that stands there twice.

    Example:
        >>> students_of("3"), students_of("ada, ben")
        (('student-01', 'student-02', 'student-03'), ('ada', 'ben'))
    """
    if text.strip().isdecimal():
        number = int(text)
        if not 0 < number <= _LARGEST_CLASS:
            raise InvalidOption(f"--share {text}: a class has 1 to {_LARGEST_CLASS} students.")
        return tuple(f"student-{each:02d}" for each in range(1, number + 1))
    return _checked(name for part in text.split(",") if (name := " ".join(part.split())))


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    """The names.

    Raises:
        InvalidOption: one of them cannot be a name, or stands there twice, or there is none.
    """
    names = tuple(names)
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidOption(f"{name!r} cannot name a student: use letters, digits and . _ - @ ' such as ada,ben.")
        if names.count(name) > 1:
            raise InvalidOption(f"{name!r} stands there twice: each student has one key, so each needs another name.")
    if not names:
        raise InvalidOption("Nobody is named: write a number, such as 30, or names, such as ada,ben.")
    return names


def _option(name: str) -> str:
    return f"--share-{name.replace('_', '-')}"
