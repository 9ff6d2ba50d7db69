"""Who holds the GPUs' memory, and what to type to get it back."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from magistral_nb.errors import PlanRefused
from magistral_nb.processes import is_leaderless
from magistral_nb.serving import orphans, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import psutil

    from magistral_nb.serving.hardware import Gpu, Hardware
    from magistral_nb.serving.plan import Plan
    from magistral_nb.serving.registry import ServerState

Kind = Literal["orphan", "notebook", "kernel", "process", "server", "hidden"]

_VLLM = "VLLM::"  # how vLLM calls its processes: VLLM::EngineCore, VLLM::Worker_TP0
_KERNEL = "ipykernel"  # in the command line of every notebook's kernel
# In the order in which people miss them least.
_ORDER: tuple[Kind, ...] = ("orphan", "notebook", "kernel", "process", "server", "hidden")


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who holds memory.

    Attributes:
        kind: a process that a dead server left, this notebook, another one, any other process, a server of ours, or
            somebody who cannot be seen from here.
        name: the process's, or the server's.
        pid: process id; 0 for a server of ours, this notebook and who cannot be seen.
        by_us: whether a supervisor of ours has started the process.
    """

    kind: Kind
    name: str = ""
    pid: int = 0
    by_us: bool = False

    @property
    def title(self) -> str:
        """Who it is, within a sentence."""
        process = f"{self.name} (process {self.pid})"
        titles: dict[Kind, str] = {
            "orphan": f"{process}, which a dead server left," if self.pid else f"what is left of server {self.name!r}",
            "notebook": "this notebook itself",
            "kernel": f"another notebook (process {self.pid})",
            "process": process,
            "server": f"server {self.name!r}",
            "hidden": "somebody who cannot be seen from here",
        }
        return titles[self.kind]

    @property
    def remedy(self) -> str:
        """How its memory is got back."""
        left = "type %magistral_stop --orphans" if self.by_us else _kill([self.pid])
        remedies: dict[Kind, str] = {
            "orphan": left if self.pid else f"%magistral_stop {self.name} ends it",
            "notebook": "del its tensors and call torch.cuda.empty_cache(), or restart the kernel",
            "kernel": "shut that one's kernel down",
            "process": f"end {self.name}, or wait for it",
            "server": f"%magistral_stop {self.name} ends it",
            "hidden": "nvidia-smi on the machine itself shows who",
        }
        return remedies[self.kind]


def explain_full(
    hardware: Hardware, plan_with: Callable[[Hardware], Plan], owners: Mapping[int, Owner]
) -> str | None:  # fmt: skip
    """Whom to end so that a plan fits that has been refused; None where that does not help.

    Args:
        hardware: the machine, as it is now.
        plan_with: plans on a machine, and raises PlanRefused where that does not work.
        owners: by process id, as `find_owners` tells. Who holds no memory that NVML shows may hold what NVML hides.

    Example:
        >>> from magistral_nb.serving.hardware import Gpu, Holder
        >>> from magistral_nb.serving import catalogue, planner
        >>> from magistral_nb.serving.engine import Engine
        >>> from magistral_nb.serving.hardware import Hardware
        >>> from magistral_nb.serving.wishes import Wishes
        >>> tensors = Holder(7, "python3", 70 * 2**30, ours=True)
        >>> h100 = Gpu("NVIDIA H100", 80 * 2**30, 9 * 2**30, (9, 0), holders=(tensors,), holders_known=True)
        >>> here, vllm = Hardware("Linux", "x86_64", 8, (h100,)), Engine(("vllm",), "0.32.0", "cuda", "an example")
        >>> plan_with = lambda there: planner.make_plan(there, catalogue.RELEASES["2509"], Wishes(), vllm)
        >>> text = explain_full(here, plan_with, {7: Owner("notebook")})
        >>> text.partition(":")[0]
        'magistral-small-2509 would fit but for 70.0 GiB that this notebook itself holds'
    """
    held = _held(hardware.gpus, owners)
    ranked = sorted(held, key=lambda owner: (_ORDER.index(owner.kind), -sum(held[owner].values())))
    # One alone if one will do, the one that is missed least; or else more and more of them.
    for enough in [[owner] for owner in ranked] + [ranked[:count] for count in range(2, len(ranked) + 1)]:
        try:
            plan = plan_with(_without(hardware, [held[owner] for owner in enough]))
        except PlanRefused:
            continue
        parts = [f"{sum(held[owner].values()) / 2**30:.1f} GiB that {owner.title} holds" for owner in enough]
        return f"{plan.model} would fit but for {' and '.join(parts)}: {remedies(enough)}."
    return None


def remedies(owners: Sequence[Owner]) -> str:
    """What to type, each thing once.

    Example:
        >>> remedies([Owner("orphan", "VLLM::EngineCore", 815), Owner("orphan", "VLLM::Worker_TP0", 816)])
        'type kill -9 815 816 in a terminal'
    """
    killed = [owner.pid for owner in owners if owner.kind == "orphan" and owner.pid and not owner.by_us]
    others = dict.fromkeys(owner.remedy for owner in owners if owner.pid not in killed)
    return "; ".join([_kill(killed), *others] if killed else others)


def _kill(pids: Iterable[int]) -> str:
    return f"type kill -9 {' '.join(map(str, pids))} in a terminal"  # whoever outlived its parent may be deaf to less


def find_owners(hardware: Hardware) -> dict[int, Owner]:
    """Who is who among those who hold memory, and all that dead servers have left on this machine, by process id."""
    import psutil

    # A server's processes come first: a server that this kernel has started is its child as well.
    found = {process.pid: _of(state) for state in registry.load_all() for process in orphans.engine_processes(state)}
    left = {orphan.process.pid for orphan in orphans.find_orphans()}
    ours = {holder.pid: holder.ours for gpu in hardware.gpus for holder in gpu.holders}
    for process in psutil.process_iter(["name"]):
        pid, name = process.pid, str(process.info["name"])
        if pid not in found and (pid in left or pid in ours or name.startswith(_VLLM)):
            by_us = Owner("orphan", name, pid, by_us=True)
            found[pid] = by_us if pid in left else _owner(process, name, ours=ours.get(pid, False))
    return {pid: owner for pid, owner in found.items() if pid in ours or owner.kind == "orphan"}


def _of(state: ServerState) -> Owner:
    cared_for = state.supervisor is not None and state.supervisor.is_alive()
    return Owner("server" if cared_for else "orphan", state.name)


def _owner(process: psutil.Process, name: str, *, ours: bool) -> Owner:
    """Who a process is that no server of ours has started."""
    import psutil

    try:
        if name.startswith(_VLLM) and _is_left(process):
            return Owner("orphan", name, process.pid)
        if ours:
            return Owner("notebook")
        kernel = any(_KERNEL in word for word in process.cmdline())
    except (OSError, psutil.Error):  # it has ended, or is hidden from this user
        kernel = False
    return Owner("kernel" if kernel else "process", name, process.pid)


def _is_left(process: psutil.Process) -> bool:
    """Whether the server that started it is gone; that one need not lead the group, as a script may have."""
    group = os.getpgid(process.pid)
    kin = [process, *(each for each in process.parents() if os.getpgid(each.pid) == group)]
    return is_leaderless(group) and kin[-1].name().startswith(_VLLM)


def _held(gpus: Iterable[Gpu], owners: Mapping[int, Owner]) -> dict[Owner, dict[int, int]]:
    """Bytes by owner and place of the GPU."""
    held: dict[Owner, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for place, gpu in enumerate(gpus):
        for owner, size in _shares(gpu, owners):
            held[owner][place] += size
    return held


def _shares(gpu: Gpu, owners: Mapping[int, Owner]) -> Iterator[tuple[Owner, int]]:
    told = sum(holder.bytes or 0 for holder in gpu.holders)
    untold = max(0, gpu.total - gpu.free - told)
    silent = []
    for holder in gpu.holders:
        owner = owners.get(holder.pid, Owner("notebook") if holder.ours else Owner("process", holder.name, holder.pid))
        if holder.bytes is None:
            silent.append(owner)
        else:
            yield owner, holder.bytes
    if not gpu.holders_known:  # in a container, or where NVML refuses the list
        shown = {holder.pid for holder in gpu.holders}
        silent += [owner for pid, owner in owners.items() if pid not in shown and owner.kind == "orphan"]
        silent = silent or [Owner("hidden")]
    for owner in dict.fromkeys(silent):  # it may be any of them
        yield owner, untold


def _without(hardware: Hardware, freed: Iterable[Mapping[int, int]]) -> Hardware:
    """The machine once this memory is free."""
    gpus = list(hardware.gpus)
    for sizes in freed:
        for place, size in sizes.items():
            gpus[place] = replace(gpus[place], free=min(gpus[place].total, gpus[place].free + size))
    return replace(hardware, gpus=tuple(gpus))
