"""What checkpoints look like from outside: their configs, true to life, and weights of no size to speak of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# Magistral Small's, as Transformers writes them; of params.json what vLLM reads.
TEXT = {
    "model_type": "mistral",
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
PARAMS = {
    "dim": 5120,
    "hidden_dim": 32768,
    "n_layers": 40,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
    "max_seq_len": 131072,
}
WITH_IMAGES = {"model_type": "mistral3", "text_config": TEXT, "vision_config": {"hidden_size": 1024}}
LORA = {
    "peft_type": "LORA",
    "base_model_name_or_path": "mistralai/Magistral-Small-2509",
    "r": 16,
    "lora_alpha": 32,
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {},
}


def tekken(*special: str, last: bool = True) -> bytes:
    """A tekken.json with these special tokens, behind its vocabulary as Mistral writes it or before it."""
    vocabulary = {"vocab": [{"rank": 0, "token_bytes": "SGVsbG8=", "token_str": "Hello"}]}
    tokens = {"special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(special)]}
    return json.dumps(vocabulary | tokens if last else tokens | vocabulary, indent=1).encode()


THINKING = tekken("<s>", "[THINK]", "[/THINK]")


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


# A repository in Hugging Face format with a tokenizer of Mistral's.
WHOLE: dict[str, bytes | int] = {
    "config.json": dump(TEXT),
    "tekken.json": THINKING,
    "model.safetensors": 47_144_000_000,
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Write files by name: bytes, a number for so many zero bytes that take no disk, or JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            if isinstance(content, int):
                file.truncate(content)
            else:
                file.write(content if isinstance(content, bytes) else dump(content))
    return folder
