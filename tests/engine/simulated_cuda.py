"""vLLM's CUDA platform in the CPU build, told what the card is; what only the CUDA wheel has is stood in for.

Only for processes that end soon: it changes modules for good.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

if TYPE_CHECKING:
    from collections.abc import Callable

# What is compiled into the CUDA wheel: here modules without content.
COMPILED = ("vllm._C_stable_libtorch", "vllm.vllm_flash_attn._vllm_fa2_C", "vllm.vllm_flash_attn._vllm_fa3_C")
# Packages that the CUDA wheel brings, and Ray, which is installed beside it: here every name in them is a mock. Of
# torchvision, modules name the image processing; no image is processed.
PACKAGES = ("flashinfer", "ray", "torchvision")
# Operators that modules name while they are imported, to find them in a graph later.
OPERATORS = (
    "dynamic_per_token_scaled_fp8_quant",
    "dynamic_scaled_fp8_quant",
    "fused_add_rms_norm",
    "fused_add_rms_norm_static_fp8_quant",
    "fused_qk_norm_rope",
    "rms_norm_dynamic_per_token_quant",
    "rms_norm_static_fp8_quant",
    "rotary_embedding",
    "silu_and_mul",
    "silu_and_mul_per_block_quant",
    "silu_and_mul_quant",
    "static_scaled_fp8_quant",
)
# Operators that tell what the wheel was compiled for: the lowest compute capability, 89 for 8.9 (scaled_mm_entry.cu
# in vLLM's source).
ANSWERS = {"cutlass_scaled_mm_supports_fp8": 89, "cutlass_scaled_mm_supports_block_fp8": 90}


class Missing(Exception):
    """Something that nobody stands in for, where vLLM itself would go another way in silence."""


@dataclass(frozen=True, slots=True)
class Card:
    """A kind of GPU.

    Attributes:
        name: as the driver has it.
        capability: compute capability, (9, 0) for Hopper.
        total: bytes of memory.
        count: how many of them there are.
    """

    name: str
    capability: tuple[int, int]
    total: int
    count: int


class StandIns:
    """Finds each package of a list, and in it whatever is asked for: a mock."""

    def __init__(self, packages: list[str]) -> None:
        """Stand in for these."""
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The import system's question."""
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: object) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Let the module have every name but those that Python itself looks for."""

        def anything(name: str) -> MagicMock:
            if name.startswith("__"):
                raise AttributeError(name)
            return MagicMock(name=f"{module.__name__}.{name}")

        module.__getattr__ = anything


def simulate(card: Card, without: tuple[str, ...]) -> Callable[[Card], None]:
    """Let vLLM see this card from here on; what comes back changes it to another one of the same capability."""
    stand_in(without)
    show = show_card(card)
    define_operators(10 * card.capability[0] + card.capability[1], without)
    open_doors()
    return show


def stand_in(without: tuple[str, ...]) -> None:
    """Let the imports succeed."""
    import torch

    sys.modules.update({name: types.ModuleType(name) for name in COMPILED if name not in without})
    sys.meta_path.insert(0, StandIns([name for name in PACKAGES if name not in without]))
    # Nothing is run, and to prepare each layer for the compiler takes most of the time.
    torch.compile = lambda function=None, **_: function or (lambda function: function)


def show_card(card: Card) -> Callable[[Card], None]:
    """Put vLLM's own platform for CUDA in place, which asks the card and not the driver."""
    import vllm.platforms
    from vllm.platforms.cuda import NonNvmlCudaPlatform
    from vllm.platforms.interface import DeviceCapability

    class Simulated(NonNvmlCudaPlatform):
        there = card

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
            return DeviceCapability(*cls.there.capability)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return cls.there.name

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return cls.there.total

        @classmethod
        def device_count(cls) -> int:
            return cls.there.count

        def is_cumem_allocator_available(self) -> bool:
            return True  # compiled into the CUDA wheel; what sleeps is allocated by it

    if vllm.platforms._current_platform is not None:
        raise Missing("something has asked for the platform already, and was told that this is a CPU")
    vllm.platforms._current_platform = Simulated()
    return lambda other: setattr(Simulated, "there", other)


def define_operators(capability: int, without: tuple[str, ...]) -> None:
    """Give torch the operators' names; 89 is compute capability 8.9."""
    import torch

    library = torch.library.Library("_C", "FRAGMENT")
    for name in OPERATORS:
        if name not in without:
            library.define(f"{name}() -> ()")
    for name, least in ANSWERS.items():
        if name not in without:
            library.define(f"{name}(int capability) -> bool")
            library.impl(name, lambda _, least=least: capability >= least, "CompositeExplicitAutograd")
    torch._operators_of_this_simulation = library  # or they would go with it


def open_doors() -> None:
    """Where vLLM looks for files or starts a process, and where it would swallow that something is missing."""
    from vllm.model_executor.models import registry
    from vllm.platforms import cuda
    from vllm.vllm_flash_attn import flash_attn_interface as flash_attention

    registry._run_in_subprocess = lambda function: function()  # another process would see the real platform
    flash_attention.FA4_AVAILABLE = True  # its kernels are Python files of the CUDA wheel
    if not (flash_attention.FA2_AVAILABLE and flash_attention.FA3_AVAILABLE):
        raise Missing(f"{flash_attention.FA2_UNAVAILABLE_REASON}, {flash_attention.FA3_UNAVAILABLE_REASON}")
    found = cuda._get_attn_backend_class

    def backend(wanted: object) -> object:
        try:
            return found(wanted)
        except (ImportError, OSError) as error:
            raise Missing(f"{wanted} cannot be imported: {error}") from error

    cuda._get_attn_backend_class = backend


def join(rank: int, size: int, name: str) -> None:
    """Be a member of one of vLLM's groups of processes, which have nobody else in them."""
    from vllm.distributed import parallel_state

    member = types.SimpleNamespace(
        world_size=size,
        rank=rank,
        local_rank=rank,
        rank_in_group=rank,
        is_first_rank=rank == 0,
        is_last_rank=rank == size - 1,
    )
    setattr(parallel_state, name, member)
