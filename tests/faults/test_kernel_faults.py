"""Faults of the notebook's side: kernels that are restarted, killed and closed, clients that hang up.

Real kernels of ipykernel through jupyter_client, real supervisors; the engine is the talking stand-in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from faults.harness import SETTLED, engine_of, is_running, kept_answers, sent_before, until
from jupyter_client.manager import KernelManager

import magistral_nb
from magistral_nb.answers.journal_row import CUT_SHORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.engine

PATIENCE = 60  # seconds; a busy machine takes ten to import ipywidgets


class Kernel:
    """A notebook's kernel, with the extension loaded."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.ready()

    def ready(self) -> None:
        self.client.wait_for_ready(timeout=PATIENCE)
        self.run("%load_ext magistral_nb")

    @property
    def pid(self) -> int:
        return self.manager.provisioner.process.pid

    def begin(self, code: str) -> None:
        """Run a cell, and do not wait."""
        self.client.execute(code)

    def run(self, code: str) -> str:
        """Run a cell; what it has written, and how it failed."""
        written: list[str] = []

        def hear(message) -> None:
            content = message["content"]
            written.append(content.get("text") or "\n".join(content.get("traceback", ())))

        self.client.execute_interactive(code, timeout=PATIENCE, output_hook=hear, allow_stdin=False)
        return "".join(written)

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(room, tmp_path, monkeypatch) -> Iterator[Callable[[], Kernel]]:
    """Start a kernel, with the home of this test and no settings of anybody's."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    started = []

    def start() -> Kernel:
        started.append(Kernel())
        return started[-1]

    yield start
    for each in started:
        each.end()


def asking(server) -> float:
    """How many the server answers now, by its own metrics."""
    page = urllib.request.urlopen(server.base_url.replace("/v1", "/metrics"), timeout=5).read().decode()
    return float(page.split()[1])


def serving(checkpoint, engine) -> str:
    return f"%magistral_serve '{checkpoint}' --engine '{engine}'"


def streams(kernel: Kernel, checkpoint, question: str) -> None:
    """Ask in a cell, and wait until the answer has come for a while."""
    kernel.begin(f"%%reason\n{question}")
    until((checkpoint / "sent").exists, "the engine is asked", PATIENCE)
    time.sleep(SETTLED + 0.5)


def test_a_kernel_that_is_killed_in_mid_stream(kernel, room, engine, checkpoint):
    notebook = kernel()
    assert "Traceback" not in notebook.run(serving(checkpoint, engine))
    server = magistral_nb.Server()
    room.note()
    before = engine_of(server)
    streams(notebook, checkpoint, "count")
    killed = time.monotonic()
    os.kill(notebook.pid, signal.SIGKILL)
    until(lambda: asking(server) == 0, "the engine works for nobody")
    (answer,) = kept_answers("count")
    assert (answer.finish_reason, answer.error) == ("error", CUT_SHORT)
    assert answer.thinking.startswith(sent_before(checkpoint, "count", killed - SETTLED))
    assert answer.thinking.startswith(" 0 1 2 3")
    assert engine_of(server) == before, "the server goes on"
    another = kernel()
    took = []
    for _ in range(3):  # a busy machine may take its time once
        began = time.monotonic()
        assert "Attached to 'default'" in another.run(serving(checkpoint, engine))
        took.append(time.monotonic() - began)
    print(f"attached from another kernel in {took[0]:.2f} s, then in {min(took[1:]):.2f} s")
    assert min(took) < 1
    assert "'Done.'" in another.run("print(repr(_.reason('count 3').text))")


@pytest.mark.long
def test_a_kernel_that_is_restarted_in_mid_stream(kernel, serve, checkpoint, engine):
    server = serve()
    before = engine_of(server)
    notebook = kernel()
    notebook.run(serving(checkpoint, engine))
    streams(notebook, checkpoint, "count")
    began = time.monotonic()
    notebook.manager.restart_kernel(now=False)
    notebook.ready()
    assert engine_of(server) == before
    until(lambda: asking(server) == 0, "the engine works for nobody")
    (answer,) = kept_answers("count")
    assert answer.thinking.startswith(sent_before(checkpoint, "count", began - SETTLED))
    assert "ready" in notebook.run("%magistral_status")


def test_a_notebook_that_is_closed_during_the_boot(kernel, room, engine, checkpoint, behave):
    behave("mute")
    notebook = kernel()
    notebook.begin(serving(checkpoint, engine))
    before = until(lambda: engine_of(magistral_nb.Server()), "it boots", PATIENCE)
    room.note()
    notebook.client.stop_channels()
    notebook.manager.shutdown_kernel()
    assert not notebook.manager.is_alive()
    assert is_running(before.pid)
    assert magistral_nb.Server().status() == "booting"


@pytest.mark.long
def test_a_kernel_that_is_killed_at_any_moment_of_a_serve(room, engine, checkpoint, status):
    draw = random.Random(6)
    code = "import sys, magistral_nb as m; print(flush=True); m.serve(sys.argv[1], engine=sys.argv[2])"
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(checkpoint), engine], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            client.stdout.readline()
            time.sleep(draw.uniform(0.2, 0.7))
            client.kill()
        with contextlib.suppress(magistral_nb.MagistralError):
            magistral_nb.Server().wait(20)
        status()
        room.check()
        for server in magistral_nb.servers():
            server.stop()


def test_a_client_that_hangs_up_in_mid_stream(serve, checkpoint):
    server = serve()

    async def ask_and_cancel() -> None:
        task = asyncio.create_task(magistral_nb.areason("count", server=server))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(ask_and_cancel())
    until(lambda: asking(server) == 0, "the engine works for nobody")
    (answer,) = until(lambda: kept_answers("count"), "it is kept")
    assert answer.finish_reason == "interrupted"
    assert answer.thinking.startswith(" 0 1 2 3")
    assert server.reason("count 3").text == "Done."
