"""The known failures of a boot: tables, in a room of their own because they are long.

The wordings are those of vLLM 0.32, and of older releases where they differ; of PyTorch, NCCL, Triton, FlashInfer,
safetensors and the hub's client as reports quote them. Of two rows that match one line the upper one counts.
"""

from __future__ import annotations

from magistral_nb.serving.failures.endings import REQUESTS, SIGNALS, WARNINGS, WRAPPERS
from magistral_nb.serving.failures.failure import Change, Failure
from magistral_nb.serving.failures.flags import FLAGS
from magistral_nb.serving.failures.gpu import GPU, MEMORY
from magistral_nb.serving.failures.model import ENGINE, FILES

ROOTS = (*MEMORY, *GPU, *FLAGS, *FILES, *ENGINE)

__all__ = ["REQUESTS", "ROOTS", "SIGNALS", "WARNINGS", "WRAPPERS", "Change", "Failure"]
