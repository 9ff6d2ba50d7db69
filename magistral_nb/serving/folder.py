"""What a checkpoint is, told by its files and never by its name: a local folder's, or a repository's on the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.errors import NotACheckpoint
from magistral_nb.serving import model_config
from magistral_nb.serving.profile import MISTRAL_SAMPLING, USUAL_CONTEXT, Adapter, Profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from magistral_nb.asking.system_prompt import Marks
    from magistral_nb.serving.profile import Layout

SYSTEM_PROMPT = "SYSTEM_PROMPT.txt"
CONFIGS = ("params.json", "config.json", "adapter_config.json")

_CONFIG: dict[Layout, str] = {"mistral": "params.json", "huggingface": "config.json"}
_WEIGHTS: dict[Layout, re.Pattern[str]] = {
    "mistral": re.compile(r"consolidated.*\.safetensors"),
    "huggingface": re.compile(r"(?!consolidated|adapter_model).*\.safetensors"),
}
_INDEX: dict[Layout, str] = {
    "mistral": "consolidated.safetensors.index.json",
    "huggingface": "model.safetensors.index.json",
}
_SHARD = re.compile(r"(.*-)(\d+)(-of-)(\d+)(\.safetensors)")
_PICKLED = re.compile(r"pytorch_model.*\.bin")
_LFS = b"version https://git-lfs"
_LFS_BYTES = 200  # a pointer in place of a file takes about 135
_SHOWN = 3
_BASE_MODEL = re.compile(r"^base_model:\s*(?:-\s*)?[\"']?([\w.-]+/[\w.-]+)", re.MULTILINE)
# Of every release in the catalogue. Another size means other tokens, and then the base's tokenizer is the wrong one.
_TEKKEN_VOCABULARY = 131_072
_TAIL_BYTES = 2**18  # a thousand special tokens take 65 to 110 kB of a file's 20 MB
_MERGE = "merge it into its base (axolotl merge-lora, or unsloth's save_pretrained_merged) and name that folder."


@dataclass(frozen=True, slots=True)
class Files:
    """A checkpoint's files, wherever they lie.

    Attributes:
        where: the folder or the repository, for messages.
        sizes: bytes by name.
        read: the content by name; with a number, only so many bytes from its end, or more.
        folders: names of the folders inside; none of a repository's.
        bases: repositories that it was made from, as far as anyone tells.
    """

    where: str
    sizes: Mapping[str, int]
    read: Callable[[str, int | None], bytes]
    folders: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()


def local(folder: Path) -> Files:
    """The files of a folder of this machine.

    Raises:
        NotACheckpoint: it cannot be read.
    """

    def read(name: str, last: int | None) -> bytes:
        path = folder / name
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - last) if last else 0)
                return file.read()
        except OSError as error:
            raise NotACheckpoint(f"{path} cannot be read ({error.strerror}): is the checkpoint whole?") from error

    try:
        entries = sorted(folder.iterdir())
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        folders = tuple(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise NotACheckpoint(f"{folder} cannot be read ({error.strerror}): check who may.") from error
    card = read("README.md", None).decode(errors="replace") if "README.md" in sizes else ""
    return Files(str(folder), sizes, read, folders, bases_in_card(card))


def bases_in_card(card: str) -> tuple[str, ...]:
    r"""The base model that a model card's front matter names; axolotl, unsloth and PEFT write one.

    Example:
        >>> bases_in_card("---\nlicense: mit\nbase_model:\n- mistralai/Magistral-Small-2509\n---\nMine.")
        ('mistralai/Magistral-Small-2509',)
        >>> bases_in_card("base_model: no/front-matter")
        ()
    """
    if not card.startswith("---"):
        return ()
    named = _BASE_MODEL.search(card.partition("\n---")[0])
    return (named[1],) if named else ()


def profile_of(files: Files, *, name: str, title: str, source: str, known: Callable[[str], Profile | None]) -> Profile:
    """The profile of a whole model.

    In Mistral's own repositories both formats lie side by side: Mistral's wins, as in vLLM, and the other's weights do
    not count. A model in Hugging Face format thinks by its own tekken.json, or else by that of the base that its
    config or card names and `known` knows. With neither, [THINK] would have to be found by a tokenizer that vLLM's
    parser was not written for, so it counts as one that does not think.

    Args:
        files: of the model.
        name: under which it will be served.
        title: for people.
        source: what vLLM will load, a repository or an absolute folder.
        known: the release that a repository holds, if any.

    Raises:
        NotACheckpoint: it is none, or not whole, or not one for vLLM.
    """
    layout = _layout(files)
    size = sum(weights(files, layout).values())
    config = _config(files, layout)
    bases = (str(config.get("_name_or_path") or ""), *files.bases)
    base = next(filter(None, map(known, bases)), None)
    tokenizer = _tokenizer(files, layout, source, base, model_config.text_of(config).get("vocab_size"))
    thinks, marks = _thinking(files, base if tokenizer else None)
    stored, quantization = model_config.stored_as(config)
    longest = model_config.longest_context(config) or USUAL_CONTEXT
    try:
        shape = model_config.shape_of(config, size)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if layout == "mistral":
            raise NotACheckpoint(
                f"{files.where}/params.json does not describe a model ({type(error).__name__}: {error}): is the "
                "checkpoint whole?"
            ) from error
        shape = None  # other families name things otherwise, and vLLM knows more of them than we do
    return Profile(
        name=name,
        title=title,
        source=source,
        layout=layout,
        context=min(longest, USUAL_CONTEXT),
        longest_context=longest,
        shape=shape,
        sampling=MISTRAL_SAMPLING if base or (thinks and marks == "tokens") else Sampling(),
        download=0 if Path(source).is_absolute() else size,
        vision=model_config.has_vision(config),
        marks=marks,
        stored=stored,
        quantization=quantization,
        tokenizer=tokenizer,
        thinks=thinks,
        needs_ministral_3=_is_ministral_3(config),
    )


def _is_ministral_3(config: dict[str, Any]) -> bool:
    """Whether a vLLM that does not know Ministral 3 would refuse it or compute nonsense."""
    architectures = config.get("architectures")
    named = isinstance(architectures, list) and "Ministral3ForCausalLM" in architectures
    return named or model_config.text_of(config).get("model_type") == "ministral3" or "llama_4_scaling" in config


def weights(files: Files, layout: Layout) -> dict[str, int]:
    """Bytes of each file of weights that vLLM would load.

    Raises:
        NotACheckpoint: shards are missing that the index or the other shards' names speak of, or Git LFS has left
            pointers in place of them.
    """
    lying = {name: size for name, size in files.sizes.items() if _WEIGHTS[layout].fullmatch(name)}
    named: Iterable[str] = lying
    if _INDEX[layout] in files.sizes:
        places = _json(files, _INDEX[layout]).get("weight_map")
        named = set(map(str, places.values())) if isinstance(places, dict) else lying
    elif shard := next(filter(None, map(_SHARD.fullmatch, lying)), None):
        head, digits, of, count, tail = shard.groups()
        named = {f"{head}{number:0{len(digits)}}{of}{count}{tail}" for number in range(1, int(count) + 1)}
    missing = sorted(name for name in named if name not in files.sizes)
    if missing or not named:
        raise _missing(files, missing or [f"{'consolidated' if layout == 'mistral' else '*'}.safetensors"])
    for name in named:
        if files.sizes[name] < _LFS_BYTES and files.read(name, None).startswith(_LFS):
            raise NotACheckpoint(f"{files.where}/{name} is a Git LFS pointer, not the file: run git lfs pull there.")
    return {name: files.sizes[name] for name in named}


def is_adapter(files: Files) -> bool:
    """Whether it is a LoRA adapter: axolotl also leaves its base's config.json beside it, but no weights of a model."""
    names = files.sizes
    return "adapter_config.json" in names and not any(
        pattern.fullmatch(name) for name in names for pattern in _WEIGHTS.values()
    )


def adapter_of(files: Files, *, name: str, source: str) -> tuple[Adapter, str]:
    """The LoRA adapter, and the base model that it names; axolotl and unsloth write them as PEFT does.

    Raises:
        NotACheckpoint: it is not whole, or vLLM would refuse it (its PEFTHelper).
    """
    if not any(f"adapter_model.{suffix}" in files.sizes for suffix in ("safetensors", "bin")):
        raise _missing(files, ["adapter_model.safetensors"])
    config = _json(files, "adapter_config.json")
    if reason := _no_lora(config):
        raise NotACheckpoint(
            f"The adapter in {files.where} {reason}, which vLLM does not load beside a model: {_MERGE}"
        )
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [])]
    base = config.get("base_model_name_or_path") or next(iter(files.bases), None)
    if not isinstance(base, str) or not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise NotACheckpoint(f"{files.where}/adapter_config.json names no base model or no rank: is the adapter whole?")
    return Adapter(name, source, max(ranks)), base


def _no_lora(config: dict[str, Any]) -> str | None:
    modules = config.get("target_modules")
    embeddings = [each for each in ("embed_tokens", "lm_head") if isinstance(modules, list) and each in modules]
    kind = config.get("peft_type", "LORA")
    reasons = {
        f"is of type {kind}": kind != "LORA",
        "is a DoRA": config.get("use_dora"),
        "trains biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "brings whole layers (modules_to_save)": config.get("modules_to_save"),
        f"changes {' and '.join(embeddings)}": embeddings,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _layout(files: Files) -> Layout:
    names = files.sizes
    if "params.json" in names and (any(map(_WEIGHTS["mistral"].fullmatch, names)) or "config.json" not in names):
        if "tekken.json" not in names:
            raise _missing(files, ["tekken.json"])
        return "mistral"
    has_weights = _INDEX["huggingface"] in names or any(map(_WEIGHTS["huggingface"].fullmatch, names))
    if "config.json" not in names or not has_weights:
        raise _nothing(files)
    return "huggingface"


def _nothing(files: Files) -> NotACheckpoint:
    """Why it is no model, and what it seems to be instead."""
    names = files.sizes
    if any(name.endswith(".gguf") for name in names):
        return NotACheckpoint(gguf(files.where))
    if "Modelfile" in names or {"blobs", "manifests"} <= set(files.folders):
        return NotACheckpoint(
            f"{files.where} is Ollama's, and vLLM does not load its weights: ollama run magistral, then "
            "%magistral_connect http://localhost:11434/v1."
        )
    if any(map(_PICKLED.fullmatch, names)):
        return NotACheckpoint(
            f"{files.where} holds pickled weights (*.bin), which may run code when they are loaded: save the model "
            "again with transformers' save_pretrained, which writes safetensors."
        )
    inside = [name for name in files.folders if any(_holds(files, f"{name}/{config}") for config in CONFIGS)]
    if inside:
        others = ", ".join(inside[-_SHOWN:])
        return NotACheckpoint(f"{files.where} is no checkpoint, but folders in it seem to be: name one ({others}).")
    if not names and not files.folders:
        return NotACheckpoint(f"{files.where} is empty: name a folder that holds params.json or config.json.")
    return _missing(files, ["*.safetensors" if "config.json" in names else "params.json or config.json"])


def _holds(files: Files, name: str) -> bool:
    try:
        return bool(files.read(name, 1))
    except NotACheckpoint:
        return False


def gguf(where: str) -> str:
    """What to say of GGUF weights."""
    return (
        f"{where} holds GGUF weights, which llama.cpp and Ollama serve, not vLLM: start llama-server -m FILE.gguf, or "
        "ollama run magistral, then %magistral_connect http://localhost:8080/v1 (Ollama: port 11434)."
    )


def _missing(files: Files, names: list[str]) -> NotACheckpoint:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return NotACheckpoint(
        f"{files.where} is no checkpoint: {', '.join(names[:_SHOWN])}{more} missing. vLLM loads params.json + "
        "tekken.json + consolidated.safetensors, config.json + *.safetensors, or a LoRA adapter."
    )


def _config(files: Files, layout: Layout) -> dict[str, Any]:
    config = _json(files, _CONFIG[layout])
    if layout == "mistral":
        return model_config.from_params(config)
    if isinstance(config.get("quantization"), dict):
        raise NotACheckpoint(
            f"{files.where} holds MLX weights, which vLLM does not load: serve it with LM Studio, then "
            "%magistral_connect http://localhost:1234/v1."
        )
    return config


def _tokenizer(files: Files, layout: Layout, source: str, base: Profile | None, vocabulary: object) -> str | None:
    if layout == "mistral":
        return None
    if "tekken.json" in files.sizes:
        return source
    return base.source if base is not None and vocabulary == _TEKKEN_VOCABULARY else None


def _thinking(files: Files, base: Profile | None) -> tuple[bool, Marks]:
    """Whether it thinks and between what; `base` where its tokenizer is used, as there is none here."""
    if "tekken.json" not in files.sizes:
        return (False, "tokens") if base is None else (base.thinks, base.marks)
    # Only the end of it, where the special tokens mostly stand; where they do not, all of it.
    tail = files.read("tekken.json", _TAIL_BYTES)
    if b'"special_tokens"' not in tail:
        tail = files.read("tekken.json", None)
    if not tail.rstrip().endswith(b"}"):
        raise NotACheckpoint(f"{files.where}/tekken.json is torn: is the checkpoint whole?")
    if b'"[THINK]"' in tail and b'"[/THINK]"' in tail:
        return True, "tokens"
    asks = SYSTEM_PROMPT in files.sizes and b"<think>" in files.read(SYSTEM_PROMPT, None)
    return (True, "tags") if asks else (False, "tokens")


def _json(files: Files, name: str) -> dict[str, Any]:
    try:
        value = json.loads(files.read(name, None).decode())
    except ValueError as error:
        raise NotACheckpoint(
            f"{files.where}/{name} cannot be read as JSON ({error}): is the checkpoint whole?"
        ) from error
    if not isinstance(value, dict):
        raise NotACheckpoint(f"{files.where}/{name} holds no JSON object: is the checkpoint whole?")
    return value
