"""The table of vLLM's releases, made from the packages' own metadata: `python tests/serving/make_releases.py`.

It writes magistral_nb/serving/releases.json anew and takes a quarter of an hour on two busy cores. It needs uv on the
path, which also brings the newest pip; nothing is installed, and of the wheels only the metadata is fetched.

One figure is no metadata: the CUDA toolkit that vLLM's own kernels were compiled with, which in some releases is
newer than torch's. vLLM's source names it, as `VLLM_MAIN_CUDA_VERSION` in vllm/envs.py (before 0.11 in setup.py): the
wheel that is compiled with it is the one without "+cu…" behind its version, which is the one on PyPI. For a release
newer than those that `COMPILED` was read for, look there first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

TABLE = Path(__file__).resolve().parents[2] / "magistral_nb" / "serving" / "releases.json"
MINORS = range(9, 34)  # 0.9 to 0.33
COMPILED = {9: (12, 8), 12: (12, 9), 20: (13, 0)}  # the first minor release that was compiled with it
PYTHONS = [(3, minor) for minor in range(9, 20)]
# What vLLM takes apart deeper than its documented interface allows, and bounds loosely or not at all. Each release gets
# what was the newest on the day after it came out, and was tested with it. Known to break older ones:
# fastapi 0.137    every request is answered with 500, before vLLM 0.24 bounded it (vLLM's issues 45596 and 45594)
# mistral-common   see NEVER
# transformers     0.19.1 cannot import its pixtral.py, which serves Magistral-Small-2509, beside 5.23 (run)
# xgrammar         pinned exactly until 0.11 and from 0.31 on, and by no more than "<1.0.0" between
PINNED = ("fastapi", "mistral-common", "transformers", "xgrammar")
# 1.13 gave GrammarFactory.get_lark_from_jinja() an argument, force_tool_names, that every vLLM from 0.20 to 0.33
# leaves out (read in all of them): each question is then answered with 400 (run with 0.32).
NEVER = {20: "mistral-common<1.13"}
PLATFORMS = [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in range(5, 40)] + ["--platform=manylinux1_x86_64"]


def run(*command: str, text: str = "") -> str:
    """What a command prints.

    Raises:
        SystemExit: it failed; with its own words.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])} …: {done.stderr.strip()}")
    return done.stdout


def metadata(requirement: str) -> dict[str, Any]:
    """A package's metadata, as its wheel for Linux has it."""
    pip = ("uv", "tool", "run", "--quiet", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet")
    wheel = ("--only-binary=:all:", "--implementation=cp", "--python-version=3.12", *PLATFORMS)
    with tempfile.TemporaryDirectory() as nowhere:
        report = run(*pip, *wheel, "--target", nowhere, "--report=-", requirement)
    return json.loads(report)["install"][0]["metadata"]


def choose(*requirements: str, options: tuple[str, ...]) -> str:
    """What uv would install for these requirements alone."""
    fixed = ("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-deps", "--python-version=3.12")
    return run(*fixed, "--python-platform=x86_64-manylinux_2_35", *options, "-", text="\n".join(requirements))


def upload_time(version: str) -> datetime:
    """When the last wheel of a vLLM reached the index."""
    lock = choose(f"vllm=={version}", options=("--format=pylock.toml",))
    return max(map(datetime.fromisoformat, re.findall(r"upload-time = ([^\s,}]+)", lock)))


def torch_cuda(version: str) -> tuple[int, int]:
    """The CUDA toolkit of a torch, by the libraries it requires."""
    for each in map(Requirement, metadata(f"torch=={version}")["requires_dist"]):
        if re.fullmatch(r"cuda-toolkit|nvidia-cuda-runtime-cu\d+", each.name):
            major, minor = next(iter(each.specifier)).version.split(".")[:2]
            return int(major), int(minor)
    raise SystemExit(f"torch {version} requires no CUDA runtime of a name that this script knows.")


def reached(steps: dict[int, Any], minor: int) -> Any:
    """The value of the last step at or before this minor release; None before the first."""
    return next((steps[first] for first in sorted(steps, reverse=True) if first <= minor), None)


def row(minor: int) -> dict[str, Any]:
    """One line of the table: the last patch of this minor release.

    Raises:
        SystemExit: torch is for another major CUDA than COMPILED says.
    """
    found = metadata(f"vllm==0.{minor}.*")
    version = found["version"]
    wants = [Requirement(each) for each in found["requires_dist"] if "extra" not in each]
    torch = next(next(iter(each.specifier)).version for each in wants if each.name == "torch")
    theirs, compiled = torch_cuda(torch), reached(COMPILED, minor)
    if theirs[0] != compiled[0]:
        raise SystemExit(f"vLLM {version} has a torch for CUDA {theirs}, COMPILED says {compiled}: look there first.")
    uploaded = upload_time(version)
    bounds = [f"{name}{each.specifier}" for each in wants if (name := each.name.replace("_", "-")) in PINNED]
    newest = choose(
        *bounds,
        *filter(None, [reached(NEVER, minor)]),
        options=(f"--exclude-newer={(uploaded + timedelta(days=1)).isoformat()}",),
    )
    pythons = [python for python in PYTHONS if "{}.{}.0".format(*python) in SpecifierSet(found["requires_python"])]
    return {
        "version": version,
        "uploaded": uploaded.date().isoformat(),
        "torch": torch,
        "cuda": max(theirs, compiled),
        "pythons": [pythons[0], pythons[-1]],
        "pins": newest.replace("==", "<=").split(),
    }


def main() -> None:
    """Write the table, a release on each line."""
    os.nice(10)
    lines = []
    for minor in MINORS:
        lines.append(json.dumps(row(minor)))
        print(lines[-1], file=sys.stderr, flush=True)
    TABLE.write_text("[\n  " + ",\n  ".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
