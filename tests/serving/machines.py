"""Simulated machines, so that plans for GPUs can be tried where there is none.

A card's memory is what nvidia-smi prints as its total, in MiB. NVML counts what the driver keeps for itself as used, so
that an idle card has some hundred MiB less free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magistral_nb.serving.engine import Engine
from magistral_nb.serving.hardware import Gpu, Hardware, Holder
from magistral_nb.serving.releases import newest_for

if TYPE_CHECKING:
    from magistral_nb.serving.plan import Plan

GIB = 2**30
MIB = 2**20
_KEPT = 480 * MIB  # by the driver of an idle card

# What nvidia-smi writes beside these drivers: the newest CUDA that they run.
DRIVERS = {"535": (12, 2), "550": (12, 4), "570": (12, 8), "580": (13, 0)}


@dataclass(frozen=True, slots=True)
class Card:
    """A kind of GPU: its name as the driver has it, its memory in MiB, its compute capability, its links."""

    name: str
    mib: int
    capability: tuple[int, int]
    nvlink: bool = False


CARDS = {
    "H100 80": Card("NVIDIA H100 80GB HBM3", 81_559, (9, 0), nvlink=True),
    "H200": Card("NVIDIA H200", 143_771, (9, 0), nvlink=True),
    "B200": Card("NVIDIA B200", 183_359, (10, 0), nvlink=True),
    "A100 40": Card("NVIDIA A100-SXM4-40GB", 40_960, (8, 0), nvlink=True),
    "A100 80": Card("NVIDIA A100-SXM4-80GB", 81_920, (8, 0), nvlink=True),
    "RTX PRO 6000": Card("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97_887, (12, 0)),
    "RTX 4090": Card("NVIDIA GeForce RTX 4090", 24_564, (8, 9)),
    "RTX 3090": Card("NVIDIA GeForce RTX 3090", 24_576, (8, 6)),
    "L4": Card("NVIDIA L4", 23_034, (8, 9)),
    "L40S": Card("NVIDIA L40S", 46_068, (8, 9)),
    "A10": Card("NVIDIA A10", 23_028, (8, 6)),
    "T4": Card("Tesla T4", 15_360, (7, 5)),
}
_SLICE = Card("NVIDIA A100-SXM4-80GB MIG 2g.20gb", 19_968, (8, 0))


def gpus(card: Card, count: int = 1, *, held: int = 0, mig: bool = False, first: int = 0) -> tuple[Gpu, ...]:
    """So many cards of a kind, or slices of one card; `held` bytes of each are this notebook's."""
    uuids = [f"{'MIG' if mig else 'GPU'}-{card.mib:08d}-{first + number}" for number in range(count)]
    return tuple(
        Gpu(
            card.name,
            total=card.mib * MIB,
            free=card.mib * MIB - _KEPT - held,
            capability=card.capability,
            uuid=uuid,
            index=first if mig else first + number,
            place=first + number if not mig else None if number else first,
            mig=mig,
            linked=tuple(other for other in uuids if card.nvlink and not mig and other != uuid),
            holders=(Holder(4711, "python3", held, ours=True),) if held else (),
            holders_known=True,
        )
        for number, uuid in enumerate(uuids)
    )


def machine(*groups: tuple[Gpu, ...]) -> Hardware:
    """A machine with these GPUs, and a processor and memory of no matter."""
    return Hardware("Linux", "x86_64", cpus=8, gpus=sum(groups, ()), memory=64 * GIB)


def one(kind: str, count: int = 1, *, held: int = 0) -> Hardware:
    """A machine with GPUs of one kind."""
    return machine(gpus(CARDS[kind], count, held=held))


MACHINES = {
    **{kind: one(kind) for kind in CARDS if kind != "RTX 3090"},
    "2 x T4": one("T4", 2),  # Kaggle's
    "2 x H100 80": one("H100 80", 2),
    "8 x H100 80": one("H100 80", 8),
    "H100 80, 30 GB taken": one("H100 80", held=30 * 10**9),
    "MIG slice of 20 GB": machine(gpus(_SLICE, mig=True)),
    "RTX 4090 and RTX 3090": machine(gpus(CARDS["RTX 4090"]), gpus(CARDS["RTX 3090"], first=1)),
    "no GPU": machine(),
}


def vllm(version: str) -> Engine:
    """An engine of this version; nothing is run."""
    return Engine(("vllm",), version, "cuda", "a test")


def versions_for(hardware: Hardware) -> set[str]:
    """The vLLM that each of the four drivers gets on this machine."""
    capability = min((gpu.capability for gpu in hardware.gpus), default=None)
    return {newest_for(cuda, capability=capability).version for cuda in DRIVERS.values()}


def flag(plan: Plan, name: str) -> str | None:
    """The value of a flag on a plan's command line; None where it is not there."""
    return plan.argv[plan.argv.index(name) + 1] if name in plan.argv else None
