"""Which files of a repository a boot needs, and which it leaves to vLLM."""

from __future__ import annotations

import pytest
from checkpoints import LORA, write

from magistral_nb import errors
from magistral_nb.serving import download, folder
from magistral_nb.serving.catalogue import QUANTISED, RELEASES, abacus, find_profile
from magistral_nb.serving.download import Fetch
from magistral_nb.serving.wishes import Wishes

MODEL = "mistralai/Magistral-Small-2612"


def files(**sizes):
    return folder.Files("here", sizes, lambda name, _: b'{"weight_map": {"a": "model-1.safetensors"}}')


MISTRAL_S = "params.json tekken.json consolidated.safetensors config.json generation_config.json SYSTEM_PROMPT.txt"
OTHERS = """config.json generation_config.json tokenizer.json tokenizer_config.json tekken.json vocab.json
    model.safetensors.index.json model-1.safetensors chat_template.jinja SYSTEM_PROMPT.txt"""
UNUSED = "README.md LICENSE pytorch_model.bin model.gguf trainer_state.json"
BOTH = dict.fromkeys(f"{MISTRAL_S} {OTHERS} {UNUSED}".split(), 1000)


def test_of_two_layouts_one_is_fetched():
    assert set(download.needed(files(**BOTH), "mistral")) == set(MISTRAL_S.split())
    assert set(download.needed(files(**BOTH), "huggingface")) == set(OTHERS.split())


def test_of_a_base_only_its_tokenizer_and_of_an_adapter_no_checkpoints():
    assert download.needed(files(**BOTH), "tokenizer") == {"tekken.json": 1000}
    lora = {"adapter_config.json": 1, "adapter_model.safetensors": 2, "adapter_model.bin": 3, "optimizer.pt": 4}
    assert download.needed(files(**lora), "adapter") == {"adapter_config.json": 1, "adapter_model.safetensors": 2}


@pytest.mark.parametrize("what", ["mistral", "huggingface", "tokenizer", "adapter"])
def test_what_is_not_there_is_said(what):
    with pytest.raises(errors.NotACheckpoint, match=r"here.*whole|here has no .*: is it the right repository"):
        download.needed(files(**{"README.md": 1}), what)
    with pytest.raises(errors.NotACheckpoint):
        download.needed(files(**{"params.json": 1, "config.json": 2, "adapter_config.json": 3}), what)


def test_a_model_brings_its_tokenizer_s_home_and_its_adapters(tmp_path):
    write(tmp_path / "lora", {"adapter_config.json": LORA, "adapter_model.safetensors": 1})
    assert download.fetches(RELEASES["2509"], Wishes()) == (Fetch("mistral", RELEASES["2509"].source),)
    assert [each.what for each in download.fetches(QUANTISED["2509-4bit"], Wishes())] == ["huggingface", "tokenizer"]
    assert [each.what for each in download.fetches(find_profile(str(tmp_path / "lora")), Wishes())] == ["mistral"]
    assert download.fetches(abacus(), Wishes()) == ()


@pytest.mark.parametrize("flags", [("--download-dir", "/data"), ("--revision=v1",), ("--load_format", "dummy")])
def test_raw_flags_that_send_vllm_elsewhere_leave_it_to_vllm(flags):
    assert download.fetches(RELEASES["2509"], Wishes(engine_args=flags)) == ()
