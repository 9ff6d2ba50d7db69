"""What this machine has. Reading it is the only impure thing here; the plan works on the value."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_nb.serving import trouble
from magistral_nb.serving.devices import Device, hidden_by, number_of, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_PID_NAMESPACE = Path("/proc/self/ns/pid")
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # the machine's own, fixed in Linux (PROC_PID_INIT_INO); a container has another


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a GPU.

    Attributes:
        pid: process id.
        name: the process's; "?" where it may not be read.
        bytes: of the GPU's memory; None where NVML does not tell, as on Windows.
        ours: whether it is this notebook's kernel or was started by it.

    """

    pid: int
    name: str
    bytes: int | None
    ours: bool = False

    @property
    def title(self) -> str:
        """Who it is and what it holds, in a few words.

        Example:
            >>> Holder(4711, "python3", 3 * 2**30, ours=True).title
            'this notebook, 3.0 GiB'
            >>> Holder(815, "Xorg", None).title
            'Xorg (process 815)'
        """
        who = "this notebook" if self.ours else f"{self.name} (process {self.pid})"
        return who if self.bytes is None else f"{who}, {self.bytes / 2**30:.1f} GiB"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG slice of one, as NVML sees it; memory in bytes, None for what NVML does not tell.

    Attributes:
        name: as the driver calls it, such as "NVIDIA H100 80GB HBM3".
        total: bytes of memory; the machine's RAM where the GPU has none of its own (GB10).
        free: bytes of memory that nobody holds.
        capability: compute capability, (9, 0) for Hopper; (0, 0) where NVML does not tell.
        uuid: "GPU-…", of a slice "MIG-…": names it in CUDA_VISIBLE_DEVICES whatever the order.
        index: NVML's and nvidia-smi's; a slice has its card's. Cards that a cgroup hides count there.
        place: the number that CUDA knows it by under CUDA_DEVICE_ORDER=PCI_BUS_ID; None for a slice without one.
        by_uuid: whether vLLM finds it by its UUID, where it reads UUIDs at all.
        mig: whether it is a slice; memory and holders are then its own.
        linked: UUIDs of the others in `Hardware.gpus` that NVLink reaches, directly or through an NVSwitch.
        power_watts: drawn now, in watts.
        power_limit_watts: at which the card slows down, in watts.
        temperature: of the chip, in °C.
        utilisation: percent of the last moments (1/6 to 1 s) in which something was computed.
        holders: who holds memory, the largest first.
        holders_known: whether `holders` is everyone. False where NVML refuses the list, and in a container, which
            does not see the processes outside.
    """

    name: str
    total: int
    free: int
    capability: tuple[int, int]
    uuid: str = ""
    index: int = 0
    place: int | None = 0
    by_uuid: bool = True
    mig: bool = False
    linked: tuple[str, ...] = ()
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature: int | None = None
    utilisation: int | None = None
    holders: tuple[Holder, ...] = ()
    holders_known: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine.

    Attributes:
        system: "Linux", "Darwin" or "Windows".
        machine: the processor's architecture, "x86_64" or "aarch64".
        cpus: CPUs that this process may use.
        gpus: as CUDA enumerates them, what CUDA_VISIBLE_DEVICES or Slurm hides left out.
        memory: bytes of RAM that this process may use: the machine's, or its cgroup's limit where that is lower.
        driver: NVIDIA's, such as "570.86.15".
        cuda: the newest CUDA that the driver runs, (12, 8).
        trouble: what is wrong with the driver or a card and what to do, in one line; None where nothing is.
        hidden_by: the variable that leaves none of the GPUs, such as "CUDA_VISIBLE_DEVICES=-1".
        nvcc: whether CUDA's compiler is here, which FlashInfer makes its kernels with while vLLM boots.
    """

    system: str
    machine: str
    cpus: int
    gpus: tuple[Gpu, ...] = ()
    memory: int = 0
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    trouble: str | None = None
    hidden_by: str | None = None
    nvcc: bool = True

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
    """This machine, as it is now; what is wrong with its GPUs is told in `trouble`, not raised."""
    import pynvml

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = Hardware(platform.system(), platform.machine(), cpus, memory=_memory(), nvcc=_has_nvcc())
    try:
        pynvml.nvmlInit()
        try:
            return _with_gpus(here)
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return replace(here, trouble=trouble.of_driver(error))


def _has_nvcc() -> bool:
    """Whether it is where FlashInfer looks for it (its jit/cpp_ext.py)."""
    toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if toolkit is None and shutil.which("nvcc"):
        return True
    return shutil.which(Path(toolkit or "/usr/local/cuda", "bin", "nvcc")) is not None


def _memory() -> int:
    import psutil

    limits = _memory_limits(trouble.text_of(Path("/proc/self/cgroup")), Path("/sys/fs/cgroup"))
    return min((psutil.virtual_memory().total, *limits))


def _memory_limits(groups: str, root: Path) -> Iterator[int]:
    """The limits, in bytes, of a process's cgroup and of those around it: each of them holds.

    Args:
        groups: what /proc/<pid>/cgroup says: version 2 as "0::/path", version 1 as "4:memory:/path". In a container
            the path may be the host's; then the root alone is there, and has the container's limit.
        root: where cgroups are mounted.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            limit = trouble.text_of(folder / name)
            if limit.isdecimal():  # and not "max"
                yield int(limit)
            if folder == base:
                break


def _with_gpus(here: Hardware) -> Hardware:
    """`here` with all that NVML tells between its start and its end."""
    import pynvml

    driver, cuda = _ask(pynvml.nvmlSystemGetDriverVersion), _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    handles, troubles = _open()
    read: list[tuple[Any, Gpu]] = []
    devices, cards = list(handles), {each.index for each in handles.values()}
    for device in visible(devices, os.environ, driver):
        found = handles[device]
        try:
            gpu = _read(device, found, here.memory)
        except pynvml.NVMLError as error:
            troubles.append(trouble.of_card(found.index, error))
        else:
            # From 0.24 on vLLM asks NVML for the number of a UUID's device and then for the card of that number, though
            # a slice's number counts within its card (its platforms/cuda.py, and nvmlDeviceGetIndex).
            known = bool(device.uuid) and (device.slot is None or device.slot in cards)
            read.append((found.own, replace(gpu, place=number_of(device, devices), by_uuid=known)))
    return replace(
        here,
        gpus=tuple(replace(gpu, linked=_linked(handle, read)) for handle, gpu in read),
        driver=driver,
        cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None,  # 12080 is 12.8
        trouble=troubles[0] if troubles else None,
        hidden_by=hidden_by(devices, os.environ),
    )


@dataclass(frozen=True, slots=True)
class _Handles:
    """NVML's handles of a device and of its card, which are one but for a slice; and NVML's index of the card."""

    own: Any
    card: Any
    index: int


def _open() -> tuple[dict[Device, _Handles], list[str]]:
    """All devices that this process may open, and what is wrong with the others."""
    import pynvml

    opened: dict[Device, _Handles] = {}
    troubles = []
    place = 0
    count = pynvml.nvmlDeviceGetCount()
    for index in range(count):
        try:
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError_NoPermission:  # hidden by a cgroup: CUDA does not count it either
            continue
        except pynvml.NVMLError as error:
            troubles.append(trouble.of_card(index, error))
            continue
        uuid = _ask(pynvml.nvmlDeviceGetUUID, card) or ""
        mode = _ask(pynvml.nvmlDeviceGetMigMode, card)
        if mode and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            slices = {device: _Handles(own, card, index) for device, own in _slices(card, place, uuid)}
            if not slices:
                troubles.append(
                    f"GPU {index} is in MIG mode and has no slice that this process may use: whoever runs this machine "
                    f"makes one with sudo nvidia-smi mig -i {index} -cgi 0 -C."
                )
            opened |= slices
        else:
            opened[Device(place, uuid, uuid)] = _Handles(card, card, index)
        place += 1
    if count and not place and not troubles:
        troubles.append(
            "This process may open none of the machine's GPUs: a Slurm job asks for one with --gres=gpu:1; elsewhere "
            "ls -l /dev/nvidia* shows which group may."
        )
    return opened, troubles


def _slices(card: Any, place: int, uuid: str) -> Iterator[tuple[Device, Any]]:
    import pynvml

    for number in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, card) or 0):
        own = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, card, number)
        if own is not None:  # most places are empty
            instance = (_ask(pynvml.nvmlDeviceGetGpuInstanceId, own), _ask(pynvml.nvmlDeviceGetComputeInstanceId, own))
            yield Device(place, uuid, _ask(pynvml.nvmlDeviceGetUUID, own) or "", instance, number), own


def _read(device: Device, handles: _Handles, ram: int) -> Gpu:
    """One GPU's figures.

    Raises:
        NVMLError: not even its memory can be read.
    """
    import psutil
    import pynvml

    handle = handles.own
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError_NotSupported:  # it shares the machine's
        total, free = ram, min(ram, psutil.virtual_memory().available)
    # A slice has no capability of its own, and NVML refuses it power, temperature and utilisation.
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handles.card) or (0, 0)
    power = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    holders, known = _holders(handle)
    return Gpu(
        name=_ask(pynvml.nvmlDeviceGetName, handle) or f"NVIDIA GPU {handles.index}",
        total=total,
        free=free,
        capability=(int(capability[0]), int(capability[1])),
        uuid=device.uuid,
        index=handles.index,
        mig=device.instance is not None,
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
        temperature=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        utilisation=None if rates is None else int(rates.gpu),
        holders=holders,
        holders_known=known,
    )


def _linked(handle: Any, others: Iterable[tuple[Any, Gpu]]) -> tuple[str, ...]:
    """Whom NVLink reaches: the driver's own judgement, which vLLM goes by as well.

    The links themselves tell less: behind an NVSwitch their far end is the switch's PCI address, not a card's.
    """
    import pynvml

    return tuple(
        gpu.uuid
        for other, gpu in others
        if other is not handle
        and _ask(pynvml.nvmlDeviceGetP2PStatus, handle, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
        == pynvml.NVML_P2P_STATUS_OK
    )


def _holders(handle: Any) -> tuple[tuple[Holder, ...], bool]:
    """Who holds memory, and whether that is everyone."""
    import psutil
    import pynvml

    compute = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if compute is None:
        return (), False
    graphics = _ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    shared = _ask(pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle) or []
    held: dict[int, int | None] = {}
    for process in (*compute, *graphics, *shared):  # one may stand in two of them; 0 is how some drivers say "not told"
        held[process.pid] = held.get(process.pid) or process.usedGpuMemory or None
    contained = _PID_NAMESPACE.exists() and _PID_NAMESPACE.stat().st_ino != _FIRST_PID_NAMESPACE
    # Older drivers tell a container the host's process ids, which here are nobody's or, worse, another's; newer ones
    # translate them and leave out the processes outside.
    if contained and not all(psutil.pid_exists(pid) for pid in held):
        return (), False
    holders = (_holder(pid, size) for pid, size in held.items())
    return tuple(sorted(holders, key=lambda holder: -(holder.bytes or 0))), not contained


def _holder(pid: int, size: int | None) -> Holder:
    import psutil

    try:
        process = psutil.Process(pid)
        ours = os.getpid() in (pid, *(parent.pid for parent in process.parents()))
        return Holder(pid, process.name(), size, ours)
    except psutil.Error:  # it has ended, or is hidden from this user
        return Holder(pid, "?", size)


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers, None where it refuses: a figure that a card lacks must not cost the card."""
    import pynvml

    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None
