"""What can be served: models known by name, any repository on the hub, and any local folder, told by its files."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.errors import NotACheckpoint, UnknownModel
from magistral_nb.serving import folder as folders, hub
from magistral_nb.serving.profile import (
    ABACUS_FOLDER,
    MISTRAL_SAMPLING,
    USUAL_CONTEXT,
    Adapter,
    Profile,
    Shape,
    stored_bytes,
)

if TYPE_CHECKING:
    from magistral_nb.serving.profile import Layout, Stored

__all__ = [
    "CATALOGUE",
    "MINISTRALS",
    "QUANTISED",
    "RELEASES",
    "Adapter",
    "Profile",
    "Shape",
    "abacus",
    "find_profile",
    "in_order",
    "release_of",
]

# Pixtral's encoder of 24 layers, 1,024 wide, and what fits it to the language model.
_VISION = 0.42e9
_VOCABULARY = 131_072


def _shape(layers: int, width: int, hidden: int, *, tied: bool = False, vision: bool = True) -> Shape:
    """Of Mistral's dense models: 32 heads, 8 KV heads of 128."""
    kept = _VOCABULARY * width * (1 if tied else 2) + (_VISION if vision else 0)
    parameters = layers * (width * 128 * 2 * (32 + 8) + 3 * width * hidden) + kept
    return Shape(parameters, layers, 8, 128, kept, 32, width, hidden, _VISION if vision else 0)


def _small_shape(*, vision: bool) -> Shape:
    """23.6 B parameters, 24.0 B with the vision encoder."""
    return _shape(40, 5_120, 32_768, vision=vision)


_PARAMS = "Mistral's params.json"


def _small(release: str, title: str, *, vision: bool = False) -> Profile:
    shape = _small_shape(vision=vision)
    return Profile(
        name=f"magistral-small-{release}",
        title=title,
        source=f"mistralai/Magistral-Small-{release}",
        layout="mistral",
        context=USUAL_CONTEXT,
        longest_context=131_072,
        shape=shape,
        sampling=MISTRAL_SAMPLING,
        download=2 * shape.parameters,
        vision=vision,
        marks="tags" if release == "2506" else "tokens",
        thinks=True,
        origin=_PARAMS,
    )


def _ministral(size: str, shape: Shape) -> Profile:
    return Profile(
        name=f"ministral-3-{size.lower()}-reasoning-2512",
        title=f"Ministral 3 Reasoning ({size})",
        source=f"mistralai/Ministral-3-{size}-Reasoning-2512",
        layout="mistral",
        context=USUAL_CONTEXT,
        longest_context=262_144,
        shape=shape,
        sampling=MISTRAL_SAMPLING,
        download=2 * shape.parameters,
        vision=True,
        thinks=True,
        needs_ministral_3=True,
        origin=_PARAMS,
    )


def _quantised(release: str, source: str, what: str, stored: Stored, method: str, layout: Layout) -> Profile:
    original = RELEASES[release]
    shape = _small_shape(vision=original.vision)
    size = stored_bytes(shape.parameters, shape.embeddings, stored)
    return dataclasses.replace(
        original,
        name=f"{original.name}-{what}",
        title=f"{original.title}, {'FP8' if what == 'fp8' else '4 bits'}",
        source=source,
        layout=layout,
        shape=dataclasses.replace(shape, stored_bytes=size),
        download=size,
        stored=stored,
        quantization=method,
        origin="the sizes of its layers",
        tokenizer=None if layout == "mistral" else original.source,
    )


RELEASES = {
    "2506": _small("2506", "Magistral Small 1.0 (24B)"),
    "2507": _small("2507", "Magistral Small 1.1 (24B)"),
    "2509": _small("2509", "Magistral Small 1.2 (24B)", vision=True),
}
# 3.4, 8.5 and 13.5 B parameters beside the vision encoder (published); Transformers' Ministral3Config is the 8B.
MINISTRALS = {
    "ministral-3b": _ministral("3B", _shape(26, 3_072, 9_216, tied=True)),
    "ministral-8b": _ministral("8B", _shape(34, 4_096, 14_336)),
    "ministral-14b": _ministral("14B", _shape(40, 5_120, 16_384)),
}
# The first is made by vLLM's LLM Compressor in Mistral's format (its card), so it brings tekken.json. The others are
# in Hugging Face format; whether they bring one nobody has to know, as the original's is used.
QUANTISED = {
    "2506-fp8": _quantised("2506", "RedHatAI/Magistral-Small-2506-FP8", "fp8", "fp8", "fp8", "mistral"),
    "2509-fp8": _quantised(
        "2509", "unsloth/Magistral-Small-2509-FP8-Dynamic", "fp8", "fp8", "compressed-tensors", "huggingface"
    ),
    "2509-4bit": _quantised(
        "2509", "cyankiwi/Magistral-Small-2509-AWQ-4bit", "4bit", "int4", "compressed-tensors", "huggingface"
    ),
}
CATALOGUE = RELEASES | QUANTISED | MINISTRALS

_SHORT_NAMES = {"small": "2509", "magistral": "2509", "magistral-small": "2509"}


def in_order(*, gpu: bool) -> tuple[Profile, ...]:
    """What to serve where nobody named a model: the first of these that fits.

    Example:
        >>> [profile.name.rpartition("small-")[2] for profile in in_order(gpu=True)][:3]
        ['2509', '2509-fp8', '2509-4bit']
    """
    if not gpu:
        return (abacus(),)
    names = ("2509", "2509-fp8", "2509-4bit", "ministral-14b", "ministral-8b", "ministral-3b")
    return tuple(CATALOGUE[name] for name in names)


def abacus() -> Profile:
    """The embedded model: real reasoning on arithmetic, on any CPU."""
    found = folders.profile_of(
        folders.local(ABACUS_FOLDER),
        name="abacus",
        title="abacus (3 M parameters, arithmetic only)",
        source=str(ABACUS_FOLDER),
        known=release_of,
    )
    return dataclasses.replace(found, sampling=Sampling(0))


def release_of(source: str) -> Profile | None:
    """The release that this repository holds, whoever quantised it; None where nobody can tell by its name.

    Example:
        >>> release_of("RedHatAI/Magistral-Small-2506-FP8").name
        'magistral-small-2506'
    """
    last = source.rstrip("/").rpartition("/")[2].lower()
    releases = (*RELEASES.values(), *MINISTRALS.values())
    return next((profile for profile in releases if last.startswith(profile.name)), None)


def find_profile(model: str) -> Profile:
    """The profile of `model`: a short name, a folder or a repository.

    A name of the catalogue or a folder needs no network. Any other repository is read from the hub's cache, or else
    with a few small requests.

    Raises:
        UnknownModel: it is none of these, or a repository that cannot be read.
        NotACheckpoint: it holds no model that vLLM could load.

    Example:
        >>> find_profile("2506").source
        'mistralai/Magistral-Small-2506'
    """
    return _find(model.strip(), adapters=True)


def _find(wanted: str, *, adapters: bool) -> Profile:
    """The profile of a name, a folder or a repository; with `adapters`, those of LoRA adapters too."""
    if wanted.lower() == "abacus":
        return abacus()
    if profile := _known(wanted):
        return profile
    if path := _path(wanted):
        if not path.is_dir():
            raise _no_folder(path)
        return _told_by(folders.local(path), path.name, str(path), adapters=adapters)
    if wanted.startswith((".", "/", "~")):
        raise UnknownModel(f"There is no folder {wanted}: check the path, or name a model such as abacus or 2509.")
    if hub.REPOSITORY.fullmatch(wanted):
        return _of_repository(wanted, adapters=adapters)
    raise UnknownModel(f"No model {wanted!r} is known here: {_hint(wanted)} A folder or an owner/repository works too.")


def _known(wanted: str) -> Profile | None:
    key = wanted.lower()
    key = _SHORT_NAMES.get(key, key)
    named = (profile for short, profile in CATALOGUE.items() if key in {short, profile.name, profile.source.lower()})
    return next(named, None)


def _path(wanted: str) -> Path | None:
    """What it names on this machine; None where there is nothing, or can be nothing of that name."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        path = Path(wanted).expanduser().absolute()
        return path if path.exists() else None
    return None


def _no_folder(path: Path) -> NotACheckpoint | UnknownModel:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return NotACheckpoint(folders.gguf(str(path)))
    return UnknownModel(f"{path} is a file: name the folder that the checkpoint lies in.")


def _of_repository(repository: str, *, adapters: bool) -> Profile:
    """The profile of a repository, from the hub's cache if it lies there whole, or else from the hub."""

    def told_by(files: folders.Files) -> Profile:
        # Its own name is the last resort for telling the release that somebody re-uploaded.
        files = dataclasses.replace(files, bases=(*files.bases, repository))
        return _told_by(files, repository.rpartition("/")[2], repository, adapters=adapters)

    if cached := hub.snapshot(repository):
        with contextlib.suppress(NotACheckpoint):
            return told_by(folders.local(cached))
    try:
        files = hub.files(repository)
    except UnknownModel as error:
        near = difflib.get_close_matches(repository, [each.source for each in CATALOGUE.values()], n=1, cutoff=0.8)
        raise UnknownModel(f"{error} Did you mean {near[0]}?" if near else str(error)) from error
    return told_by(files)


def _told_by(files: folders.Files, name: str, source: str, *, adapters: bool) -> Profile:
    """The profile of a model's files, or of the base of a LoRA adapter's."""
    if not folders.is_adapter(files):
        return folders.profile_of(files, name=name, title=source, source=source, known=release_of)
    if not adapters:
        raise NotACheckpoint(f"{files.where} is an adapter as well: merge it into its base first.")
    adapter, named = folders.adapter_of(files, name=name, source=source)
    base = _base(named, files.where)
    return dataclasses.replace(base, title=f"{base.title} with {name}", adapters=(adapter,))


def _base(named: str, where: str) -> Profile:
    """The model that an adapter was made for. One trained on a quantised re-upload is served on the original."""
    try:
        if not _known(named) and hub.REPOSITORY.fullmatch(named) and (release := release_of(named)):
            return release
        return _find(named, adapters=False)
    except (UnknownModel, NotACheckpoint) as error:
        raise NotACheckpoint(
            f"The adapter in {where} is made for {named}, which cannot be had ({str(error).rstrip('.')}): set "
            "base_model_name_or_path in its adapter_config.json to the base's folder or repository."
        ) from error


def _hint(wanted: str) -> str:
    names = ["abacus", *CATALOGUE, *_SHORT_NAMES, *(profile.name for profile in CATALOGUE.values())]
    near = difflib.get_close_matches(wanted.lower(), names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are abacus, {', '.join(CATALOGUE)}."
