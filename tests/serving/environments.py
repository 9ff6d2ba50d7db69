"""Folders that look like environments with a vLLM in them; nothing in them can run."""

import json
import sys

from magistral_nb import paths
from magistral_nb.serving import engine as engines
from magistral_nb.serving.engine import VLLM_VERSION


def make_environment(folder, *distributions, python="python3.11", library="site-packages"):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    for name in distributions:
        (folder / "lib" / python / library / f"{name}.dist-info").mkdir(parents=True)
    return folder


def make_own(build="cpu", version=VLLM_VERSION, *, marker=True):
    folder = make_environment(paths.engines() / f"vllm-{build}-{version}-py3.11", f"vllm-{version}")
    if marker:
        (folder / engines.MARKER).write_text(json.dumps({"vllm": version, "build": build}))
    return folder
