"""A shared server for tests: a stand-in for vLLM, its state file, the keys of a class, and the real proxy before it.

The proxy runs in a thread of the test's process; what it does as a process of its own is in test_proxy_process.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx
from stand_in import StandIn

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.serving import registry
from magistral_nb.serving.plan import Plan
from magistral_nb.serving.wishes import Wishes
from magistral_nb.sharing import key_ring, usage
from magistral_nb.sharing.proxy import Proxy
from magistral_nb.sharing.share import Share

UPSTREAM_KEY = "the-key-of-the-server-behind"
QUESTION = [{"role": "user", "content": "2+2?"}]


def state_of(base_url: str | None, share: Share | None, *, model: str = "stand-in", **more: Any):
    """The state of a server that runs at this address."""
    plan = Plan(model, f"{model} for tests", ("vllm", "serve"), (), 40960, Sampling(0.7, 0.95), (), "f", Wishes())
    known = {"name": "default", "status": "ready", "system_prompt": "Think first.", "created": 1_750_000_000.0}
    known |= {"api_key": UPSTREAM_KEY, "log_path": "/nowhere.log", "base_url": base_url, "share": share}
    return registry.ServerState(plan=plan, **known | more)


class Classroom:
    """One shared server; `vllm` is the stand-in behind it, `keys` has a key for each student."""

    def __init__(self, folder: Path, students: str | int = 3, **share: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"student-{n:02d}" for n in range(1, students + 1)] if isinstance(students, int) else students.split()
        self.share = Share(**share)
        self.path = folder / "default.json"
        self.vllm = StandIn(key=UPSTREAM_KEY)
        self.ring = key_ring.add(key_ring.path_of(self.path), names)
        self.keys = self.ring.keys
        self.write()
        self.proxy = Proxy(self.path)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.proxy.run()), name="proxy")

    def write(self, **changes: Any) -> None:
        """Write the state file anew."""
        registry.save(self.path, state_of(self.vllm.url, self.share, **changes))

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.proxy._socket.getsockname()[1]}"

    @property
    def room(self):
        return self.proxy._room

    @property
    def report(self):
        return usage.load(usage.path_of(self.path))

    def client(self, student: str | None = None, **headers: str) -> httpx.Client:
        """A student's HTTP client."""
        known = {"Authorization": f"Bearer {self.keys[student]}"} if student else {}
        return httpx.Client(base_url=self.root, headers=known | headers, trust_env=False, timeout=20)

    def ask(self, student: str, *, stream: bool = True, **fields: Any) -> httpx.Response:
        """Ask, and wait for the whole reply."""
        with self.client(student) as client:
            return client.post("/v1/chat/completions", json={"messages": QUESTION, "stream": stream} | fields)

    def __enter__(self) -> Self:
        self.vllm.__enter__()
        self._thread.start()
        until(lambda: self.proxy._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.end()
        self._thread.join()
        self.vllm.close()


def until(holds, seconds: float = 5.0) -> None:
    """Wait until this is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def lines_of(response: httpx.Response) -> list[str]:
    """The lines of a stream that say something."""
    return [line for line in response.iter_lines() if line]


def events_of(text: str) -> list[Any]:
    """The JSON of a stream's events."""
    found = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(each) for each in found if each != "[DONE]"]


def error_of(response: httpx.Response) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        return response.json()["error"]
    return events_of(response.text)[-1]["error"]
