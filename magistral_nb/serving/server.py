"""Handles on servers: ours, found through their state files, and those that we only connect to."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from magistral_nb.asking.endpoint import VLLM, Endpoint
from magistral_nb.asking.engine_api import EngineApi
from magistral_nb.errors import (
    AskFailed,
    BootFailed,
    InvalidOption,
    MagistralError,
    ServerDied,
    ServerNotFound,
)
from magistral_nb.serving import registry
from magistral_nb.serving.ending import boot_failure, ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from magistral_nb.answers.answer import Answer
    from magistral_nb.answers.answers import Answers
    from magistral_nb.serving.connecting import Survey
    from magistral_nb.serving.plan import Plan
    from magistral_nb.serving.registry import ServerState

_TICK_SECONDS = 0.05

Status = Literal["booting", "ready", "sleeping", "failed", "ended", "connected"]


@dataclass(frozen=True, slots=True)
class _Connected:
    endpoint: Endpoint
    survey: Survey


@dataclass
class _Here:
    """What this process knows beyond the state files."""

    connected: dict[str, _Connected] = field(default_factory=dict)
    prices: dict[tuple[str, float], float] = field(default_factory=dict)  # by name and when it was created
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
        """Where to ask it; while it is being started again, where it was before.

        Raises:
            ServerNotFound: it is not known, or was not ready yet.
            ServerDied: its process is gone.
        """
        if not self.is_ours:
            return _here.connected[self.name].endpoint
        state = self._state()
        # Its context is what it told when it was ready; where its port is lost, the next one is known in a moment.
        if state.status == "booting" and None in (state.context, state.base_url):
            stage = state.stages[-1][0].lower() if state.stages else "starting"
            raise ServerNotFound(
                f"Server {self.name!r} is still booting ({stage}): %magistral_serve waits for it, "
                "%magistral_status looks."
            )
        if state.is_down or state.base_url is None:
            raise ServerDied(ending(state))
        return Endpoint(
            state.base_url,
            state.plan.model,
            api_key=state.api_key,
            server=self.name,
            context=state.context or state.plan.context,
            system_prompt=state.system_prompt,
            sampling=state.plan.sampling,
            can=replace(VLLM, sleeps=state.plan.wishes.sleepable),
            price_per_hour=_here.prices.get((self.name, state.created), state.terms.price_per_hour),
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

    @property
    def survey(self) -> Survey | None:
        """What was found out when it was connected to; None for a server of ours."""
        return None if self.is_ours else _here.connected[self.name].survey

    def state(self) -> ServerState | None:
        """What its state file says now; None for a server that we only connected to."""
        return self._state() if self.is_ours else None

    def status(self) -> Status:
        """Where it stands now; a process that is gone counts as failed, and what was ended for a reason as ended.

        Raises:
            ServerNotFound: it is not known (any more).
        """
        return status_of(self.state())

    def is_alive(self) -> bool:
        """Whether it can answer, now or after its boot; a connected server is taken to."""
        if not self.is_ours:
            return True
        state = registry.load(self.name)
        return state is not None and not state.seen().is_down

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
            if state.is_down:
                raise BootFailed(boot_failure(state))
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"Server {self.name!r} is not ready after {timeout:g} s; its boot goes on.")
            time.sleep(_TICK_SECONDS)
        return self

    def stop(self) -> str | None:
        """End it and all its processes; a server that we only connected to is merely forgotten.

        Returns:
            A line where a GPU's memory is still held after some seconds.

        Raises:
            ServerNotFound: it is not known.
            MagistralError: it runs on another machine, or hangs in the system.
        """
        from magistral_nb.asking.client import close_clients
        from magistral_nb.serving.tending import stop

        if self.is_ours:
            found = registry.look(registry.path_of(self.name))
            if found is None:
                raise ServerNotFound(_not_found(self.name))
            held = stop(self.name)
            if isinstance(found, registry.ServerState) and found.base_url is not None:
                close_clients(found.base_url)
            return held
        close_clients(_here.connected.pop(self.name).endpoint.base_url)
        return None

    def sleep(self) -> None:
        """Give its GPU's memory to other work; the weights wait in the machine's own, and a question wakes it.

        Raises:
            InvalidOption: it was not served with sleepable=True.
            AskFailed: it does not.
        """
        if not self._engine_api().sleep():
            raise AskFailed(f"Server {self.name!r} does not go to sleep: %magistral_logs {self.name} shows why.")

    def wake(self) -> None:
        """Take its GPU's memory back.

        Raises:
            InvalidOption: it was not served with sleepable=True.
            AskFailed: it does not, as where other work holds the memory.
        """
        if not self._engine_api().wake():
            raise AskFailed(
                f"Server {self.name!r} does not wake: is its GPU's memory free? %magistral_logs {self.name} shows why."
            )

    def _engine_api(self) -> EngineApi:
        if not self.is_ours or not self._state().plan.wishes.sleepable:
            raise InvalidOption(f"Server {self.name!r} cannot sleep: serve it with --sleepable.")
        endpoint = self.endpoint
        return EngineApi(endpoint.base_url, endpoint.api_key or "")

    def logs(self, lines: int = 50) -> str:
        """The last lines of the engine's log, secrets masked.

        Raises:
            ServerNotFound: it is not known, or was not started here.
            InvalidOption: that is no number of lines.
        """
        if lines < 1:
            raise InvalidOption(f"{lines} lines of a log show nothing: try --lines 50.")
        if not self.is_ours:
            raise ServerNotFound(f"{self.name!r} is a connected server: its log lies where it runs.")
        from pathlib import Path

        from magistral_nb.serving.log_file import tail
        from magistral_nb.serving.masking import masked

        path = Path(self._state().log_path)
        return masked("\n".join(tail(path, 0)[-lines:])) if path.is_file() else ""

    @overload
    def reason(self, question: str, *, samples: Literal[1] = 1, **how: Any) -> Answer: ...

    @overload
    def reason(self, question: str, *, samples: int, **how: Any) -> Answer | Answers: ...

    def reason(self, question: str, *, samples: int = 1, **how: Any) -> Answer | Answers:
        """`magistral_nb.reason`, asked of this server."""
        from magistral_nb.asking.reason import reason

        return reason(question, server=self, samples=samples, **how)

    def __repr__(self) -> str:
        """Name, status, model and address; never the key."""
        try:
            return f"<Server {self.name!r}: {self.status()}, {self.model} at {self.base_url}>"
        except MagistralError:
            return f"<Server {self.name!r}: stopped>"

    def _state(self) -> ServerState:
        found = registry.look(registry.path_of(self.name))
        if found is None:
            raise ServerNotFound(_not_found(self.name))
        if isinstance(found, registry.Unusable):
            raise ServerNotFound(
                f"{found.path} is not to be believed ({found.why}): "
                + ("end it there." if found.elsewhere else f"%magistral_stop {self.name} ends what runs by it.")
            )
        return found.seen()


def find_server(server: Server | str | None = None) -> Server:
    """The server that is meant: a handle, a name, or None for the one served or connected last.

    Where none was by this process, the one that is up, or "default".

    Raises:
        ServerNotFound: there is none.
    """
    if isinstance(server, Server):
        return server
    names = known_names()
    if server is not None:
        if server not in names and registry.look(registry.path_of(server)) is None:
            raise ServerNotFound(_not_found(server))
        return Server(server)
    if _here.last in names:
        return Server(_here.last)
    if not names:
        raise ServerNotFound("No server is running: type %magistral_serve, or %magistral_connect URL.")
    names = [name for name in names if Server(name).is_alive()] or names
    if "default" in names or len(names) == 1:
        return Server("default" if "default" in names else names[0])
    raise ServerNotFound(f"Several servers are known ({', '.join(names)}): name the one you mean.")


def servers() -> list[Server]:
    """Every known server, ours and connected, by name."""
    return [Server(name) for name in known_names()]


def known_names() -> list[str]:
    """Names of all servers that have a state file or were connected to."""
    return sorted({state.name for state in registry.load_all()} | set(_here.connected))


def status_of(state: ServerState | None) -> Status:
    """Where a server stands by this state, a moment after it was read; one without a state we only connected to."""
    if state is None:
        return "connected"
    if state.status != "ready" or not state.plan.wishes.sleepable or state.base_url is None:
        return state.status
    return "sleeping" if EngineApi(state.base_url, state.api_key).is_sleeping() else "ready"


def use(name: str) -> Server:
    """Make a server of ours the one that the next question goes to."""
    _here.connected.pop(name, None)
    _here.last = name
    return Server(name)


def set_price(state: ServerState, price_per_hour: float) -> None:
    """Reckon with this price for as long as the process and the server last: its supervisor writes the state file."""
    _here.prices[state.name, state.created] = price_per_hour


def adopt(endpoint: Endpoint, survey: Survey) -> Server:
    """Know a server that was connected to, and make it the one that the next question goes to."""
    _here.connected[endpoint.server] = _Connected(endpoint, survey)
    _here.last = endpoint.server
    return Server(endpoint.server)


def _not_found(name: str) -> str:
    names = known_names()
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"No server {name!r} is known: did you mean {near[0]}?"
    if away := [state.place.node for state in registry.elsewhere() if state.name == name]:
        return f"Server {name!r} runs on {away[0]!r}, which shares this home but not its servers: ask it there."
    known = f"known are {', '.join(names)}" if names else "none is running"
    return f"No server {name!r} is known ({known}): %magistral_serve --name {name} starts one."
