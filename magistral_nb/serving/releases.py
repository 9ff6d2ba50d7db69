"""Which vLLM a driver runs, and what each vLLM calls what this package asks of it.

A CUDA driver and a wheel
    A wheel never runs on a driver of an older major CUDA: CUDA 13 wants driver 580, CUDA 12 driver 525 (NVIDIA's "Minor
    Version Compatibility", CUDA Compatibility guide). Within a major one, machine code runs on each driver, but PTX
    that a newer toolkit wrote does not ("the provided PTX was compiled with an unsupported toolchain").

    vLLM's wheels hold machine code of all that runs on cards of compute capability 7.x and 8.x. For Hopper (9.0) and
    newer ones FlashAttention 2 is there as PTX alone (CMakeLists.txt of its flash-attention: "8.0+PTX"). All failures
    that were found fit that: Hopper cards on drivers 550 and 560, in the image encoder (vLLM's issues 31700, 27103
    and 25143, xorbitsai/inference's 4507), while text, which goes through FlashAttention 3 there, was answered
    (37140). Marlin is another (38669), which FP8 does not use on Hopper. An A100 whose driver knows CUDA 12.2 ran
    what was compiled with 12.9 (eullm's pull request 428).

    So: on 7.x and 8.x the newest wheel of the driver's major CUDA; on newer or unknown cards the newest that was
    compiled with no newer CUDA than the driver's; and where there is none, the one that is least ahead, with a doubt.

releases.json is made by tests/serving/make_releases.py. No GPU was at hand: the rule was not tried on one.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magistral_nb.errors import UnsupportedPlatform

Pair = tuple[int, int]

_TABLE = Path(__file__).with_suffix(".json")
_UNKNOWN_CARD = (0, 0)  # what NVML does not tell
_MACHINE_CODE_BELOW = (9, 0)
_ELSEWHERE = "type %magistral_connect URL to use a server elsewhere"


@dataclass(frozen=True, slots=True)
class Release:
    """A vLLM as PyPI has it for Linux on x86_64: the last patch of a minor release.

    Attributes:
        version: such as "0.19.1".
        uploaded: the day it came out, in ISO format. Whoever can (uv: --exclude-newer, pip 26: --uploaded-prior-to)
            takes nothing that is newer than the day after.
        torch: the version that it pins.
        cuda: the newest CUDA toolkit that its kernels or torch's were compiled with.
        pythons: the first and the last Python that it accepts.
        pins: what to ask for beside it, as newer ones break it or were not tested with it.
        doubt: why it may fail on the driver that was asked about; "" if nothing speaks against it.
    """

    version: str
    uploaded: str
    torch: str
    cuda: Pair
    pythons: tuple[Pair, Pair]
    pins: tuple[str, ...]
    doubt: str = ""


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
        oldest_card: lowest compute capability that it runs on at all.
        reasoning_parser: whether there is --reasoning-parser mistral.
        text_marks: whether that parser also splits <think> in plain text, as Magistral-Small-2506 writes it; where
            not, it refuses each question to a tokenizer without the control tokens, so that it must be left away.
        ministral_3: whether it knows these models: yarn and Llama 4's scaling of queries in Mistral's own format.
        images_off_saves: whether `--limit-mm-per-prompt {"image":0}` leaves the image encoder out of the GPU.
        thinking_fields: of a reply, where the trace stands; all of them hold the same.
        thinking_counted: whether a reply's usage tells the thinking tokens.
        token_ids: whether a request may ask for `return_token_ids`.
        kv_cache_bytes: whether there is --kv-cache-memory-bytes.
        unix_socket: whether there is --uds.
        kv_cache_gauge: of the /metrics page.
        arg_parser: the module that has make_arg_parser.
    """

    fp8: str = "fp8"
    fp8_layerwise: bool = False
    fp8_card: Pair = (8, 0)
    fp8_kv_card: Pair = (9, 0)
    oldest_card: Pair = (7, 0)
    reasoning_parser: bool = False
    text_marks: bool = False
    ministral_3: bool = False
    images_off_saves: bool = False
    thinking_fields: tuple[str, ...] = ("reasoning_content",)
    thinking_counted: bool = False
    token_ids: bool = False
    kv_cache_bytes: bool = False
    unix_socket: bool = False
    kv_cache_gauge: str = "vllm:gpu_cache_usage_perc"
    arg_parser: str = "vllm.entrypoints.openai.cli_args"


# The first version that has it. Read in vLLM's source, in that version and in the one before it, unless said otherwise.
_CHANGES: tuple[tuple[tuple[int, int, int], dict[str, Any]], ...] = (
    # Both gauges until 0.11; where 0.9 and 0.10 fall back to the V0 engine (cards below 8.0) only the old one.
    ((0, 9, 2), {"kv_cache_gauge": "vllm:kv_cache_usage_perc"}),
    ((0, 10, 0), {"reasoning_parser": True}),
    ((0, 10, 1), {"unix_socket": True}),
    ((0, 10, 2), {"token_ids": True, "kv_cache_bytes": True}),
    # FlashInfer is chosen by itself where FlashAttention takes no FP8; before, the boot is refused. Which fields a
    # reply has is decided by DeltaMessage and ChatMessage: a validator copies one into the other until 0.15.
    ((0, 11, 1), {"fp8_kv_card": (8, 0), "thinking_fields": ("reasoning", "reasoning_content")}),
    ((0, 12, 0), {"images_off_saves": True, "ministral_3": True}),  # images: of Hugging Face's format since 0.10.1
    ((0, 14, 0), {"fp8_card": (7, 5)}),
    ((0, 16, 0), {"thinking_fields": ("reasoning",)}),  # run: 0.32
    # Its pull request 31914, of January 2026; 0.13 and 0.14 took even more than BF16 does (32773).
    ((0, 16, 0), {"fp8_layerwise": True}),
    ((0, 20, 0), {"oldest_card": (7, 5)}),  # its installation guide, and the architectures of its Dockerfile
    ((0, 27, 0), {"text_marks": True}),  # run: 0.32
    ((0, 28, 0), {"thinking_counted": True}),  # run: 0.32
    ((0, 29, 0), {"arg_parser": "vllm.entrypoints.launchers.cli_args"}),  # run: 0.32
    ((0, 31, 0), {"fp8": "fp8_per_tensor"}),  # "fp8" still works, with a warning
    ((0, 33, 0), {"arg_parser": "vllm.entrypoints.common.cli_args"}),
)


@functools.cache
def releases() -> tuple[Release, ...]:
    """The table, oldest first: the last patch of each minor release from 0.9 on."""
    return tuple(_release(row) for row in json.loads(_TABLE.read_text(encoding="utf-8")))


def newest_for(cuda: Pair | None, python: Pair | None = None, capability: Pair | None = None) -> Release:
    """The newest vLLM whose wheels run on a driver.

    Args:
        cuda: the newest CUDA that the driver knows, as nvidia-smi and NVML tell it; None without a driver.
        python: that the engine will run on; None if one can be chosen, as uv can.
        capability: the card's compute capability; None or (0, 0) if it is not known.

    Raises:
        UnsupportedPlatform: there is none; with what would help.

    Example:
        >>> newest_for((12, 8), (3, 12), capability=(8, 0)).version
        '0.19.1'
        >>> newest_for((12, 4), (3, 12)).doubt
        "its FlashAttention 2 is compiled with CUDA 12.8, newer than the driver's 12.4: images fail on Hopper or newer"
    """
    card = None if capability == _UNKNOWN_CARD else capability
    found = [each for each in releases() if card is None or dialect(each.version).oldest_card <= card]
    if not found:
        oldest = Dialect().oldest_card
        raise UnsupportedPlatform(
            f"vLLM wants a card of compute capability {_dotted(oldest)}, and this one has {_dotted(card or oldest)}: "
            f"{_ELSEWHERE}."
        )
    if cuda is None:
        return replace(_for_python(found, python)[-1], doubt="there is no driver here that tells which CUDA it knows")
    found = [each for each in found if each.cuda[0] <= cuda[0]]
    if not found:
        raise UnsupportedPlatform(
            f"vLLM's wheels want a driver that knows CUDA 12 (525 or newer), and this one knows {_dotted(cuda)}: "
            f"update the NVIDIA driver, or {_ELSEWHERE}."
        )
    found = _for_python(found, python)
    all_machine_code = card is not None and card < _MACHINE_CODE_BELOW
    if certain := [each for each in found if all_machine_code or each.cuda <= cuda]:
        return certain[-1]
    least = min(each.cuda for each in found)
    return replace(
        next(each for each in reversed(found) if each.cuda == least),
        doubt=f"its FlashAttention 2 is compiled with CUDA {_dotted(least)}, newer than the driver's {_dotted(cuda)}: "
        "images fail on Hopper or newer",
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
        if since <= _numbers(version):
            known = replace(known, **changed)
    return known


def _numbers(version: str) -> tuple[int, ...]:
    """The release's numbers, three at least: a local part and what marks a pre-release left out."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    return tuple(numbers + [0] * (3 - len(numbers)))


def _for_python(found: list[Release], python: Pair | None) -> list[Release]:
    fitting = [each for each in found if python is None or each.pythons[0] <= python <= each.pythons[1]]
    if python is not None and not fitting:
        newest = found[-1]
        first, last = map(_dotted, newest.pythons)
        raise UnsupportedPlatform(
            f"vLLM {newest.version}, the newest for this driver and card, runs on Python {first} to {last}, not on "
            f"{_dotted(python)}: install uv (pip install uv), which fetches a Python of its own, or {_ELSEWHERE}."
        )
    return fitting


def _dotted(pair: Pair) -> str:
    return f"{pair[0]}.{pair[1]}"


def _release(row: dict[str, Any]) -> Release:
    (first, last), pins = row["pythons"], tuple(row["pins"])
    return Release(**row | {"cuda": tuple(row["cuda"]), "pythons": (tuple(first), tuple(last)), "pins": pins})
