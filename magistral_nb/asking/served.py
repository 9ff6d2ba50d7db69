"""What becomes of a question when a server of ours goes down: its supervisor knows why, and whether it comes back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magistral_nb.asking.engine_api import EngineApi
from magistral_nb.asking.events import Noted
from magistral_nb.errors import ServerDied, ServerNotFound, Unreachable
from magistral_nb.serving import ending

if TYPE_CHECKING:
    from collections.abc import Generator
    from threading import Event

    from magistral_nb.asking.endpoint import Endpoint
    from magistral_nb.errors import AskFailed, MagistralError
    from magistral_nb.serving.registry import ServerState
    from magistral_nb.serving.server import Server

_TICK_SECONDS = 0.1
_EXPLAIN_SECONDS = 3.0  # a supervisor mostly writes within one of the death
_DYING_SECONDS = 10.0  # vLLM's API server sees only every 5 that its engine has died, and then ends
_RESTARTING = Noted("The server ended and is started again; the question is asked anew.", "the server starts again")


@dataclass(frozen=True, slots=True)
class Served:
    """A server of ours, as it was when a question was sent to it.

    Attributes:
        server: the handle.
        asked: its state then.
    """

    server: Server
    asked: ServerState

    @staticmethod
    def by(server: Server) -> Served | None:
        """As it is now; None for a server that we only connected to."""
        state = server.state()
        return None if state is None else Served(server, state)

    @property
    def is_restarting(self) -> bool:
        """Whether it was being started again."""
        return self.asked.status == "booting"

    def revive(self, error: AskFailed | None, stopped: Event) -> Generator[Noted, None, tuple[Endpoint, Served] | None]:
        """Wait until it has been started again, if it is; see `Keeper`."""
        state = self.asked if error is None else self._after(error, stopped)
        if state is None or state.is_down:
            return None
        yield _RESTARTING
        while state is not None and state.status == "booting" and not stopped.wait(_TICK_SECONDS):
            state = self._look()
        if state is None or state.status != "ready":
            return None
        return self.server.endpoint, Served(self.server, state)

    def explain(self, error: AskFailed, stopped: Event) -> MagistralError:
        """What became of it, as soon as that is written down; see `Keeper`."""
        told = self._told(stopped) if self._may_have_died(error) else None
        if told is None:
            return error
        died = ServerDied(told)
        died.__cause__ = error
        return died

    def _after(self, error: AskFailed, stopped: Event) -> ServerState | None:
        """The state after this failure; None where it tells of no restart."""
        if self.asked.terms.restart != "on-failure" or not self._may_have_died(error):
            return None
        state = self._settled(time.monotonic() + _DYING_SECONDS, stopped)
        return None if state is None or (state.status == "ready" and self._is_as_before(state)) else state

    def _told(self, stopped: Event) -> str | None:
        deadline = time.monotonic() + _EXPLAIN_SECONDS
        if self.asked.plan.wishes.sleepable and self._api().is_sleeping():
            return f"Server {self.asked.name!r} was put to sleep while it answered: ask again, and it wakes."
        is_dying = self._api().has_lost_its_engine()
        state = self._settled(deadline, stopped)
        if state is None:
            return ending.stopped(self.asked)
        if state.is_down:
            return ending.ending(state)
        if state.status == "booting" or not self._is_as_before(state):
            return ending.restarting(state)
        if not is_dying:
            return None
        return ending.restarting(state) if state.terms.restart == "on-failure" else ending.ending(state)

    def _may_have_died(self, error: AskFailed) -> bool:
        """Whether that may be why a question failed; a refusal by a server that is well is a refusal."""
        return isinstance(error, Unreachable) or not self._api().is_healthy()

    def _settled(self, deadline: float, stopped: Event) -> ServerState | None:
        """The state once the supervisor has written down what happened; None where the server is there no more."""
        state = self._look()
        while state is not None and self._is_open(state) and time.monotonic() < deadline:
            if stopped.wait(_TICK_SECONDS):
                break
            state = self._look()
        return state

    def _is_open(self, state: ServerState) -> bool:
        """Whether the supervisor has yet to write down what happened, if anything did."""
        if state.is_down:
            return state.supervisor is not None and state.supervisor.is_alive()
        return self._is_as_before(state)

    def _is_as_before(self, state: ServerState) -> bool:
        """Whether it still has the engine that was asked, dead or alive."""
        return state.engine == self.asked.engine

    def _look(self) -> ServerState | None:
        """The state now; None where it was stopped, or another server has its name."""
        try:
            state = self.server.state()
        except ServerNotFound:
            return None
        return state if state is not None and state.created == self.asked.created else None

    def _api(self) -> EngineApi:
        return EngineApi(self.asked.base_url or "", self.asked.api_key)
