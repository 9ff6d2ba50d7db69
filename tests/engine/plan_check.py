"""Ask vLLM itself whether it would take a `vllm serve` line on a GPU that is not here.

Run by the engine's own Python, which has vLLM's CPU build:  python plan_check.py < cases.json

What vLLM does between its command line and the first byte of weights is done here, by its own code: the parser, the
engine's configuration, the worker's question for the dtype, the real model class on the meta device, which allocates
nothing, the LoRA layers around it, and the KV cache that each layer asks for. The platform is vLLM's own for CUDA, told
what the card is, with names without content for what only the CUDA wheel has (simulated_cuda.py).

A line is "accepted", "refused" where vLLM's own code raised, or "broken" where anything else went wrong, such as a name
that nobody stands in for: then the simulation has to be mended before vLLM can be asked.

What this cannot see: free memory, kernels, drivers, whatever happens while the model runs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import linecache
import os
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulated_cuda import Card, join, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from vllm.config import VllmConfig

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "VLLM_NO_USAGE_STATS": "1",
}
_JOBS = 2

# What takes seconds to import and does not look at the GPU.
_SLOW = (
    "compressed_tensors",
    "fastapi",
    "mistral_common.tokens.tokenizers.mistral",
    "openai",
    "opentelemetry.sdk",
    "torch._inductor.lowering",
    "torch._inductor.standalone_compile",
    "transformers.models.whisper",
    "xgrammar",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A line to ask about.

    Attributes:
        name: of the case.
        argv: what goes behind `vllm serve`.
        card: what is in the machine.
        without: names that nobody stands in for, to see what becomes of a line.
    """

    name: str
    argv: tuple[str, ...]
    card: Card
    without: tuple[str, ...] = ()

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Case:
        """Read what `dataclasses.asdict` made, as it comes back from JSON."""
        card = Card(**raw["card"] | {"capability": tuple(raw["card"]["capability"])})
        return Case(raw["name"], tuple(raw["argv"]), card, tuple(raw["without"]))


@dataclass(slots=True)
class Verdict:
    """What became of a case.

    Attributes:
        name: the case's.
        verdict: "accepted", "refused" or "broken".
        stage: how far it came.
        says: the error's words; "" where it was accepted.
        seconds: that it took.
        seen: of an accepted line, what vLLM makes of it, see `measure`.
    """

    name: str
    verdict: str
    stage: str
    says: str
    seconds: float
    seen: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Boot:
    """A boot on its way."""

    argv: tuple[str, ...]
    args: Namespace = field(default_factory=Namespace)
    config: VllmConfig | None = None
    models: list[nn.Module] = field(default_factory=list)  # the first pipeline stage's and the last one's
    seen: dict[str, Any] = field(default_factory=dict)


# The steps of a boot


def parse(boot: Boot) -> None:
    """The command line, as `vllm serve` reads and checks it."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser, serve = FlexibleArgumentParser(prog="vllm"), ServeSubcommand()
    serve.subparser_init(parser.add_subparsers(dest="subparser"))
    boot.args = parser.parse_args(["serve", *boot.argv])
    serve.validate(boot.args)
    validate_api_server_args(boot.args)
    boot.args.model = boot.args.model_tag or boot.args.model


def configure(boot: Boot) -> None:
    """The engine's configuration, in which vLLM holds flags, model and machine against each other."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    arguments = AsyncEngineArgs.from_cli_args(boot.args)
    boot.config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


def start_worker(boot: Boot) -> None:
    """The first thing that a GPU worker asks, once it has its device."""
    from vllm.platforms import current_platform

    current_platform.check_if_supports_dtype(boot.config.model_config.dtype)


def build(boot: Boot) -> None:
    """The model of the first pipeline stage, and of the last: each layer checks what it was asked for."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype
    from vllm.v1.attention.selector import _cached_get_attn_backend

    parallel, dtype = boot.config.parallel_config, boot.config.model_config.dtype
    _cached_get_attn_backend.cache_clear()
    tensors, stages = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    for stage in sorted({0, stages - 1}):
        join(stage * tensors, tensors * stages, "_WORLD")
        join(stage, stages, "_PP")
        join(0, tensors, "_TP")
        for alone in ("_DP", "_EP", "_PCP", "_DCP"):
            join(0, 1, alone)
        # Each layer enters itself there by name, and the stages would do so twice.
        boot.config.compilation_config.static_forward_context.clear()
        with set_current_vllm_config(boot.config), set_default_torch_dtype(dtype), torch.device("meta"):
            boot.models.append(initialize_model(boot.config))


def adapt(boot: Boot) -> None:
    """LoRA layers in the place of the model's own."""
    if not boot.config.lora_config:
        return
    import torch
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.lora.utils import from_layer, get_supported_lora_modules, is_supported_lora_module

    lora = boot.config.lora_config
    boot.seen["lora_bytes"] = 0
    for model in boot.models:
        supported, packed = get_supported_lora_modules(model), model.packed_modules_mapping
        for name, module in list(model.named_modules()):
            if not is_supported_lora_module(name, module, supported):
                continue
            parts = packed.get(name.rpartition(".")[2], [])
            with torch.device("meta"):
                layer = from_layer(module, lora.max_loras, lora, parts, model.config)
            assert isinstance(layer, BaseLayerWithLoRA), f"{name} takes no adapter"
            stacked = itertools.chain(layer.lora_a_stacked, layer.lora_b_stacked)
            boot.seen["lora_bytes"] += sum(each.nbytes for each in stacked)


def measure(boot: Boot) -> None:
    """What vLLM chose, and what the model takes of each GPU: of several pipeline stages the larger figure.

    "weight_bytes" are those once they are loaded; "kv_bytes" are a token's, in all layers.
    """
    from vllm.model_executor.layers.attention import Attention

    config = boot.config
    layers = [[each for each in model.modules() if isinstance(each, Attention)] for model in boot.models]
    boot.seen |= {
        "attention": layers[0][0].attn_backend.get_name(),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "kv_dtype": config.cache_config.cache_dtype,
        "quantization": config.model_config.quantization,
        "kernels": sorted({name for model in boot.models for name in kernels(model)}),
        "parameters": max(sum(each.numel() for each in model.parameters()) for model in boot.models),
        "weight_bytes": max(weight_bytes(model) for model in boot.models),
        "kv_bytes": max(sum(kv_bytes(layer, config) for layer in stage) for stage in layers),
    }


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the weights. On the meta device those that vLLM will turn into FP8 are still BF16."""
    sizes = {}  # by identity, as input and output may share their embeddings
    for module in model.modules():
        method = type(getattr(module, "quant_method", None)).__module__
        turned = method.startswith("vllm.model_executor.layers.quantization.online")
        sizes |= {id(each): each.numel() if turned else each.nbytes for each in module.parameters(recurse=False)}
    return sum(sizes.values())


def kernels(model: nn.Module) -> Iterator[str]:
    """The kernels that the layers would compute with, by the names of vLLM's classes."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        for holder in (method, getattr(module, "scheme", None)):
            for name in ("fp8_linear", "kernel", "linear_kernel"):
                if (kernel := getattr(holder, name, None)) is not None:
                    yield type(kernel).__name__


def kv_bytes(layer: Any, config: VllmConfig) -> int:
    """Bytes of a layer's KV cache for one token."""
    spec = layer.get_kv_cache_spec(config)
    return spec.page_size_bytes // spec.block_size


STEPS = {
    "arguments": parse,
    "configuration": configure,
    "worker": start_worker,
    "model": build,
    "adapter": adapt,
    "measures": measure,
}


# The verdict


def ask(case: Case) -> Verdict:
    """Take a line through the steps."""
    began, complaints = time.monotonic(), io.StringIO()  # argparse explains itself on stderr
    boot, stage = Boot(case.argv), ""
    try:
        with contextlib.redirect_stderr(complaints), contextlib.redirect_stdout(io.StringIO()):
            for stage, step in STEPS.items():  # noqa: B007 - it is told of afterwards
                step(boot)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - that is what is asked about
        said = complaints.getvalue().strip() if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        verdict = "refused" if is_refusal(error) else "broken"
        if verdict == "broken":
            said += "\n" + "".join(traceback.format_exception(error))
        return Verdict(case.name, verdict, stage, said, time.monotonic() - began)
    return Verdict(case.name, "accepted", stage, "", time.monotonic() - began, boot.seen)


def is_refusal(error: BaseException) -> bool:
    """Whether vLLM decided against the line, in so many words: it raised, or argparse or pydantic did for it.

    Anything else is taken as the simulation's own fault: what Python raises by itself (a name, an operator, a key that
    is not there), what another package raises, what vLLM says of something that it could not import.
    """
    from pydantic import ValidationError

    if isinstance(error, SystemExit):
        return True
    if isinstance(error, ValidationError):
        inner = [each.get("ctx", {}).get("error") for each in error.errors()]
        return all(is_refusal(each) for each in inner if isinstance(each, Exception))
    if not isinstance(error, (ValueError, KeyError, AssertionError)) or not raised_by_vllm(error):
        return False
    said = str(error)
    return not any(word in said for word in ("ImportError", "No module named", "failed to be inspected"))


def raised_by_vllm(error: BaseException) -> bool:
    """Whether the error comes from a raise or an assert in vLLM's code, apart from that of its process groups."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    statement = linecache.getline(last.filename, last.lineno or 0).lstrip()
    ours = last.filename.endswith("distributed/parallel_state.py")
    return "/vllm/" in last.filename and not ours and statement.startswith(("raise", "assert"))


def main() -> None:
    """Answer each case of standard input by a line of JSON.

    vLLM's modules compute constants from the compute capability while they are imported, so each has a process.
    """
    cases = [Case.from_dict(raw) for raw in json.load(sys.stdin)]
    kinds: dict[object, list[Case]] = {}
    for case in cases:
        kinds.setdefault((case.card.capability, case.without), []).append(case)
    with tempfile.TemporaryDirectory() as folder:
        # vLLM keeps what it learned of model classes, and must not take what a simulation showed for the truth.
        os.environ.update(_ENVIRONMENT, VLLM_CACHE_ROOT=folder)
        for name in _SLOW:
            importlib.import_module(name)
        running = 0
        for number, kind in enumerate(sorted(kinds.values(), key=len, reverse=True)):
            if running == _JOBS:
                os.wait()
                running -= 1
            fork(kind, Path(folder, f"{number}.verdicts"))
            running += 1
        for _ in range(running):
            os.wait()
        for answers in Path(folder).glob("*.verdicts"):
            sys.stdout.write(answers.read_text(encoding="utf-8"))


def fork(kind: list[Case], answers: Path) -> None:
    """Ask about lines for one kind of card, in a process of its own that writes its verdicts into a file."""
    if os.fork():
        return
    with answers.open("w", encoding="utf-8") as file:
        try:
            show = simulate(kind[0].card, kind[0].without)
            for case in kind:
                show(case.card)
                file.write(json.dumps(asdict(ask(case))) + "\n")
        except BaseException:  # noqa: BLE001 - nothing may escape into the copy of the parent
            said = traceback.format_exc()
            file.writelines(
                json.dumps(asdict(Verdict(case.name, "broken", "simulation", said, 0))) + "\n" for case in kind
            )
    os._exit(0)


if __name__ == "__main__":
    main()
