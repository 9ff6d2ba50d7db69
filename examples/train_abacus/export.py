"""Write a checkpoint as a folder in Mistral's own format, which vLLM serves with Magistral's flags.

PYTHONPATH=. python examples/train_abacus/export.py OUT/final.pt FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from model import Shape
from safetensors.torch import save_file
from torch import Tensor

from examples import SYSTEM_PROMPT


def interleaved(weight: Tensor, heads: int, shape: Shape) -> Tensor:
    """Mistral's files rotate neighbours, the training rotates halves: the rows change places."""
    return weight.view(heads, 2, shape.head // 2, shape.width).transpose(1, 2).reshape(-1, shape.width)


def tensors(model: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Every weight under the name that Mistral's format gives it."""
    named = {
        "tok_embeddings.weight": model["embedding.weight"],
        "norm.weight": model["norm.weight"],
        "output.weight": model["output.weight"],
    }
    rows = [shape.heads * shape.head, shape.kv_heads * shape.head, shape.kv_heads * shape.head]
    for layer in range(shape.layers):
        ours, theirs = f"blocks.{layer}.", f"layers.{layer}."
        query, key, value = model[f"{ours}qkv.weight"].split(rows)
        gate, up = model[f"{ours}gate_up.weight"].chunk(2)
        named |= {
            f"{theirs}attention.wq.weight": interleaved(query, shape.heads, shape),
            f"{theirs}attention.wk.weight": interleaved(key, shape.kv_heads, shape),
            f"{theirs}attention.wv.weight": value,
            f"{theirs}attention.wo.weight": model[f"{ours}out.weight"],
            f"{theirs}attention_norm.weight": model[f"{ours}attention_norm.weight"],
            f"{theirs}ffn_norm.weight": model[f"{ours}hidden_norm.weight"],
            f"{theirs}feed_forward.w1.weight": gate,
            f"{theirs}feed_forward.w2.weight": model[f"{ours}down.weight"],
            f"{theirs}feed_forward.w3.weight": up,
        }
    return {name: weight.to(torch.bfloat16).clone().contiguous() for name, weight in named.items()}


def main() -> None:
    """Write the folder."""
    checkpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
    loaded = torch.load(checkpoint)
    shape = Shape(**loaded["shape"])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(loaded["model"], shape), folder / "consolidated.safetensors", metadata={"format": "pt"})
    params = {
        "dim": shape.width,
        "n_layers": shape.layers,
        "head_dim": shape.head,
        "hidden_dim": shape.hidden,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "rope_theta": shape.theta,
        "norm_eps": shape.epsilon,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "max_seq_len": shape.context,
    }
    (folder / "params.json").write_text(json.dumps(params, indent=1), "utf-8")
    (folder / "SYSTEM_PROMPT.txt").write_text(SYSTEM_PROMPT, "utf-8")
    shutil.copyfile(checkpoint.parent / "tekken.json", folder / "tekken.json")
    size = (folder / "consolidated.safetensors").stat().st_size
    print(f"{folder}: step {int(loaded['counts'][0]):,}, {size:,} bytes")


if __name__ == "__main__":
    main()
