"""What a folder holds is told by its files. The weights have their true sizes and take no disk: they are holes."""

from __future__ import annotations

import dataclasses

import pytest
from checkpoints import LORA, PARAMS, TEXT, THINKING, WITH_IMAGES, dump, tekken, write
from hypothesis import given, strategies as st

from magistral_nb import errors
from magistral_nb.serving import folder
from magistral_nb.serving.catalogue import RELEASES, release_of
from magistral_nb.serving.profile import Adapter

SIZE = 47_144_000_000  # bytes of Magistral Small's consolidated.safetensors


def told(path):
    return folder.profile_of(
        folder.local(path), name=path.name, title=str(path), source=str(path.absolute()), known=release_of
    )


def refused(path):
    with pytest.raises(errors.NotACheckpoint) as caught:
        told(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mistral(path, **files):
    return write(path, {"params.json": PARAMS, "tekken.json": THINKING, "consolidated.safetensors": SIZE, **files})


def huggingface(path, config=TEXT, **files):
    return write(path, {"config.json": config, "model.safetensors": SIZE, "tokenizer.json": {}, **files})


# Both formats


def test_a_copy_of_magistral_is_as_the_catalogue_says_whatever_it_is_called(tmp_path):
    profile = told(mistral(tmp_path / "llama-7b"))
    known = RELEASES["2507"]
    assert (profile.layout, profile.thinks, profile.marks, profile.stored) == ("mistral", True, "tokens", "bf16")
    assert (profile.context, profile.longest_context) == (known.context, known.longest_context)
    assert profile.sampling == known.sampling
    assert dataclasses.replace(profile.shape, parameters=known.shape.parameters) == known.shape
    assert profile.shape.parameters == pytest.approx(known.shape.parameters, rel=1e-4)
    assert profile.is_local
    assert profile.download == 0


def test_both_formats_say_the_same_of_the_same_model(tmp_path):
    one = told(mistral(tmp_path / "a"))
    other = told(huggingface(tmp_path / "b", **{"tekken.json": THINKING}))
    assert other.tokenizer == other.source, "vLLM needs to be told to use its tekken.json"
    as_mistral = dataclasses.replace(other, name="a", title=one.title, source=one.source, layout="mistral")
    assert dataclasses.replace(as_mistral, tokenizer=None) == one


MINISTRAL = TEXT | {"model_type": "ministral3"}


@pytest.mark.parametrize(
    ("config", "needs"),
    [
        (TEXT, False),
        (WITH_IMAGES, False),
        (MINISTRAL, True),
        (WITH_IMAGES | {"text_config": MINISTRAL}, True),
        (TEXT | {"architectures": ["MistralForCausalLM"]}, False),
        (TEXT | {"architectures": ["Ministral3ForCausalLM"]}, True),
    ],
)
def test_ministral_3_is_told_by_its_config(tmp_path, config, needs):
    assert told(huggingface(tmp_path / "a", config)).needs_ministral_3 is needs


def test_ministral_3_is_told_by_the_scaling_of_its_queries_in_mistral_s_format(tmp_path):
    assert not told(mistral(tmp_path / "a")).needs_ministral_3
    scaled = PARAMS | {"llama_4_scaling": {"original_max_position_embeddings": 16_384, "beta": 0.1}}
    assert told(mistral(tmp_path / "b", **{"params.json": scaled})).needs_ministral_3


def test_side_by_side_mistral_s_format_wins_and_its_weights_count_alone(tmp_path):
    both = mistral(tmp_path / "both", **{"config.json": TEXT, "model-00001-of-00010.safetensors": 4_880_000_000})
    assert told(both).layout == "mistral"
    assert told(both).shape.weight_bytes(fp8=False) == SIZE


def test_params_json_without_its_weights_beside_a_whole_model_in_the_other_format(tmp_path):
    """What a download without consolidated.safetensors leaves; vLLM chooses the same."""
    both = huggingface(tmp_path / "hf", **{"params.json": PARAMS, "tekken.json": THINKING})
    assert told(both).layout == "huggingface"
    stray = huggingface(tmp_path / "stray", **{"consolidated.safetensors": 5})
    assert told(stray).shape.weight_bytes(fp8=False) == SIZE


def test_a_model_that_takes_images_has_its_config_nested(tmp_path):
    nested = told(huggingface(tmp_path / "hf", WITH_IMAGES))
    encoder = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    old = told(mistral(tmp_path / "old", **{"params.json": PARAMS | {"vision_encoder": encoder}}))
    new = {"multimodal": {"vision_encoder_args": encoder}}
    new = told(mistral(tmp_path / "new", **{"params.json": PARAMS | new}))
    assert nested.vision
    assert nested.shape == old.shape == new.shape
    assert nested.shape.embeddings == pytest.approx(RELEASES["2509"].shape.embeddings, rel=0.02)


def test_tied_embeddings_count_once(tmp_path):
    apart = told(huggingface(tmp_path / "a")).shape.embeddings
    tied = told(huggingface(tmp_path / "b", TEXT | {"tie_word_embeddings": True})).shape.embeddings
    assert apart == 2 * tied == 2 * 131_072 * 5_120


def test_weights_in_float32_are_half_as_large_in_memory(tmp_path):
    profile = told(huggingface(tmp_path / "hf", TEXT | {"torch_dtype": "float32"}))
    assert profile.shape.weight_bytes(fp8=False) == SIZE / 2


@pytest.mark.parametrize(
    "config", [{}, {"max_position_embeddings": "long"}, {"num_hidden_layers": 3}, TEXT | {"kv_lora_rank": 512}]
)
def test_a_config_of_another_family_leaves_the_size_to_vllm(tmp_path, config):
    profile = told(huggingface(tmp_path / "hf", config))
    assert profile.shape is None
    assert profile.context == 40_960 or config["max_position_embeddings"] == 131_072


# Quantised weights


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}, "fp8"),
        (
            {
                "quant_method": "compressed_tensors",
                "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}},
            },
            "compressed-tensors",
        ),
    ],
)
def test_quantised_weights_in_mistral_s_format_take_what_their_files_take(tmp_path, quantization, method):
    files = {"params.json": PARAMS | {"quantization": quantization}, "consolidated.safetensors": 24_914_000_000}
    profile = told(mistral(tmp_path / "fp8", **files))
    assert (profile.stored, profile.quantization) == ("fp8", method)
    for fp8 in (True, False):
        assert profile.shape.weight_bytes(fp8=fp8) == 24_914_000_000
    assert profile.shape.parameters == pytest.approx(23.57e9, rel=1e-3)


# Tokenizers


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("fillers", [0, 50])
def test_control_tokens_are_found_wherever_the_tokenizer_keeps_them(tmp_path, monkeypatch, last, fillers):
    monkeypatch.setattr(folder, "_TAIL_BYTES", 400)
    names = ["[THINK]", "[/THINK]", *(f"<SPECIAL_{i}>" for i in range(fillers))]
    assert told(mistral(tmp_path / "m", **{"tekken.json": tekken(*names, last=last)})).thinks


def test_a_tokenizer_without_control_tokens_thinks_only_if_the_prompt_asks_for_tags(tmp_path):
    plain = mistral(tmp_path / "instruct", **{"tekken.json": tekken("<s>", "[INST]")})
    assert (told(plain).thinks, told(plain).sampling.temperature) == (False, None)
    old = mistral(tmp_path / "2506", **{"tekken.json": tekken("<s>"), "SYSTEM_PROMPT.txt": b"First\n<think>\n"})
    assert (told(old).thinks, told(old).marks) == (True, "tags")


def test_a_word_of_the_vocabulary_is_no_control_token(tmp_path):
    path = mistral(tmp_path / "m", **{"tekken.json": tekken("[THINK] it", "x[/THINK]")})
    assert not told(path).thinks


@pytest.mark.parametrize("torn", [THINKING[:-20], b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_torn_tokenizer(tmp_path, torn):
    assert "tekken.json is torn" in refused(mistral(tmp_path / "m", **{"tekken.json": torn}))


def test_without_tekken_json_a_model_uses_its_base_s_if_anyone_names_it(tmp_path):
    nobody = told(huggingface(tmp_path / "a"))
    assert (nobody.tokenizer, nobody.thinks) == (None, False)
    by_config = told(huggingface(tmp_path / "b", TEXT | {"_name_or_path": "mistralai/Magistral-Small-2506"}))
    assert (by_config.tokenizer, by_config.marks) == ("mistralai/Magistral-Small-2506", "tags")
    card = b"---\nlibrary_name: transformers\nbase_model: unsloth/Magistral-Small-2509-unsloth-bnb-4bit\n---\n# Mine\n"
    by_card = told(huggingface(tmp_path / "c", WITH_IMAGES, **{"README.md": card}))
    assert (by_card.tokenizer, by_card.thinks) == ("mistralai/Magistral-Small-2509", True)
    assert by_card.sampling == RELEASES["2509"].sampling
    named = told(huggingface(tmp_path / "Magistral-Small-2509"))
    assert named.tokenizer is None, "a folder's name says nothing"


def test_a_model_with_tokens_of_its_own_does_not_take_its_base_s_tokenizer(tmp_path):
    config = TEXT | {"_name_or_path": "mistralai/Magistral-Small-2509", "vocab_size": 131_074}
    profile = told(huggingface(tmp_path / "hf", config))
    assert (profile.tokenizer, profile.thinks) == (None, False)
    assert profile.sampling == RELEASES["2509"].sampling


@pytest.mark.parametrize(
    ("card", "bases"),
    [
        ("---\nbase_model: a/b-1.5\n---\n", ("a/b-1.5",)),
        ("---\nbase_model:\n  - 'a/b'\n  - c/d\n---\n", ("a/b",)),
        ('---\ntags: [x]\nbase_model: "a/b"\n', ("a/b",)),
        ("---\nbase_model_relation: finetune\n---\nbase_model: a/b\n", ()),
        ("---\nbase_model: /home/me/model\n---\n", ()),
        ("# base_model\n\nbase_model: a/b\n", ()),
    ],
)
def test_a_card_s_front_matter_names_the_base(card, bases):
    assert folder.bases_in_card(card) == bases


# What is missing


def test_missing_shards_that_the_index_names(tmp_path):
    names = [f"model-{i:05}-of-00005.safetensors" for i in range(1, 6)]
    index = {"metadata": {"total_size": 5000}, "weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    path = write(tmp_path / "hf", {"config.json": TEXT, "model.safetensors.index.json": index, names[0]: 1000})
    message = refused(path)
    assert f"{names[1]}, {names[2]}, {names[3]} and 1 more missing" in message
    write(path, dict.fromkeys(names, 1000))
    assert told(path).shape.weight_bytes(fp8=False) == 5000


@given(st.integers(2, 12), st.data())
def test_shards_count_themselves_where_there_is_no_index(count, data):
    names = [f"consolidated-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    lying = data.draw(st.sets(st.sampled_from(names), min_size=1))
    files = folder.Files("here", dict.fromkeys(lying, 1000), lambda *_: b"")
    if len(lying) == count:
        assert set(folder.weights(files, "mistral")) == lying
        return
    with pytest.raises(errors.NotACheckpoint, match="missing") as caught:
        folder.weights(files, "mistral")
    assert min(set(names) - lying) in str(caught.value)


@pytest.mark.parametrize("name", ["tekken.json", "consolidated.safetensors"])
def test_half_a_checkpoint_names_what_is_missing(tmp_path, name):
    (mistral(tmp_path / "m") / name).unlink()
    assert f"{name} missing" in refused(tmp_path / "m")


def test_pointers_of_git_lfs_are_told_from_weights(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 48000000000\n"
    assert "git lfs pull" in refused(mistral(tmp_path / "m", **{"consolidated.safetensors": pointer}))


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", dump(PARAMS)[:-9]])
@pytest.mark.parametrize("name", ["params.json", "config.json"])
def test_a_torn_json(tmp_path, name, text):
    path = mistral(tmp_path / "m") if name == "params.json" else huggingface(tmp_path / "h")
    message = refused(write(path, {name: text}))
    assert str(path / name) in message
    assert "whole?" in message


@pytest.mark.parametrize(
    "params", [{}, {"n_layers": 3}, PARAMS | {"n_heads": 0, "head_dim": None}, PARAMS | {"dim": []}]
)
def test_params_that_describe_no_model(tmp_path, params):
    assert "does not describe a model" in refused(mistral(tmp_path / "m", **{"params.json": params}))


# What it is instead


def test_gguf_goes_to_llama_cpp_or_ollama(tmp_path):
    alone = refused(write(tmp_path / "a", {"Magistral-Small-2509-Q4_K_M.gguf": b"GGUF"}))
    beside = refused(write(tmp_path / "b", {"config.json": TEXT, "q4.gguf": b"GGUF"}))
    for message in (alone, beside):
        for word in ("llama-server", "ollama run", "%magistral_connect"):
            assert word in message


def test_ollama_s_own_folder(tmp_path):
    for name in ("blobs", "manifests"):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert "ollama run magistral" in refused(tmp_path / "models")
    assert "%magistral_connect" in refused(write(tmp_path / "mine", {"Modelfile": b"FROM ./x.gguf"}))


def test_mlx_and_pickles(tmp_path):
    assert "LM Studio" in refused(huggingface(tmp_path / "a", TEXT | {"quantization": {"group_size": 64, "bits": 4}}))
    pickled = write(tmp_path / "b", {"config.json": TEXT, "pytorch_model-00001-of-00002.bin": 10})
    assert "safetensors" in refused(pickled)


def test_an_empty_folder_and_one_of_other_things(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    assert "params.json or config.json missing" in refused(write(tmp_path / "photos", {"a.jpg": b""}))
    assert "*.safetensors missing" in refused(write(tmp_path / "c", {"config.json": TEXT}))


def test_a_trainer_s_folder_names_the_checkpoints_in_it(tmp_path):
    for step in (100, 200):
        write(tmp_path / "out" / f"checkpoint-{step}", {"adapter_config.json": LORA})
    (tmp_path / "out" / "runs").mkdir()
    assert "name one (checkpoint-100, checkpoint-200)" in refused(tmp_path / "out")


def test_a_folder_that_may_not_be_read(tmp_path):
    with pytest.raises(errors.NotACheckpoint, match=r"cannot be read \(No such file"):
        folder.local(tmp_path / "gone")


# LoRA adapters


def adapter(path, **config):
    return folder.local(write(path, {"adapter_config.json": LORA | config, "adapter_model.safetensors": 100}))


def test_an_adapter_tells_its_base_and_its_largest_rank(tmp_path):
    files = adapter(tmp_path / "mine", rank_pattern={"q_proj": 64})
    assert folder.is_adapter(files)
    found, base = folder.adapter_of(files, name="mine", source=files.where)
    assert (found, base) == (Adapter("mine", files.where, 64), "mistralai/Magistral-Small-2509")


def test_axolotl_leaves_the_base_s_config_beside_an_adapter(tmp_path):
    adapter(tmp_path / "mine")
    assert folder.is_adapter(folder.local(write(tmp_path / "mine", {"config.json": TEXT})))
    merged = folder.local(write(tmp_path / "mine", {"model.safetensors": SIZE}))
    assert not folder.is_adapter(merged), "whole weights are served as they are"
    assert folder.profile_of(merged, name="m", title="m", source=merged.where, known=release_of).adapters == ()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"use_dora": True}, "is a DoRA"),
        ({"peft_type": "LOHA"}, "is of type LOHA"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"bias": "all"}, "trains biases"),
        ({"target_modules": ["q_proj", "lm_head"]}, "changes lm_head"),
    ],
)
def test_an_adapter_that_vllm_refuses_is_refused_at_once(tmp_path, config, says):
    with pytest.raises(errors.NotACheckpoint, match=f"{says}.*merge it into its base"):
        folder.adapter_of(adapter(tmp_path / "a", **config), name="a", source="/a")


@pytest.mark.parametrize(
    "config", [{"r": None}, {"r": 0}, {"rank_pattern": {"q": "8"}}, {"base_model_name_or_path": None}]
)
def test_an_adapter_without_a_rank_or_a_base(tmp_path, config):
    with pytest.raises(errors.NotACheckpoint, match="no base model or no rank"):
        folder.adapter_of(adapter(tmp_path / "a", **config), name="a", source="/a")


def test_an_adapter_without_its_weights(tmp_path):
    files = folder.local(write(tmp_path / "a", {"adapter_config.json": LORA}))
    with pytest.raises(errors.NotACheckpoint, match=r"adapter_model\.safetensors missing"):
        folder.adapter_of(files, name="a", source="/a")


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.sampled_from(["", "fp8", "a/b", "compressed-tensors"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "weights", "bits"]), inner),
    max_leaves=6,
)
KEYS = [*TEXT, *PARAMS, *LORA, "text_config", "vision_config", "quantization_config", "config_groups", "quant_method"]


@given(st.dictionaries(st.sampled_from([*KEYS, "_name_or_path", "weight_map", "torch_dtype", "quantization"]), JSON))
def test_no_config_gets_through_as_anything_but_a_profile_or_one_line(config):
    layouts = (
        {"config.json": 2, "model.safetensors": 1000},
        {"config.json": 2, "model.safetensors.index.json": 2},
        {"params.json": 2, "tekken.json": 2, "consolidated.safetensors": 1000},
        {"adapter_config.json": 2, "adapter_model.safetensors": 1000},
    )
    for sizes in layouts:
        files = folder.Files("here", sizes, lambda *_: dump(config))
        try:
            if folder.is_adapter(files):
                assert folder.adapter_of(files, name="x", source="/x")[0].rank > 0
            else:
                folder.profile_of(files, name="x", title="x", source="/x", known=release_of)
        except errors.NotACheckpoint as error:
            assert "\n" not in str(error)  # noqa: PT017 - both ends are good
