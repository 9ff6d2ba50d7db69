"""Which GPUs a model can go to, how they would share it, and what each of them would hold. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.checks import SHARING, check_vllm, clause
from magistral_nb.serving.flags import MAX_NUM_SEQS
from magistral_nb.serving.memory import Memory, on_each, share_of
from magistral_nb.serving.refusal import Refusal, Way, leave

if TYPE_CHECKING:
    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.hardware import Gpu, Hardware
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

_TINY_BYTES = 2**30  # of weights; half of that is no gain
_HOPPER = 9  # of compute capability: H100, H200
_PLAIN = ("bf16", "fp8")  # what --quantization fp8 makes FP8 of, and what it leaves so
_LEAST_SHARE = 0.05  # below, not even CUDA itself would start
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
        """How many tokens the KV cache of one copy holds; infinite where nobody knows, unless nothing is free."""
        if self.memory is not None:
            return self.memory.tokens
        return float("inf") if self.share >= _LEAST_SHARE else 0


def placements(hardware: Hardware, profile: Profile, wishes: Wishes, dialect: Dialect) -> list[Placement]:
    """Every way that vLLM would take, on the fewest GPUs first; whether there is memory enough is not asked here.

    Raises:
        Refusal: there is none.
        PlanRefused: there is none for its adapters.
    """
    found: list[Placement] = []
    refused: list[tuple[tuple[int, int], PlanRefused]] = []
    for gpus in alike(hardware.gpus):
        try:
            fp8, fp8_kv = _types(gpus[0], profile, wishes, dialect, nvcc=hardware.nvcc)
            found += [
                _placed(gpus, count, profile, wishes, fp8=fp8, fp8_kv=fp8_kv, dialect=dialect)
                for count in _counts(len(gpus), hardware, profile, wishes)
            ]
        except PlanRefused as refusal:
            refused.append((gpus[0].capability, refusal))
    if not found:
        raise max(refused, key=lambda each: each[0])[1]
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
    check_vllm(gpu, profile, wishes, dialect)
    known = gpu.capability != (0, 0)
    can_quantize = not known or gpu.capability >= dialect.fp8_card
    can_fp8_kv = not known or gpu.capability >= dialect.fp8_kv_card
    compiled = nvcc or gpu.capability[0] == _HOPPER  # by FlashAttention 3; everywhere else by FlashInfer
    as_stored = leave(wishes, "quantization")
    if profile.stored not in _PLAIN and wishes.quantization == "fp8":
        raise Refusal(f"{profile.name} is quantised already ({profile.stored})", as_stored)
    if wishes.quantization == "fp8" and not can_quantize:
        raise Refusal(f"This vLLM makes no FP8 weights on a {gpu.name}", as_stored)
    without = leave(wishes, "kv_cache")
    if wishes.kv_cache == "fp8" and not can_fp8_kv:
        raise Refusal(f"This vLLM runs no FP8 KV cache on a {gpu.name}", without)
    if wishes.kv_cache == "fp8" and not compiled:
        raise Refusal(
            f"An FP8 KV cache on a {gpu.name} goes through FlashInfer, which compiles it with CUDA's nvcc, and that is "
            "not here",
            without,
            also="install CUDA's toolkit and set CUDA_HOME",
        )
    if profile.stored != "bf16" and not can_quantize:
        raise Refusal(f"This vLLM runs no {profile.stored.upper()} weights on a {gpu.name}")
    if profile.stored != "bf16" and wishes.quantization == "none" and wishes.model is None:
        raise Refusal(f"{profile.name} is quantised", as_stored)
    fp8 = profile.stored == "bf16" and can_quantize and _wished(wishes.quantization, "none", profile)
    return fp8, can_fp8_kv and compiled and _wished(wishes.kv_cache, "auto", profile)


def _wished(wish: str | None, otherwise: str, profile: Profile) -> bool:
    """Whether it shall be FP8; unasked it shall, unless the model is so small that nothing is gained."""
    tiny = profile.shape is not None and profile.shape.weight_bytes(fp8=False) < _TINY_BYTES
    return wish == "fp8" or (wish != otherwise and not tiny)


def _counts(there: int, hardware: Hardware, profile: Profile, wishes: Wishes) -> list[int]:
    """How many GPUs one copy of the model could be shared by.

    Args:
        there: how many GPUs there are of one kind.
        hardware: with all of them.
        profile: of the model.
        wishes: what was asked for.
    """
    stages, copies, wished = wishes.pipeline_parallel, wishes.data_parallel, wishes.gpus
    room = there // copies
    if wishes.ray:  # the cluster's other machines are not seen from here
        room = max(room, wished or stages)
    works = [stages * each for each in range(1, room // stages + 1) if _divides(each, profile)]
    if wished is None:
        counts = [count for count in works if count // stages in _POWERS]
        if not counts:
            raise _too_many(hardware, wishes)
        return counts
    if wished in works:
        return [wished]
    nearest = sorted(works, key=lambda count: (count > wished, abs(count - wished)))
    ways = [Way(f"try --gpus {count}", replace(wishes, gpus=count)) for count in nearest]
    if wished % stages:
        raise Refusal(f"{wished} GPU{'s' * (wished > 1)} cannot be split into {stages} stages", *ways)
    if not _divides(wished // stages, profile):
        heads = f"{profile.shape.heads} heads" if profile.shape and profile.shape.heads else "its heads"
        stage = " in each stage" if stages > 1 else ""
        raise Refusal(
            f"{wished // stages} GPUs{stage} cannot share {profile.name}, as tensor parallelism divides {heads}", *ways
        )
    raise _too_many(hardware, wishes, *ways)


def _too_many(hardware: Hardware, wishes: Wishes, *ways: Way) -> Refusal:
    wished = (wishes.gpus or wishes.pipeline_parallel) * wishes.data_parallel
    kinds = Counter(gpu.name for gpu in hardware.gpus)
    here = " and ".join(f"{count} {name}" for name, count in kinds.items())
    apart = ", where only whole ones of one kind share a model" if len(alike(hardware.gpus)) > 1 else ""
    trouble = f" ({clause(hardware.trouble)})" if hardware.trouble else ""
    copies = range(wishes.data_parallel - 1, 0, -1)
    return Refusal(
        f"{wished} GPUs are wished for, and {here} {'is' if len(hardware.gpus) == 1 else 'are'} here{apart}{trouble}",
        *ways,
        *(Way(f"try --data-parallel {count}", replace(wishes, data_parallel=count)) for count in copies),
        leave(wishes, *SHARING),
        also="add --ray on a Ray cluster",
    )


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
    share = share_of(taken[-1])
    if memory is not None:
        share = memory.share_of_use(taken[-1], MAX_NUM_SEQS * max(profile.context, wishes.context or 0))
        memory = replace(memory, budget=share * taken[-1].total)
    return Placement(taken, tensor_parallel, fp8, fp8_kv, share, memory)
