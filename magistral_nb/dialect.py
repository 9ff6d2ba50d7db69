"""What each vLLM calls what this package asks of it: the one place that plans, wire and metrics ask."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any

Pair = tuple[int, int]

_READ = ("fp8", "compressed-tensors", "awq", "gptq", "modelopt", "modelopt_fp4", "quark")  # by each from 0.9 to 0.33


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one vLLM calls what this package asks of it; the defaults are 0.9's.

    What is the same from 0.9 to 0.33 is not here: the mistral tokenizer mode, config format, load format and tool
    parser, JSON for --limit-mm-per-prompt, --enable-sleep-mode, --kv-cache-dtype fp8, and that --enable-reasoning is
    not needed (it is gone in 0.10).

    Attributes:
        fp8: the --quantization that makes FP8 weights of others while it loads them.
        fp8_layerwise: whether it does so one layer after the other; before, all weights lie there in BF16 first.
        fp8_card: lowest compute capability for such weights; below 8.9 through Marlin.
        fp8_kv_card: lowest compute capability on which the attention that vLLM itself chooses takes an FP8 KV cache.
        quantizations: a config's quant_method that it reads with nothing beside it; of those for dense models.
        bitsandbytes: the package that it wants beside it for bitsandbytes; no vLLM brings one.
        oldest_card: lowest compute capability that it runs on at all.
        uuids: whether it reads UUIDs in CUDA_VISIBLE_DEVICES; before, it dies of what is no number.
        reasoning_parser: whether there is --reasoning-parser mistral.
        text_marks: whether that parser also splits <think> in plain text, as Magistral-Small-2506 writes it; where
            not, it refuses each question to a tokenizer without the control tokens, so that it must be left away.
        ministral_3: whether it knows these models: yarn and Llama 4's scaling of queries in Mistral's own format.
        ministral_3_huggingface: whether it knows them in Hugging Face's format as well.
        images_off_saves: whether `--limit-mm-per-prompt {"image":0}` leaves the image encoder out of the GPU.
        thinking_fields: of a reply, where the trace stands; all of them hold the same.
        token_ids: whether a request may ask for `return_token_ids`.
        kv_cache_bytes: whether there is --kv-cache-memory-bytes.
        unix_socket: whether there is --uds.
        attention_flag: whether there is --attention-backend.
        kv_cache_gauge: of the /metrics page.
        arg_parser: the module that has make_arg_parser.
    """

    fp8: str = "fp8"
    fp8_layerwise: bool = False
    fp8_card: Pair = (8, 0)
    fp8_kv_card: Pair = (9, 0)
    quantizations: tuple[str, ...] = (*_READ, "auto-round", "fbgemm_fp8", "hqq")
    bitsandbytes: str = "bitsandbytes"
    oldest_card: Pair = (7, 0)
    uuids: bool = False
    reasoning_parser: bool = False
    text_marks: bool = False
    ministral_3: bool = False
    ministral_3_huggingface: bool = False
    images_off_saves: bool = False
    thinking_fields: tuple[str, ...] = ("reasoning_content",)
    token_ids: bool = False
    kv_cache_bytes: bool = False
    unix_socket: bool = False
    attention_flag: bool = False
    kv_cache_gauge: str = "vllm:gpu_cache_usage_perc"
    arg_parser: str = "vllm.entrypoints.openai.cli_args"


# The first version that has it. Read in vLLM's source, in that version and in the one before it, unless said otherwise.
_CHANGES: tuple[tuple[tuple[int, int, int], dict[str, Any]], ...] = (
    # Both gauges until 0.11; where 0.9 and 0.10 fall back to the V0 engine (cards below 8.0) only the old one.
    ((0, 9, 2), {"kv_cache_gauge": "vllm:kv_cache_usage_perc"}),
    ((0, 10, 0), {"reasoning_parser": True}),
    ((0, 10, 2), {"token_ids": True, "kv_cache_bytes": True}),
    ((0, 10, 2), {"unix_socket": True}),  # its pull request 18097, of September 2025; run: 0.32
    # FlashInfer is chosen by itself where FlashAttention takes no FP8; before, the boot is refused. Which fields a
    # reply has is decided by DeltaMessage and ChatMessage: a validator copies one into the other until 0.15.
    ((0, 11, 1), {"fp8_kv_card": (8, 0), "thinking_fields": ("reasoning", "reasoning_content")}),
    ((0, 12, 0), {"images_off_saves": True, "ministral_3": True}),  # images: of Hugging Face's format since 0.10.1
    ((0, 13, 0), {"attention_flag": True}),  # its pull request 26315, of December 2025; run: 0.32
    # 0.14 refuses the others unless --allow-deprecated-quantization is given; 0.15 reads AutoRound's in a new way.
    ((0, 14, 0), {"fp8_card": (7, 5), "quantizations": _READ}),
    ((0, 15, 0), {"quantizations": (*_READ, "auto-round")}),
    ((0, 16, 0), {"thinking_fields": ("reasoning",)}),  # run: 0.32
    # Its pull request 31914, of January 2026; 0.13 and 0.14 took even more than BF16 does (32773).
    ((0, 16, 0), {"fp8_layerwise": True}),
    ((0, 20, 0), {"oldest_card": (7, 5)}),  # its installation guide, and the architectures of its Dockerfile
    ((0, 20, 0), {"ministral_3_huggingface": True}),  # its issue 40318 tells of 0.19
    ((0, 24, 0), {"uuids": True}),  # its pull request 45026; of int() before tell its issues 20939, 41848 and 46132
    ((0, 27, 0), {"text_marks": True}),  # run: 0.32
    ((0, 28, 0), {"bitsandbytes": "vllm-bnb-plugin"}),  # its pull request 43529
    ((0, 29, 0), {"arg_parser": "vllm.entrypoints.launchers.cli_args"}),  # run: 0.32
    ((0, 31, 0), {"fp8": "fp8_per_tensor"}),  # "fp8" still works, with a warning
    ((0, 33, 0), {"arg_parser": "vllm.entrypoints.common.cli_args"}),
)


@functools.cache
def dialect(version: str) -> Dialect:
    """What this vLLM calls things; one that is older than the table speaks as 0.9, a newer one as the last.

    Args:
        version: such as "0.32.0", with or without what development builds have behind it.

    Example:
        >>> dialect("0.10.2").thinking_fields
        ('reasoning_content',)
        >>> dialect("0.32.0+cpu").fp8
        'fp8_per_tensor'
    """
    known = Dialect()
    for since, changed in _CHANGES:
        if since <= numbers(version):
            known = replace(known, **changed)
    return known


def numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, three at least: a local part and what marks a pre-release left out.

    Example:
        >>> numbers("0.33.1.dev7+g0123abc.cu130"), numbers("0.11")
        ((0, 33, 1), (0, 11, 0))
    """
    found = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in found[0].split(".")] if found else []
    return tuple(parts + [0] * (3 - len(parts)))


def since(name: str) -> str:
    """The first vLLM that has what 0.9 has not.

    Example:
        >>> since("token_ids")
        '0.10.2'
    """
    return next(".".join(map(str, version)) for version, changed in _CHANGES if name in changed)


_EVER = [dialect(".".join(map(str, version))) for version, _ in reversed(_CHANGES)] + [Dialect()]

# Newest name first. Of a reply or a chunk, whatever server it comes from: Ollama took over the new name, llama.cpp and
# LM Studio the old. Of /metrics: some releases, as 0.10, showed both gauges (vLLM's pull requests 18354 and 29330).
THINKING_FIELDS = tuple(dict.fromkeys(field for each in _EVER for field in each.thinking_fields))
KV_CACHE_GAUGES = tuple(dict.fromkeys(each.kv_cache_gauge for each in _EVER))
