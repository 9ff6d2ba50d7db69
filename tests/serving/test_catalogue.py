"""Models told by name, by folder and by repository; the hub is scripted, nothing leaves this machine."""

from __future__ import annotations

import time

import pytest
from checkpoints import LORA, TEXT, dump, write
from hypothesis import given, strategies as st

from magistral_nb import errors
from magistral_nb.serving.catalogue import (
    CATALOGUE,
    MINISTRALS,
    QUANTISED,
    RELEASES,
    abacus,
    find_profile,
    in_order,
    release_of,
)
from magistral_nb.serving.checkpoint import system_prompt
from magistral_nb.serving.profile import Adapter

pytestmark = pytest.mark.usefixtures("no_hub")


def found(name):
    return find_profile(str(name))


def refused(name, kind=errors.UnknownModel):
    with pytest.raises(kind) as caught:
        found(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names


@pytest.mark.parametrize("name", ["2506", "magistral-small-2506", "mistralai/Magistral-Small-2506", " 2506 "])
def test_every_name_of_a_release(name):
    assert find_profile(name) is RELEASES["2506"]


def test_defaults():
    assert find_profile("small").name == "magistral-small-2509"
    assert [each.name for each in in_order(gpu=False)] == ["abacus"]


@given(st.sampled_from(list(CATALOGUE)), st.booleans())
def test_every_name_in_the_catalogue_finds_its_own_profile_without_a_hub(short, upper):
    profile = CATALOGUE[short]
    for name in (short, profile.name, profile.source):
        assert find_profile(name.upper() if upper else name) is profile


def test_a_name_is_found_at_once():
    began = time.perf_counter()
    for _ in range(1000):
        find_profile("2509-4bit")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("abakus", "abacus"), ("2508", "250"), ("ministral-8", "ministral-8b"), ("2509-fp16", "2509-fp8")],
)
def test_unknown_names_get_a_suggestion(typed, meant):
    assert f"did you mean {meant}" in refused(typed)


def test_a_name_like_no_other_gets_the_whole_list():
    assert all(name in refused("zzzz") for name in ("abacus", *CATALOGUE))


@given(st.text(max_size=300))
def test_whatever_is_typed_gets_one_line(typed):
    assert refused(f"no model {typed}").startswith("No model ")


@pytest.mark.parametrize("typed", ["~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_names_that_no_file_can_have(typed):
    assert refused(typed)


def test_unknown_path_says_so():
    with pytest.raises(errors.UnknownModel, match="no folder"):
        find_profile("./nowhere")


def test_the_order_without_a_name_is_magistral_then_quantised_then_ministral_by_size():
    order = in_order(gpu=True)
    assert order[0] is RELEASES["2509"]
    quantised = [profile for profile in order if profile.stored != "bf16"]
    ministrals = [profile for profile in order if profile in MINISTRALS.values()]
    assert list(order[1:]) == quantised + ministrals
    for part in (quantised, ministrals):
        sizes = [profile.shape.weight_bytes(fp8=False) for profile in part]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("source", "release"),
    [
        ("RedHatAI/Magistral-Small-2506-FP8", "2506"),
        ("unsloth/Magistral-Small-2509-unsloth-bnb-4bit", "2509"),
        ("unsloth/Ministral-3-8B-Reasoning-2512", "ministral-8b"),
    ],
)
def test_a_re_upload_is_of_the_release_that_it_names(source, release):
    assert release_of(source) is CATALOGUE[release]


@pytest.mark.parametrize("source", ["mistralai/Mistral-Small-3.2", "magistral", "", "me/my-magistral-small-2509"])
def test_other_names_say_nothing(source):
    assert release_of(source) is None


# Figures


def test_magistral_s_kv_cache_is_160_kib_a_token_in_bf16():
    assert RELEASES["2506"].shape.kv_bytes(2) == 160 * 1024


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("2506", 23.6),
        ("2509", 24.0),
        ("ministral-3b", 3.43 + 0.4),
        ("ministral-8b", 8.49 + 0.4),
        ("ministral-14b", 13.9),
    ],
)
def test_parameters_are_the_published_ones(name, billions):
    assert CATALOGUE[name].shape.parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_downloads_and_memory_of_quantised_weights():
    """48 GB is what the hub lists for 2509; 4 bits are reported to leave a 24 GB card at 0.85 some 26,000 tokens."""
    assert RELEASES["2509"].download == pytest.approx(48e9, rel=0.01)
    for name, profile in QUANTISED.items():
        original = RELEASES[name.partition("-")[0]]
        assert profile.download == profile.shape.weight_bytes(fp8=True) == profile.shape.weight_bytes(fp8=False)
        assert profile.download < original.download
        assert (profile.marks, profile.thinks, profile.vision) == (original.marks, True, original.vision)
    four = QUANTISED["2509-4bit"].shape
    room = 0.85 * 23.6 * 2**30 - four.weight_bytes(fp8=False)
    assert 26_000 < room / four.kv_bytes(2) < 32_000, "and what vLLM works in"


def test_only_re_uploads_in_the_other_format_need_a_tokenizer_from_elsewhere():
    for profile in CATALOGUE.values():
        assert (profile.tokenizer is not None) == (profile.layout == "huggingface")
        assert profile.tokenizer in {None, f"mistralai/Magistral-Small-{profile.name.split('-')[2]}"}


def test_abacus_is_told_by_its_files_too():
    profile = abacus()
    assert (profile.name, profile.thinks, profile.embedded, profile.is_local) == ("abacus", True, True, True)
    assert profile.sampling.temperature == 0
    assert profile.shape.parameters == pytest.approx(3.3e6, rel=0.05)


# Folders and files


def test_a_folder_is_told_by_its_files(checkpoint, tmp_path):
    profile = find_profile(str(checkpoint))
    assert (profile.layout, profile.name, profile.longest_context) == ("mistral", "my model", 2048)
    assert system_prompt(profile) == ("Think first.", "SYSTEM_PROMPT.txt beside the weights")
    other = write(tmp_path / "hf", {"config.json": {"max_position_embeddings": 100_000}, "model.safetensors": b""})
    profile = find_profile(str(other))
    assert (profile.layout, profile.context, profile.longest_context) == ("huggingface", 40_960, 100_000)


def test_a_folder_comes_before_a_repository_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "you" / "model", {"config.json": TEXT, "model.safetensors": 10})
    assert found("you/model").source == str(tmp_path / "you" / "model")


def test_a_file_is_told_by_its_first_bytes(tmp_path):
    write(tmp_path, {"model.bin": b"GGUF\3\0\0\0", "notes.gguf": b"hello"})
    assert "llama-server" in refused(tmp_path / "model.bin", errors.NotACheckpoint)
    assert "name the folder" in refused(tmp_path / "notes.gguf")


# Adapters


def adapter(path, base):
    return write(
        path, {"adapter_config.json": LORA | {"base_model_name_or_path": base}, "adapter_model.safetensors": 10}
    )


@pytest.mark.parametrize(
    ("base", "release"),
    [
        ("mistralai/Magistral-Small-2507", "2507"),
        ("unsloth/Magistral-Small-2509-unsloth-bnb-4bit", "2509"),
        ("mistralai/Ministral-3-3B-Reasoning-2512", "ministral-3b"),
        ("RedHatAI/Magistral-Small-2506-FP8", "2506-fp8"),
    ],
)
def test_an_adapter_is_served_on_its_base(tmp_path, base, release):
    profile = found(adapter(tmp_path / "poems", base))
    known = CATALOGUE[release]
    assert profile.adapters == (Adapter("poems", str(tmp_path / "poems"), 16),)
    assert (profile.name, profile.source, profile.download) == (known.name, known.source, known.download)
    assert profile.title == f"{known.title} with poems"


def test_an_adapter_s_base_may_be_a_folder(tmp_path, checkpoint):
    assert found(adapter(tmp_path / "poems", str(checkpoint))).source == str(checkpoint)


@pytest.mark.parametrize("base", ["/kaggle/input/model", "poems"])
def test_a_base_that_cannot_be_had_is_named_with_the_remedy(tmp_path, base):
    message = refused(adapter(tmp_path / "poems", base), errors.NotACheckpoint)
    assert f"is made for {base}, which cannot be had" in message
    assert "base_model_name_or_path" in message


def test_adapters_do_not_stand_on_each_other(tmp_path):
    adapter(tmp_path / "a", str(tmp_path / "b"))
    adapter(tmp_path / "b", str(tmp_path / "a"))
    assert "adapter as well" in refused(tmp_path / "a", errors.NotACheckpoint)


def test_an_adapter_on_the_hub(hub):
    hub.repositories["you/poems"] = {"adapter_config.json": dump(LORA), "adapter_model.safetensors": 90_000_000}
    profile = found("you/poems")
    assert profile.adapters == (Adapter("poems", "you/poems", 16),)
    assert profile.source == "mistralai/Magistral-Small-2509"
