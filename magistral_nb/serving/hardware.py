"""What this machine has. Reading it is the only impure thing here; the plan works on the value."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it; memory in bytes.

    Attributes:
        name: as the driver calls it, such as "NVIDIA H100 80GB HBM3".
        total: bytes of memory.
        free: bytes of memory that nobody holds.
        capability: compute capability, (9, 0) for Hopper.
    """

    name: str
    total: int
    free: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine.

    Attributes:
        system: "Linux", "Darwin" or "Windows".
        machine: the processor's architecture, "x86_64" or "aarch64".
        cpus: CPUs that this process may use.
        gpus: in NVML's order, those hidden by CUDA_VISIBLE_DEVICES left out.
    """

    system: str
    machine: str
    cpus: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def title(self) -> str:
        """The machine in a few words.

        Example:
            >>> Hardware("Linux", "x86_64", 2).title
            '2 CPUs, no GPU'
        """
        if not self.gpus:
            return f"{self.cpus} CPUs, no GPU"
        first, count = self.gpus[0], len(self.gpus)
        return f"{'' if count == 1 else f'{count} x '}{first.name}, {first.total / 2**30:.0f} GiB"


def detect() -> Hardware:
    """This machine, as it is now."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(platform.system(), platform.machine(), cpus, _gpus())


def _gpus() -> tuple[Gpu, ...]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, so no GPU that could be used
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_gpu(handle) for handle in _visible(handles, os.environ.get("CUDA_VISIBLE_DEVICES")))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _visible(devices: list[Any], variable: str | None) -> list[Any]:
    """The devices that CUDA_VISIBLE_DEVICES leaves; names by UUID are taken as "all", as they cannot harm."""
    if variable is None:
        return devices
    chosen = [part.strip() for part in variable.split(",") if part.strip()]
    if not all(part.lstrip("-").isdigit() for part in chosen):
        return devices
    shown = []
    for index in map(int, chosen):
        if not 0 <= index < len(devices):  # CUDA ignores this one and all behind it
            break
        shown.append(devices[index])
    return shown


def _gpu(handle: Any) -> Gpu:
    import pynvml

    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    text = name.decode() if isinstance(name, bytes) else name
    return Gpu(text, int(memory.total), int(memory.free), (int(capability[0]), int(capability[1])))
