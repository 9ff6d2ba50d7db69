"""A running server's metrics over the last minutes, and what they advise."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING

from magistral_nb.errors import AskFailed, ServerDied, ServerNotFound
from magistral_nb.serving import advice, hardware, metrics
from magistral_nb.serving.memory import LARGEST_SHARE, share_of
from magistral_nb.serving.placement import alike
from magistral_nb.serving.plan import last_value
from magistral_nb.serving.serve_line import typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.serving.advice import Advice, Capacity
    from magistral_nb.serving.hardware import Gpu
    from magistral_nb.serving.metrics import Metrics
    from magistral_nb.serving.plan import Plan
    from magistral_nb.serving.registry import ServerState
    from magistral_nb.serving.server import Server

_KEPT_SECONDS = 120.0  # a queue that grows shows within a minute or two
_APART = 0.5  # seconds between two readings where there is only one: some advice needs to see a change

# By name and boot, as long as this process lasts.
_seen: defaultdict[tuple[str, float], deque[Metrics]] = defaultdict(deque)


def advise(server: Server) -> tuple[Advice, ...]:
    """What to change about a server that is busy; nothing where its metrics cannot be had.

    Takes half a second where a busy server is looked at for the first time, and a few milliseconds otherwise.
    """
    try:
        state = server.state()
        if state is None or state.status != "ready":
            return ()
        history = _seen[state.name, state.created]
        _look(server, history)
        if len(history) == 1 and not history[0].is_idle:
            time.sleep(_APART)
            _look(server, history)
    except (AskFailed, ServerDied, ServerNotFound):  # or stopped meanwhile
        return ()
    gpus = hardware.detect().gpus if state.plan.devices else ()
    return advice.advise(history, _capacity(state, gpus), _utilisation(state.plan, gpus))


def _look(server: Server, history: deque[Metrics]) -> None:
    now = metrics.read(server.endpoint)
    history.append(now)
    while history[0].when < now.when - _KEPT_SECONDS:
        history.popleft()


def _capacity(state: ServerState, gpus: tuple[Gpu, ...]) -> Capacity:
    plan = state.plan
    copies = plan.wishes.data_parallel
    return advice.Capacity(
        max_num_seqs=_max_num_seqs(plan.argv),
        context=state.context or plan.context,
        typed=typed(state),
        gpus=0 if plan.wishes.ray else len(plan.devices) // copies,
        copies=copies,
        gpus_here=_gpus_here(plan, gpus),
    )


def _max_num_seqs(argv: Sequence[str]) -> int | None:
    """Requests at once; None where vLLM chooses."""
    found = last_value(argv, "--max-num-seqs")
    return int(found) if found is not None and found.isdecimal() else None


def _gpus_here(plan: Plan, gpus: tuple[Gpu, ...]) -> int:
    """How many GPUs could share the plan's model: its own, and those of their kind from which a plan would take all."""
    kin = next((group for group in alike(gpus) if any(gpu.uuid in plan.devices for gpu in group)), [])
    return sum(gpu.uuid in plan.devices or share_of(gpu) >= LARGEST_SHARE for gpu in kin)


def _utilisation(plan: Plan, gpus: tuple[Gpu, ...]) -> float | None:
    """Percent, the mean of the plan's GPUs."""
    told = [gpu.utilisation for gpu in gpus if gpu.uuid in plan.devices]
    known = [each for each in told if each is not None]
    return sum(known) / len(known) if known else None
