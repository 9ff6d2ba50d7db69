"""Which packages are installed for this Python, and which of them clash."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magistral_nb.serving.doctor.page import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    Find = Callable[[str], "Package | None"]

OWN = "magistral-nb"
TOLD = (
    *("ipython", "ipykernel", "jupyterlab", "notebook", "jupyter-server", "jupyter-client", "tornado", "traitlets"),
    *("ipywidgets", "jupyterlab-widgets", "widgetsnbextension", "anywidget", "openai", "httpx", "pydantic", "pandas"),
    *("numpy", "huggingface-hub", "hf-xet", "nvidia-ml-py", "psutil", "pip", "uv"),
)
# Names under which what this package imports would be looked for beside the notebook first.
_IMPORTED = frozenset(
    {
        *("IPython", "anywidget", "filelock", "httpx", "huggingface_hub", "ipykernel", "ipywidgets", "jupyterlab"),
        *("markdown_it", "mistral_common", "numpy", "openai", "packaging", "pandas", "platformdirs", "psutil"),
        *("pydantic", "pynvml", "torch", "tornado", "tqdm", "traitlets", "transformers", "vllm"),
    }
)
_HARMLESS = frozenset({"test", "this", "antigravity"})  # of the standard library; nothing imports them
_LOADED = {"ipython": "IPython", "huggingface-hub": "huggingface_hub"}  # modules not called like their package
# Both bring a module called pynvml, as nvidia-ml-py does; pynvml no more from 12 on.
_OLD_NVML = {"pynvml": ">=12", "nvidia-ml-py3": ""}
_WIDGETS_FOR_LAB_4 = ">=7.8.5"  # of 7's the first whose jupyterlab_widgets asks for JupyterLab ^3 || ^4; 1.1.1 for ^3


@dataclass(frozen=True, slots=True)
class Package:
    """What is installed of a package.

    Attributes:
        version: its own.
        requires: of others, as its metadata writes them.
    """

    version: str
    requires: tuple[str, ...] = ()


def find(name: str, path: Sequence[str] | None = None) -> Package | None:
    """A package by its metadata alone; nothing is imported.

    Args:
        name: of the distribution.
        path: folders to look in; this Python's own otherwise.
    """
    for found in importlib.metadata.distributions(name=name, path=list(sys.path if path is None else path)):
        with contextlib.suppress(Exception):  # what pip left behind when it was interrupted has no metadata
            if version := found.metadata["Version"]:
                return Package(version, tuple(found.requires or ()))
    return None


def clashes(look_up: Find, modules: Mapping[str, object], lab: Package | None = None) -> Iterator[Line]:
    """What this package and all that it stands on ask for and do not get, and who gets in whose way.

    Args:
        look_up: tells what is installed.
        modules: that are loaded, by name.
        lab: the JupyterLab that shows the notebook, wherever that is installed.

    Example:
        >>> there = {"magistral-nb": Package("0.1", ("openai>=1.60",)), "openai": Package("1.2", ("httpx<1",))}
        >>> for line in clashes(there.get, {}):
        ...     print(f"{line.label}: {line.value}; {line.remedy}")
        openai: 1.2, but magistral-nb wants openai>=1.60; pip install 'openai>=1.60'
        httpx: none, but openai wants httpx<1; pip install 'httpx<1'
    """
    yield from dict.fromkeys(_unmet(look_up))  # what is wanted with other extras is looked at again
    for name, harmless in _OLD_NVML.items():
        if (old := look_up(name)) and not (harmless and _fits(old.version, harmless)):
            value = f"{old.version} hides the module of nvidia-ml-py, which is called pynvml, too"
            yield Line(name, value, f"pip uninstall -y {name}; pip install --force-reinstall --no-deps nvidia-ml-py")
    widgets = look_up("ipywidgets")
    if lab and widgets and _fits(lab.version, ">=4") and not _fits(widgets.version, _WIDGETS_FOR_LAB_4):
        value = f"{widgets.version} is made for JupyterLab 3, and this is {lab.version}"
        yield Line("ipywidgets", value, "pip install -U ipywidgets, start JupyterLab again, reload the page")
    for name in TOLD:
        module = modules.get(_LOADED.get(name, name.replace("-", "_")))
        loaded, there = getattr(module, "__version__", None), look_up(name)
        if isinstance(loaded, str) and there and not _fits(loaded, f"=={there.version}"):
            yield Line(name, f"{there.version} is installed, and {loaded} is loaded", "restart the kernel")


def _unmet(look_up: Find) -> Iterator[Line]:
    from packaging.requirements import Requirement

    waiting: list[tuple[str, frozenset[str]]] = [(OWN, frozenset())]
    for name, extras in waiting:  # which grows
        there = look_up(name)
        for text in there.requires if there else ():
            with contextlib.suppress(ValueError):  # written before there were rules
                wanted = Requirement(text)
                if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                    continue
                got = look_up(wanted.name)
                if got is None or not _fits(got.version, str(wanted.specifier)):
                    ask = f"{wanted.name}{wanted.specifier}"
                    has = "none" if got is None else got.version
                    yield Line(wanted.name, f"{has}, but {name} wants {ask}", f"pip install '{ask}'")
                if (following := (wanted.name, frozenset(wanted.extras))) not in waiting:
                    waiting.append(following)


def _fits(version: str, specifier: str) -> bool:
    """Whether a version is what is asked for; one that says nothing, such as a build's own word, is taken to."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    with contextlib.suppress(ValueError):
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    return True


def front_end_clash(here: str, folders: Iterable[Path], *, expected: bool) -> Line | None:
    """Whether the page's half of anywidget fits Python's: the page takes the minor release that Python names.

    Args:
        here: the version in this Python.
        folders: of JupyterLab's extensions, in the order in which it looks.
        expected: whether one of them is JupyterLab's for sure, so that anywidget has to be there.
    """
    again = "start JupyterLab again, reload the page"
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError):
            there = str(json.loads((folder / "anywidget" / "package.json").read_text(encoding="utf-8"))["version"])
            if there.split(".")[:2] == here.split(".")[:2]:
                return None
            value = f"{here} in Python, {there} in the page (from {folder})"
            return Line("anywidget", value, f"pip install anywidget=={here} where JupyterLab is installed, {again}")
    if not expected:
        return None
    value = f"{here} in Python, none in the page: the thinking cannot be shown live"
    return Line("anywidget", value, f"pip install anywidget=={here} where JupyterLab is installed, {again}")


def shadowing(folder: Path) -> Iterator[Line]:
    """What lies in a notebook's folder and is imported in place of a module of the same name."""
    for entry in sorted(folder.iterdir()):
        name = entry.name.removesuffix(".py")
        known = name in _IMPORTED or name in sys.stdlib_module_names - _HARMLESS
        if known and (entry.suffix == ".py" or (entry / "__init__.py").is_file()):
            value = f"in {folder} hides Python's {name}" if name not in _IMPORTED else f"in {folder} hides {name}"
            yield Line(entry.name, value, f"give it another name, delete {folder}/__pycache__, restart the kernel")
