"""On Colab's image, and on the lowest versions that this package asks for: old IPython, old kernel, old widgets.

Only the Python side: of Colab's own page and its widget manager nothing runs here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PINS = Path(__file__).with_name("requirements.txt")
# The image has no browser and no JupyterLab; the engine has an environment of its own, whatever kernel asks it.
FAST = "not long and not engine and not browser"
# IPython 7 wants it and the image lacks it. This one is of the image's day: later ones replace the image's parso.
JEDI = "jedi==0.19.2"
# These use every dependency whose floor is below Colab's version.
TOUCHING_FLOORS = ["asking", "serving", "sharing", "views"]


@dataclass
class Image:
    """An environment with Colab's versions, and what was in it before and after this package was installed."""

    folder: Path
    python: Path
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="colab-image-") as name:  # 400 MB: pytest would keep three of them
        folder = Path(name)
        run([_python(), "-m", "venv", folder / "venv"])
        python = folder / "venv" / "bin" / "python"
        pip(python, "--no-deps", "-r", PINS)
        before = versions(python)
        pip(python, JEDI, "-e", ROOT)
        after = versions(python)
        pip(python, "-c", PINS, "pytest", "pytest-timeout", "hypothesis")
        yield Image(folder, python, before, after)


def _python() -> str:
    """Colab's own Python if it is here, else the one that runs this."""
    for name in ("python3.12", sys.executable):
        probe = [shutil.which(name) or name, "-c", "import ensurepip, venv"]  # Debian keeps them in another package
        try:
            found = subprocess.run(probe, capture_output=True, check=False).returncode == 0
        except OSError:
            continue
        if found and (name == "python3.12" or sys.version_info < (3, 13)):
            return name
    pytest.skip("Colab's numpy has no build for this Python; install Python 3.12 beside it")


def run(argv: list[str | Path], **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}"
    return done.stdout


def pip(python: Path, *arguments: str | Path) -> None:
    # What is never imported need not be compiled.
    run([python, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", *arguments])


def versions(python: Path, **environment: str) -> dict[str, str]:
    """What an import in that environment would get."""
    code = """
import importlib.metadata, json
names = {found.metadata["Name"] for found in importlib.metadata.distributions()}
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
"""
    found = json.loads(run([python, "-c", code], **environment))
    return {canonical(name): version for name, version in found.items()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line for line in PINS.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def floors() -> dict[str, str]:
    """The lowest version of each dependency that pyproject.toml admits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(each) for each in project["dependencies"]]
    return {
        canonical(each.name): next(bound.version for bound in each.specifier if bound.operator == ">=")
        for each in asked
    }


def run_tests(image: Image, tests: Iterable[str], *, marks: str = FAST, **environment: str) -> None:
    chosen = [ROOT / "tests" / each for each in tests]
    # The image's environment has no xdist, whose option the project's own settings hold.
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "-m", marks]
    shown = run([image.python, "-m", "pytest", *options, *chosen], **environment)
    print(shown)
    assert re.search(r"\d{2,} passed", shown), shown


def test_the_image_is_old(image):
    """What newer ones have is absent there, so that the tests below show that it is not needed."""
    code = """
import importlib.util
from IPython.core import completer
from ipykernel.kernelbase import Kernel
print(hasattr(completer, "context_matcher"), hasattr(Kernel, "_supports_kernel_subshells"))
print(importlib.util.find_spec("comm"))
"""
    assert image.before == pins() | {"pip": image.before["pip"]}
    assert run([image.python, "-c", code]).split() == ["False", "False", "None"]


def test_installing_this_replaces_nothing(image):
    kept = {name: image.after.get(name) for name in image.before}
    assert kept == image.before
    assert set(image.after) - set(image.before) == {"jedi", "magistral-nb"}


def test_it_works_on_the_image(image):
    run_tests(image, ["."])
    run_tests(image, ["kernel"], marks="engine")
    now = versions(image.python)
    assert {name: now[name] for name in pins()} == pins(), "the tests' own tools replaced something"


def test_it_works_with_the_lowest_versions(image):
    folder = image.folder / "lowest"
    lower = {name: floor for name, floor in floors().items() if Version(floor) < Version(pins()[name])}
    pip(image.python, "--no-deps", "--target", folder, *(f"{name}=={version}" for name, version in lower.items()))
    now = versions(image.python, PYTHONPATH=str(folder))
    assert {name: Version(now[name]) for name in lower} == {name: Version(floor) for name, floor in lower.items()}
    run_tests(image, TOUCHING_FLOORS, PYTHONPATH=str(folder))
    run_tests(image, ["kernel"], marks="engine", PYTHONPATH=str(folder))
