"""Handles on servers: ours, found through their state files, and those that we only connect to."""

from __future__ import annotations

import difflib
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from magistral_nb.asking.endpoint import VLLM, Abilities, Endpoint
from magistral_nb.errors import (
    BootFailed,
    InvalidOption,
    NameTaken,
    ServerDied,
    ServerNotFound,
    UnknownModel,
)
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from magistral_nb.answers.answer import Answer
    from magistral_nb.serving.plan import Plan
    from magistral_nb.serving.registry import ServerState

KEY_VARIABLE = "MAGISTRAL_NB_API_KEY"

_TICK_SECONDS = 0.05
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+")  # a name, an address, or an IPv6 address out of its brackets


@dataclass
class _Here:
    """What this process knows beyond the state files."""

    connected: dict[str, Endpoint] = field(default_factory=dict)
    last: str | None = None


_here = _Here()


class Server:
    """A handle on one server; any number of handles may stand for the same one.

    Attributes:
        name: under which it is known.

    Example:
        >>> server = Server("default")
        >>> server.status()  # doctest: +SKIP
        'ready'
    """

    def __init__(self, name: str = "default") -> None:
        """A handle; nothing is started or asked."""
        self.name = registry.check_name(name)

    @property
    def is_ours(self) -> bool:
        """Whether it was started by `serve`, on this machine, and not connected to."""
        return self.name not in _here.connected

    @property
    def endpoint(self) -> Endpoint:
        """Where to ask it.

        Raises:
            ServerNotFound: it is not known, or not ready yet.
            ServerDied: its process is gone.
        """
        if not self.is_ours:
            return _here.connected[self.name]
        state = self._state()
        if state.status == "booting":
            stage = state.stages[-1][0].lower() if state.stages else "starting"
            raise ServerNotFound(
                f"Server {self.name!r} is still booting ({stage}): %magistral_serve waits for it, "
                "%magistral_status looks."
            )
        if state.status == "failed" or state.base_url is None:
            raise ServerDied(
                f"Server {self.name!r} is down ({state.error}): %magistral_logs {self.name} shows more, "
                "%magistral_serve starts it again."
            )
        return Endpoint(
            state.base_url,
            state.plan.model,
            api_key=state.api_key,
            server=self.name,
            context=state.context or state.plan.context,
            system_prompt=state.system_prompt,
            sampling=state.plan.sampling,
            can=VLLM,
        )

    @property
    def base_url(self) -> str | None:
        """Up to and with "/v1"; None before the port is known."""
        return self._state().base_url if self.is_ours else self.endpoint.base_url

    @property
    def api_key(self) -> str | None:
        """The key, for other clients; no repr, log or notebook shows it unless you print it."""
        return self._state().api_key if self.is_ours else self.endpoint.api_key

    @property
    def model(self) -> str:
        """The name that requests carry."""
        return self._state().plan.model if self.is_ours else self.endpoint.model

    @property
    def plan(self) -> Plan | None:
        """How it was booted; None for a server that we only connected to."""
        return self._state().plan if self.is_ours else None

    @property
    def log_path(self) -> str | None:
        """Of the engine's output; None for a server that we only connected to."""
        return self._state().log_path if self.is_ours else None

    def state(self) -> ServerState | None:
        """What its state file says now; None for a server that we only connected to."""
        return self._state() if self.is_ours else None

    def status(self) -> Literal["booting", "ready", "failed", "connected"]:
        """Where it stands now; a process that is gone counts as failed.

        Raises:
            ServerNotFound: it is not known (any more).
        """
        return self._state().status if self.is_ours else "connected"

    def is_alive(self) -> bool:
        """Whether it can answer, now or after its boot; a connected server is taken to."""
        if not self.is_ours:
            return True
        state = registry.load(self.name)
        return state is not None and state.seen().status != "failed"

    def wait(self, timeout: float | None = None, watch: Callable[[ServerState], None] | None = None) -> Server:
        """Wait until it has answered a first question.

        Args:
            timeout: seconds; None waits as long as the boot takes.
            watch: called with the state about twenty times a second.

        Raises:
            BootFailed: with the cause as the log tells it.
            TimeoutError: the boot goes on all the same.
            ServerNotFound: it is not known, or was stopped meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_ours:
            state = self._state()
            if watch is not None:
                watch(state)
            if state.status == "ready":
                break
            if state.status == "failed":
                raise BootFailed(
                    f"Server {self.name!r} did not boot: {state.error}. %magistral_logs {self.name} shows more."
                )
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"Server {self.name!r} is not ready after {timeout:g} s; its boot goes on.")
            time.sleep(_TICK_SECONDS)
        return self

    def stop(self) -> None:
        """End it and all its processes; a server that we only connected to is merely forgotten."""
        from magistral_nb.serving.boot import stop

        if self.is_ours:
            stop(self._state())
        _here.connected.pop(self.name, None)

    def logs(self, lines: int = 50) -> str:
        """The last lines of the engine's log.

        Raises:
            ServerNotFound: it is not known, or was not started here.
            InvalidOption: that is no number of lines.
        """
        if lines < 1:
            raise InvalidOption(f"{lines} lines of a log show nothing: try --lines 50.")
        if not self.is_ours:
            raise ServerNotFound(f"{self.name!r} is a connected server: its log lies where it runs.")
        from pathlib import Path

        path = Path(self._state().log_path)
        if not path.is_file():
            return ""
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def reason(self, question: str, **options: Any) -> Answer:
        """`magistral_nb.reason`, asked of this server."""
        from magistral_nb.asking.reason import reason

        return reason(question, server=self, **options)

    def __repr__(self) -> str:
        """Name, status, model and address; never the key."""
        try:
            return f"<Server {self.name!r}: {self.status()}, {self.model} at {self.base_url}>"
        except ServerNotFound:
            return f"<Server {self.name!r}: stopped>"

    def _state(self) -> ServerState:
        state = registry.load(self.name)
        if state is None:
            raise ServerNotFound(_not_found(self.name))
        return state.seen()


def find_server(server: Server | str | None = None) -> Server:
    """The server that is meant: a handle, a name, or None for the one served or connected last.

    Raises:
        ServerNotFound: there is none.
    """
    if isinstance(server, Server):
        return server
    names = known_names()
    if server is not None:
        if server not in names:
            raise ServerNotFound(_not_found(server))
        return Server(server)
    if _here.last in names:
        return Server(_here.last)
    if not names:
        raise ServerNotFound("No server is running: type %magistral_serve, or %magistral_connect URL.")
    if "default" in names or len(names) == 1:
        return Server("default" if "default" in names else names[0])
    raise ServerNotFound(f"Several servers are known ({', '.join(names)}): name the one you mean.")


def servers() -> list[Server]:
    """Every known server, ours and connected, by name."""
    return [Server(name) for name in known_names()]


def known_names() -> list[str]:
    """Names of all servers that have a state file or were connected to."""
    return sorted({state.name for state in registry.load_all()} | set(_here.connected))


def use(name: str) -> Server:
    """Make a server of ours the one that the next question goes to."""
    _here.connected.pop(name, None)
    _here.last = name
    return Server(name)


def connect(base_url: str, *, api_key: str | None = None, model: str | None = None, name: str = "default") -> Server:
    """Connect to a server that runs already, here or elsewhere.

    Args:
        base_url: such as "http://localhost:11434/v1"; "/v1" is added where it is missing.
        api_key: None takes it from the environment (MAGISTRAL_NB_API_KEY).
        model: one of the server's; None takes its first.
        name: under which it is known here.

    Raises:
        InvalidOption: this is no address.
        NameTaken: a server of ours runs under this name.
        AskFailed: nothing answers there, the key was refused, or it is no OpenAI-compatible server.
        UnknownModel: the server has no such model.

    Example:
        >>> connect("http://localhost:11434/v1", model="magistral")  # doctest: +SKIP
        <Server 'default': connected, magistral at http://localhost:11434/v1>
    """
    from magistral_nb.asking.probe import probe

    ours = registry.load(registry.check_name(name))
    if ours is not None and ours.seen().status != "failed":
        raise NameTaken(
            f"Server {name!r} runs on this machine ({ours.plan.title}): add --name OTHER, or end it with "
            f"%magistral_stop {name}."
        )
    url = _normalised(base_url)
    key = (api_key or os.environ.get(KEY_VARIABLE) or "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidOption(f"The key has characters that no HTTP header can carry: check {KEY_VARIABLE}.")
    found = probe(url, key)
    chosen = _choose_model(url, list(found.models), model)
    _here.connected[name] = Endpoint(
        url, chosen, api_key=key, server=name, context=found.models[chosen], can=VLLM if found.is_vllm else Abilities()
    )
    _here.last = name
    return Server(name)


def _choose_model(url: str, models: list[str], wished: str | None) -> str:
    if not models:
        raise UnknownModel(f"{url} serves no model yet: load one there, then connect again.")
    if wished is None:
        return models[0]
    if wished not in models:
        near = difflib.get_close_matches(wished, models, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(models[:5])}."
        raise UnknownModel(f"{url} has no model {wished!r}: {hint}")
    return wished


def _normalised(base_url: str) -> str:
    text = base_url.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.username is not None:
            raise InvalidOption(f"An address with a password in it would be shown: put the key into {KEY_VARIABLE}.")
        valid = parts.scheme in {"http", "https"} and bool(_HOST.fullmatch(parts.hostname or "")) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidOption(f"{base_url!r} is no address: try %magistral_connect http://localhost:8000/v1.")
    url = parts.geturl().rstrip("/").removesuffix("/chat/completions")
    return url if parts.path.strip("/") else f"{url}/v1"


def _not_found(name: str) -> str:
    names = known_names()
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"No server {name!r} is known: did you mean {near[0]}?"
    known = f"known are {', '.join(names)}" if names else "none is running"
    return f"No server {name!r} is known ({known}): %magistral_serve --name {name} starts one."
