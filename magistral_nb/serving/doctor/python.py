"""This Python: where it runs, what is installed for it, and what clashes."""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import magistral_nb
from magistral_nb.serving.doctor import installed, surroundings
from magistral_nb.serving.doctor.page import Line
from magistral_nb.serving.engine import libraries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from magistral_nb.serving.doctor.installed import Package
    from magistral_nb.serving.doctor.surroundings import FrontEnd


def lines(environment: Mapping[str, str]) -> Iterator[Line]:
    """What this process is, and what stands in its way.

    Args:
        environment: of this process.
    """
    find = functools.cache(installed.find)
    own, page = find(installed.OWN), surroundings.front_end(environment)
    yield Line("magistral_nb", f"{own.version if own else 'not installed'}, {Path(magistral_nb.__file__).parent}")
    kind = "" if platform.python_implementation() == "CPython" else f" ({platform.python_implementation()})"
    yield Line("Python", f"{platform.python_version()}{kind}, {sys.executable}")
    yield Line("system", ", ".join(_system()))
    runs = "a kernel" if surroundings.in_kernel() else "a terminal or a program"
    shown = [f"{page.name} in {page.prefix}" if page.prefix else page.name] if page else []
    yield Line("runs in", ", ".join([runs, *shown, *surroundings.places(environment, platform.release())]))
    versions = [f"{name} {there.version}" for name in installed.TOLD if (there := find(name))]
    yield Line("packages", ", ".join(versions))
    yield from installed.clashes(find, sys.modules, _lab(page))
    if (widget := find("anywidget")) and (clash := _front_end_clash(widget, page)):
        yield clash
    yield from installed.shadowing(Path.cwd())


def _system() -> Iterator[str]:
    try:
        yield platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # not a Linux, or one that does not say
        yield platform.platform(terse=True)
    yield f"{platform.system()} {platform.release()}"
    yield " ".join(platform.libc_ver()).strip() or "no glibc"


def _lab(page: FrontEnd | None) -> Package | None:
    """The JupyterLab that shows this notebook; from a terminal the one that lies here."""
    if page is None or page.prefix is None:
        return installed.find("jupyterlab")
    return installed.find("jupyterlab", [str(library) for library in libraries(page.prefix)])


def _front_end_clash(widget: Package, page: FrontEnd | None) -> Line | None:
    if surroundings.in_kernel() and page is None:  # Colab and VS Code fetch the page's half from elsewhere
        return None
    expected = page is not None and page.prefix is not None
    return installed.front_end_clash(widget.version, _extensions(page), expected=expected)


def _extensions(page: FrontEnd | None) -> list[Path]:
    """Where JupyterLab looks for its extensions, its own environment in place of this one."""
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:  # an IPython in a terminal needs no Jupyter
        return []
    found = [Path(folder) for folder in jupyter_path("labextensions")]
    if page is None or page.prefix is None or page.prefix == Path(sys.prefix):
        return found
    others = [folder for folder in found if not folder.is_relative_to(sys.prefix)]
    return [page.prefix / "share" / "jupyter" / "labextensions", *others]
