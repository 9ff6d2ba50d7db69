"""Which cards and MIG slices CUDA enumerates: the rules of CUDA_VISIBLE_DEVICES, of Slurm and of MIG. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from magistral_nb.serving.hardware import Gpu

# The first driver with which a process sees more than one MIG slice, and whole cards beside them (NVIDIA's MIG User
# Guide, "CUDA Device Enumeration").
_MANY_SLICES = 570
_OF_JOB = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")  # a step is narrower than its job


@dataclass(frozen=True, slots=True)
class Device:
    """What CUDA can enumerate, a card or a MIG slice, by its names alone.

    Attributes:
        place: the card's among those that this process may open, from 0.
        card: the card's UUID.
        uuid: its own; a card's is `card`.
        instance: a slice's GPU instance and compute instance; None for a whole card.
        slot: a slice's number in its card, as NVML counts; None for a whole card.
    """

    place: int
    card: str
    uuid: str
    instance: tuple[int, int] | None = None
    slot: int | None = None


def visible(devices: Sequence[Device], environment: Mapping[str, str], driver: str | None = None) -> list[Device]:
    """What CUDA enumerates of `devices` in this environment, in its order.

    A number is taken as the card's in nvidia-smi, as CUDA's guide has it ("Environment Variables"), which is by PCI
    bus. CUDA itself counts so only under CUDA_DEVICE_ORDER=PCI_BUS_ID: its default, the fastest first by a heuristic
    that is not published, differs where the cards do. Whoever starts an engine sets that order, or names UUIDs.

    Args:
        devices: by place, the slices of one card side by side.
        environment: of the process.
        driver: NVIDIA's, as in `Hardware`; None is taken as an old one.

    Example:
        >>> cards = [Device(0, "GPU-8932f937", "GPU-8932f937"), Device(1, "GPU-5d5ba0d6", "GPU-5d5ba0d6")]
        >>> [found.place for found in visible(cards, {"CUDA_VISIBLE_DEVICES": "GPU-5d,GPU-89"})]
        [1, 0]
        >>> visible(cards, {"CUDA_VISIBLE_DEVICES": "-1"})
        []
    """
    names = environment.get("CUDA_VISIBLE_DEVICES")
    chosen = _of_job(devices, environment) if names is None else _named(devices, names.split(","))
    slices = [device for device in chosen if device.instance]
    if not slices:
        return chosen
    if int((driver or "0").partition(".")[0]) < _MANY_SLICES:
        return slices[:1]
    firsts: dict[tuple[int, int | None], Device] = {}  # one compute instance of each GPU instance
    for device in chosen:
        firsts.setdefault((device.place, device.instance[0] if device.instance else None), device)
    return list(firsts.values())


def number_of(device: Device, devices: Sequence[Device]) -> int | None:
    """The number that leads CUDA to a device, in PCI order; None for a slice that no number leads to.

    A number stands for a card, and in MIG mode for all of its slices: whoever takes one device gets the first.

    Example:
        >>> halves = [Device(1, "GPU-5d", "MIG-c6", (1, 0)), Device(1, "GPU-5d", "MIG-cb", (2, 0))]
        >>> [number_of(half, halves) for half in halves]
        [1, None]
    """
    first = next(each for each in devices if each.place == device.place)
    return device.place if device == first else None


def names_of(gpus: Sequence[Gpu], *, uuids: bool) -> list[str]:
    """What names these GPUs in CUDA_VISIBLE_DEVICES to CUDA and to vLLM alike; nothing where nothing does.

    Numbers where they do. A slice has one for its card at most, and where a cgroup hides cards CUDA counts without them
    but vLLM with NVML, hence UUIDs there.

    Args:
        gpus: one at least.
        uuids: whether this vLLM reads UUIDs.

    Example:
        >>> from magistral_nb.serving.hardware import Gpu
        >>> cards = [Gpu("NVIDIA L4", 24, 24, (8, 9), uuid="GPU-5d", index=3, place=1)]
        >>> names_of(cards, uuids=True), names_of(cards, uuids=False)
        (['GPU-5d'], ['1'])
    """
    numbers = [str(gpu.place) for gpu in gpus if gpu.place is not None]
    if uuids and any(gpu.mig or gpu.place != gpu.index for gpu in gpus) and all(gpu.by_uuid for gpu in gpus):
        return [gpu.uuid for gpu in gpus]
    return numbers if len(numbers) == len(gpus) else []


def hidden_by(devices: Sequence[Device], environment: Mapping[str, str]) -> str | None:
    """The variable that leaves none of `devices`, with its value; None where some are left, or none are there.

    Example:
        >>> hidden_by([Device(0, "GPU-89", "GPU-89")], {"CUDA_VISIBLE_DEVICES": "-1"})
        'CUDA_VISIBLE_DEVICES=-1'
    """
    if not devices or visible(devices, environment):
        return None
    own = "CUDA_VISIBLE_DEVICES"
    name = own if own in environment else next(filter(environment.get, _OF_JOB))
    return f"{name}={environment[name]}"


def _of_job(devices: Sequence[Device], environment: Mapping[str, str]) -> list[Device]:
    """The devices of the Slurm step or job that this process is in; all of them outside of one.

    These numbers are the node's, by PCI bus (before Slurm 21.08 by device file), also where a cgroup hides the other
    devices and NVML counts the rest from 0 (sbatch(1), and Slurm's gres_common.c). Hence the comparison: devices that
    are no more than were allotted are the allotted ones. GPU_DEVICE_ORDINAL adds nothing: it is what Slurm writes into
    CUDA_VISIBLE_DEVICES, numbers within the cgroup, once more for OpenCL.
    """
    numbers = next(filter(None, map(environment.get, _OF_JOB)), None)
    if not numbers:
        return list(devices)
    allotted = {int(number) for number in numbers.split(",") if number.isdecimal()}
    if len(devices) <= len(allotted):
        return list(devices)
    return [device for number, device in enumerate(devices) if number in allotted]


def _named(devices: Sequence[Device], names: Iterable[str]) -> list[Device]:
    """The devices of a list of numbers, or of UUIDs: an invalid name ends it, a repeated one empties it.

    CUDA's guide says the one; the other PyTorch found when it tried a driver (pytorch/pytorch#92315).
    """
    chosen: list[Device] = []
    kinds = set()
    for name in names:
        kinds.add(name[:4] if name.startswith(("GPU-", "MIG-")) else "number")
        found = _called(devices, name)
        if not found or len(kinds) > 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen


def _called(devices: Sequence[Device], name: str) -> list[Device]:
    """A card or a slice; a card in MIG mode gives all its slices."""
    if name.startswith("MIG-"):
        found = [each for each in devices if each.instance and (each.uuid.startswith(name) or _old_name(each) == name)]
        return found if len(found) == 1 else []
    if name.startswith("GPU-"):
        found = [each for each in devices if each.card.startswith(name)]
        return found if len({each.place for each in found}) == 1 else []
    number = re.match(r"\s*\+?([0-9]+)", name)  # "1st" is 1 to CUDA, too
    return [each for each in devices if number and each.place == int(number[1])]


def _old_name(device: Device) -> str:
    """A slice's name before drivers gave it a UUID (R470); CUDA still takes it."""
    return "/".join((f"MIG-{device.card}", *map(str, device.instance or ())))
