"""What magics and the terminal share: doing a verb while showing it."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.errors import (
    BootFailed,
    EngineNotFound,
    InvalidOption,
    MagistralError,
    ServerNotFound,
    Unauthorized,
)
from magistral_nb.private_file import write_private
from magistral_nb.serving import boot, ending, hardware, registry, watching
from magistral_nb.serving.connecting import connect
from magistral_nb.serving.durations import durations_of, load, seconds_left
from magistral_nb.serving.orphans import end_orphans
from magistral_nb.serving.server import Server, find_server, servers, status_of
from magistral_nb.serving.tending import tend_all
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes
from magistral_nb.views.boot_view import BootView
from magistral_nb.views.table_view import aligned, show_table
from magistral_nb.views.wording import duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from magistral_nb.serving.registry import ServerState
    from magistral_nb.sharing.key_ring import KeyRing

_ABACUS = (
    "No GPU here, so this is abacus: a model of 3 million parameters that truly reasons, about arithmetic and nothing "
    "else. For Magistral take a GPU machine, or %magistral_connect URL (on a laptop: ollama run magistral)."
)
_DETACHED = "Detached: the boot goes on. %magistral_serve waits for it again, %magistral_stop ends it."
_INSTALL = "magistral-nb install"
_PROXY_SECONDS = 20.0  # a Python with an HTTP server starts in one or two
_LARGE_DOWNLOAD = 5e9  # bytes; above that people are told, and in a terminal asked


def say(line: str) -> None:
    """One line for people: on stdout, where notebooks show it plainly."""
    sys.stdout.write(f"{wording(line)}\n")
    sys.stdout.flush()


def wording(text: str) -> str:
    """The text as it stands in a notebook; in a terminal the magics in it become commands.

    Example:
        >>> wording("No server is running: type %magistral_serve, or %magistral_connect URL.")
        'No server is running: type magistral-nb serve, or magistral-nb ask --server URL.'
    """
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        return text
    text = text.replace(f"%magistral_serve --install, or in a terminal: {_INSTALL}", _INSTALL)
    text = text.replace("%magistral_connect", "magistral-nb ask --server").replace("%%reason", "magistral-nb ask")
    return re.sub(r"%magistral_(\w+)", r"magistral-nb \1", text)


def serve_shown(chosen: argparse.Namespace, raw: tuple[str, ...], *, rich: bool, ask: bool) -> Server | None:
    """Serve as `options.serve_options` were chosen: show the plan, then the boot.

    Args:
        chosen: what was typed.
        raw: vLLM's own flags.
        rich: a notebook shows the output.
        ask: confirm a large download first, unless --yes.

    Returns:
        The server; None where only the plan was to be shown.
    """
    _tend_shown()
    wishes, terms = Wishes.typed(chosen, raw), Terms.typed(chosen)
    prepare = functools.partial(
        boot.prepare,
        wishes,
        terms,
        name=chosen.name,
        engine=chosen.engine,
        replace=chosen.replace,
        only_plan=chosen.plan,
    )
    try:
        prepared = prepare()
    except EngineNotFound:
        if not chosen.install or chosen.engine is not None:
            raise
        install_shown()
        prepared = prepare()
    running = prepared.running
    if running is None or chosen.plan:
        _show_plan(prepared, chosen, rich=rich)
    if chosen.plan:
        return None
    if running is None:
        size = boot.check(prepared, port=None if chosen.replace else chosen.port)
        _announce_download(size, ask=ask and not chosen.yes)
    before = _with_keys(prepared.name, terms)
    server = boot.start(prepared, replace=chosen.replace, port=chosen.port)
    if ended := sorted(before - _with_keys(prepared.name, terms)):
        say(f"Keys of an earlier class have ended, as {ended[0]!r} is not named now: {len(ended)} in all.")
    if running is not None and running.status == "ready":
        say(f"Attached to {running.name!r}: {running.plan.title}, up for {_seconds_up(running) / 60:.0f} min.")
        return server
    if chosen.no_wait:
        say(f"Server {server.name!r} is booting: %magistral_status looks, %magistral_serve waits for it.")
        return server
    _wait_shown(server, rich=rich)
    if terms.share is not None:
        _say_ways(server)
    return server


def _seconds_up(state: ServerState) -> float:
    return max(0.0, time.time() - state.created)  # the clock may have been set


def _with_keys(name: str, terms: Terms) -> set[str]:
    """Students who have a key, where there is a class."""
    from magistral_nb.sharing import key_ring

    return set() if terms.share is None else set(key_ring.load(key_ring.path_of(registry.path_of(name))).keys)


def _say_ways(server: Server) -> None:
    """How students get there, as soon as its proxy tells where it listens."""
    from magistral_nb.sharing import usage
    from magistral_nb.sharing.reach import Machine, ways

    path, deadline = usage.path_of(registry.path_of(server.name)), time.monotonic() + _PROXY_SECONDS
    while (report := usage.load(path)) is None or not report.proxy.is_alive():
        if time.monotonic() > deadline:
            say(f"Its proxy has not begun: %magistral_logs {server.name} shows why.")
            return
        time.sleep(0.05)
    sys.stdout.write("\n".join(ways(report, Machine.here())) + "\n")  # what students type, wherever this is typed
    say("%magistral_share --keys shows the keys, %magistral_share who uses how much.")


def _show_plan(prepared: boot.Prepared, chosen: argparse.Namespace, *, rich: bool) -> None:
    running, plan = prepared.running, prepared.plan
    notes = [f"Server {running.name!r} runs by this plan."] if running else list(prepared.notes)
    if chosen.model is None and prepared.profile.embedded:
        notes.append(_ABACUS)
    if chosen.plan:
        notes.append(plan.shell())
    rows = [tuple(map(wording, row)) for row in plan.rows()]
    show_table(plan.title, rows, [wording(note) for note in notes], rich=rich)


def _wait_shown(server: Server, *, rich: bool) -> Server:
    view = BootView(rich=rich)
    began = time.monotonic()
    plan = server.plan
    last = load(plan.fingerprint) if plan is not None else None

    def watch(state: ServerState) -> None:
        elapsed = _seconds_up(state)
        note = [state.detail]
        if last is not None and state.status == "booting":
            left = seconds_left(last, state.stages, elapsed) or 0.0
            note.append(f"about {duration(left)} left, as last time" if left > 1 else "")
        view.update(durations_of(state.stages, elapsed), " · ".join(filter(None, note)))

    try:
        server.wait(watch=watch)
    except MagistralError as error:
        view.close("The boot failed." if isinstance(error, BootFailed) else "The server was stopped.", ok=False)
        raise
    except KeyboardInterrupt:
        view.close(wording(_DETACHED), ok=False)
        raise
    view.close(f"{server.model} is ready after {time.monotonic() - began:.0f} s.", ok=True)
    return server


def connect_shown(chosen: argparse.Namespace, *, rich: bool) -> Server:
    """Connect as `options.connect_options` were chosen, and show what was found.

    A key that the environment does not have is asked for, hidden: in a cell it would be saved with the notebook.
    """
    wished = {"model": chosen.model, "name": chosen.name, "price_per_hour": chosen.price_per_hour}
    try:
        server = connect(chosen.url, **wished)
    except Unauthorized:
        key = _hidden_key(chosen.url)
        if not key:
            raise
        server = connect(chosen.url, api_key=key, **wished)
    if (survey := server.survey) is not None:
        show_table(survey.title, survey.rows, rich=rich)
    return server


def _hidden_key(url: str) -> str:
    """A key as it is typed into a hidden prompt; nothing where nobody can be asked."""
    from getpass import getpass

    ipython = sys.modules.get("IPython")
    in_notebook = ipython is not None and ipython.get_ipython() is not None
    if not in_notebook and (sys.stdin is None or not sys.stdin.isatty()):
        return ""
    try:
        return getpass(f"Key for {url}: ").strip()
    except (EOFError, NotImplementedError):  # a front end without a prompt
        return ""


def sleep_shown(chosen: argparse.Namespace) -> None:
    """Put a server to sleep, and say what that gives."""
    server = find_server(chosen.name)
    server.sleep()
    say(f"Server {server.name!r} sleeps, and its GPU is free. A question wakes it, and so does %magistral_wake.")


def wake_shown(chosen: argparse.Namespace) -> None:
    """Wake a server, and say how long it took."""
    server, began = find_server(chosen.name), time.monotonic()
    server.wake()
    say(f"Server {server.name!r} is awake after {time.monotonic() - began:.1f} s.")


def stop_shown(chosen: argparse.Namespace) -> None:
    """End one server, all of them, or what dead ones have left, as `options.stop_options` were chosen, and say so."""
    given = [name for name in (chosen.name, chosen.all and "--all", chosen.orphans and "--orphans") if name]
    if len(given) > 1:
        raise InvalidOption(f"Either {' or '.join(given)}: choose one of them.")
    if chosen.orphans:
        _stop_orphans()
        return
    known = _all_servers() if chosen.all else [find_server(chosen.name)]
    for server in known:
        how = "has ended" if server.is_ours else "is forgotten; it goes on where it runs"
        held = server.stop()
        say(f"Server {server.name!r} {how}.")
        if held:
            say(held)
    if not known:
        say("No server is known: there is nothing to stop.")


def _all_servers() -> list[Server]:
    """Every known server, then those whose state files are not believed: what runs by one is told by its mark."""
    found = servers()
    for bad in registry.unusable():
        with contextlib.suppress(InvalidOption):  # that file is no server's
            found += [] if bad.elsewhere else [Server(bad.path.stem)]
    return found


def _stop_orphans() -> None:
    found = end_orphans()
    for orphan in found:
        stuck = "does not end: it hangs in the system, and only a restart of this machine helps."
        say(f"{orphan.title} {stuck if orphan.process.is_alive() else 'has ended.'}")
    if not found:
        say("No dead server has left anything: there is nothing to stop.")


def share_shown(chosen: argparse.Namespace, *, rich: bool) -> None:
    """Show a class, and change who has a key, as `options.share_options` were chosen.

    Raises:
        InvalidOption: the server is not shared, or the names make no sense.
        ServerNotFound: it is not known.
    """
    from magistral_nb.sharing import key_ring, overview, usage
    from magistral_nb.sharing.reach import Machine, ways
    from magistral_nb.sharing.share import students_of

    server = find_server(chosen.name)
    state, path = server.state(), registry.path_of(server.name)
    if state is None or state.terms.share is None:
        raise InvalidOption(f"Server {server.name!r} is not shared: %magistral_serve --share 30 boots one that is.")
    if chosen.add:
        ring = key_ring.add(key_ring.path_of(path), students_of(chosen.add))
        say(f"{len(ring.keys)} students have a key: %magistral_share --keys shows them.")
    if chosen.revoke:
        key_ring.revoke(key_ring.path_of(path), chosen.revoke)
        say(f"The key of {chosen.revoke} is revoked.")
    ring, report = key_ring.load(key_ring.path_of(path)), usage.load(usage.path_of(path))
    if chosen.keys is not None:
        if rich or chosen.keys:
            _save_keys(ring, Path(chosen.keys or f"{server.name}-keys.txt").expanduser().absolute())
        else:
            sys.stdout.write(ring.to_text())
        return
    say(overview.table(server.name, report, ring, now=time.time()))
    if report is not None:
        sys.stdout.write("\n".join(ways(report, Machine.here())) + "\n")  # what students type, wherever this is typed


def _save_keys(ring: KeyRing, path: Path) -> None:
    """In a file, since a notebook is saved with what it has shown."""
    try:
        write_private(path, ring.to_text())
    except OSError as error:
        raise MagistralError(f"{path} cannot be written ({error.strerror}): add --keys FILE.") from error
    say(f"{len(ring.keys)} keys stand in {path}, which only you can read: hand each student one line of it.")


def install_shown() -> None:
    """Install the engine that fits this machine, with progress."""
    from magistral_nb.serving.install import install_engine, print_progress

    began, here = time.monotonic(), hardware.detect()
    if here.trouble:
        say(here.trouble)
    with print_progress() as progress:
        engine = install_engine(gpu=bool(here.gpus), progress=progress)
    say(f"vLLM {engine.version} ({engine.build}) is installed: {engine.source}, {time.monotonic() - began:.0f} s.")


def _announce_download(size: float, *, ask: bool) -> None:
    if size <= _LARGE_DOWNLOAD:
        return
    say(f"This downloads {size / 1e9:.0f} GB first.")
    if not ask:
        return
    if not sys.stdin.isatty():
        raise InvalidOption(f"A download of {size / 1e9:.0f} GB needs a yes: add --yes.")
    if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise InvalidOption("Nothing was downloaded: add --yes when you want it.")


def _tend_shown() -> None:
    """See to what dead supervisors have left, and say what was done."""
    for line in tend_all():
        say(line)


def status_shown() -> None:
    """See to what dead supervisors have left, then show every server."""
    _tend_shown()
    say(status_table(servers()))


def status_table(known: Sequence[Server]) -> str:
    """Every server on a line, or a line that says how to get one."""
    others = [f"{found.path} is not to be believed: {found.why}." for found in registry.unusable()]
    others += [f"{state.name}: runs on {state.place.node}, which shares this home." for state in registry.elsewhere()]
    if not known:
        nobody = "No server is known: %magistral_serve boots one, %magistral_connect URL reaches one elsewhere."
        return "\n".join([nobody, *others])
    states: dict[str, ServerState | None] = {}
    for server in known:
        with contextlib.suppress(ServerNotFound):  # it was stopped meanwhile
            states[server.name] = server.state()
    shown = [server for server in known if server.name in states]
    head = ("name", "status", "model", "context", "up", "address")
    lines = [aligned([head, *(_status_row(server, states[server.name]) for server in shown)])]
    for server in shown:
        state = states[server.name]
        if state is not None and state.is_down:
            told = f"{server.name}: {(state.error or '').rstrip('.')}. %magistral_logs {server.name} shows more."
            lines.append(ending.ending(state) if state.status == "ended" else told)
        lines += [f"{server.name}: {advice.text}." for advice in watching.advise(server)]
    return "\n".join([*lines, *others])


def _status_row(server: Server, state: ServerState | None) -> tuple[str, ...]:
    if state is None:
        context = server.endpoint.context
        return server.name, status_of(state), server.model, f"{context:,}" if context else "", "", server.base_url or ""
    status: str = status_of(state)
    if status == "booting" and state.stages:
        status = f"booting: {state.stages[-1][0].lower()} {state.detail}".rstrip()
    up = "" if state.is_down else f"{_seconds_up(state) / 60:.0f} min"
    context = state.context or state.plan.context
    return server.name, status, state.plan.model, f"{context:,}", up, state.base_url or ""
