"""The process that shares one server with a class.

Run as `python -P -m magistral_nb.sharing.proxy STATE_FILE`. It listens as the state's `share` says, writes who uses
how much next to the state, and ends on SIGTERM (with 0, within two seconds) or when the state file is gone. What it
cannot do it says on one line of stderr, and ends with 1: no state, no share, a port that is taken, a certificate
that is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from magistral_nb.errors import MagistralError
from magistral_nb.processes import Process
from magistral_nb.serving import registry
from magistral_nb.sharing import key_ring, usage
from magistral_nb.sharing.app import App
from magistral_nb.sharing.connection import Connection
from magistral_nb.sharing.refused import Refused
from magistral_nb.sharing.room import Room
from magistral_nb.sharing.upstream import Upstream
from magistral_nb.sharing.usage import Report
from magistral_nb.sharing.watched import Watched

if TYPE_CHECKING:
    from magistral_nb.sharing.key_ring import KeyRing
    from magistral_nb.sharing.share import Share

_TICK_SECONDS = 0.5  # after which a revoked key's streams have ended
_REPORT_SECONDS = 2.0  # between two reports
_METRICS_SECONDS = 5.0  # for a page that is made in milliseconds; no key is revoked meanwhile
_GRACE_SECONDS = 2  # for running streams to end, once told
_LARGEST_HEAD = 16_384  # bytes of a request's head


class Proxy:
    """One shared server, from its first request to its end."""

    def __init__(self, path: Path) -> None:
        """Read its state, and listen.

        Raises:
            MagistralError: there is no state, nothing is shared, nobody can listen there, or the certificate is none.
        """
        state = registry.read(path)
        share = None if state is None else state.terms.share
        if state is None or share is None:
            raise MagistralError(f"{path} is no state of a server that is shared.")
        self._state_path, self._report_path = path, usage.path_of(path)
        before = usage.load(self._report_path)
        self._upstream = Upstream(path)
        self._keys = Watched(key_ring.path_of(path), _readable)
        self._room = Room(
            share,
            share.seats(state.plan.argv, context=state.plan.context, kv_tokens=None),
            before.students if before else {},
            is_held=lambda: self._upstream.is_coming,
        )
        self._server = uvicorn.Server(_config(App(self._room, self._upstream, self._keys), share))
        self._socket = _listen(share, before)
        port = self._socket.getsockname()[1]
        me = Process.of(os.getpid())
        self._about = Report(me, share.host, port, share.has_tls, self._room.seats)
        self._told: Report | None = None
        self._fitted: Process | None = None  # the engine by whose memory the seats were counted

    async def run(self) -> None:
        """Serve until told to end."""
        tending = asyncio.create_task(self._tend())
        tending.add_done_callback(lambda _: self.end())  # without it no key could be revoked
        await self._server.serve(sockets=[self._socket])
        tending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tending
        await self._report()
        await self._upstream.close()

    def end(self) -> None:
        """Have `run` end, within two seconds."""
        self._server.should_exit = True

    async def _tend(self) -> None:
        """What is to be done now and then."""
        due = 0.0
        while True:
            if not self._state_path.exists():
                self.end()
            if self._server.should_exit:
                self._room.end(Refused(503, "The teacher's server is ending: ask again in a while."))
            if (ring := self._keys.now) is not None:
                self._room.end(Refused(401, "This key was revoked: ask your teacher."), but=ring.keys)
            await self._fit_seats()
            self._room.arrange()  # what the streams have had meanwhile changes who is next
            if time.monotonic() >= due:
                due = time.monotonic() + _REPORT_SECONDS
                await self._report()
            await asyncio.sleep(_TICK_SECONDS)

    async def _fit_seats(self) -> None:
        """Have as many seats as the server's memory holds, once for each engine: no file says it before it runs."""
        state = self._upstream.state
        share = None if state is None else state.terms.share
        if state is None or share is None or state.status != "ready" or state.engine in (None, self._fitted):
            return
        with contextlib.suppress(Refused, TimeoutError):
            async with asyncio.timeout(_METRICS_SECONDS):
                kv_tokens = await self._upstream.kv_tokens()
            context = state.context or state.plan.context
            self._room.resize(share.seats(state.plan.argv, context=context, kv_tokens=kv_tokens))
            self._fitted = state.engine

    async def _report(self) -> None:
        """Write the report, where it says anything new."""
        students = copy.deepcopy(self._room.usage)
        report = dataclasses.replace(self._about, seats=self._room.seats, students=students)
        if report != self._told:
            self._told = report
            with contextlib.suppress(OSError):  # a full disk loses counts, and no answer
                await asyncio.to_thread(usage.save, self._report_path, report)


def _config(app: App, share: Share) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=Connection,  # on h11: the same parser wherever this runs, and the strictest
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="error",  # or whoever sends nonsense could fill the disk
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=share.cert,
        ssl_keyfile=share.certkey,
    )
    try:
        config.load()
    except OSError as error:  # also what ssl raises
        raise MagistralError(f"--share-cert {share.cert} and its key cannot be used: {error}.") from error
    return config


def _listen(share: Share, before: Report | None) -> socket.socket:
    """The socket to listen on: the wished port, else the one of last time, else a free one."""
    kept = before.port if before is not None and before.host == share.host else 0
    try:
        return _bound(share.host, share.port or kept)
    except OSError as error:
        if kept and share.port is None:
            return _bound(share.host, 0)
        where = f"{share.host}, port {share.port}" if share.port else share.host
        raise MagistralError(f"Nobody can listen on {where} ({error.strerror}): try another --share-port.") from error


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, since asyncio sends small pieces at once (TCP_NODELAY) only where it is.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except BaseException:
        listening.close()
        raise
    return listening


def _readable(path: Path) -> KeyRing | None:
    """The keys, None where their file cannot be trusted: then nobody is let in."""
    try:
        return key_ring.load(path)
    except MagistralError as error:
        _say(str(error))
        return None


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    """Share the server whose state file is named on the command line; returns the exit code."""
    # Connections whose TLS has not begun are files that `connection` does not see; asyncio closes them in a minute.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        proxy = Proxy(Path(sys.argv[1]))
        # uvicorn puts its own handler in place of this one, and when it has ended raises the signal once more.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: proxy.end())
        asyncio.run(proxy.run())
    except MagistralError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
