"""The README's tables of GPUs and drivers, made by the planner itself on simulated machines."""

from __future__ import annotations

import re

from machines import CARDS, DRIVERS, MACHINES, versions_for
from planning import plan_on, told

from magistral_nb.serving.releases import newest_for

_SHOWN = {
    "T4": "T4, 16 GB",
    "2 x T4": "2 x T4 (Kaggle)",
    "L4": "L4, A10, 24 GB",
    "RTX 4090": "RTX 4090, 24 GB",
    "A100 40": "A100, 40 GB",
    "L40S": "L40S, 48 GB",
    "H100 80": "H100, A100, 80 GB",
    "RTX PRO 6000": "RTX PRO 6000, 96 GB",
    "H200": "H200, 141 GB",
    "B200": "B200, 180 GB",
    "MIG slice of 20 GB": "a MIG slice of 20 GB",
}


def gpu_table() -> str:
    """What `%magistral_serve` takes where no model is named, on the newest vLLM."""
    lines = ["| GPU | takes | context | weights | KV cache | such requests at once |", "|---" * 6 + "|"]
    for label, shown in _SHOWN.items():
        newest = max(versions_for(MACHINES[label]), key=lambda version: [int(part) for part in version.split(".")])
        plan = plan_on(MACHINES[label], version=newest)
        kv, title = told(plan, "KV cache"), plan.title.split(" on ")[0]
        tokens, requests = re.match(r"([\d,]+) tokens, room for ([\d,]+)", kv.why).groups()
        sizes = (told(plan, "weights").value, f"{kv.value}, {tokens} tokens", requests)
        lines.append(f"| {' | '.join((shown, title, f'{plan.context:,}', *sizes))} |")
    return "\n".join(lines)


def driver_table() -> str:
    """The vLLM that each driver gets."""
    cards = {"T4, A100, L4, RTX 4090": CARDS["L4"], "H100, H200": CARDS["H100 80"], "RTX 50, B200": CARDS["B200"]}
    lines = [f"| driver | {' | '.join(cards)} |", "|---" * (len(cards) + 1) + "|"]
    for driver, cuda in DRIVERS.items():
        versions = " | ".join(_newest(cuda, card.capability) for card in cards.values())
        lines.append(f"| {driver} (CUDA {cuda[0]}.{cuda[1]}) | {versions} |")
    return "\n".join(lines)


def _newest(cuda: tuple[int, int], capability: tuple[int, int]) -> str:
    if capability >= (10, 0) and cuda < (12, 8):
        return "no driver of these cards"
    found = newest_for(cuda, capability=capability)
    return f"vLLM {found.version}{' *' * bool(found.doubt)}"
