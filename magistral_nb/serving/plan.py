"""How a server will be booted: a vLLM command line with its reasons. Values only; `planner` makes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from magistral_nb.serving.engine import Engine
    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.profile import Profile

SHARE_FLAG = "--gpu-memory-utilization"


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of a plan: what, how, and why."""

    what: str
    value: str
    why: str


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
        max_num_seqs: requests that run at the same time; None leaves it to vLLM.
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
    max_num_seqs: int | None = None

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

    def rows(self) -> list[tuple[str, str, str]]:
        """The plan as people read it: what was decided, how, and why."""
        return [(choice.what, choice.value, choice.why) for choice in self.choices]


def fingerprint(profile: Profile, wishes: Wishes, engine: Engine) -> str:
    """Equal for equal wishes on the same model and engine.

    Made of wishes, not of the command line: free memory shifts that while the server itself holds it.
    """
    adapters = [asdict(adapter) for adapter in profile.adapters]
    value = [profile.source, adapters, asdict(wishes) | {"model": None}, engine.version, list(engine.command)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def after_stopping(hardware: Hardware, plan: Plan) -> Hardware:
    """The machine as it will be once the server that runs by `plan` has ended: its GPUs' share is free again."""
    if SHARE_FLAG not in plan.argv:
        return hardware
    last = len(plan.argv) - 1 - plan.argv[::-1].index(SHARE_FLAG)  # raw flags win because they come last
    share = float(plan.argv[last + 1])
    gpus = (
        replace(gpu, free=min(gpu.total, gpu.free + int(share * gpu.total))) if gpu.uuid in plan.devices else gpu
        for gpu in hardware.gpus
    )
    return replace(hardware, gpus=tuple(gpus))
