"""Models and engines that are broken in one way each, made of the real ones; every function says what it broke."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import magistral_nb
from magistral_nb.serving.engine import find_engine

ABACUS = Path(magistral_nb.__file__).parent / "abacus"
WEIGHTS = "consolidated.safetensors"


def model(folder: Path, *left_out: str, **params: int) -> Path:
    """The embedded model's files once more, less some, or with other figures in params.json."""
    folder.mkdir()
    for path in ABACUS.iterdir():
        if path.suffix in {".json", ".safetensors", ".txt"} and path.name not in left_out:
            shutil.copy(path, folder)
    if params:
        told = json.loads((ABACUS / "params.json").read_text())
        (folder / "params.json").write_text(json.dumps(told | params))
    return folder


def cut(folder: Path, size: int) -> Path:
    """Weights of which only the first bytes are there, as after a download that broke off."""
    os.truncate(model(folder) / WEIGHTS, size)
    return folder


def pointer(folder: Path) -> Path:
    """What git leaves in the place of weights where git-lfs is not installed."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 6562048\n"
    (model(folder, WEIGHTS) / WEIGHTS).write_text(text)
    return folder


def with_a_comma_too_many(folder: Path) -> Path:
    """A tekken.json that was edited by hand."""
    path = model(folder) / "tekken.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"type":', '"type",:', 1), encoding="utf-8")
    return folder


def without_mistral_common(folder: Path) -> Path:
    """An engine less one of its packages."""
    _environment(folder, "mistral_common")
    return folder


def with_a_name_less(folder: Path) -> Path:
    """An engine whose mistral-common does not have, yet or any more, a name that this vLLM imports."""
    with (_copied(folder, "mistral_common") / "protocol" / "instruct" / "validator.py").open("a") as module:
        module.write("\ndel ValidationMode\n")
    return folder


def with_the_next_mistral_common(folder: Path) -> Path:
    """An engine with what mistral-common 1.13 did: an argument became necessary that vLLM 0.32 does not pass."""
    module = _copied(folder, "mistral_common") / "guidance" / "grammar_factory.py"
    before, method, after = module.read_text().partition("def get_lark_from_jinja(")
    optional = "json_only: bool = False,"
    assert optional in after
    module.write_text(before + method + after.replace(optional, "json_only: bool, force_tool_names: bool,", 1))
    return folder


def for_cuda(folder: Path) -> Path:
    """An engine that does not call itself one for the CPU."""
    names = [path.name for path in _packages(_real_engine()).glob("vllm*.dist-info")]
    told = _environment(folder, *names) / "vllm-0.32.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    return folder


def _copied(folder: Path, name: str) -> Path:
    """One package of an engine as a copy that can be changed."""
    return Path(shutil.copytree(_packages(_real_engine()) / name, _environment(folder, name) / name))


def _environment(folder: Path, *left_out: str) -> Path:
    """A virtual environment with the real engine's packages less some; returns where they lie."""
    real = _real_engine()
    site = folder / _packages(real).relative_to(real)
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to((real / "bin" / "python").resolve())
    shutil.copy(real / "pyvenv.cfg", folder)
    for entry in _packages(real).iterdir():
        if entry.name not in {*left_out, "__pycache__"}:
            (site / entry.name).symlink_to(entry)
    return site


def _real_engine() -> Path:
    return Path(find_engine(None, gpu=False).command[0]).parent.parent


def _packages(environment: Path) -> Path:
    (found,) = environment.glob("lib/python3*/site-packages")
    return found
