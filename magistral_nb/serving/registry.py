"""State files: one JSON file per named server, through which any kernel finds a running one again.

A file is 0600 in a 0700 folder, since it holds the server's key, and is only ever replaced as a whole.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from magistral_nb import paths
from magistral_nb.errors import InvalidOption
from magistral_nb.processes import Process
from magistral_nb.serving.diagnosis import Diagnosis
from magistral_nb.serving.plan import Plan
from magistral_nb.sharing.share import Share

_VERSION = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Status = Literal["booting", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """All that is known of one server.

    Attributes:
        name: under which people know it.
        status: "ready" only after a first real question was answered.
        plan: how it was booted.
        api_key: 256 random bits; here and in environments, nowhere else.
        log_path: of the engine's output.
        wished_port: None lets the supervisor find one.
        wished_engine: as `find_engine` takes it.
        base_url: "http://127.0.0.1:PORT/v1" once the port is known.
        context: tokens, as the server itself says once it is ready.
        system_prompt: the model's own.
        price_per_hour: of the machine, in any currency; None was not told.
        downloads: what the boot needs of the hub, as the words of `download.Fetch`.
        stages: (name, seconds since the boot began) of each stage reached.
        detail: what the running stage says of itself, such as "40%".
        error: one line, when failed or died.
        diagnosis: why, as far as the log tells.
        created: seconds since the epoch.
        supervisor: the process that owns the engine.
        engine: vLLM's process and process group.
        share: how it is shared with a class; None is this user's alone.
    """

    name: str
    status: Status
    plan: Plan
    api_key: str = field(repr=False)
    log_path: str
    wished_port: int | None = None
    wished_engine: str | None = None
    base_url: str | None = None
    context: int | None = None
    system_prompt: str | None = None
    price_per_hour: float | None = None
    downloads: tuple[str, ...] = ()
    stages: tuple[tuple[str, float], ...] = ()
    detail: str = ""
    error: str | None = None
    diagnosis: Diagnosis | None = None
    created: float = 0.0
    supervisor: Process | None = None
    engine: Process | None = None
    share: Share | None = None

    def with_(self, **changes: Any) -> ServerState:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def is_alive(self) -> bool:
        """Whether its supervisor or its engine still runs."""
        return any(p is not None and p.is_alive() for p in (self.supervisor, self.engine))

    def seen(self) -> ServerState:
        """The state with its processes looked at: what nobody is left to write down counts as failed."""
        if self.status == "booting" and self.supervisor is not None and not self.supervisor.is_alive():
            return self.with_(status="failed", error="its supervisor was killed during the boot")
        if self.status == "ready" and (self.engine is None or not self.engine.is_alive()):
            return self.with_(status="failed", error="its vLLM process is gone")
        return self

    def to_json(self) -> str:
        """The state file's text."""
        return json.dumps({"version": _VERSION} | asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> ServerState:
        """Read `to_json`'s text.

        Raises:
            ValueError: it is no such text, or of another version.
        """
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.pop("version", None) != _VERSION:
            raise ValueError("no server state of this version")
        if unknown := set(raw) - {f.name for f in fields(ServerState)}:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        try:
            for name in ("supervisor", "engine"):
                raw[name] = None if raw.get(name) is None else Process(**raw[name])
            raw["plan"] = Plan.from_dict(raw["plan"])
            raw["diagnosis"] = None if raw.get("diagnosis") is None else Diagnosis.from_dict(raw["diagnosis"])
            raw["downloads"] = tuple(raw.get("downloads", ()))
            raw["share"] = None if raw.get("share") is None else Share.from_dict(raw["share"])
            raw["stages"] = tuple((k, v) for k, v in raw["stages"])
            return ServerState(**raw)
        except (KeyError, TypeError) as error:
            raise ValueError(f"incomplete server state: {error}") from error


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


def lock(name: str) -> FileLock:
    """Held while a server of this name is looked for and started, so that two kernels start one."""
    return FileLock(paths.servers() / f"{check_name(name)}.lock", timeout=60)


def load(name: str) -> ServerState | None:
    """The state of this server, None where there is none that can be read."""
    return read(path_of(name))


def read(path: Path) -> ServerState | None:
    """The state in this file, which may be another home's; None where there is none that can be read."""
    try:
        return ServerState.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def save(path: Path, state: ServerState) -> None:
    """Replace the state file as a whole; nobody ever reads half of one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(state.to_json())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_all() -> list[ServerState]:
    """Every server that has a readable state file, by name."""
    states = map(read, sorted(paths.servers().glob("*.json")))
    return [state for state in states if state is not None]


def forget(name: str) -> None:
    """Remove the state file; the log stays, to be read."""
    path_of(name).unlink(missing_ok=True)
