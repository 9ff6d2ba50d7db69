"""What can be served: releases known by name, and any local folder, told by its files."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.errors import NotACheckpoint, UnknownModel

if TYPE_CHECKING:
    from magistral_nb.asking.system_prompt import Marks

# Mistral's card gives both for every Magistral and Ministral Reasoning release.
_MISTRAL_SAMPLING = Sampling(temperature=0.7, top_p=0.95)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_ABACUS_FOLDER = Path(__file__).parent.parent / "abacus"


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's memory.

    Attributes:
        parameters: how many, vision encoder included.
        layers: of attention.
        kv_heads: per layer.
        head_size: values per head.
        embeddings: parameters of input and output embeddings, which stay in BF16 when the rest becomes FP8.
    """

    parameters: float
    layers: int
    kv_heads: int
    head_size: int
    embeddings: float = 0

    def weight_bytes(self, *, fp8: bool) -> float:
        """Bytes of memory that the weights take.

        Example:
            >>> shape = Shape(23.6e9, 40, 8, 128, embeddings=2 * 131_072 * 5_120)
            >>> round(shape.weight_bytes(fp8=True) / 2**30, 1)  # Magistral Small, GiB
            23.2
        """
        return self.parameters + self.embeddings if fp8 else 2 * self.parameters

    def kv_bytes(self, bytes_per_value: float) -> float:
        """Bytes of KV cache that one token takes: a key and a value per layer and head.

        Example:
            >>> Shape(23.6e9, 40, 8, 128).kv_bytes(2) / 1024  # Magistral Small in BF16, KiB
            160.0
        """
        return 2 * self.layers * self.kv_heads * self.head_size * bytes_per_value


@dataclass(frozen=True, slots=True)
class Profile:
    """One model that can be served.

    Attributes:
        name: short name, and the name under which it is served.
        title: for people.
        source: a repository on the hub, or a folder.
        layout: "mistral" (params.json, tekken.json) or "huggingface" (config.json).
        context: the longest context it is good for, in tokens; the plan never goes above it unasked.
        longest_context: what its weights allow, in tokens.
        shape: None where only the checkpoint itself knows.
        sampling: the model's own.
        download: bytes that come from the hub; 0 for a folder.
        vision: whether it also takes images.
        marks: what its thoughts stand between.
    """

    name: str
    title: str
    source: str
    layout: Literal["mistral", "huggingface"]
    context: int
    longest_context: int
    shape: Shape | None
    sampling: Sampling = field(default_factory=Sampling)
    download: float = 0
    vision: bool = False
    marks: Marks = "tokens"

    @property
    def embedded(self) -> bool:
        """Whether it lies in this package."""
        return self.source == str(_ABACUS_FOLDER)

    @property
    def is_local(self) -> bool:
        """Whether it lies in a folder of this machine."""
        return not self.download


def _small(release: str, title: str, longest: int, *, vision: bool) -> Profile:
    # 23.6 B parameters (24.0 B with the vision encoder), two bytes each in the repository.
    shape = Shape(24.0e9 if vision else 23.6e9, layers=40, kv_heads=8, head_size=128, embeddings=2 * 131_072 * 5_120)
    return Profile(
        name=f"magistral-small-{release}",
        title=title,
        source=f"mistralai/Magistral-Small-{release}",
        layout="mistral",
        context=40_960,
        longest_context=longest,
        shape=shape,
        sampling=_MISTRAL_SAMPLING,
        download=2 * shape.parameters,
        vision=vision,
        marks="tags" if release == "2506" else "tokens",
    )


RELEASES = {
    "2506": _small("2506", "Magistral Small 1.0 (24B)", 131_072, vision=False),
    "2507": _small("2507", "Magistral Small 1.1 (24B)", 131_072, vision=False),
    "2509": _small("2509", "Magistral Small 1.2 (24B)", 131_072, vision=True),
}
_SHORT_NAMES = {"small": "2509", "magistral": "2509", "magistral-small": "2509"}


def abacus() -> Profile:
    """The embedded model: real reasoning on arithmetic, on any CPU."""
    return _folder(_ABACUS_FOLDER, "abacus", "abacus (3 M parameters, arithmetic only)", Sampling(0))


def release_of(source: str) -> Profile | None:
    """The release that this repository holds, whoever quantised it; None where nobody can tell by its name.

    Example:
        >>> release_of("RedHatAI/Magistral-Small-2506-FP8").name
        'magistral-small-2506'
    """
    last = source.rstrip("/").rpartition("/")[2].lower()
    return next((profile for profile in RELEASES.values() if last.startswith(profile.name)), None)


def find_profile(model: str | None, *, gpu: bool) -> Profile:
    """The profile of `model`: a short name, a repository or a folder; None is the machine's default.

    Raises:
        UnknownModel: it is none of these.
        NotACheckpoint: the folder holds no model.

    Example:
        >>> find_profile("2506", gpu=True).source
        'mistralai/Magistral-Small-2506'
    """
    if model is None:
        return RELEASES["2509"] if gpu else abacus()
    wanted = model.strip()
    key = wanted.lower()
    if key == "abacus":
        return abacus()
    key = _SHORT_NAMES.get(key, key)
    for short, profile in RELEASES.items():
        if key in {short, profile.name, profile.source.lower()}:
            return profile
    folder = Path(wanted).expanduser()
    if folder.is_file():
        raise UnknownModel(f"{wanted} is a file: name the folder that the checkpoint lies in.")
    if folder.is_dir():
        return _folder(folder.absolute(), folder.absolute().name, str(folder), Sampling())
    if wanted.startswith((".", "/", "~")):
        raise UnknownModel(f"There is no folder {wanted}: check the path, or name a model such as abacus or 2509.")
    raise UnknownModel(_unknown(wanted))


def _unknown(wanted: str) -> str:
    names = ["abacus", *RELEASES, *_SHORT_NAMES, *(p.name for p in RELEASES.values())]
    names += [p.source for p in RELEASES.values()]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "known are abacus, 2506, 2507, 2509."
    what = "repository" if _REPOSITORY.fullmatch(wanted) else "model"
    return f"No {what} {wanted!r} is known here: {hint} A folder with a checkpoint works too."


def _folder(folder: Path, name: str, title: str, sampling: Sampling) -> Profile:
    """What lies in a folder, told by its files and never by its name."""
    if (folder / "params.json").is_file():
        missing = [f for f in ("tekken.json",) if not (folder / f).is_file()]
        if not list(folder.glob("consolidated*.safetensors")):
            missing.append("consolidated.safetensors")
        _refuse_if(missing, folder)
        params = _json(folder / "params.json")
        try:
            longest = int(params.get("max_position_embeddings") or params.get("max_seq_len") or 40_960)
            shape = Shape(
                sum(f.stat().st_size for f in folder.glob("consolidated*.safetensors")) / 2,
                int(params["n_layers"]),
                int(params.get("n_kv_heads") or params["n_heads"]),
                int(params.get("head_dim") or params["dim"] // params["n_heads"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NotACheckpoint(
                f"{folder / 'params.json'} does not describe a model ({type(error).__name__}: {error}): is the "
                "checkpoint whole?"
            ) from error
        return Profile(
            name, title, str(folder), "mistral", min(longest, 40_960), longest, shape, sampling,
            vision="vision_encoder" in params,
        )  # fmt: skip
    missing = [f for f in ("config.json",) if not (folder / f).is_file()]
    if not missing and not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    _refuse_if(missing, folder)
    config = _json(folder / "config.json")
    told = config.get("max_position_embeddings")
    longest = told if isinstance(told, int) and told > 0 else 40_960
    return Profile(name, title, str(folder), "huggingface", min(longest, 40_960), longest, None, sampling)


def _refuse_if(missing: list[str], folder: Path) -> None:
    if missing:
        raise NotACheckpoint(
            f"{folder} is no checkpoint: {', '.join(missing)} missing. vLLM loads params.json + tekken.json + "
            "consolidated.safetensors, or config.json + *.safetensors."
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotACheckpoint(f"{path} cannot be read as JSON ({error}): is the checkpoint whole?") from error
    if not isinstance(value, dict):
        raise NotACheckpoint(f"{path} holds no JSON object: is the checkpoint whole?")
    return value
