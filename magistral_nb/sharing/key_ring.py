"""One key per student, in a file next to the server's state."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from magistral_nb.errors import InvalidOption, MagistralError
from magistral_nb.private_file import read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_VERSION = 1
_BYTES = 32  # of randomness: 256 bits
# Stand around the keys, since a verbose traceback prints both ends of a long text.
_BEFORE, _AFTER = "Keys of a class, one for each student.", "Whoever has one of these can ask as that student."


class KeyRing:
    """The keys of a class; no repr shows them.

    Example:
        >>> ring = KeyRing({"ada": "a-key"})
        >>> ring.student_of("a-key"), ring.student_of("another"), ring
        ('ada', None, <KeyRing of ada>)
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Keys by student, in the order in which they are shown."""
        self.keys: dict[str, str] = dict(zip(keys, map(_Key, keys.values()), strict=True))
        self._digests = [(_digest(key), student) for student, key in self.keys.items()]

    def student_of(self, key: str) -> str | None:
        """Whose key this is; how long it takes does not tell how near a wrong one was."""
        given, found = _digest(key), None
        for digest, student in self._digests:
            if hmac.compare_digest(given, digest):
                found = student
        return found

    def with_students(self, names: Iterable[str]) -> KeyRing:
        """With a new key for whoever has none."""
        new = {name: _Key(secrets.token_urlsafe(_BYTES)) for name in names if name not in self.keys}
        return KeyRing(self.keys | new)

    def of(self, names: Iterable[str]) -> KeyRing:
        """With keys for these and nobody else; whoever has one keeps it."""
        ring = self.with_students(names)
        return KeyRing({name: ring.keys[name] for name in names})

    def without(self, name: str) -> KeyRing:
        """Without this student's key."""
        return KeyRing({student: key for student, key in self.keys.items() if student != name})

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"version": _VERSION, "about": _BEFORE, "keys": self.keys, "beware": _AFTER}, indent=1)

    def to_text(self) -> str:
        """Names and keys in lines, to be handed out."""
        width = max(map(len, self.keys))
        # Nothing that shows a key has a name, for a verbose traceback shows that.
        return "\n".join([_BEFORE, *(f"{name:<{width}}  {key}" for name, key in self.keys.items()), _AFTER, ""])

    @staticmethod
    def from_json(text: str) -> KeyRing:
        """Read `to_json`'s text.

        Raises:
            ValueError: it is no such text, or of another version.
        """
        raw = json.loads(text, object_hook=_Unshown)
        if not isinstance(raw, dict) or raw.get("version") != _VERSION or not isinstance(raw.get("keys"), dict):
            raise ValueError("no keys of this version")
        if set(map(type, raw["keys"].values())) - {str} or not all(raw["keys"].values()):
            raise ValueError("a student without a key")
        return KeyRing(raw["keys"])

    def __repr__(self) -> str:
        """The students, never the keys."""
        return f"<KeyRing of {', '.join(self.keys) or 'nobody'}>"


class _Key(str):
    """A key, which a verbose traceback would print wherever a variable has it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "…"


class _Unshown(dict[str, Any]):
    """Keys as they were read, likewise."""

    def __repr__(self) -> str:
        return "{…}"


def path_of(state: Path) -> Path:
    """The file of keys that belongs to this state file."""
    return state.with_suffix(".keys")


def load(path: Path) -> KeyRing:
    """The keys in this file; none where there is no file.

    Raises:
        MagistralError: it is not this user's alone, or holds no keys.
    """
    try:
        return KeyRing.from_json(read_private(path))
    except FileNotFoundError:
        return KeyRing({})
    except ValueError as error:
        raise MagistralError(
            f"{path} is not to be believed ({error}): remove it, then %magistral_share --add NAMES."
        ) from error


def begin(path: Path, names: Iterable[str]) -> KeyRing:
    """Give a class its keys: whoever of these had one keeps it, and those of everybody else end.

    Raises:
        MagistralError: the file cannot be trusted.
    """
    with _lock(path):
        ring = load(path).of(names)
        write_private(path, ring.to_json())
    return ring


def add(path: Path, names: Iterable[str]) -> KeyRing:
    """Give a key to each of these who has none; a proxy that runs knows them before its next request.

    Raises:
        MagistralError: the file cannot be trusted.
    """
    with _lock(path):
        ring = load(path).with_students(names)
        write_private(path, ring.to_json())
    return ring


def revoke(path: Path, name: str) -> None:
    """Take a student's key away; what runs with it ends within a second.

    Raises:
        InvalidOption: nobody of this name has one.
        MagistralError: the file cannot be trusted.
    """
    with _lock(path):
        ring = load(path)
        if name not in ring.keys:
            raise InvalidOption(f"{name!r} has no key: %magistral_share shows who has one.")
        write_private(path, ring.without(name).to_json())


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".keys.lock"), timeout=10)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
