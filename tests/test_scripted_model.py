from __future__ import annotations

import base64
import json
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from scripted_model import write_safetensors, write_scripted_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long  # a tool of the tests, tested where time is no matter

HOSTILE = "<img src=x onerror=alert(1)> </s> <s> [INST] é 思考 思考 🤔🤔\n\n```x```"


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n_header])
    header.pop("__metadata__")
    tensors = {}
    end = 0
    for name, entry in header.items():
        assert entry["dtype"] == "BF16"
        start, stop = entry["data_offsets"]
        assert start == end, "tensors follow each other without a gap"
        end = stop
        halves = np.frombuffer(data[8 + n_header + start : 8 + n_header + stop], "<u2")
        tensors[name] = (halves.astype("<u4") << 16).view("<f4").reshape(entry["shape"])
    assert 8 + n_header + end == len(data)
    return tensors


def pieces(folder: Path) -> list[bytes]:
    tekken = json.loads((folder / "tekken.json").read_text())
    special = [entry["token_str"].encode() for entry in tekken["special_tokens"]]
    words = [base64.b64decode(entry["token_bytes"]) for entry in tekken["vocab"]]
    return special + words


def utter(folder: Path) -> Iterator[bytes]:
    """What the engine computes: embedding, norm, head, and the likeliest token; the blocks add nothing."""
    tensors = read_safetensors(folder / "consolidated.safetensors")
    states = tensors["tok_embeddings.weight"]
    states = states / np.sqrt(np.mean(states**2, axis=1, keepdims=True) + 1e-5)
    logits = states @ tensors["output.weight"].T
    second, first = np.partition(logits, -2)[:, -2:].T
    assert (first - second > 30).all(), "nothing else can be sampled"
    names, following = pieces(folder), np.argmax(logits, axis=1)
    token = following[names.index(b"[/INST]")]
    while names[token] != b"</s>":
        yield names[token]
        token = following[token]


@pytest.mark.parametrize(
    "text",
    [
        "[THINK]Add 340 and 7.[/THINK]It is 347.",
        f"[THINK]{HOSTILE}[/THINK]{HOSTILE} and more",
        "[THINK]ha ha ha ha ha ha ha ha[/THINK]ha ha ha",
        "[THINK]2 + 2 = 4[/THINK]4",
        '[TOOL_CALLS]add[ARGS]{"a": 340, "b": 7}',
        "no thought at all",
        " " * 7,
    ],
)
def test_the_chain_decodes_to_the_text(tmp_path: Path, text: str) -> None:
    write_scripted_model(tmp_path, text)
    assert b"".join(utter(tmp_path)).decode() == text


@settings(max_examples=50, deadline=None)
@given(thought=st.text(st.characters(codec="utf-8")), answer=st.text(st.characters(codec="utf-8")))
def test_any_text_is_uttered_or_refused(tmp_path_factory: pytest.TempPathFactory, thought: str, answer: str) -> None:
    folder = tmp_path_factory.mktemp("model")
    text = f"[THINK]{thought}[/THINK]{answer}"
    assume("[" not in thought + answer)
    try:
        write_scripted_model(folder, text)
    except ValueError:
        assert len(thought + answer) < 40, "only a short text can leave no way to cut it"
    else:
        assert b"".join(utter(folder)).decode() == text


def test_a_word_is_a_token_and_a_repeated_word_is_cut_differently(tmp_path: Path) -> None:
    write_scripted_model(tmp_path, "[THINK]wait a moment wait[/THINK]done")
    assert list(utter(tmp_path)) == [b"[THINK]", b"wait", b" a", b" moment", b" wait", b"[/THINK]", b"done"]
    write_scripted_model(tmp_path, "so wait, wait, wait, no")
    assert list(utter(tmp_path)) == [b"so", b" wait,", b" wait", b",", b" wai", b"t,", b" no"]


def test_a_loop_never_ends(tmp_path: Path) -> None:
    write_scripted_model(tmp_path, "[THINK]Let me see. Hmm, again. 🤔", loop_from=" Hmm")
    uttered = b"".join(islice(utter(tmp_path), 1000)).decode()
    assert uttered.startswith("[THINK]Let me see. Hmm, again. 🤔 Hmm, again. 🤔 Hmm, again. 🤔 Hmm")
    assert uttered.count("Let") == 1


def test_two_thousand_words_without_a_loop(tmp_path: Path) -> None:
    text = "[THINK]" + " ".join(f"step{i}" for i in range(2000)) + "[/THINK]done"
    write_scripted_model(tmp_path, text)
    assert b"".join(utter(tmp_path)).decode() == text


@pytest.mark.parametrize(
    ("text", "loop_from", "message"),
    [
        (" ".join(map(str, range(5000))), None, "too long"),
        ("[THINK]4[/THINK]4", None, "too repetitive"),
        ("[THINK]one[/THINK]two[THINK]three", None, "only once"),
        ("some text", "other", "does not contain"),
    ],
)
def test_an_impossible_script_is_refused(tmp_path: Path, text: str, loop_from: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_scripted_model(tmp_path, text, loop_from=loop_from)


def test_the_files_agree_with_each_other(tmp_path: Path) -> None:
    folder = write_scripted_model(
        tmp_path / "new", f"[THINK]{HOSTILE}[/THINK]20126", context=2048, system_prompt="Think."
    )
    params = json.loads((folder / "params.json").read_text())
    tekken = json.loads((folder / "tekken.json").read_text())
    tensors = read_safetensors(folder / "consolidated.safetensors")
    vocab, config = tekken["vocab"], tekken["config"]

    assert (folder / "SYSTEM_PROMPT.txt").read_text() == "Think."
    assert params["max_position_embeddings"] == params["max_seq_len"] == 2048
    assert params["vocab_size"] == config["default_vocab_size"] == len(pieces(folder))
    assert config["num_vocab_tokens"] == len(vocab)
    assert [entry["rank"] for entry in vocab] == list(range(len(vocab)))
    assert [base64.b64decode(entry["token_bytes"]) for entry in vocab[:256]] == [bytes([i]) for i in range(256)]
    assert len({entry["token_bytes"] for entry in vocab}) == len(vocab)
    names = [entry["token_str"] for entry in tekken["special_tokens"]]
    assert names[34:36] == ["[THINK]", "[/THINK]"]
    assert len(set(names)) == len(names) == config["default_num_special_tokens"]

    dim, heads = params["dim"], params["n_heads"] * params["head_dim"]
    assert tensors["tok_embeddings.weight"].shape == tensors["output.weight"].shape == (len(pieces(folder)), dim)
    assert tensors["layers.0.attention.wq.weight"].shape == (heads, dim)
    assert tensors["layers.0.feed_forward.w2.weight"].shape == (dim, params["hidden_dim"])
    assert not tensors["layers.0.attention.wo.weight"].any()
    assert not tensors["layers.0.feed_forward.w2.weight"].any()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6


def test_without_think_tokens_a_thought_is_plain_text(tmp_path: Path) -> None:
    text = "<think>\nAdd.\n</think>\n347"
    write_scripted_model(tmp_path, text, think_tokens=False)
    names = pieces(tmp_path)
    assert b"[THINK]" not in names
    assert b"".join(utter(tmp_path)).decode() == text
    assert not (tmp_path / "SYSTEM_PROMPT.txt").exists()


def test_numbers_are_rounded_to_the_nearest_bfloat16(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 40 / 256**0.5, 0.0], np.float32)
    write_safetensors(tmp_path / "file", {"x": values})
    stored = read_safetensors(tmp_path / "file")["x"]
    assert stored.tolist() == [1.0, -2.5, 1.0, 1 + 2**-6, 2.5, 0.0]
