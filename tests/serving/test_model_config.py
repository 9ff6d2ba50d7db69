"""What config.json and params.json say, and what a size in bytes says of a model."""

from __future__ import annotations

import pytest
from checkpoints import TEXT
from hypothesis import given, strategies as st

from magistral_nb.serving import model_config
from magistral_nb.serving.profile import Shape, parameters_of, stored_bytes

KINDS = ["bf16", "fp8", "int8", "int4", "fp4"]


@pytest.mark.parametrize(
    ("told", "longest"), [({}, 128_000), ({"max_seq_len": 2048}, 2048), ({"max_seq_len": 262_144}, 128_000)]
)
def test_a_params_json_without_positions_has_vllm_s_own(told, longest):
    assert model_config.longest_context(model_config.from_params(told)) == longest
    both = {**told, "max_position_embeddings": 7}
    assert model_config.longest_context(model_config.from_params(both)) == 7


@pytest.mark.parametrize(
    ("config", "stored", "method"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", "awq"),
        ({"quant_method": "gptq", "bits": 8}, "int8", "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "int4", "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "int8", "bitsandbytes"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnly"}}}, "fp8", "torchao"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, "fp4", "modelopt"),
        ({"quant_method": "mxfp4"}, "fp4", "mxfp4"),
    ],
)
def test_how_weights_are_stored_is_read_from_the_quantization_config(config, stored, method):
    assert model_config.stored_as(TEXT | {"quantization_config": config}) == (stored, method)
    assert model_config.stored_as({"text_config": TEXT | {"quantization_config": config}}) == (stored, method)


@pytest.mark.parametrize(
    ("kind", "bits", "stored"), [("float", 8, "fp8"), ("int", 4, "int4"), ("int", 8, "int8"), ("float", 4, "fp4")]
)
@pytest.mark.parametrize("place", ["quantization_config", "compression_config"])
def test_compressed_tensors_says_it_in_its_groups(kind, bits, stored, place):
    groups = {"group_0": {"targets": ["Linear"], "weights": {"type": kind, "num_bits": bits}}}
    config = {place: {"quant_method": "compressed-tensors", "format": "any", "config_groups": groups}}
    assert model_config.stored_as(config) == (stored, "compressed-tensors")


@given(st.floats(1e3, 1e12), st.floats(0, 1), st.sampled_from(KINDS))
def test_parameters_and_bytes_are_each_other_s_inverse(parameters, part, stored):
    embeddings = part * parameters
    assert parameters_of(stored_bytes(parameters, embeddings, stored), embeddings, stored) == pytest.approx(parameters)


@given(st.floats(0, 1e12), st.floats(0, 1e12), st.sampled_from(KINDS))
def test_no_size_makes_a_negative_model(size, embeddings, stored):
    assert parameters_of(size, embeddings, stored) >= 0


def test_a_quantised_shape_takes_no_less_for_a_wish():
    assert Shape(1e9, 1, 1, 1, stored_bytes=6e8).weight_bytes(fp8=True) == 6e8
