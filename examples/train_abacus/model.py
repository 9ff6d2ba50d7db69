"""Mistral's architecture in sixty lines of PyTorch: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The sizes of abacus: 3.28 million parameters."""

    vocabulary: int = 1024
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    hidden: int = 640
    theta: float = 10_000.0
    epsilon: float = 1e-5
    context: int = 2048


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, shape: Shape) -> None:
        """Start as the identity."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.width))
        self.epsilon = shape.epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Scale each position to unit size."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, on halves; Mistral's own files interleave them, see export.py."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)


class Block(nn.Module):
    """One layer: attention, then a feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        """Matrices that are read together are kept together."""
        super().__init__()
        self.shape = shape
        self.attention_norm, self.hidden_norm = Norm(shape), Norm(shape)
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.kv_heads) * shape.head, bias=False)
        self.out = nn.Linear(shape.heads * shape.head, shape.width, bias=False)
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        """Attend to what came before, then think for oneself."""
        shape = self.shape
        batch, length, _ = x.shape
        heads, kv_heads, size = shape.heads, shape.kv_heads, shape.head
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, heads + 2 * kv_heads, size).transpose(1, 2)
        rotated = rotate(qkv[:, : heads + kv_heads], cosine, sine).to(x.dtype)
        # Written out: PyTorch's flash attention for CPUs takes twice as long in the backward pass.
        q = rotated[:, :heads].reshape(batch * kv_heads, -1, size) * size**-0.5
        k = rotated[:, heads:].reshape(batch * kv_heads, length, size)
        v = qkv[:, heads + kv_heads :].reshape(batch * kv_heads, length, size)
        scores = torch.bmm(q, k.transpose(1, 2)).view(batch * kv_heads, -1, length, length) + mask
        attention = torch.softmax(scores.float(), -1).to(v.dtype).view(batch * kv_heads, -1, length)
        mixed = torch.bmm(attention, v).view(batch, heads, length, size).transpose(1, 2)
        x = x + self.out(mixed.reshape(batch, length, heads * size))
        gate, up = self.gate_up(self.hidden_norm(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Model(nn.Module):
    """Tokens in, logits of the next ones out."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: Shape) -> None:
        """Small random weights; what writes to the residual stream starts smaller still."""
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if name == "embedding.weight":
                nn.init.normal_(weight, std=0.1)
            elif name == "output.weight":
                nn.init.normal_(weight, std=0.02)
            elif weight.ndim == 2:  # noqa: PLR2004 - a matrix
                scale = 0.5 / math.sqrt(shape.layers) if name.endswith(("out.weight", "down.weight")) else 1
                nn.init.normal_(weight, std=scale / math.sqrt(weight.shape[1]))
        inverse = shape.theta ** (-torch.arange(0, shape.head, 2).float() / shape.head)
        angles = torch.outer(torch.arange(shape.context).float(), inverse)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits for every position."""
        kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else self.embedding.weight.dtype
        x = self.embedding(ids).to(kind)
        length = ids.shape[1]
        cosine, sine = self.cosine[:length].to(kind), self.sine[:length].to(kind)
        mask = torch.full((length, length), float("-inf"), dtype=kind).triu(1)
        for block in self.blocks:
            x = block(x, cosine, sine, mask)
        return self.output(self.norm(x))
