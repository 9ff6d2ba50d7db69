"""How a server will be booted: a vLLM command line with its reasons. Values only; `planner` makes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.serving.masking import masked
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from magistral_nb.serving.engine import Engine
    from magistral_nb.serving.hardware import Gpu, Hardware
    from magistral_nb.serving.profile import Profile

SHARE_FLAG = "--gpu-memory-utilization"
DEVELOPMENT = "VLLM_SERVER_DEV_MODE"  # the variable without which vLLM has no /sleep, and which opens doors


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of a plan.

    Attributes:
        what: was decided.
        value: that was taken, with its unit.
        why: it was taken, or what it means.
        source: where the value comes from: a card, a file, a measurement, an arithmetic.
    """

    what: str
    value: str
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a server will be booted.

    Attributes:
        model: the name under which the model is served.
        title: model, machine and engine in a few words.
        argv: the whole command but for host and port, which are found at boot.
        environment: what is added to the process's environment.
        context: tokens, prompt and completion together.
        sampling: the model's own.
        choices: what was decided and why.
        fingerprint: equal for equal wishes on the same model and engine; tells "the same plan again".
        wishes: what was asked for.
        niceness: the processes' own, 0 to 19; on a GPU 0.
        devices: UUIDs of the GPUs that it takes.
    """

    model: str
    title: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    context: int
    sampling: Sampling
    choices: tuple[Choice, ...]
    fingerprint: str
    wishes: Wishes
    niceness: int = 0
    devices: tuple[str, ...] = ()

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Plan:
        """Read what `dataclasses.asdict` made, as it comes back from JSON.

        Raises:
            TypeError: it is no such dictionary.
        """
        parts = {
            "argv": tuple(raw["argv"]),
            "environment": tuple((name, value) for name, value in raw["environment"]),
            "sampling": Sampling(**raw["sampling"]),
            "choices": tuple(Choice(**choice) for choice in raw["choices"]),
            "wishes": Wishes(**raw["wishes"] | {"engine_args": tuple(raw["wishes"]["engine_args"])}),
            "devices": tuple(raw["devices"]),
        }
        return Plan(**(raw | parts))

    def shell(self) -> str:
        """The command as a shell takes it, what is added to its environment in front."""
        environment = [f"{name}={shlex.quote(value)}" for name, value in self.environment]
        return masked(" ".join([*environment, shlex.join(self.argv)]))

    def rows(self) -> list[tuple[str, ...]]:
        """The plan as people read it: what was decided, how, why, and by what source."""
        return [(choice.what, choice.value, choice.why, choice.source) for choice in self.choices]


def fingerprint(profile: Profile, wishes: Wishes, engine: Engine) -> str:
    """Equal for equal wishes on the same model and engine.

    Made of wishes, not of the command line: free memory shifts that while the server itself holds it.
    """
    adapters = [asdict(adapter) for adapter in profile.adapters]
    value = [profile.source, adapters, asdict(wishes) | {"model": None}, engine.version, list(engine.command)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def after_stopping(hardware: Hardware, plan: Plan, pids: Container[int]) -> Hardware:
    """The machine as it will be once a server has ended: its memory is free, and it holds none any more.

    Args:
        hardware: the machine while the server runs.
        plan: that the server runs by.
        pids: of the processes that will end.

    Example:
        >>> from magistral_nb.serving.hardware import Gpu, Hardware, Holder
        >>> server, desktop = Holder(815, "VLLM::EngineCore", 70 * 2**30), Holder(9, "Xorg", 2**30)
        >>> h100 = Gpu("NVIDIA H100", 80 * 2**30, 8 * 2**30, (9, 0), holders=(server, desktop), holders_known=True)
        >>> plan = Plan("m", "m on an H100", ("vllm",), (), 4096, Sampling(), (), "", Wishes())
        >>> after = after_stopping(Hardware("Linux", "x86_64", 8, (h100,)), plan, {815})
        >>> after.gpus[0].free // 2**30, [holder.title for holder in after.gpus[0].holders]
        (78, ['Xorg (process 9), 1.0 GiB'])
    """
    share = _share(plan)

    def freed(gpu: Gpu) -> Gpu:
        ending = [holder for holder in gpu.holders if holder.pid in pids]
        staying = tuple(holder for holder in gpu.holders if holder.pid not in pids)
        sizes = [holder.bytes for holder in ending if holder.bytes is not None]
        if len(sizes) == len(ending) and (ending or gpu.holders_known):
            size = sum(sizes)
        else:  # not told: what it may hold by its plan, which is too much while it boots
            size = int(share * gpu.total) if gpu.uuid in plan.devices else 0
        most = gpu.total - sum(holder.bytes or 0 for holder in staying)
        return replace(gpu, free=max(gpu.free, min(most, gpu.free + size)), holders=staying)

    return replace(hardware, gpus=tuple(map(freed, hardware.gpus)))


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """A flag's value as vLLM reads it: the last one counts, as raw flags come behind the plan's own.

    Example:
        >>> last_value(["--max-num-seqs", "64", "--max_num_seqs=8"], "--max-num-seqs")
        '8'
    """
    found = None
    for word, after in pairwise((*argv, "")):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else after
    return found


def _share(plan: Plan) -> float:
    """Of each GPU's memory that a plan takes; 0 where it does not say."""
    with contextlib.suppress(ValueError):
        return float(last_value(plan.argv, SHARE_FLAG) or 0)
    return 0
