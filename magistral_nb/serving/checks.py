"""Whether what is wished for can be served at all, before anyone asks for memory. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from magistral_nb.dialect import since
from magistral_nb.serving.devices import names_of
from magistral_nb.serving.refusal import Refusal, Way, leave
from magistral_nb.serving.releases import dotted

if TYPE_CHECKING:
    from magistral_nb.dialect import Dialect
    from magistral_nb.serving.hardware import Gpu, Hardware
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

SHARING = ("gpus", "pipeline_parallel", "data_parallel")  # the wishes that take more GPUs than one
# vLLM's flags that take more GPUs than one, and their short names.
_KEY = "a key does not belong into a command line, which everybody on this machine can read"
_PLACE = "where it listens is decided here: --port is an option of this package"
# vLLM's flags by which nobody here would find the server, which show a secret or let strangers' code in, and why.
_DOORS = (
    dict.fromkeys(("--host", "--port", "--uds", "--root-path", "--headless"), _PLACE)
    | dict.fromkeys(
        ("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs"), "on this machine it is asked without TLS; --share has it"
    )
    | {
        "--api-key": f"{_KEY}; one is made for it",
        "--hf-token": f"{_KEY}; set HF_TOKEN instead",
        "--trust-remote-code": "a model's own code is never run here",
        "--config": "what that file says cannot be checked: type its flags",
        "--middleware": "who may ask is decided here",
    }
)
_SWITCHES = {"--headless", "--trust-remote-code"}  # of these, those without a value
_RAW = {"--tensor-parallel-size": "-tp", "--pipeline-parallel-size": "-pp", "--data-parallel-size": "-dp"}


def check_wishes(profile: Profile, wishes: Wishes) -> None:
    """Whether the wishes make sense, wherever the model goes.

    Raises:
        Refusal: they do not.
    """
    sensible = replace(
        wishes,
        gpus=None if wishes.gpus is None or wishes.gpus < 1 else wishes.gpus,
        pipeline_parallel=max(1, wishes.pipeline_parallel),
        data_parallel=max(1, wishes.data_parallel),
    )
    if sensible != wishes:
        away = Way("leave what is below 1 away", sensible)
        raise Refusal("A model needs one GPU, one stage and one copy at least", away)
    if wishes.images and not profile.vision:
        raise Refusal(f"{profile.name} takes no images", leave(wishes, "images"), other=True)
    _check_doors(wishes)
    _check_raw(wishes)


def _check_doors(wishes: Wishes) -> None:
    """Whether raw flags open doors, or decide where the server listens and with which key: nobody would find it."""
    words = iter(wishes.engine_args)
    rest = []
    typed: dict[str, str] = {}
    for word in words:
        name, is_whole, _ = word.partition("=")
        flag = _door(name.replace("_", "-"))
        if flag is None:
            rest.append(word)
            continue
        typed[name] = _DOORS[flag]
        if not is_whole and flag not in _SWITCHES:
            next(words, None)
    if typed:
        names, reasons = " and ".join(typed), "; ".join(dict.fromkeys(typed.values()))
        away = Way(f"leave {'it' if len(typed) == 1 else 'them'} away", replace(wishes, engine_args=tuple(rest)))
        raise Refusal(f"Raw {names} cannot work ({reasons})", away)


def _door(typed: str) -> str | None:
    """The flag of `_DOORS` that vLLM would take this for: its argparse accepts the beginning of a flag's name."""
    if len(typed) <= len("--"):
        return None
    return typed if typed in _DOORS else next((flag for flag in _DOORS if flag.startswith(typed)), None)


def _check_raw(wishes: Wishes) -> None:
    """Whether raw flags ask for GPUs: options do that, as a plan leaves no others visible than it takes."""
    sizes: dict[str, int] = {}
    typed, rest = [], []
    words = iter(wishes.engine_args)
    for word in words:
        name, is_whole, value = word.partition("=")
        flag = next((flag for flag, short in _RAW.items() if name.replace("_", "-") in {flag, short}), None)
        if flag is None:
            rest.append(word)
            continue
        value = value if is_whole else next(words, "")
        typed.append(f"{name} {value}".strip())
        sizes[flag] = int(value) if value.isdecimal() else 1
    if max(sizes.values(), default=1) == 1:
        return
    tensors, stages, copies = (sizes.get(flag, 1) for flag in _RAW)
    away = replace(wishes, engine_args=tuple(rest))
    asked = replace(
        away,
        gpus=tensors * stages if tensors > 1 else wishes.gpus,
        pipeline_parallel=max(stages, wishes.pipeline_parallel),
        data_parallel=max(copies, wishes.data_parallel),
    )
    sizes_now = ((name.replace("_", "-"), getattr(asked, name) or 1) for name in SHARING)
    options = " ".join(f"--{name} {size}" for name, size in sizes_now if size > 1)
    it = "it" if len(typed) == 1 else "them"
    raise Refusal(
        f"Raw {' '.join(typed)} cannot work, as vLLM sees no more GPUs than the plan takes",
        *([Way(f"type {options} instead", asked)] if options else []),
        Way(f"leave {it} away", away),
    )


def check_cpu(hardware: Hardware, profile: Profile, wishes: Wishes, dialect: Dialect) -> None:
    """Whether a CPU serves it.

    Raises:
        Refusal: it does not.
    """
    if not profile.is_local:
        why = clause(hardware.trouble)
        if not why and hardware.driver:
            what = f"{hardware.hidden_by} hides its GPUs" if hardware.hidden_by else "its GPUs are hidden"
            why = f"{what} from this notebook"
        raise Refusal(
            f"{profile.name} needs a GPU and this machine has none{why and f' ({why})'}",
            also="%magistral_serve abacus runs here",
        )
    _check_stored(profile, wishes, dialect)
    if wishes.sleepable:
        raise Refusal("On a CPU vLLM cannot sleep, and holds no GPU's memory", leave(wishes, "sleepable"))
    away = leave(wishes, *SHARING, "ray", *(["quantization"] if wishes.quantization == "fp8" else []))
    if wishes.quantization == "fp8":
        raise Refusal("FP8 weights take 0.85 s a token on a CPU", away)
    if away.wishes != wishes:
        raise Refusal("There is no GPU here to share a model", away)


def check_vllm(gpu: Gpu, profile: Profile, wishes: Wishes, dialect: Dialect) -> None:
    """Whether this vLLM knows the card and the model, whatever is wished for.

    Raises:
        Refusal: it does not.
    """
    if wishes.sleepable and not dialect.unix_socket:
        needs = f"--sleepable needs vLLM {since('unix_socket')} or newer, which listens on a Unix socket"
        raise Refusal(needs, leave(wishes, "sleepable"))
    if gpu.capability != (0, 0) and gpu.capability < dialect.oldest_card:
        raise Refusal(
            f"This vLLM wants compute capability {dotted(dialect.oldest_card)}, and {gpu.name} has "
            f"{dotted(gpu.capability)}"
        )
    if gpu.mig and not names_of([gpu], uuids=dialect.uuids):
        why = "and this vLLM takes its number in its card for a card's"
        if not dialect.uuids:
            why = f"which vLLM reads from {since('uuids')} on"
        raise Refusal(
            f"Only its UUID leads to {gpu.name}, {why}",
            also="""start this notebook with that slice alone (docker run --gpus '"device=0:1"', Slurm's --gres)""",
        )
    knows = "ministral_3" if profile.layout == "mistral" else "ministral_3_huggingface"
    if profile.needs_ministral_3 and not getattr(dialect, knows):
        raise Refusal(f"{profile.name} needs vLLM {since(knows)} or newer")
    _check_stored(profile, wishes, dialect)


def _check_stored(profile: Profile, wishes: Wishes, dialect: Dialect) -> None:
    """Whether this vLLM reads the checkpoint; who names its method in raw flags has a package for it."""
    method = profile.quantization
    raw = {word.rpartition("=")[2] for word in wishes.engine_args}
    if method is None or method in {*dialect.quantizations, *raw}:
        return
    instead = "name the model that it was made of"
    if profile.is_local:
        instead = "merge it in 16 bits (unsloth's save_method='merged_16bit') and name that folder"
    reads = "does not read"
    if method == "bitsandbytes":
        reads = f"reads only with {dialect.bitsandbytes} installed beside it"
        instead += f", or install that and add -- --quantization {method}"
    raise Refusal(f"{profile.name} is stored in {method}, which this vLLM {reads}", also=instead)


def clause(sentence: str | None) -> str:
    """A sentence as a part of another one."""
    return (sentence or "").rstrip(".")
