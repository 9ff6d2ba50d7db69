"""Servers that run, what dead ones have left, and why the last of them failed."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from magistral_nb import paths
from magistral_nb.processes import members
from magistral_nb.serving import orphans, owners, registry, supervisor
from magistral_nb.serving.doctor.page import Line
from magistral_nb.serving.server import Server, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.registry import ServerState

_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))  # of at least two, or they tell too little


def lines(here: Hardware) -> Iterator[Line]:
    """Every known server, and all that runs without one.

    Args:
        here: the machine.
    """
    known = servers()
    for server in known:
        state = server.state()
        yield _connected(server) if state is None else _ours(state)
    for found in registry.unusable():
        remedy = "end it there" if found.elsewhere else f"type %magistral_stop {found.path.stem}"
        yield Line(found.path.name, f"is not to be believed: {found.why}", remedy)
    for state in registry.elsewhere():
        yield Line("elsewhere", f"server {state.name!r} runs on {state.place.node!r}, which shares this home")
    for owner in dict.fromkeys(owners.find_owners(here).values()):  # a dead server may have left several processes
        if owner.kind == "orphan":
            yield Line("orphan", owner.title.rstrip(","), owner.remedy)
    for pid in _supervisors_without_state():
        yield Line("orphan", f"a supervisor (process {pid}) whose state file is gone", f"type kill {pid} in a terminal")


def last_failure() -> Iterator[Line]:
    """What is known of the newest server that is down and was not stopped."""
    failed = [state for state in (each.seen() for each in registry.load_all()) if state.is_down]
    if not failed:
        return
    state = max(failed, key=lambda each: each.created)
    found, typed = state.diagnosis, shlex.join(state.plan.wishes.words())
    stage = f", while: {state.stages[-1][0].lower()}" if state.stages else ""
    yield Line("server", f"{state.name}, begun {_ago(time.time() - state.created)} ago{stage}")
    yield Line("typed", f"%magistral_serve {typed}".rstrip())
    yield Line("plan", state.plan.title)
    remedy = found.remedy if found else f"%magistral_logs {state.name}"
    yield Line("cause", state.error or "nobody knows why", remedy)
    if found:
        yield Line("evidence", f"{found.id}: {found.evidence}")
        for number, line in enumerate(found.context):
            yield Line("" if number else "around it", line)
    yield Line("log", state.log_path)


def keys() -> set[str]:
    """The keys of all servers and students, those of files that cannot be read any more included."""
    found = set()
    with contextlib.suppress(Exception):
        found |= {server.api_key or "" for server in servers()}
    with contextlib.suppress(Exception):
        for path in paths.servers().glob("*.json"):
            found |= set(re.findall(r'"api_key":\s*"([^"]+)"', path.read_text(encoding="utf-8", errors="replace")))
        for path in paths.servers().glob("*.keys"):
            found |= set(re.findall(r'"([\w-]{43})"', path.read_text(encoding="utf-8", errors="replace")))
    return found


def _ours(state: ServerState) -> Line:
    seen = state.seen()
    told = [seen.status, seen.plan.model, urlsplit(seen.base_url or "").netloc or "no address yet"]
    if seen.is_down:
        return Line(seen.name, f"{', '.join(told[:2])}: {seen.error}")  # what to do is told of the last failure
    told.append(f"{_memory(seen) / 2**30:.1f} GiB of RAM")
    told.append(f"up for {_ago(time.time() - seen.created)}")
    if seen.status == "booting" and seen.stages:
        told.append(f"{seen.stages[-1][0].lower()} {seen.detail}".rstrip())
    return Line(seen.name, ", ".join(told))


def _connected(server: Server) -> Line:
    address = urlsplit(server.base_url or "").netloc.rpartition("@")[2] or "a Unix socket"
    return Line(server.name, f"connected, {server.model}, {address}")


def _memory(state: ServerState) -> int:
    """Bytes of RAM of a server's processes; what they share counts for each of them."""
    import psutil

    size = 0
    owner = state.supervisor
    supervising = members(owner.pid) if owner is not None and owner.is_alive() else []
    for process in (*supervising, *orphans.engine_processes(state)):
        with contextlib.suppress(psutil.Error):
            size += process.memory_info().rss
    return size


def _supervisors_without_state() -> Iterator[int]:
    import psutil

    me = psutil.Process().username()
    for process in psutil.process_iter(["name", "username"]):
        with contextlib.suppress(psutil.Error):
            ours = process.info["username"] == me and "python" in str(process.info["name"])
            words = process.cmdline() if ours else []
            if supervisor.__name__ in words[:-1] and not Path(words[-1]).exists():
                yield process.pid


def _ago(seconds: float) -> str:
    """A stretch of time in a few words; none is below 0, though a clock may have been set.

    Example:
        >>> _ago(42), _ago(5_400), _ago(400_000), _ago(-42)
        ('42 s', '90 min', '5 days', '0 s')
    """
    size, name = next((unit for unit in _UNITS if seconds >= 2 * unit[0]), _UNITS[-1])
    return f"{max(0.0, seconds) / size:.0f} {name}"
