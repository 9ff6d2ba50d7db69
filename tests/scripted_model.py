"""Tiny checkpoints that utter a given script through the whole real engine.

A scripted model is a folder in Mistral's native format (params.json, consolidated.safetensors, tekken.json)
of about half a megabyte. Its blocks add nothing to the residual stream, so the last hidden state is the
embedding of the last token alone. Every token of the script has a direction of its own there, and the output
head maps each direction to the script's next token. What is real, and therefore tested, is everything around
the model: the loader, the scheduler, the tokenizer, the reasoning parser, the server and its aborts.

    >>> write_scripted_model(folder, "[THINK]340 + 7 = 347.[/THINK]It is 347.")
    >>> write_scripted_model(folder, "[THINK]Let me see. Hmm, once more.", loop_from=" Hmm")  # for ever

The next token depends on the last one only, so no token may occur twice in a script. The vocabulary is built
for the script: what is said again is cut into other tokens than the first time.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Magistral's control tokens at Magistral's ranks (tekken.json of Magistral-Small-2507 and 2509).
_CONTROL_TOKENS = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    3: "[INST]",
    4: "[/INST]",
    5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]",
    8: "[/TOOL_RESULTS]",
    9: "[TOOL_CALLS]",
    10: "[IMG]",
    11: "<pad>",
    12: "[IMG_BREAK]",
    13: "[IMG_END]",
    14: "[PREFIX]",
    15: "[MIDDLE]",
    16: "[SUFFIX]",
    17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]",
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    32: "[ARGS]",
    33: "[CALL_ID]",
    34: "[THINK]",
    35: "[/THINK]",
}
_N_CONTROL = 64  # the ranks between and behind the named ones are fillers
_END_OF_TEXT, _END_OF_PROMPT = 2, 4
_THINK_TOKENS = ("[THINK]", "[/THINK]")
_TOOL_TOKENS = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")

_LARGEST_DIM = 4096
_LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM, _HIDDEN_DIM = 1, 2, 1, 64, 64
_LOGIT = 40.0  # of the script's next token where all others have 0: certain at every temperature in use


def write_scripted_model(
    folder: Path,
    text: str,
    *,
    loop_from: str | None = None,
    think_tokens: bool = True,
    context: int = 40960,
    system_prompt: str | None = None,
) -> Path:
    """Write a checkpoint that answers every prompt with `text`.

    Args:
        folder: made if it is not there.
        text: the script. [THINK], [/THINK], [TOOL_CALLS], [CALL_ID] and [ARGS] in it become control tokens.
        loop_from: instead of ending, go on for ever from the first occurrence of this string in `text`. A
            [/THINK] behind it is then never reached by itself; who closes the thought gets what stands there.
        think_tokens: False leaves [THINK] and [/THINK] out of the vocabulary, as in Magistral-Small-2506.
        context: the largest context that the checkpoint claims, in tokens.
        system_prompt: the content of a SYSTEM_PROMPT.txt beside the weights.

    Raises:
        ValueError: the script is too long, or so short and repetitive that its tokens cannot be distinct.
    """
    control = {name: i for i, name in _CONTROL_TOKENS.items() if think_tokens or name not in _THINK_TOKENS}
    script, loop_start = _tokenize(text, control, loop_from)
    words = [token for token in dict.fromkeys(script) if isinstance(token, bytes)]
    vocabulary = [bytes([i]) for i in range(256)] + [word for word in words if len(word) > 1]
    ids = {word: _N_CONTROL + rank for rank, word in enumerate(vocabulary)}
    chain = [token if isinstance(token, int) else ids[token] for token in script]
    steps = dict(zip([_END_OF_PROMPT, *chain], [*chain, _END_OF_TEXT], strict=True))
    if loop_start is not None:
        end = control.get("[/THINK]")
        last = chain.index(end) - 1 if end in chain[loop_start:] else len(chain) - 1
        steps[chain[last]] = chain[loop_start]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(_tekken(vocabulary, control)), encoding="utf-8")
    weights = _weights(steps, n_tokens=_N_CONTROL + len(vocabulary))
    write_safetensors(folder / "consolidated.safetensors", weights)
    n_tokens, dim = weights["tok_embeddings.weight"].shape
    params = {
        "dim": dim,
        "n_layers": _LAYERS,
        "head_dim": _HEAD_DIM,
        "hidden_dim": _HIDDEN_DIM,
        "n_heads": _HEADS,
        "n_kv_heads": _KV_HEADS,
        "rope_theta": 1e9,
        "norm_eps": 1e-5,
        "vocab_size": n_tokens,
        "max_position_embeddings": context,
        "max_seq_len": context,
    }
    (folder / "params.json").write_text(json.dumps(params, indent=2), encoding="utf-8")
    if system_prompt is not None:
        (folder / "SYSTEM_PROMPT.txt").write_text(system_prompt, encoding="utf-8")
    return folder


def _tokenize(text: str, control: dict[str, int], loop_from: str | None) -> tuple[list[int | bytes], int | None]:
    """Cut the script into distinct tokens, ids of control tokens and bytes of words; find where it loops."""
    start = None
    if loop_from is not None:
        start = text.find(loop_from)
        if start < 0:
            raise ValueError(f"the script does not contain {loop_from!r}")
    in_scripts = [name for name in (*_THINK_TOKENS, *_TOOL_TOKENS) if name in control]
    cut_at_control = re.compile("(" + "|".join(map(re.escape, in_scripts)) + ")")
    halves = [text] if start is None else [text[:start], text[start:]]
    parts = [[part for part in cut_at_control.split(half) if part] for half in halves]
    flat = [part for half in parts for part in half]
    names = [part for part in flat if part in control]
    if len(set(names)) < len(names):
        raise ValueError("a control token can occur only once in a script")

    used: set[bytes] = set()
    tokens: list[list[int | bytes]] = [[control[part]] if part in control else [] for part in flat]
    # The shortest part has the fewest ways to be cut, so it chooses first.
    for i in sorted(range(len(flat)), key=lambda i: len(flat[i])):
        if flat[i] not in control:
            tokens[i] = list(_cut(flat[i], used))
    script = [token for part in tokens for token in part]
    if len(script) > _LARGEST_DIM - 2:
        raise ValueError(f"a script of {len(script)} tokens is too long; `loop_from` makes long outputs cheap")
    return script, None if start is None else sum(map(len, tokens[: len(parts[0])]))


def _cut(text: str, used: set[bytes]) -> list[bytes]:
    """Cut a text into tokens that are not in `used` yet, a word each where possible, and add them to it."""
    tokens: list[str] = []
    at = 0
    while at < len(text):
        token = next((token for token in _candidates(text, at) if token.encode() not in used), text[at:])
        at += len(token)
        # Where nothing of what is left is new, it goes together with what stands before it.
        while token.encode() in used:
            if not tokens:
                raise ValueError(f"{text!r} is too short and too repetitive for a script")
            used.discard(tokens[-1].encode())
            token = tokens.pop() + token
        used.add(token.encode())
        tokens.append(token)
    return [token.encode() for token in tokens]


def _candidates(text: str, at: int) -> Iterator[str]:
    """Tokens that could stand at this place: the word, then its beginnings, then the word and more."""
    match = re.compile(r"\s*\S+|\s+").match(text, at)
    end = match.end() if match else len(text)
    yield text[at:end]
    for shorter in range(end - 1, at, -1):
        yield text[at:shorter]
    for longer in range(end + 1, len(text) + 1):
        yield text[at:longer]


def _tekken(vocabulary: list[bytes], control: dict[str, int]) -> dict[str, object]:
    names = {i: name for name, i in control.items()}
    return {
        "type": "Tekken",
        "version": 3,
        "config": {
            "pattern": r"\s*\S+|\s+",
            "num_vocab_tokens": len(vocabulary),
            "default_vocab_size": _N_CONTROL + len(vocabulary),
            "default_num_special_tokens": _N_CONTROL,
            # v13, Magistral's since 2507, is the first version whose chat format has thinking chunks.
            "version": "v13" if "[THINK]" in control else "v11",
        },
        "special_tokens": [
            {"rank": i, "token_str": names.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(_N_CONTROL)
        ],
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(word).decode(), "token_str": _as_text(word)}
            for i, word in enumerate(vocabulary)
        ],
    }


def _as_text(word: bytes) -> str | None:
    try:
        return word.decode()
    except UnicodeDecodeError:
        return None


def _weights(steps: dict[int, int], n_tokens: int) -> dict[str, np.ndarray]:
    """Turn each token into the next one of `steps`, and any other token into the end of the text."""
    dim = max(256, -(-(len(steps) + 1) // 64) * 64)
    embedding = np.zeros((n_tokens, dim), np.float32)
    head = np.zeros((n_tokens, dim), np.float32)
    elsewhere = dim - 1  # one direction for all tokens outside the script
    embedding[:, elsewhere] = 1
    # The last norm scales a unit vector to the length sqrt(dim).
    weight = _LOGIT / dim**0.5
    head[_END_OF_TEXT, elsewhere] = weight
    for direction, (token, following) in enumerate(steps.items()):
        embedding[token] = 0
        embedding[token, direction] = 1
        head[following, direction] = weight
    weights = {
        "tok_embeddings.weight": embedding,
        "output.weight": head,
        "norm.weight": np.ones(dim, np.float32),
    }
    for layer in range(_LAYERS):
        shapes = {
            "attention.wq": (_HEADS * _HEAD_DIM, dim),
            "attention.wk": (_KV_HEADS * _HEAD_DIM, dim),
            "attention.wv": (_KV_HEADS * _HEAD_DIM, dim),
            "attention.wo": (dim, _HEADS * _HEAD_DIM),
            "feed_forward.w1": (_HIDDEN_DIM, dim),
            "feed_forward.w2": (dim, _HIDDEN_DIM),
            "feed_forward.w3": (_HIDDEN_DIM, dim),
        }
        for name, shape in shapes.items():
            weights[f"layers.{layer}.{name}.weight"] = np.zeros(shape, np.float32)
        for name in ("attention_norm", "ffn_norm"):
            weights[f"layers.{layer}.{name}.weight"] = np.ones(dim, np.float32)
    return weights


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write float32 tensors as bfloat16: 8 bytes for the header's length, the header in JSON, raw numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    at = 0
    for name, tensor in tensors.items():
        blob = _bfloat16(tensor).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    encoded = json.dumps(header).encode()
    # Readers map the numbers in place, so they start at a multiple of 8.
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"".join(blobs))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers, rounded to the nearest, ties to even."""
    bits: np.ndarray = np.ascontiguousarray(values, "<f4").view("<u4")
    rounded: np.ndarray = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")
