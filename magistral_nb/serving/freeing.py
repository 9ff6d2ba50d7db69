"""Waiting until a GPU's memory is free again: a driver gives it back a moment after the process has ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magistral_nb.processes import members
from magistral_nb.serving.plan import after_stopping

if TYPE_CHECKING:
    from collections.abc import Collection

    from magistral_nb.serving.hardware import Gpu
    from magistral_nb.serving.plan import Plan

_PATIENCE_SECONDS = 20.0
_TICK_SECONDS = 0.1
_ENOUGH = 0.9  # of the memory that is expected: a driver keeps some, and what is in use is told in round figures


@dataclass(frozen=True, slots=True)
class Freeing:
    """What a server's GPUs will have free once it has ended.

    Attributes:
        expected: these GPUs, as they will be.
    """

    expected: tuple[Gpu, ...]

    @staticmethod
    def of(plan: Plan, groups: Collection[int]) -> Freeing:
        """Look at the GPUs while the server still runs; without a GPU at nothing.

        Args:
            plan: that the server runs by.
            groups: its process groups.
        """
        if not plan.devices or not groups:
            return Freeing(())
        from magistral_nb.serving import hardware

        pids = {process.pid for group in groups for process in members(group)}
        after = after_stopping(hardware.detect(), plan, pids)
        return Freeing(tuple(gpu for gpu in after.gpus if gpu.uuid in plan.devices))

    def wait(self) -> str | None:
        """Wait, now that it has ended, until the memory is free; a line that tells where it is not."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (lines := self._held()) and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
        return " ".join(lines) or None

    def _held(self) -> list[str]:
        if not self.expected:
            return []
        from magistral_nb.serving import hardware

        free = {gpu.uuid: gpu.free for gpu in hardware.detect().gpus}
        return [
            f"{gpu.name} has {free[gpu.uuid] / 2**30:.1f} GiB free where {gpu.free / 2**30:.1f} were expected: "
            "nvidia-smi shows who holds the rest."
            for gpu in self.expected
            if free.get(gpu.uuid, gpu.total) < _ENOUGH * gpu.free
        ]
