"""%magistral_serve and its sisters."""

from __future__ import annotations

import sys
from typing import Any

from magistral_nb import options
from magistral_nb.commands import (
    connect_shown,
    say,
    serve_shown,
    share_shown,
    sleep_shown,
    status_shown,
    stop_shown,
    wake_shown,
)
from magistral_nb.magics.interpolate import interpolate
from magistral_nb.magics.shown import CellInterrupted, is_rich
from magistral_nb.serving.doctor import doctor as examine
from magistral_nb.serving.server import Server, find_server


def serve(ipython: Any, line: str, _cell: None) -> Server | None:
    """Plan, boot, wait; interrupting the cell leaves the boot alone."""
    own, raw = options.split_raw(_words(ipython, line))
    chosen = options.serve_options("%magistral_serve").parse_args(own)
    rich = is_rich(ipython)
    try:
        return serve_shown(chosen, raw, rich=rich, ask=not rich)
    except KeyboardInterrupt:  # the view has said what goes on
        raise CellInterrupted("Interrupted.") from None


def _words(ipython: Any, line: str) -> list[str]:
    """The line's words with variables inserted: a folder with a blank in its name stays one word."""
    return [interpolate(word, ipython.user_ns) for word in options.split_words(line)]


def connect(ipython: Any, line: str, _cell: None) -> Server:
    """Connect; a key is taken from the environment or asked for, hidden."""
    chosen = options.connect_options("%magistral_connect").parse_args(_words(ipython, line))
    return connect_shown(chosen, rich=is_rich(ipython))


def status(_ipython: Any, line: str, _cell: None) -> None:
    """Every known server, a line each."""
    options.Parser("%magistral_status", "Show every known server.").parse_args(options.split_words(line))
    status_shown()


def doctor(_ipython: Any, line: str, _cell: None) -> None:
    """One page for a bug report."""
    options.Parser("%magistral_doctor", "Examine this machine for a bug report.").parse_args(options.split_words(line))
    say(examine())


def logs(_ipython: Any, line: str, _cell: None) -> None:
    """The last lines of a log."""
    chosen = options.logs_options("%magistral_logs").parse_args(options.split_words(line))
    sys.stdout.write(find_server(chosen.name).logs(chosen.lines) + "\n")


def share(ipython: Any, line: str, _cell: None) -> None:
    """Who of the class uses how much."""
    share_shown(options.share_options("%magistral_share").parse_args(_words(ipython, line)), rich=is_rich(ipython))


def sleep(_ipython: Any, line: str, _cell: None) -> None:
    """Give a server's GPU to other work."""
    sleep_shown(options.sleep_options("%magistral_sleep").parse_args(options.split_words(line)))


def wake(_ipython: Any, line: str, _cell: None) -> None:
    """Take it back."""
    wake_shown(options.wake_options("%magistral_wake").parse_args(options.split_words(line)))


def stop(_ipython: Any, line: str, _cell: None) -> None:
    """End one server, all, or what dead ones have left."""
    stop_shown(options.stop_options("%magistral_stop").parse_args(options.split_words(line)))
