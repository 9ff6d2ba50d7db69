"""State files: one JSON file per named server, through which any kernel finds a running one again.

A file is 0600 in a 0700 folder, since it holds the server's key, and is only ever replaced as a whole. What it says is
believed only where nobody else can have written it, and is never enough to end a process: see `orphans`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from magistral_nb import paths
from magistral_nb.errors import InvalidOption, MagistralError
from magistral_nb.place import Place, Relation
from magistral_nb.private_file import read_private, write_private
from magistral_nb.processes import Process
from magistral_nb.serving.diagnosis import Diagnosis
from magistral_nb.serving.plan import Plan
from magistral_nb.serving.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSION = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SILENT_SECONDS = 120.0  # a supervisor gives a sign of life every BEAT_SECONDS; a shared disk shows it later
_LOCK_SECONDS = 60.0
BEAT_SECONDS = 15.0

Status = Literal["booting", "ready", "failed", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """All that is known of one server.

    Attributes:
        name: under which people know it.
        status: "ready" only after a first real question was answered; "ended" where it was not a failure.
        plan: how it was booted.
        api_key: 256 random bits; here and in environments, nowhere else.
        log_path: of the engine's output.
        log_begun: bytes in it when the engine was started last: what a download or an engine before it said.
        wished_port: None lets the supervisor find one.
        wished_engine: as `find_engine` takes it.
        terms: on which it runs.
        restarts: how often that was done since it was last ready for a while.
        base_url: "http://127.0.0.1:PORT/v1" once the port is known, "unix:PATH" of a server that can sleep.
        context: tokens, as the server itself says once it is ready.
        system_prompt: the model's own.
        downloads: what the boot needs of the hub, as the words of `download.Fetch`.
        stages: (name, seconds since the boot began) of each stage reached.
        detail: what the running stage says of itself, such as "40%".
        error: one line, when it failed or ended.
        diagnosis: why, as far as the log tells.
        created: seconds since the epoch; tells one boot from the next.
        place: where its processes are.
        starter: the supervisor that began this boot, by which its processes are marked.
        supervisor: the process that owns the engine now.
        engine: vLLM's process and process group.
        proxy: the process that shares it with a class.
    """

    name: str
    status: Status
    plan: Plan
    api_key: str = field(repr=False)
    log_path: str
    log_begun: int = 0
    wished_port: int | None = None
    wished_engine: str | None = None
    terms: Terms = field(default_factory=Terms)
    restarts: int = 0
    base_url: str | None = None
    context: int | None = None
    system_prompt: str | None = None
    downloads: tuple[str, ...] = ()
    stages: tuple[tuple[str, float], ...] = ()
    detail: str = ""
    error: str | None = None
    diagnosis: Diagnosis | None = None
    created: float = 0.0
    place: Place = field(default_factory=Place.here)
    starter: Process | None = None
    supervisor: Process | None = None
    engine: Process | None = None
    proxy: Process | None = None

    def with_(self, **changes: Any) -> ServerState:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def is_alive(self) -> bool:
        """Whether its supervisor or its engine still runs."""
        return any(p is not None and p.is_alive() for p in (self.supervisor, self.engine))

    @property
    def is_down(self) -> bool:
        """Whether it answers no more and will not by itself."""
        return self.status in {"failed", "ended"}

    def seen(self) -> ServerState:
        """The state with its processes looked at: what nobody has written down yet, or is left to write down."""
        if self.is_down:
            return self
        is_supervised = self.supervisor is not None and self.supervisor.is_alive()
        if self.status == "booting":
            return self if is_supervised else self._failed("its supervisor was killed during the boot")
        if self.engine is not None and self.engine.is_alive():
            return self
        if is_supervised and self.terms.restart == "on-failure":
            return self.with_(status="booting", detail="vLLM is gone, and will be started again")
        return self._failed("its vLLM process is gone")

    def _failed(self, error: str) -> ServerState:
        return self.with_(status="failed", error=error)

    def to_json(self) -> str:
        """The state file's text."""
        return json.dumps({"version": _VERSION} | asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> ServerState:
        """Read `to_json`'s text.

        Raises:
            ValueError: it is no such text, or of another version.
        """
        try:
            read = json.loads(text)
        except ValueError as error:
            raise ValueError("it is torn") from error
        raw = _Unshown(read) if isinstance(read, dict) else _Unshown()
        del read
        if raw.pop("version", None) != _VERSION:
            raise ValueError("another version of magistral_nb has written it")
        if unknown := set(raw) - {f.name for f in fields(ServerState)}:
            raise ValueError(f"it has unknown fields, such as {min(unknown)}")
        try:
            for name in ("starter", "supervisor", "engine", "proxy"):
                raw[name] = None if raw.get(name) is None else Process(**raw[name])
                if raw[name] is not None and not (type(raw[name].pid) is int and raw[name].pid > 1):
                    raise ValueError(f"its {name} is no process")  # 0 and -1 would mean groups
            raw["place"] = Place(**raw["place"])
            raw["plan"] = Plan.from_dict(raw["plan"])
            raw["diagnosis"] = None if raw.get("diagnosis") is None else Diagnosis.from_dict(raw["diagnosis"])
            raw["downloads"] = tuple(raw.get("downloads", ()))
            raw["terms"] = Terms.from_dict(raw["terms"])
            raw["stages"] = tuple((k, v) for k, v in raw["stages"])
            return ServerState(**raw)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"it is incomplete: {error}") from error


class _Unshown(dict[str, Any]):
    """A state file's values, which a verbose traceback would print with the key among them."""

    def __repr__(self) -> str:
        return "{…}"


@dataclass(frozen=True, slots=True)
class Unusable:
    """A state file that is not believed.

    Attributes:
        path: of the file.
        why: in a few words.
        elsewhere: a server runs by it, on another machine or in another container.
    """

    path: Path
    why: str
    elsewhere: bool = False


def check_name(name: str) -> str:
    """The name, if it can stand in a file's name.

    Raises:
        InvalidOption: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidOption(
            f"{name!r} cannot name a server: use letters, digits, '.', '_' and '-', such as --name second."
        )
    return name


def path_of(name: str) -> Path:
    """The state file of this server."""
    return paths.servers() / f"{check_name(name)}.json"


def log_path_of(name: str) -> Path:
    """The log of this server."""
    return paths.servers() / f"{check_name(name)}.log"


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Held while a server of this name is looked for and started, so that two kernels start one.

    Raises:
        MagistralError: another kernel holds it for a minute, or the disk knows no locks.
    """
    from filelock import FileLock, Timeout

    path = paths.servers() / f"{check_name(name)}.lock"
    held = FileLock(path, timeout=_LOCK_SECONDS)
    try:
        held.acquire()
    except Timeout:
        raise MagistralError(
            f"Another notebook has been starting or ending server {name!r} for a minute: %magistral_status shows how "
            "far it is."
        ) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) != errno.EROFS:  # where nothing can be written, nobody starts one either
            raise MagistralError(
                f"{path} cannot be locked ({error}): set {paths.HOME_VARIABLE} to a folder on a local disk."
            ) from error
    try:
        yield
    finally:
        held.release()


def load(name: str) -> ServerState | None:
    """The state of this server, None where there is none that can be used, or no folder that may hold one."""
    check_name(name)
    try:
        return read(path_of(name))
    except MagistralError:  # who only asks servers elsewhere needs none
        return None


def read(path: Path) -> ServerState | None:
    """The state in this file, which may be another home's; None where there is none that can be used."""
    found = look(path)
    return found if isinstance(found, ServerState) else None


def load_all() -> list[ServerState]:
    """Every server of this machine that has a usable state file, by name; none where no folder may hold one."""
    try:
        found = sorted(paths.servers().glob("*.json"))
    except MagistralError:
        return []
    return [state for state in map(read, found) if state is not None]


def unusable() -> list[Unusable]:
    """State files that are not believed."""
    return [found for found in map(look, sorted(paths.servers().glob("*.json"))) if isinstance(found, Unusable)]


def elsewhere() -> list[ServerState]:
    """Servers of other machines that share this home, as far as they have given a sign of life lately."""
    found = []
    for path in paths.of_all_nodes("*.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            state = ServerState.from_json(read_private(path))
            if not state.is_down and _relation(state, path) == "elsewhere":
                found.append(state)
    return found


def look(path: Path) -> ServerState | Unusable | None:
    """What is in this file, which may be another home's; None where there is none."""
    try:
        state = ServerState.from_json(read_private(path))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        return Unusable(path, str(error))
    if state.name != path.stem:
        return Unusable(path, f"it is the one of server {state.name!r}")
    relation = _relation(state, path)
    if relation == "elsewhere":
        return Unusable(path, f"its server runs on {state.place.node!r}, out of reach from here", elsewhere=True)
    if relation == "gone":
        down = state if state.is_down else state.with_(status="failed", error="this machine was started again since")
        state = down.with_(supervisor=None, engine=None, proxy=None)
    return state


def _relation(state: ServerState, path: Path) -> Relation:
    here = Place.here()
    return "here" if state.place == here else state.place.seen_from(here, beats=_beats(path))


def _beats(path: Path) -> bool:
    """Whether a supervisor gave a sign of life lately, by the disk's own clock: other machines' may differ."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now.") as now:
            return os.fstat(now.fileno()).st_mtime - path.lstat().st_mtime < _SILENT_SECONDS
    except OSError:  # a full disk: nobody knows
        return True


def save(path: Path, state: ServerState) -> None:
    """Replace the state file as a whole."""
    write_private(path, state.to_json())


def forget(name: str) -> None:
    """Remove the state file of a server that has ended; the log stays, to be read.

    Raises:
        MagistralError: it cannot be removed.
    """
    path = path_of(name)
    try:
        if os.path.lexists(path):  # or a read-only disk would refuse to remove nothing
            path.unlink(missing_ok=True)
    except OSError as error:
        raise MagistralError(
            f"Server {name!r} has ended, but {path} cannot be removed ({error.strerror}): %magistral_stop {name} tries "
            "again."
        ) from error
