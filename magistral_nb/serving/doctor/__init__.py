"""One page on all that matters to a server that does not come up, made to be pasted into a bug report."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import platform
from typing import TYPE_CHECKING, Any

from magistral_nb.serving import hardware
from magistral_nb.serving.doctor.disguise import disguise
from magistral_nb.serving.doctor.page import Line, Section, layout
from magistral_nb.serving.hardware import Hardware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from magistral_nb.serving.doctor.disguise import Disguise

    Look = Callable[[], Iterable[Line]]

_LONGEST = 600  # characters of a value


def doctor() -> str:
    """Examine this Python, the machine, its engines, disks and servers.

    Nothing is started, and nobody is asked over a network. Keys, tokens and passwords are left out, the names of the
    user and the machine as well, and the home folder is written as ~. It takes about a second.

    Returns:
        One page of text for a bug report. What is wrong is marked with !, and below it stands what to do or to type.

    Example:
        >>> page = doctor()  # print(page) shows it
        >>> page.splitlines()[1].partition(":")[0]
        'magistral-nb doctor'
    """
    keys: set[str] = set()
    with contextlib.suppress(Exception):
        keys = _part("servers").keys()
    hidden = disguise(os.environ, keys)
    return layout([examined(title, look, hidden) for title, look in _looks().items()])


def examined(title: str, look: Look, hidden: Disguise) -> Section:
    """A section as strangers may read it. One that breaks says so, and keeps what it had found."""
    found: list[Line] = []
    try:
        for line in look():
            found.append(line)  # noqa: PERF402 - at once, or what was found before an error would be lost
    except Exception as error:  # noqa: BLE001 - what is broken here is what the page is for
        told = f"this part could not be examined: {type(error).__name__}: {error}"
        found.append(Line("", told, "all the rest holds; please report this, too"))
    shown = (Line(*(_shown(text, hidden) for text in (each.label, each.value, each.remedy))) for each in found)
    return Section(title, tuple(shown))


def _shown(text: str, hidden: Disguise) -> str:
    text = hidden.hides(text)  # before it is cut: a part of a secret would not be known for one
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _looks() -> dict[str, Look]:
    """Each section by its title; what it needs is imported when it is looked at, and may be what is broken."""
    machine = functools.cache(hardware.detect)

    def known() -> Hardware:
        with contextlib.suppress(Exception):  # told where the machine itself is looked at
            return machine()
        return Hardware(platform.system(), platform.machine(), os.cpu_count() or 1)

    return {
        "Python": lambda: _part("python").lines(os.environ),
        "Machine": lambda: _part("machine").lines(machine(), os.environ),
        "Engines": lambda: _part("engines").lines(known()),
        "Disks": lambda: _part("storage").disks(os.environ, len(known().gpus)),
        "Models in the hub's cache": lambda: _part("storage").models(os.environ),
        "Environment": lambda: _part("surroundings").variables(os.environ),
        "Servers": lambda: _part("servers").lines(known()),
        "Last failure": lambda: _part("servers").last_failure(),
    }


def _part(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
