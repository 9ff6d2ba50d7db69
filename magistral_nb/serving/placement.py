"""Which GPUs a model can go to, how they would share it, and what each of them would hold. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.memory import Memory, on_each, share_of

if TYPE_CHECKING:
    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.hardware import Gpu, Hardware
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

_HOPPER = 9  # of compute capability: H100, H200
_POWERS = (1, 2, 4, 8, 16)  # what is tried where nobody says how many


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model goes.

    Attributes:
        gpus: all that are taken on this machine, the emptiest first.
        tensor_parallel: how many share each layer.
        fp8: BF16 weights become FP8 while they are loaded.
        fp8_kv: the KV cache is FP8.
        share: of each GPU's memory that vLLM may take, 0 to 1.
        memory: of the GPU with the least memory free; None where only the checkpoint knows its size.
    """

    gpus: tuple[Gpu, ...]
    tensor_parallel: int
    fp8: bool
    fp8_kv: bool
    share: float
    memory: Memory | None

    @property
    def tokens(self) -> float:
        """How many tokens the KV cache of one copy holds; infinite where nobody knows."""
        return float("inf") if self.memory is None else self.memory.tokens


def placements(hardware: Hardware, profile: Profile, wishes: Wishes, dialect: Dialect) -> list[Placement]:
    """Every way that vLLM would take, on the fewest GPUs first; whether there is memory enough is not asked here.

    Raises:
        PlanRefused: there is none; with what would work.
    """
    found: list[Placement] = []
    refused: list[str] = []
    for gpus in alike(hardware.gpus):
        try:
            fp8, fp8_kv = _types(gpus[0], profile, wishes, dialect, nvcc=hardware.nvcc)
            found += [
                _placed(gpus, count, profile, wishes, fp8=fp8, fp8_kv=fp8_kv, dialect=dialect)
                for count in _counts(len(gpus), gpus[0], profile, wishes)
            ]
        except PlanRefused as refusal:
            refused.append(str(refusal))
    if not found:
        raise PlanRefused(refused[0])
    # Of two cards that would do, the newer one: it has native FP8 before it has more memory.
    return sorted(found, key=lambda each: (len(each.gpus), [-part for part in each.gpus[0].capability], -each.tokens))


def alike(gpus: tuple[Gpu, ...]) -> list[list[Gpu]]:
    """GPUs that could share a model, the emptiest first: of one kind, and no slices, which cannot talk to each other.

    Example:
        >>> from magistral_nb.serving.hardware import Gpu
        >>> t4, h100 = Gpu("Tesla T4", 16, 16, (7, 5)), Gpu("NVIDIA H100 80GB HBM3", 80, 80, (9, 0))
        >>> [len(group) for group in alike((t4, h100, t4))]
        [1, 2]
    """
    slices = [[gpu] for gpu in gpus if gpu.mig]
    whole = sorted((gpu for gpu in gpus if not gpu.mig), key=lambda gpu: (gpu.name, gpu.total))
    groups = [list(group) for _, group in groupby(whole, key=lambda gpu: (gpu.name, gpu.total))]
    return sorted(slices + [sorted(group, key=lambda gpu: -gpu.free) for group in groups], key=lambda g: -g[0].free)


def _types(gpu: Gpu, profile: Profile, wishes: Wishes, dialect: Dialect, *, nvcc: bool) -> tuple[bool, bool]:
    """Whether BF16 weights become FP8, and whether the KV cache is FP8."""
    known = gpu.capability != (0, 0)
    if known and gpu.capability < dialect.oldest_card:
        raise PlanRefused(
            f"This vLLM wants compute capability {_dotted(dialect.oldest_card)}, and {gpu.name} has "
            f"{_dotted(gpu.capability)}: type %magistral_connect URL to use a server elsewhere."
        )
    if profile.needs_ministral_3 and not dialect.ministral_3:
        raise PlanRefused(
            f"{profile.name} needs vLLM 0.12 or newer: name 2509, or type %magistral_connect URL to use a server "
            "elsewhere."
        )
    can_quantize = not known or gpu.capability >= dialect.fp8_card
    can_fp8_kv = not known or gpu.capability >= dialect.fp8_kv_card
    compiled = nvcc or gpu.capability[0] == _HOPPER  # by FlashAttention 3; everywhere else by FlashInfer
    if wishes.quantization == "fp8" and profile.stored not in {"bf16", "fp8"}:
        raise PlanRefused(f"{profile.name} is quantised already ({profile.stored}): leave --quantization away.")
    if wishes.quantization == "fp8" and not can_quantize:
        raise PlanRefused(f"This vLLM makes no FP8 weights on a {gpu.name}: leave --quantization away.")
    if wishes.kv_cache == "fp8" and not can_fp8_kv:
        raise PlanRefused(f"An FP8 KV cache does not run on a {gpu.name}: leave --kv-cache away, or auto.")
    if wishes.kv_cache == "fp8" and not compiled:
        raise PlanRefused(
            f"An FP8 KV cache on a {gpu.name} goes through FlashInfer, which compiles it with CUDA's nvcc, and that is "
            "not here: leave --kv-cache away, or install CUDA's toolkit and set CUDA_HOME."
        )
    if profile.stored != "bf16" and not can_quantize:
        raise PlanRefused(
            f"This vLLM runs no {profile.stored.upper()} weights on a {gpu.name}: type %magistral_serve --install for "
            "a newer one, or %magistral_connect URL to use a server elsewhere."
        )
    if profile.stored != "bf16" and wishes.quantization == "none" and wishes.model is None:
        raise PlanRefused(f"{profile.name} is quantised: leave --quantization away.")
    fp8 = profile.stored == "bf16" and wishes.quantization != "none" and can_quantize
    return fp8, wishes.kv_cache != "auto" and can_fp8_kv and compiled


def _counts(there: int, gpu: Gpu, profile: Profile, wishes: Wishes) -> list[int]:
    """How many GPUs one copy of the model could be shared by."""
    stages, copies = wishes.pipeline_parallel, wishes.data_parallel
    room = there // copies
    if wishes.ray:  # the cluster's other machines are not seen from here
        room = max(room, wishes.gpus or 1)
    if wishes.gpus is None:
        counts = [stages * power for power in _POWERS if stages * power <= room and _divides(power, profile)]
        if not counts:
            raise PlanRefused(
                f"{copies * stages} GPUs are wished for, and {_counted(there, gpu)} here: ask for fewer, "
                "or add --ray on a Ray cluster."
            )
        return counts
    if wishes.gpus % stages or not _divides(wishes.gpus // stages, profile):
        heads = f"{profile.shape.heads} heads" if profile.shape and profile.shape.heads else "its heads"
        works = [stages * power for power in _POWERS if stages * power <= room and _divides(power, profile)]
        raise PlanRefused(
            f"{wishes.gpus} GPUs{f' in {stages} stages' if stages > 1 else ''} cannot share {profile.name}, as tensor "
            f"parallelism divides {heads}: "
            + (f"try --gpus {max(works)}." if works else "%magistral_connect URL reaches a server elsewhere.")
        )
    if wishes.gpus > room:
        raise PlanRefused(
            f"{copies * wishes.gpus} GPUs are wished for, and {_counted(there, gpu)} here: ask for fewer, or add "
            "--ray on a Ray cluster."
        )
    return [wishes.gpus]


def _divides(count: int, profile: Profile) -> bool:
    """Whether so many GPUs can share each layer: vLLM gives each an equal share of the attention heads."""
    return profile.shape is None or not profile.shape.heads or profile.shape.heads % count == 0


def _placed(
    gpus: list[Gpu], count: int, profile: Profile, wishes: Wishes, *, fp8: bool, fp8_kv: bool, dialect: Dialect
) -> Placement:
    taken = tuple(gpus[: count * wishes.data_parallel])
    tensor_parallel = count // wishes.pipeline_parallel
    memory = None
    if profile.shape is not None:
        memory = on_each(
            taken[-1],
            profile.shape,
            fp8=fp8,
            fp8_kv=fp8_kv,
            images=wishes.images and profile.vision,
            at_once=not dialect.fp8_layerwise,
            encoder=wishes.images or not dialect.images_off_saves,
            adapter_rank=profile.lora_rank(),
            tensor_parallel=tensor_parallel,
            pipeline_parallel=wishes.pipeline_parallel,
        )
    return Placement(taken, tensor_parallel, fp8, fp8_kv, share_of(taken[-1]), memory)


def _counted(there: int, gpu: Gpu) -> str:
    return f"{there} {gpu.name} {'is' if there == 1 else 'are'}"


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"
