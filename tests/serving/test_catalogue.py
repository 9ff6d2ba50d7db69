"""Models told by name or by their files."""

from __future__ import annotations

import json

import pytest

from magistral_nb import errors
from magistral_nb.serving.catalogue import RELEASES, find_profile
from magistral_nb.serving.checkpoint import pending_download, system_prompt


@pytest.mark.parametrize("name", ["2506", "magistral-small-2506", "mistralai/Magistral-Small-2506", " 2506 "])
def test_every_name_of_a_release(name):
    assert find_profile(name, gpu=True) is RELEASES["2506"]


def test_defaults():
    assert find_profile(None, gpu=True).name == "magistral-small-2509"
    assert find_profile("small", gpu=True).name == "magistral-small-2509"
    assert find_profile(None, gpu=False).name == "abacus"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("abakus", "abacus"), ("2508", "250"), ("mistralai/Magistral-Smal-2506", "mistralai/Magistral-Small-2506")],
)
def test_unknown_names_get_a_suggestion(typed, meant):
    with pytest.raises(errors.UnknownModel, match=f"did you mean {meant}"):
        find_profile(typed, gpu=True)


def test_unknown_path_says_so():
    with pytest.raises(errors.UnknownModel, match="no folder"):
        find_profile("./nowhere", gpu=False)


def test_a_folder_is_told_by_its_files(checkpoint, tmp_path):
    profile = find_profile(str(checkpoint), gpu=False)
    assert (profile.layout, profile.name, profile.longest_context) == ("mistral", "my model", 2048)
    assert system_prompt(profile) == ("Think first.", "SYSTEM_PROMPT.txt beside the weights")
    assert pending_download(profile) == 0
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"max_position_embeddings": 100_000}))
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"")
    profile = find_profile(str(tmp_path / "hf"), gpu=False)
    assert (profile.layout, profile.context, profile.longest_context) == ("huggingface", 40_960, 100_000)


@pytest.mark.parametrize("missing", ["tekken.json", "consolidated.safetensors"])
def test_half_a_checkpoint_names_what_is_missing(checkpoint, missing):
    (checkpoint / missing).unlink()
    with pytest.raises(errors.NotACheckpoint, match=missing):
        find_profile(str(checkpoint), gpu=False)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(errors.NotACheckpoint, match=r"params\.json"):
        find_profile(str(tmp_path), gpu=False)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_broken_params(checkpoint, text):
    (checkpoint / "params.json").write_text(text, errors="surrogateescape")
    with pytest.raises(errors.NotACheckpoint, match="whole"):
        find_profile(str(checkpoint), gpu=False)


def test_magistral_s_kv_cache_is_160_kib_a_token_in_bf16():
    assert RELEASES["2506"].shape.kv_bytes(2) == 160 * 1024


def test_a_release_that_is_not_in_the_cache_has_to_be_downloaded(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    assert pending_download(RELEASES["2506"]) == pytest.approx(47.2e9)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "consolidated.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(snapshot / "params.json"))
    assert pending_download(RELEASES["2506"]) == 0


@pytest.mark.parametrize("release", RELEASES)
def test_without_the_hub_the_same_instruction_goes_out_in_our_words(monkeypatch, release):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    text, source = system_prompt(RELEASES[release])
    assert ("<think>" in text) == (release == "2506"), "1.0 thinks between tags, the later ones between control tokens"
    assert ("[THINK]" in text) == (release != "2506")
    assert "in our words" in source
