"""A running server's metrics over the last minutes, and what they advise."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING

from magistral_nb.errors import AskFailed
from magistral_nb.serving import advice, hardware, metrics

if TYPE_CHECKING:
    from magistral_nb.serving.advice import Advice
    from magistral_nb.serving.metrics import Metrics
    from magistral_nb.serving.plan import Plan
    from magistral_nb.serving.server import Server

_KEPT_SECONDS = 120.0  # a queue that grows shows within a minute or two
_APART = 0.5  # seconds between two readings where there is only one: some advice needs to see a change

# By name and boot, as long as this process lasts.
_seen: defaultdict[tuple[str, float], deque[Metrics]] = defaultdict(deque)


def advise(server: Server) -> tuple[Advice, ...]:
    """What to change about a server that is busy; nothing where its metrics cannot be had.

    Takes half a second where a busy server is looked at for the first time, and a few milliseconds otherwise.
    """
    state = server.state()
    if state is None or state.status != "ready":
        return ()
    history = _seen[state.name, state.created]
    try:
        _look(server, history)
        if len(history) == 1 and not history[0].is_idle:
            time.sleep(_APART)
            _look(server, history)
    except AskFailed:
        return ()
    plan = state.plan
    capacity = advice.Capacity(plan.max_num_seqs, state.context or plan.context, len(plan.devices))
    return advice.advise(history, capacity, _utilisation(plan))


def _look(server: Server, history: deque[Metrics]) -> None:
    now = metrics.read(server.endpoint)
    history.append(now)
    while history[0].when < now.when - _KEPT_SECONDS:
        history.popleft()


def _utilisation(plan: Plan) -> float | None:
    """Percent, the mean of the plan's GPUs."""
    if not plan.devices:
        return None
    told = [gpu.utilisation for gpu in hardware.detect().gpus if gpu.uuid in plan.devices]
    known = [each for each in told if each is not None]
    return sum(known) / len(known) if known else None
