"""The process that owns one vLLM: starts it, watches it, writes its state, ends it.

Run as `python -m magistral_nb.serving.supervisor STATE_FILE`, detached from the kernel that started it, so
that a server outlives kernels and notebooks. It alone writes the state file once it runs. It stays small:
the standard library, psutil, and no client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Endpoint, Question, messages
from magistral_nb.asking.wire import error_text
from magistral_nb.processes import Process, end_group
from magistral_nb.serving import durations
from magistral_nb.serving.boot_log import ASKING, DOWNLOADING, BootLog
from magistral_nb.serving.diagnosis import diagnose
from magistral_nb.serving.masking import masked
from magistral_nb.serving.orphans import MARK, Mark
from magistral_nb.serving.registry import ServerState, save

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

HOST = "127.0.0.1"
KEY_VARIABLE = "VLLM_API_KEY"  # vLLM reads its key here, where `ps` does not show it

_TICK_SECONDS = 0.1
_FIRST_QUESTION = "What is 2 + 2?"
_FIRST_TOKENS = 12  # enough to see the whole path work; cut by length counts
_FIRST_SECONDS = 300.0  # a first request may compile kernels
_OK = 200


class Supervisor:
    """Boots one server, then waits until it ends or is told to stop."""

    def __init__(self, path: Path, state: ServerState) -> None:
        """Own the state file at `path` from now on."""
        self._path, self._state = path, state
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._begun_at = 0  # bytes of the log, behind what a download said, which would be taken for vLLM's

    def run(self) -> None:
        """The whole life of a server."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        if not self._download():
            return
        port = self._state.wished_port or free_port()
        argv = [*self._state.plan.argv, "--host", HOST, "--port", str(port)]
        log_path, me = Path(self._state.log_path), Process.of(os.getpid())
        with log_path.open("ab") as log:
            self._begun_at = log.tell()
            engine = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=engine_environment(self._state, os.environ, Mark(me, self._path)),
                start_new_session=True,
            )
        be_nice(engine.pid, self._state.plan.niceness)
        self._write(base_url=f"http://{HOST}:{port}/v1", supervisor=me, engine=Process.of(engine.pid))
        try:
            self._boot(engine, port, log_path)
            while engine.poll() is None and not self._stop.wait(_TICK_SECONDS):
                pass
            self._say_how_it_ended(engine.poll())  # before the group is ended: until then it would look ready
        except Exception as error:  # a full disk, a log that is gone
            self._write(status="failed", error=f"its supervisor failed ({type(error).__name__}: {error})")
            raise
        finally:
            end_group(engine.pid, engine)  # also where it is dead: its children may not notice
            if self._state.status != "failed":
                self._path.unlink(missing_ok=True)

    def _download(self) -> bool:
        """Fetch what the hub still has to give, in a process of its own; False where that failed or was ended."""
        if not self._state.downloads:
            return True
        from magistral_nb.serving import download

        log_path = Path(self._state.log_path)
        with log_path.open("ab") as log:
            argv = [sys.executable, "-P", "-m", download.__name__, *self._state.downloads]
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
        # Known as the engine meanwhile, so that whoever stops the server finds it.
        self._write(supervisor=Process.of(os.getpid()), engine=Process.of(child.pid))
        try:
            with log_path.open("rb") as lines:
                while child.poll() is None and not self._stop.wait(_TICK_SECONDS):
                    for line in lines:
                        if progress := download.Progress.read(line.decode(errors="replace")):
                            self._reached(DOWNLOADING, progress.words)
        finally:
            code = child.poll()
            end_group(child.pid, child)
        if code:
            text = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            self._fail(f"the download ended with code {code}", told=download.failure_in(text))
        elif self._stop.is_set():
            self._path.unlink(missing_ok=True)
        return code == 0 and not self._stop.is_set()

    def _boot(self, engine: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        """Follow the log until the API answers, then ask a first real question."""
        log = BootLog()
        self._reached(log.stage, "")
        with log_path.open("rb") as lines:
            lines.seek(self._begun_at)
            while engine.poll() is None and not self._stop.wait(_TICK_SECONDS):
                for line in lines:
                    log.feed(line.decode(errors="replace"))
                    self._reached(log.stage, log.detail)
                if self._healthy(port):
                    self._reached(ASKING, "")
                    self._first_question(port)
                    return

    def _first_question(self, port: int) -> None:
        """A boot that only asks /health looks fine even where every question fails: ask one."""
        endpoint = Endpoint("", self._state.plan.model, system_prompt=self._state.system_prompt)
        body = {
            "model": endpoint.model,
            "messages": messages(endpoint, Question(text=_FIRST_QUESTION)),
            "max_tokens": _FIRST_TOKENS,
        }
        try:
            status, reply = self._request(port, "POST", "/v1/chat/completions", body, _FIRST_SECONDS)
            if status != _OK or not reply.get("choices"):
                told = error_text(reply)
                with Path(self._state.log_path).open("a", encoding="utf-8") as log:  # vLLM itself does not write it
                    log.write(f"ERROR: the first question was answered with {status}: {masked(told)}\n")
                self._fail(f"it is up, but answers a question with {status}", reply=told)
                return
            _, listed = self._request(port, "GET", "/v1/models", None, _FIRST_SECONDS)
            context = listed["data"][0].get("max_model_len") or self._state.plan.context
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
            if not self._stop.is_set():
                self._fail(f"it is up, but did not answer a question ({type(error).__name__}: {error})")
            return
        self._write(status="ready", context=context, detail="")
        took = time.monotonic() - self._began
        durations.save(self._state.plan.fingerprint, durations.durations_of(self._state.stages, took))

    def _fail(
        self, why: str, *, told: str | None = None, code: int | None = None, reply: str | None = None
    ) -> None:  # fmt: skip
        """Write down why, as it was told already or as the log tells it."""
        if told is not None:
            self._write(status="failed", error=told)
            return
        lines = Path(self._state.log_path).read_bytes()[self._begun_at :].decode(errors="replace").splitlines()
        found = diagnose(lines, exit_code=code, reply=reply)
        self._write(status="failed", error=found.cause if found else why, diagnosis=found)
        self._stop.set()

    def _healthy(self, port: int) -> bool:
        try:
            status, _ = self._request(port, "GET", "/health", None, 2.0)
        except (OSError, http.client.HTTPException):
            return False
        return status == _OK

    def _request(
        self, port: int, method: str, path: str, body: dict[str, Any] | None, seconds: float
    ) -> tuple[int, dict[str, Any]]:
        connection = self._connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {self._state.api_key}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read()
            try:
                value = json.loads(text or b"{}")
            except ValueError:
                value = text.decode(errors="replace")
            return reply.status, value if isinstance(value, dict) else {"error": value}

    def _reached(self, stage: str, detail: str) -> None:
        stages = self._state.stages
        if not stages or stages[-1][0] != stage:
            stages = (*stages, (stage, time.monotonic() - self._began))
        self._write(stages=stages, detail=detail)

    def _write(self, **changes: Any) -> None:
        state = self._state.with_(**changes)
        if state != self._state:
            self._state = state
            save(self._path, state)

    def _told_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):  # or Python would wait on for the reply to the first question
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _say_how_it_ended(self, code: int | None) -> None:
        """`code` is the engine's own, None where it still runs and was told to stop."""
        if self._stop.is_set() or code is None:  # whatever failed has set it, too
            return
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        self._fail(f"vLLM ended {how}", code=code)


def engine_environment(state: ServerState, own: Mapping[str, str], mark: Mark) -> dict[str, str]:
    """The engine's environment: the kernel's, less what would break another Python, plus plan, key and mark."""
    dropped = {"PYTHONHOME", "MPLBACKEND"}
    if state.plan.argv[0] != sys.executable:
        dropped.add("PYTHONPATH")
    kept = {name: value for name, value in own.items() if name not in dropped}
    # Programs that came with the engine, as ninja, which FlashInfer calls, are found as in an activated environment.
    kept["PATH"] = os.pathsep.join([str(Path(state.plan.argv[0]).parent), own.get("PATH", os.defpath)])
    return (
        kept
        | dict(state.plan.environment)
        | {
            KEY_VARIABLE: state.api_key,
            MARK: mark.text,
            "SPT_NOENV": "1",  # or setproctitle writes "VLLM::EngineCore" over the memory in which the mark is read
            "PYTHONSAFEPATH": "1",  # or a random.py beside the notebook would be imported by vLLM
        }
    )


def be_nice(pid: int, niceness: int) -> None:
    """Give a process that has just begun, and all that it will start, at least this niceness."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended already
        if os.getpriority(os.PRIO_PROCESS, pid) < niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on this TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def main() -> None:
    """Supervise the server whose state file is named on the command line."""
    path = Path(sys.argv[1])
    Supervisor(path, ServerState.from_json(path.read_text(encoding="utf-8"))).run()


if __name__ == "__main__":
    main()
