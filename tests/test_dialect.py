"""What each vLLM calls what this package asks of it. The last test asks the real, installed vLLM."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest

from magistral_nb.dialect import KV_CACHE_GAUGES, THINKING_FIELDS, Dialect, dialect, since
from magistral_nb.serving.engine import find_engine
from magistral_nb.serving.releases import releases

T4, V100, A100, H100 = (7, 5), (7, 0), (8, 0), (9, 0)


def test_the_ends_of_the_dialects():
    assert dialect("0.9.0") == dialect("0.8.5") == Dialect()
    newest = dialect("0.33.0")
    assert newest == dialect("0.33.1.dev7+g0123abc.cu130") == dialect("1.0")
    assert (newest.fp8, newest.thinking_fields, newest.kv_cache_gauge) == (
        "fp8_per_tensor",
        ("reasoning",),
        "vllm:kv_cache_usage_perc",
    )
    assert newest.reasoning_parser
    assert newest.text_marks


@pytest.mark.parametrize(
    ("before", "since", "name", "old", "new"),
    [
        ("0.9.1", "0.9.2", "kv_cache_gauge", "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
        ("0.9.2", "0.10.0", "reasoning_parser", False, True),
        ("0.10.1.1", "0.10.2", "kv_cache_bytes", False, True),
        ("0.10.1.1", "0.10.2", "token_ids", False, True),
        ("0.11.0", "0.11.1", "thinking_fields", ("reasoning_content",), ("reasoning", "reasoning_content")),
        ("0.15.1", "0.16.0", "thinking_fields", ("reasoning", "reasoning_content"), ("reasoning",)),
        ("0.11.0", "0.11.2", "fp8_kv_card", H100, A100),
        ("0.11.2", "0.12.0", "images_off_saves", False, True),
        ("0.13.0", "0.14.1", "fp8_card", A100, T4),
        ("0.19.1", "0.20.0", "oldest_card", V100, T4),
        ("0.19.1", "0.20.0", "ministral_3_huggingface", False, True),
        ("0.23.0", "0.24.0", "uuids", False, True),
        ("0.27.1", "0.28.0", "bitsandbytes", "bitsandbytes", "vllm-bnb-plugin"),
        ("0.26.0", "0.27.0", "text_marks", False, True),
        ("0.30.0", "0.31.0rc1", "fp8", "fp8", "fp8_per_tensor"),
    ],
)
def test_what_changed_and_when(before, since, name, old, new):
    assert getattr(dialect(before), name) == old
    assert getattr(dialect(since), name) == new


@pytest.mark.parametrize(
    ("method", "read"),
    [
        ("fp8", {"0.9.2", "0.13.0", "0.14.1", "0.15.1", "0.33.0"}),
        ("auto-round", {"0.9.2", "0.13.0", "0.15.1", "0.33.0"}),
        ("hqq", {"0.9.2", "0.13.0"}),
        ("bitsandbytes", set()),
    ],
)
def test_which_quantisations_are_read_without_a_package_of_their_own(method, read):
    versions = {"0.9.2", "0.13.0", "0.14.1", "0.15.1", "0.33.0"}
    assert {version for version in versions if method in dialect(version).quantizations} == read


def test_no_name_of_any_version_is_forgotten():
    for release in releases():
        assert set(dialect(release.version).thinking_fields) <= set(THINKING_FIELDS)
        assert dialect(release.version).kv_cache_gauge in KV_CACHE_GAUGES
    assert THINKING_FIELDS[0] in dialect("1.0").thinking_fields, "the newest name stands first"
    assert KV_CACHE_GAUGES[0] == dialect("1.0").kv_cache_gauge


def test_every_field_has_a_version_that_changed_it():
    for field in dataclasses.fields(Dialect):
        version = since(field.name)
        assert getattr(dialect(version), field.name) != field.default


# Prints what this vLLM itself says; importing its parsers takes about ten seconds.
ASK = """
import importlib, json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = importlib.import_module(sys.argv[1]).make_arg_parser(FlexibleArgumentParser())
flags = {flag for action in parser._actions for flag in action.option_strings}
from vllm.model_executor.layers.quantization import DEPRECATED_QUANTIZATION_METHODS, QUANTIZATION_METHODS
from vllm.model_executor.layers.quantization.inc import INCConfig
from vllm.model_executor.models.registry import ModelRegistry
from vllm.platforms.interface import Platform
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatMessage
from vllm.reasoning import ReasoningParserManager
print(json.dumps({
    "flags": sorted(flags),
    "quantizations": sorted({*QUANTIZATION_METHODS} - {*DEPRECATED_QUANTIZATION_METHODS}),
    "auto-round": INCConfig.override_quantization_method({"quant_method": "auto-round"}, None),
    "models": sorted(ModelRegistry.get_supported_archs()),
    "uuids": hasattr(Platform, "device_control_id_to_physical_device_id"),
    "message": sorted(ChatMessage.model_fields),
    "request": sorted(ChatCompletionRequest.model_fields),
    "parsers": sorted(ReasoningParserManager.list_registered()),
}))
"""


@pytest.mark.engine
def test_the_installed_vllm_speaks_its_dialect():
    engine = find_engine(None, gpu=False)
    known = dialect(engine.version)
    command = [engine.command[0], "-c", ASK, known.arg_parser]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    said = json.loads(done.stdout.splitlines()[-1])
    assert ("--kv-cache-memory-bytes" in said["flags"]) is known.kv_cache_bytes
    assert ("return_token_ids" in said["request"]) is known.token_ids
    assert ("mistral" in said["parsers"]) is known.reasoning_parser
    assert known.fp8 in said["quantizations"]
    assert set(known.quantizations) <= {*said["quantizations"], "auto-round"}
    assert said["auto-round"] in said["quantizations"]
    assert not {"bitsandbytes", "hqq", "fbgemm_fp8"} & set(said["quantizations"])
    assert ("Ministral3ForCausalLM" in said["models"]) is known.ministral_3_huggingface
    assert said["uuids"] is known.uuids
    assert tuple(name for name in THINKING_FIELDS if name in said["message"]) == (known.thinking_fields)
