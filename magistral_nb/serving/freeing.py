"""Waiting until a GPU's memory is free again: a driver gives it back a moment after the process has ended."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from magistral_nb.processes import members
from magistral_nb.serving.plan import after_stopping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.plan import Plan

_PATIENCE_SECONDS = 20.0
_TICK_SECONDS = 0.1
_ENOUGH = 0.9  # of the memory that is expected: a driver keeps some, and what is in use is told in round figures


@contextlib.contextmanager
def freed(plan: Plan, group: int) -> Iterator[None]:
    """Wait, once the block has ended a server, until its GPUs' memory is free; without a GPU for nothing.

    Args:
        plan: that the server runs by.
        group: its process group.
    """
    if not plan.devices:
        yield
        return
    from magistral_nb.serving import hardware

    expected = after_stopping(hardware.detect(), plan, {process.pid for process in members(group)})
    yield
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _is_free(hardware.detect(), expected, plan) and time.monotonic() < deadline:
        time.sleep(_TICK_SECONDS)


def _is_free(now: Hardware, expected: Hardware, plan: Plan) -> bool:
    free = {gpu.uuid: gpu.free for gpu in now.gpus}
    return all(free.get(gpu.uuid, gpu.total) >= _ENOUGH * gpu.free for gpu in expected.gpus if gpu.uuid in plan.devices)
