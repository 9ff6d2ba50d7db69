"""Model folders without weights: the shape of a profile's model in the files that vLLM reads before it loads weights.

The vision encoders are Mistral Small 3.1's, of which Magistral Small 1.2 is made, as its params.json and config.json
have them. The quantised re-uploads are what vLLM's LLM Compressor writes for its schemes FP8_DYNAMIC and W4A16_ASYM.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scripted_model import write_safetensors, write_scripted_model

from magistral_nb.serving.profile import Adapter

if TYPE_CHECKING:
    from pathlib import Path

    from magistral_nb.serving.profile import Profile, Shape

_VOCABULARY = 131_072
_MISTRAL_VISION = {
    "hidden_size": 1024,
    "num_channels": 3,
    "max_image_size": 1540,
    "patch_size": 14,
    "rope_theta": 10000.0,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "adapter_bias": False,
    "mm_projector_id": "patch_merge",
    "spatial_merge_size": 2,
    "add_pre_mm_projector_layer_norm": True,
    "image_token_id": 10,
    "image_break_token_id": 12,
    "image_end_token_id": 13,
    "image_size": 1540,
}
_HUGGINGFACE_VISION = {
    "model_type": "pixtral",
    "hidden_size": 1024,
    "num_channels": 3,
    "image_size": 1540,
    "patch_size": 14,
    "rope_theta": 10000.0,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "head_dim": 64,
    "hidden_act": "silu",
}
# Ministral 3 stretches 16,384 positions to 262,144, and scales queries with their position as Llama 4 does.
_MINISTRAL_POSITIONS = {
    "yarn": {
        "original_max_position_embeddings": 16_384,
        "factor": 16,
        "apply_scale": False,
        "beta": 32,
        "alpha": 1,
    },
    "llama_4_scaling": {"original_max_position_embeddings": 16_384, "beta": 0.1},
}
_HUGGINGFACE_MINISTRAL = {
    "model_type": "ministral3",
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "original_max_position_embeddings": 16_384,
        "max_position_embeddings": 16_384,
        "factor": 16.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
_NOT_QUANTISED = ["lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
_FP8_DYNAMIC = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": _NOT_QUANTISED,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "strategy": "token",
                "symmetric": True,
                "dynamic": True,
            },
        }
    },
}
_W4A16_ASYM = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": _NOT_QUANTISED,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "strategy": "group",
                "group_size": 32,
                "symmetric": False,
                "dynamic": False,
            },
        }
    },
}
_QUANTISED = {"fp8": _FP8_DYNAMIC, "int4": _W4A16_ASYM}


class HollowModels:
    """Folders in the place of repositories, each written when it is first asked for."""

    def __init__(self, home: Path) -> None:
        """Folders inside of `home`."""
        self.home = home
        script = write_scripted_model(home / "script", "[THINK]One.[/THINK] Two.")
        self._tekken = script / "tekken.json"

    def of(self, profile: Profile) -> Profile:
        """The profile with folders of this machine for its model, its tokenizer and its adapters."""
        tokenizer = self._folder("tokenizer") if profile.tokenizer else None
        adapters = tuple(Adapter(each.name, str(self.home), each.rank) for each in profile.adapters)
        folder = self.home / profile.name
        if not folder.exists():
            write = _mistral if profile.layout == "mistral" else _huggingface
            write(self._folder(profile.name), profile)
        return replace(profile, source=str(folder), tokenizer=tokenizer and str(tokenizer), adapters=adapters)

    def _folder(self, name: str) -> Path:
        """A folder with a tokenizer in it."""
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        shutil.copy(self._tekken, folder)
        return folder


def _mistral(folder: Path, profile: Profile) -> None:
    """A header that tells BF16, and params.json."""
    shape = _shape(profile)
    params: dict[str, Any] = {
        "dim": shape.width,
        "n_layers": shape.layers,
        "head_dim": shape.head_size,
        "hidden_dim": shape.hidden,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "rope_theta": 1e9,
        "norm_eps": 1e-5,
        "vocab_size": _VOCABULARY,
        "tied_embeddings": profile.name.startswith("ministral-3-3b"),
        "max_position_embeddings": profile.longest_context,
    }
    if profile.name.startswith("ministral"):
        params |= _MINISTRAL_POSITIONS
    if profile.vision:
        params["vision_encoder"] = _MISTRAL_VISION
    if profile.stored == "fp8":
        params["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    write_safetensors(folder / "consolidated.safetensors", {"norm.weight": np.ones(1, np.float32)})


def _huggingface(folder: Path, profile: Profile) -> None:
    """What Transformers writes of Mistral Small 3.1 or Ministral 3, and how it was quantised."""
    shape = _shape(profile)
    text: dict[str, Any] = {
        "model_type": "mistral",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "head_dim": shape.head_size,
        "intermediate_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "rope_theta": 1e9,
        "rms_norm_eps": 1e-5,
        "vocab_size": _VOCABULARY,
        "tie_word_embeddings": False,
        "max_position_embeddings": profile.longest_context,
    }
    if profile.needs_ministral_3:
        text |= _HUGGINGFACE_MINISTRAL
    config: dict[str, Any] = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "dtype": "bfloat16",
        "image_token_index": 10,
        "tie_word_embeddings": False,
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "text_config": text,
        "vision_config": _HUGGINGFACE_VISION,
    }
    if profile.stored in _QUANTISED:
        config["quantization_config"] = _QUANTISED[profile.stored]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _shape(profile: Profile) -> Shape:
    if profile.shape is None:
        raise ValueError(f"nobody knows the shape of {profile.name}")
    return profile.shape
