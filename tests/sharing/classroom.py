"""A shared server for tests: a stand-in for vLLM, its state file, the keys of a class, and the real proxy before it.

The proxy of a Classroom runs in a thread of the test's process, that of a ProxyProcess as people have it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import httpx
from stand_in import StandIn

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.serving import registry
from magistral_nb.serving.plan import Plan
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes
from magistral_nb.sharing import key_ring, proxy, usage
from magistral_nb.sharing.proxy import Proxy
from magistral_nb.sharing.share import Share, students_of

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAM_KEY = "the-key-of-the-server-behind"
QUESTION = [{"role": "user", "content": "2+2?"}]


def state_of(base_url: str | None, share: Share | None, *, model: str = "stand-in", **more: Any):
    """The state of a server that runs at this address."""
    plan = Plan(model, f"{model} for tests", ("vllm", "serve"), (), 40960, Sampling(0.7, 0.95), (), "f", Wishes())
    known = {"name": "default", "status": "ready", "system_prompt": "Think first.", "created": 1_750_000_000.0}
    known |= {"api_key": UPSTREAM_KEY, "log_path": "/nowhere.log", "base_url": base_url, "terms": Terms(share=share)}
    return registry.ServerState(**known | {"plan": plan} | more)


class Class:
    """A server that is to be shared; `vllm` is the stand-in behind it, `keys` has a key for each student."""

    root: str

    def __init__(self, folder: Path, students: int | str = 3, **share: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.share = Share(students=students_of(str(students)), **share)
        self.path = folder / "default.json"
        self.vllm = StandIn(key=UPSTREAM_KEY)
        self.keys = key_ring.add(key_ring.path_of(self.path), self.share.students).keys
        self.write()

    @property
    def report(self):
        """What the proxy says of itself."""
        return usage.load(usage.path_of(self.path))

    def write(self, **changes: Any) -> None:
        """Write the state file anew."""
        registry.save(self.path, state_of(**{"base_url": self.vllm.url, "share": self.share} | changes))

    def client(self, student: str | None = None, **headers: str) -> httpx.Client:
        """A student's HTTP client."""
        known = {"Authorization": f"Bearer {self.keys[student]}"} if student else {}
        return httpx.Client(base_url=self.root, headers=known | headers, trust_env=False, timeout=20)

    def ask(self, student: str, *, stream: bool = True, **fields: Any) -> httpx.Response:
        """Ask, and wait for the whole reply."""
        with self.client(student) as client:
            return client.post("/v1/chat/completions", json={"messages": QUESTION, "stream": stream} | fields)


class Classroom(Class):
    """One that is shared, by a proxy in a thread."""

    def __init__(self, folder: Path, students: int | str = 3, **share: Any) -> None:
        super().__init__(folder, students, **share)
        self.proxy = Proxy(self.path)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.proxy.run()), name="proxy")

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.proxy._socket.getsockname()[1]}"

    @property
    def room(self):
        return self.proxy._room

    @property
    def app(self):
        return self.proxy._server.config.app

    def __enter__(self) -> Self:
        self.vllm.__enter__()
        self._thread.start()
        until(lambda: self.proxy._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.end()
        self._thread.join()
        self.vllm.close()


class ProxyProcess(Class):
    """One that is shared as people share it, by a process of its own."""

    def start(self) -> subprocess.Popen[str]:
        """Start the process; what it says can be read from it."""
        command = [sys.executable, "-P", "-m", proxy.__name__, str(self.path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self.process

    def ready(self) -> Self:
        """Start it, and wait until it listens."""
        process = self.start()
        until(lambda: process.poll() is not None or (self.report and self.report.proxy.pid == process.pid), 20)
        self.root = f"{'https' if self.report.tls else 'http'}://127.0.0.1:{self.report.port}"
        until(self._listens)
        return self

    def _listens(self) -> bool:
        try:
            httpx.get(f"{self.root}/health", verify=False, trust_env=False)
        except httpx.TransportError:
            return False
        return True

    def end(self) -> tuple[int, str]:
        """Its exit code and all that it has said."""
        self.process.terminate()
        said, _ = self.process.communicate(timeout=10)
        return self.process.returncode, said

    def __enter__(self) -> Self:
        self.vllm.__enter__()
        return self.ready()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()
        self.vllm.close()


class Stream:
    """A student's streamed question, read line by line; closing it is what a student does who stops."""

    def __init__(self, room: Class, student: str, *, patience: float = 20, **fields: Any) -> None:
        self._client = room.client(student)
        self._client.timeout = patience
        body = {"messages": QUESTION, "stream": True} | fields
        request = self._client.build_request("POST", "/v1/chat/completions", json=body)
        self.response = self._client.send(request, stream=True)
        self._lines = (line for line in self.response.iter_lines() if line)

    def line(self) -> str:
        """The next line that says anything."""
        return next(self._lines)

    def rest(self) -> str:
        """All that still comes."""
        return "\n".join(self._lines)

    def close(self) -> None:
        self.response.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(holds, seconds: float = 5.0) -> None:
    """Wait until this is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def events_of(text: str) -> list[Any]:
    """The JSON of a stream's events."""
    found = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(each) for each in found if each != "[DONE]"]


def error_of(reply: httpx.Response | str) -> dict[str, Any]:
    """The error of a whole reply, or at the end of a stream's text."""
    return events_of(reply)[-1]["error"] if isinstance(reply, str) else reply.json()["error"]
