"""What a config.json or a params.json says of its model. Pure: a dictionary in, values out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from magistral_nb.serving.profile import Shape, parameters_of

if TYPE_CHECKING:
    from magistral_nb.serving.profile import Stored

# Mistral's names for what config.json holds, as vLLM maps them.
_RENAMED = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "tied_embeddings": "tie_word_embeddings",
    "vision_encoder": "vision_config",
    "quantization": "quantization_config",
}
_UNTOLD_CONTEXT = 128_000  # tokens; vLLM's for a params.json without max_position_embeddings
# What a scheme without a number of bits says instead, NVFP4 first, as it may keep its KV cache in FP8.
_KINDS: dict[str, Stored] = {"fp4": "fp4", "fp8": "fp8", "float8": "fp8", "int8": "int8"}
_PIXTRAL = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}


def from_params(params: dict[str, Any]) -> dict[str, Any]:
    """Mistral's params.json in the words of config.json.

    Example:
        >>> from_params({"dim": 5120, "max_seq_len": 32768, "vocab_size": 131072})
        {'hidden_size': 5120, 'vocab_size': 131072, 'max_position_embeddings': 32768}
    """
    config = {_RENAMED.get(key, key): value for key, value in params.items() if key != "max_seq_len"}
    if not params.get("max_position_embeddings"):
        told = params.get("max_seq_len")
        config["max_position_embeddings"] = min(told, _UNTOLD_CONTEXT) if isinstance(told, int) else _UNTOLD_CONTEXT
    multimodal = params.get("multimodal")
    if isinstance(multimodal, dict) and "vision_encoder_args" in multimodal:
        config["vision_config"] = multimodal["vision_encoder_args"]
    return config


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's own part, where a model that takes images has its config nested.

    Example:
        >>> text_of({"vision_config": {}, "text_config": {"vocab_size": 7}})
        {'vocab_size': 7}
    """
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def longest_context(config: dict[str, Any]) -> int | None:
    """Tokens that the positions are made for; None if not told.

    Example:
        >>> longest_context({"text_config": {"max_position_embeddings": 262144}})
        262144
    """
    told = text_of(config).get("max_position_embeddings")
    return told if isinstance(told, int) and told > 0 else None


def stored_as(config: dict[str, Any]) -> tuple[Stored, str | None]:
    """How the weights lie there, and vLLM's method for it; None for BF16.

    Read where vLLM reads it: compressed-tensors also writes compression_config, and Mistral's own FP8 has a
    qformat_weight in place of a method.

    Example:
        >>> stored_as({"quantization_config": {"quant_method": "awq", "bits": 4}})
        ('int4', 'awq')
        >>> stored_as(from_params({"quantization": {"qformat_weight": "fp8_e4m3"}}))
        ('fp8', 'fp8')
    """
    places = (config, text_of(config))
    keys = ("quantization_config", "compression_config")
    found = next((place[key] for place in places for key in keys if isinstance(place.get(key), dict)), None)
    if not found:
        return "bf16", None
    method = str(found.get("quant_method") or "fp8").lower()
    return _kind(found, method), "compressed-tensors" if method == "compressed_tensors" else method


def _kind(found: dict[str, Any], method: str) -> Stored:
    if method == "bitsandbytes":
        return "int4" if found.get("load_in_4bit") else "int8"
    groups = found.get("config_groups")
    parts = groups.values() if isinstance(groups, dict) else []
    weights = (part.get("weights") for part in parts if isinstance(part, dict))
    scheme = next((each for each in weights if isinstance(each, dict)), found)
    bits = scheme.get("num_bits") or scheme.get("bits")
    if isinstance(bits, int):
        if scheme.get("type") == "float" or "fp" in method:
            return "fp8" if bits >= 8 else "fp4"  # noqa: PLR2004 - bits
        return "int8" if bits >= 8 else "int4"  # noqa: PLR2004 - bits
    words = f"{method} {json.dumps(scheme)}".lower()
    return next((kind for word, kind in _KINDS.items() if word in words), "int4")


def has_vision(config: dict[str, Any]) -> bool:
    """Whether the model takes images.

    Example:
        >>> has_vision(from_params({"multimodal": {"vision_encoder_args": {"hidden_size": 1024}}}))
        True
    """
    return isinstance(config.get("vision_config"), dict)


def shape_of(config: dict[str, Any], size: float) -> Shape | None:
    """What decides its memory; None where it keeps something else than keys and values (latent attention).

    Args:
        config: of the model.
        size: bytes of its weights.

    Raises:
        KeyError, TypeError, ValueError, ZeroDivisionError: it does not describe a transformer.

    Example:
        >>> llama = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "vocab_size": 100}
        >>> shape_of(llama, size=200_000).kv_bytes(2)
        512
    """
    text, (stored, _) = text_of(config), stored_as(config)
    if text.get("kv_lora_rank"):
        return None
    if "float32" in {part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype")}:
        size /= 2  # vLLM loads them as BF16
    heads, width = int(text["num_attention_heads"]), int(text["hidden_size"])
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    embeddings = int(text.get("vocab_size") or 0) * width * (1 if tied else 2) + _vision_parameters(config)
    kept = min(embeddings, size / 2)
    return Shape(
        parameters=parameters_of(size, kept, stored),
        layers=int(text["num_hidden_layers"]),
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_size=int(text.get("head_dim") or width // heads),
        embeddings=kept,
        heads=heads,
        width=width,
        hidden=int(text.get("intermediate_size") or 0),
        stored_bytes=None if stored == "bf16" else size,
    )


def _vision_parameters(config: dict[str, Any]) -> int:
    """Of the encoder's attention and feed-forward layers; Pixtral's where the config leaves them out."""
    if not has_vision(config):
        return 0
    layers, width, hidden = (
        int(config["vision_config"].get(key) or _PIXTRAL[key])
        for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    return layers * (4 * width * width + 3 * width * hidden)
