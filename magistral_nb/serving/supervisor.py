"""The process that owns one vLLM: starts it, watches it, writes its state, starts it again, ends it.

Run as `python -m magistral_nb.serving.supervisor STATE_FILE`, detached from the kernel that started it, so
that a server outlives kernels and notebooks. It alone writes the state file once it runs. A state on its standard
input is a server to boot; without one it takes over what the state file tells of, whose supervisor has died. It stays
small: the standard library, psutil, and no client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from magistral_nb import paths
from magistral_nb.asking.endpoint import UNIX, Endpoint, Question, messages
from magistral_nb.asking.engine_api import OK, EngineApi
from magistral_nb.asking.wire import error_text
from magistral_nb.processes import Process, end_group
from magistral_nb.serving import durations, log_file, registry
from magistral_nb.serving.boot_log import ASKING, DOWNLOADING, BootLog
from magistral_nb.serving.diagnosis import diagnose
from magistral_nb.serving.freeing import freed
from magistral_nb.serving.idling import Idleness, typed_of
from magistral_nb.serving.kept_proxy import KeptProxy
from magistral_nb.serving.launch import GUARDED, HOST, EngineGroup, engine_environment, free_port, remove_socket
from magistral_nb.serving.masking import masked
from magistral_nb.serving.metrics import Metrics, parse
from magistral_nb.serving.orphans import groups, marked
from magistral_nb.serving.terms import MOST_RESTARTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from magistral_nb.serving.diagnosis import Diagnosis
    from magistral_nb.serving.registry import ServerState

ASKED = signal.SIGINT  # a person's wish to end the server; SIGTERM is the system's
_PAUSES = (1.0, 4.0, 16.0)  # seconds before each of them
_WELL_SECONDS = 600.0  # of being ready, after which earlier restarts no longer count
_PORTS = 3  # how many are tried where one is taken in between

_TICK_SECONDS = 0.1
_METRICS_SECONDS = 30.0  # between two looks at whether anybody asks; shorter where the idle stop is
_SIGNAL_SECONDS = 1.0  # a batch system ends vLLM and its supervisor together, in any order
_TERMINATED = (0, -signal.SIGTERM, 128 + signal.SIGTERM, None)  # how SIGTERM ends vLLM; an adopted one does not tell
_FIRST_QUESTION = "What is 2 + 2?"
_FIRST_TOKENS = 12  # enough to see the whole path work; cut by length counts
_FIRST_SECONDS = 300.0  # a first request may compile kernels
_ENDED_BY_SYSTEM = "the system told it to end (SIGTERM): a preemption, the end of a job, or a shutdown"


class Supervisor:
    """Boots one server, then watches it until it ends or is told to stop."""

    def __init__(self, path: Path, state: ServerState) -> None:
        """Own the state file at `path` from now on."""
        self._path, self._state = path, state
        self._written: ServerState | None = None
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._told_by: int | None = None
        self._api: EngineApi | None = None
        self._begun_at = 0  # bytes of the log, behind what a download said, which would be taken for vLLM's
        self._engine: EngineGroup | None = None
        self._proxy = KeptProxy(state.proxy)

    def boot(self) -> None:
        """The whole life of a server."""
        self._listen()
        me = Process.of(os.getpid())
        self._write(starter=me, supervisor=me)
        self._guarded(self._download_and_live)

    def adopt(self) -> None:
        """The rest of a server's life whose supervisor has died."""
        self._listen()
        if self._state.engine is not None and self._state.base_url is not None:
            self._write(supervisor=Process.of(os.getpid()))  # first, as nobody would ever know of this process
            self._engine = EngineGroup(self._state.engine)
            self._api = EngineApi(self._state.base_url, self._state.api_key)
            self._guarded(self._live)

    def _listen(self) -> None:
        for number in (signal.SIGTERM, ASKED):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _download_and_live(self) -> None:
        if self._download():
            self._live()

    def _guarded(self, live: Callable[[], None]) -> None:
        """Live, and leave neither a process nor an untrue state behind."""
        try:
            live()
        except Exception as error:
            self._write(status="failed", error=f"its supervisor failed ({type(error).__name__}: {error})")
            raise
        finally:
            self._proxy.end()
            if self._engine is not None:
                self._end_engine()
            if self._told_by == signal.SIGTERM and not self._state.is_down:
                self._write(status="ended", error=_ENDED_BY_SYSTEM)
            if not self._state.is_down:
                self._path.unlink(missing_ok=True)

    def _live(self) -> None:
        """Boot it, watch it, and boot it again as often as that is wished for."""
        ports = _PORTS
        while True:
            if self._engine is None:
                self._launch()
            if self._state.status != "ready":
                self._boot()
            if self._state.status == "ready":
                self._watch()
            if self._told_to_end():
                return
            how, found = self._why()
            pause = 0.0
            # Written down before anything is waited for: whoever was being answered asks why.
            if found is not None and found.id == "port_in_use" and self._state.wished_port is None and ports > 1:
                ports -= 1
                self._write(status="booting", base_url=None, engine=None)
            elif self._may_restart():
                pause = self._prepare_restart(how, found)
            else:
                self._write(status="failed", error=how, diagnosis=found)
            self._end_engine()
            if self._state.is_down or self._stop.wait(pause):
                return

    def _told_to_end(self) -> bool:
        """Whether it ends by a wish, or for a reason that is written down already."""
        if not self._state.is_down and self._engine is not None and self._engine.code in _TERMINATED:
            self._stop.wait(_SIGNAL_SECONDS)
        return self._stop.is_set() or self._state.is_down

    def _launch(self) -> None:
        """Start vLLM where it was before, or on a free port."""
        base_url = self._state.base_url or f"http://{HOST}:{self._state.wished_port or free_port()}/v1"
        if self._state.plan.wishes.sleepable:
            base_url = f"{UNIX}{paths.sockets() / f'{token_hex(8)}.sock'}"
            where = ["--uds", base_url.removeprefix(UNIX)]
        else:
            where = ["--host", HOST, "--port", base_url.rpartition(":")[2].removesuffix("/v1")]
        self._begun_at = Path(self._state.log_path).stat().st_size
        self._api = EngineApi(base_url, self._state.api_key)
        self._engine = EngineGroup.start(
            [*self._state.plan.argv, *where, *GUARDED],
            self._state.log_path,
            engine_environment(self._state, os.environ, self._path),
            self._state.plan.niceness,
        )
        self._write(base_url=base_url, engine=self._engine.process)

    def _download(self) -> bool:
        """Fetch what the hub still has to give, in a process of its own; False where that failed or was ended."""
        if not self._state.downloads:
            return True
        from magistral_nb.serving import download

        log_path = Path(self._state.log_path)
        argv = [sys.executable, "-P", "-m", download.__name__, *self._state.downloads]
        child = EngineGroup.start(argv, self._state.log_path, os.environ | marked(self._state, self._path))
        # Known as the engine meanwhile, so that whoever stops the server finds it.
        self._write(engine=child.process)
        try:
            with log_path.open("rb") as lines:
                while not child.has_ended() and not self._stop.wait(_TICK_SECONDS):
                    for line in lines:
                        if progress := download.Progress.read(line.decode(errors="replace")):
                            self._reached(DOWNLOADING, progress.words)
        finally:
            code = child.code
            child.end()
        if code:
            why = download.failure_in(log_file.tail(log_path, 0)) or f"the download ended with code {code}"
            self._write(status="failed", error=why)
        return code == 0 and not self._stop.is_set()

    def _boot(self) -> None:
        """Follow the log until the API answers, then ask a first real question."""
        if self._engine is None or self._api is None:
            return
        log = BootLog()
        self._reached(log.stage, "")
        with Path(self._state.log_path).open("rb") as lines:
            lines.seek(self._begun_at)
            while not self._engine.has_ended() and not self._stop.wait(_TICK_SECONDS):
                for line in lines:
                    log.feed(line.decode(errors="replace"))
                    self._reached(log.stage, log.detail)
                if self._api.is_healthy():
                    self._reached(ASKING, "")
                    self._first_question(self._api)
                    return

    def _first_question(self, api: EngineApi) -> None:
        """A boot that only asks /health looks fine even where every question fails: ask one."""
        endpoint = Endpoint("", self._state.plan.model, system_prompt=self._state.system_prompt)
        body = {
            "model": endpoint.model,
            "messages": messages(endpoint, Question(text=_FIRST_QUESTION)),
            "max_tokens": _FIRST_TOKENS,
        }
        try:
            status, text = api.request("POST", "/v1/chat/completions", body, _FIRST_SECONDS)
            reply = _json(text)
            if status != OK or not reply.get("choices"):
                told = error_text(reply)
                with Path(self._state.log_path).open("a", encoding="utf-8") as log:  # vLLM itself does not write it
                    log.write(f"ERROR: the first question was answered with {status}: {masked(told)}\n")
                found = diagnose(self._log(), exit_code=None, reply=told)
                why = found.cause if found else f"it is up, but answers a question with {status}"
                self._write(status="failed", error=why, diagnosis=found)
                return
            _, text = api.request("GET", "/v1/models", None, _FIRST_SECONDS)
            context = _json(text)["data"][0].get("max_model_len") or self._state.plan.context
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
            if not self._stop.is_set() and not (self._engine and self._engine.has_ended()):
                found = diagnose(self._log(), exit_code=None, reply=None)
                why = f"it is up, but did not answer a question ({type(error).__name__}: {error})"
                self._write(status="failed", error=found.cause if found else why, diagnosis=found)
            return
        self._write(status="ready", context=context, detail="", error=None, diagnosis=None)
        took = time.monotonic() - self._began
        durations.save(self._state.plan.fingerprint, durations.durations_of(self._state.stages, took))

    def _watch(self) -> None:
        """Until it ends, is told to, or nobody has asked for long enough."""
        if self._engine is None:
            return
        ready = beaten = looked = time.monotonic()
        limit = self._state.terms.idle_stop
        idleness = Idleness(ready)
        while not self._engine.has_ended() and not self._stop.wait(_TICK_SECONDS):
            now = time.monotonic()
            self._tend_proxy(now)
            if now - beaten > registry.BEAT_SECONDS:
                beaten = now
                self._beat()
                if self._state.restarts and now - ready > _WELL_SECONDS:
                    self._write(restarts=0)
            if limit is not None and now - looked > min(_METRICS_SECONDS, limit / 4):
                looked = now
                if self._nobody_asks(idleness, limit):
                    return

    def _tend_proxy(self, now: float) -> None:
        with contextlib.suppress(OSError):  # a log that cannot be written, or no room for a process: tried again
            self._proxy.tend(self._path, self._state, now)
            self._write(proxy=self._proxy.process)

    def _nobody_asks(self, idleness: Idleness, limit: float) -> bool:
        """Whether the server ends for want of questions; one that can sleep is put to sleep instead."""
        if self._api is None:
            return False
        sleepable = self._state.plan.wishes.sleepable
        asleep = sleepable and self._api.is_sleeping()
        if idleness.look(None if asleep else _metrics(self._api), time.monotonic()) < limit:
            return False
        if sleepable:
            self._api.sleep()
            return False
        self._write(status="ended", error=f"nobody asked it for {typed_of(limit)}, which is its --idle-stop")
        return True

    def _beat(self) -> None:
        """Give a sign of life, keep the log short, and write again what a full disk or somebody has swallowed."""
        with contextlib.suppress(OSError):
            log_file.rotate(Path(self._state.log_path))
        try:
            os.utime(self._path, follow_symlinks=False)
        except OSError:
            self._written = None
        self._write()

    def _may_restart(self) -> bool:
        was_ready = self._state.status == "ready" or self._state.restarts > 0
        return self._state.terms.restart == "on-failure" and was_ready and self._state.restarts < MOST_RESTARTS

    def _prepare_restart(self, how: str, found: Diagnosis | None) -> float:
        """Write down that it will be started again; returns after how many seconds."""
        pause, restarts = _PAUSES[self._state.restarts], self._state.restarts + 1
        self._began = time.monotonic()
        self._write(status="booting", engine=None, restarts=restarts, stages=(), error=how, diagnosis=found)
        self._reached(f"Starting again ({restarts} of {MOST_RESTARTS})", "")
        return pause

    def _why(self) -> tuple[str, Diagnosis | None]:
        """How vLLM has ended, and what its log tells of why."""
        code = None if self._engine is None else self._engine.code
        found = diagnose(self._log(), exit_code=code, reply=None)
        if found is not None:
            return found.cause, found
        if code is None:
            return "vLLM has ended", None
        return (f"vLLM ended by signal {-code}" if code < 0 else f"vLLM ended with code {code}"), None

    def _log(self) -> list[str]:
        with contextlib.suppress(OSError):
            return log_file.tail(Path(self._state.log_path), self._begun_at)
        return []

    def _end_engine(self) -> None:
        """End its processes, and wait until the GPU's memory is free."""
        if self._engine is None:
            return
        with freed(self._state.plan, self._engine.process.pid):
            self._engine.end()
            stays = set() if self._proxy.process is None else {self._proxy.process.pid}
            for group in groups(self._path) - stays:  # children that have left it, or have outlived it
                end_group(group)
        self._engine = None
        remove_socket(self._state.base_url)

    def _reached(self, stage: str, detail: str) -> None:
        stages = self._state.stages
        if not stages or stages[-1][0] != stage:
            stages = (*stages, (stage, time.monotonic() - self._began))
        self._write(stages=stages, detail=detail)

    def _write(self, **changes: Any) -> None:
        """Change the state; a disk that takes nothing is tried again with the next change or sign of life."""
        self._state = self._state.with_(**changes)
        if self._state != self._written:
            try:
                registry.save(self._path, self._state)
                self._written = self._state
            except OSError:
                if self._written is None and self._engine is None:  # nobody would ever find this server
                    raise

    def _told_to_stop(self, number: int, _frame: FrameType | None) -> None:
        self._told_by = self._told_by or number
        self._stop.set()
        if self._api is not None:
            self._api.cut()


def _metrics(api: EngineApi) -> Metrics | None:
    """What it says of itself; None where it does not, or not in time."""
    try:
        status, page = api.request("GET", "/metrics")
        return parse(page, time.monotonic()) if status == OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def _json(text: str) -> dict[str, Any]:
    """A reply's object; what is none is an error's text."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"error": value}


def main() -> None:
    """Supervise the server whose state file is named on the command line."""
    path, text = Path(sys.argv[1]), sys.stdin.read()
    if text:
        Supervisor(path, registry.ServerState.from_json(text)).boot()
    elif isinstance(state := registry.look(path), registry.ServerState):
        Supervisor(path, state).adopt()


if __name__ == "__main__":
    main()
