"""What a model takes of a GPU: bytes in, a table out. Pure.

Held against published figures: at a share of 0.90 an H100 80 GB keeps about 45 GiB for the KV cache beside Magistral
Small in FP8, an A100 40 GB about 9 GiB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magistral_nb.serving.hardware import Gpu
    from magistral_nb.serving.profile import Shape

GIB = 2**30
# vLLM's own default. More leaves too little for what CUDA and other processes take beside it.
LARGEST_SHARE = 0.90
_MARGIN = 0.02  # what is free now is less once the process has its CUDA context
# One step of chunked prefill, CUDA graphs and the CUDA context, as the figures above leave it.
_ACTIVATIONS = 3.2 * GIB
_CUDA = 1.0 * GIB  # of it, what CUDA itself takes, before anything is loaded
# vLLM profiles a vision encoder with the largest images allowed.
_IMAGES = 1.0 * GIB


@dataclass(frozen=True, slots=True)
class Memory:
    """What each GPU holds, in bytes.

    Attributes:
        free: of other processes.
        budget: what vLLM may take.
        weights: once they are loaded.
        load_peak: the most that loading them takes. vLLM reckons the KV cache when that is over, so that it only has to
            be free (its mem_utils.py and gpu_worker.py).
        activations: to work in, CUDA graphs included.
        per_token: of the KV cache.
    """

    free: float
    budget: float
    weights: float
    load_peak: float
    activations: float
    per_token: float

    @property
    def to_load(self) -> float:
        """What must be free for loading, CUDA's own part included."""
        return self.load_peak + _CUDA

    @property
    def kv_cache(self) -> float:
        """What is left for the KV cache; below zero where the weights themselves do not fit, or do not go through."""
        if self.to_load > self.free:
            return self.free - self.to_load
        return self.budget - self.weights - self.activations

    @property
    def tokens(self) -> int:
        """How many tokens the KV cache holds, those of all requests together."""
        return max(0, int(self.kv_cache / self.per_token))

    def share_of_use(self, gpu: Gpu, tokens: int) -> float:
        """The part of a GPU's memory that so many tokens can make use of, or what vLLM may take if that is less."""
        most = self.weights + self.activations + tokens * self.per_token
        return min(share_of(gpu), math.ceil(most / gpu.total * 100) / 100)


def share_of(gpu: Gpu) -> float:
    """The part of its memory that vLLM may take: what is free, less a margin, and never all of it.

    Example:
        >>> from magistral_nb.serving.hardware import Gpu
        >>> share_of(Gpu("NVIDIA H100 80GB HBM3", total=80 * GIB, free=80 * GIB, capability=(9, 0)))
        0.9
        >>> share_of(Gpu("NVIDIA H100 80GB HBM3", total=80 * GIB, free=50 * GIB, capability=(9, 0)))
        0.6
    """
    return max(0.0, min(LARGEST_SHARE, int((gpu.free / gpu.total - _MARGIN) * 100) / 100))


def on_each(
    gpu: Gpu,
    shape: Shape,
    *,
    fp8: bool,
    fp8_kv: bool,
    images: bool,
    at_once: bool,
    encoder: bool = True,
    adapter_rank: int = 0,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> Memory:
    """The memory of each GPU of a group that holds one copy of the model.

    Args:
        gpu: the one with the least memory free.
        shape: of the model.
        fp8: BF16 weights become FP8 while they are loaded.
        fp8_kv: the KV cache is FP8.
        images: the model takes images.
        encoder: the image encoder lies there, whether images are taken or not.
        adapter_rank: of LoRA, 0 without; its layers are reckoned as if no GPU shared them.
        at_once: weights are loaded in BF16 as a whole before they become FP8, as vLLM did up to 0.13;
            afterwards it turns one layer after the other.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: groups of them that share the layers.

    Example:
        >>> from magistral_nb.serving.hardware import Gpu
        >>> from magistral_nb.serving.catalogue import RELEASES
        >>> h100 = Gpu("NVIDIA H100 80GB HBM3", int(79.6 * GIB), int(79.6 * GIB), (9, 0))
        >>> held = on_each(h100, RELEASES["2507"].shape, fp8=True, fp8_kv=True, images=False, at_once=False)
        >>> round(held.weights / GIB, 1), round(held.kv_cache / GIB)
        (23.2, 45)
    """
    parts = tensor_parallel * pipeline_parallel
    left_out = 0 if encoder else 2 * shape.vision
    weights = (shape.weight_bytes(fp8=fp8) - left_out) / parts
    peak = weights
    if fp8 and shape.stored_bytes is None:
        layer = 2 * (3 * shape.width * shape.hidden + 4 * shape.width**2) / tensor_parallel
        peak = (shape.weight_bytes(fp8=False) - left_out) / parts if at_once else weights + layer
    # A KV head is on one GPU or, where there are more GPUs than heads, on several.
    kv_heads = max(1, shape.kv_heads // tensor_parallel) / shape.kv_heads
    return Memory(
        free=gpu.free,
        budget=share_of(gpu) * gpu.total,
        weights=weights,
        load_peak=peak,
        activations=_ACTIVATIONS + _IMAGES * images + shape.adapter_bytes(adapter_rank),
        per_token=shape.kv_bytes(1 if fp8_kv else 2) * kv_heads / pipeline_parallel,
    )
