"""Muon for the matrices inside the layers, Adam for the rest; each process updates its share of the parameters.

Muon (Jordan et al., 2024) makes every update an orthogonal matrix, so that rare directions learn as fast as common
ones: here it needs a third of Adam's steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from model import Model

MOMENTUM, DECAY = 0.95, 0.05
BETAS, EPSILON = (0.9, 0.98), 1e-9


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, nearly, by five Newton-Schulz steps."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).float()


def _takes_muon(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and name not in {"embedding.weight", "output.weight"}  # noqa: PLR2004 - a matrix


class Optimizer:
    """The update of one process's share."""

    def __init__(self, model: Model, state: list[list[Tensor]], rate: float, rank: int, processes: int) -> None:
        """Share out the parameters, the costliest first."""
        self.named, self.state, self.rate = list(model.named_parameters()), state, rate
        cost = [weight.numel() * (3 if _takes_muon(name, weight) else 1) for name, weight in self.named]
        loads, self.mine = [0] * processes, []
        for at in sorted(range(len(cost)), key=lambda at: -cost[at]):
            least = loads.index(min(loads))
            loads[least] += cost[at]
            if least == rank:
                self.mine.append(at)

    @staticmethod
    def fresh_state(model: Model) -> list[list[Tensor]]:
        """A momentum for each matrix, two moments for each other parameter."""
        return [
            [torch.zeros_like(weight.data) for _ in range(1 if _takes_muon(name, weight) else 2)]
            for name, weight in model.named_parameters()
        ]

    @torch.no_grad()
    def step(self, step: int, factor: float, gradients: list[list[Tensor]]) -> None:
        """One update with the sum of all processes' gradients."""
        rate = self.rate * factor
        for at in self.mine:
            name, weight = self.named[at]
            gradient = torch.stack([each[at] for each in gradients]).sum(0)
            if _takes_muon(name, weight):
                (momentum,) = self.state[at]
                momentum.lerp_(gradient, 1 - MOMENTUM)
                ahead = gradient.lerp(momentum, MOMENTUM)
                parts = ahead.chunk(2) if "gate_up" in name else [ahead]  # two matrices in one
                update = torch.cat([orthogonal(part) * 0.2 * max(part.shape) ** 0.5 for part in parts])
                weight.mul_(1 - rate * DECAY).sub_(update, alpha=rate)
            else:
                first, second = self.state[at]
                first.lerp_(gradient, 1 - BETAS[0])
                second.lerp_(gradient * gradient, 1 - BETAS[1])
                scale = (second / (1 - BETAS[1] ** step)).sqrt() + EPSILON
                weight.addcdiv_(first / (1 - BETAS[0] ** step), scale, value=-rate)
