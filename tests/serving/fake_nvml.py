"""NVML without a driver: pynvml's functions answer from cards that a test describes; its errors are pynvml's own."""

# ruff: noqa: N802 - the names are pynvml's

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

GIB = 2**30
NVLINK = pynvml.NVML_P2P_CAPS_INDEX_NVLINK


@dataclass(eq=False)
class FakeCard:
    """A card, or a MIG slice of one; also its own handle.

    Attributes:
        memory: total and free bytes.
        power: now and at most, in milliwatts.
        compute, graphics, shared: process id to bytes of the GPU's memory; None is what pynvml makes of "not told".
        slices: None with MIG off; with MIG on a list, None in it for an empty place.
        instance: a slice's GPU instance and compute instance.
        linked: the cards that NVLink reaches.
        refuses: names of functions, without "nvmlDeviceGet", and the error that each ends in.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
    memory: tuple = (80 * GIB, 79 * GIB)
    capability: tuple = (9, 0)
    power: tuple = (71_250, 700_000)
    temperature: int = 34
    utilisation: int = 0
    compute: dict = field(default_factory=dict)
    graphics: dict = field(default_factory=dict)
    shared: dict = field(default_factory=dict)
    slices: list | None = None
    instance: tuple | None = None
    linked: list = field(default_factory=list)
    refuses: dict = field(default_factory=dict)


# What a slice has no figure of its own for.
_NOT_OF_SLICES = dict.fromkeys(
    ("CudaComputeCapability", "PowerUsage", "EnforcedPowerLimit", "Temperature", "UtilizationRates"),
    pynvml.NVML_ERROR_NOT_SUPPORTED,
)


def fake_slice(gpu_instance, compute_instance=0, **other):
    """A seventh of an H100."""
    uuid = f"MIG-{gpu_instance:04d}{compute_instance:04d}-bc46-5f33-9f2a-08d5c3a2a9e8"
    return FakeCard(
        **{
            "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "uuid": uuid,
            "memory": (10 * GIB, 9 * GIB),
            "instance": (gpu_instance, compute_instance),
            "refuses": dict(_NOT_OF_SLICES),
            **other,
        }
    )


def cards(count, **same):
    """So many whole cards that differ in their UUIDs."""
    return [FakeCard(uuid=f"GPU-{number}932f937-d72c-4106-c12f-20bd9faed9f6", **same) for number in range(count)]


class FakeNvml:
    """The library; `install` puts it in the place of the real one.

    Args:
        cards: in NVML's order; an error's number for a card that NVML does not hand out.
        driver: its version.
        cuda: as NVML writes it, 12080 for 12.8.
        refuses: names of functions, without "nvml", and the error that each ends in.
    """

    def __init__(self, *found, driver="570.86.15", cuda=12080, refuses=None):
        self.cards, self.driver, self.cuda, self.refuses = found, driver, cuda, refuses or {}
        self.calls = Counter()
        self.open = 0

    def install(self, monkeypatch):
        """A function that pynvml does not have is an error here: the double cannot know more than the package."""
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, self._checked(name))
        return self

    def _checked(self, name):
        answer = getattr(self, name)

        def call(*arguments):
            self.calls[name] += 1
            if not self.open and name != "nvmlInit":
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
            refusals = dict(self.refuses)
            for each in arguments:
                if isinstance(each, FakeCard):
                    refusals |= {f"DeviceGet{what}": error for what, error in each.refuses.items()}
            if name.removeprefix("nvml") in refusals:
                raise pynvml.NVMLError(refusals[name.removeprefix("nvml")])
            return answer(*arguments)

        return call

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self):
        return self.cuda

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        card = self.cards[index]
        if isinstance(card, int):
            raise pynvml.NVMLError(card)
        return card

    def nvmlDeviceGetUUID(self, card):
        return card.uuid

    def nvmlDeviceGetName(self, card):
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card):
        total, free = card.memory
        return SimpleNamespace(total=total, free=free, used=total - free)

    def nvmlDeviceGetCudaComputeCapability(self, card):
        return card.capability

    def nvmlDeviceGetPowerUsage(self, card):
        return card.power[0]

    def nvmlDeviceGetEnforcedPowerLimit(self, card):
        return card.power[1]

    def nvmlDeviceGetTemperature(self, card, sensor):
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return card.temperature

    def nvmlDeviceGetUtilizationRates(self, card):
        return SimpleNamespace(gpu=card.utilisation, memory=0)

    def nvmlDeviceGetMigMode(self, card):
        mode = pynvml.NVML_DEVICE_MIG_DISABLE if card.slices is None else pynvml.NVML_DEVICE_MIG_ENABLE
        return [mode, mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7 if card.slices is not None else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        if index >= len(card.slices) or card.slices[index] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.slices[index]

    def nvmlDeviceGetGpuInstanceId(self, part):
        return part.instance[0]

    def nvmlDeviceGetComputeInstanceId(self, part):
        return part.instance[1]

    def nvmlDeviceGetP2PStatus(self, card, other, what):
        if card.instance or other.instance:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        reached = what == NVLINK and (other is card or other in card.linked)
        return pynvml.NVML_P2P_STATUS_OK if reached else pynvml.NVML_P2P_STATUS_NOT_SUPPORTED

    def nvmlDeviceGetComputeRunningProcesses(self, card):
        return _processes(card.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, card):
        return _processes(card.graphics)

    def nvmlDeviceGetMPSComputeRunningProcesses(self, card):
        return _processes(card.shared)


def _processes(held):
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in held.items()]
