"""Faults of the real vLLM (CPU) in its default processes, an API server and an EngineCore, on one server after another.

The planner gives so small a model one process; here it is made to take this one for a big one, which gets vLLM's
default. The model utters a thought without an end. A test takes the server that the one before has left, or boots it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from faults.harness import Room, engine_of, is_running, kept_answers, runtime_folder, send, supervisor_of, until
from scripted_model import write_scripted_model

import magistral_nb
from magistral_nb import paths
from magistral_nb.answers.journal_row import CUT_SHORT
from magistral_nb.processes import Process
from magistral_nb.serving import flags, metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(900)]

ENGINES = paths.engines()
SCRIPT = "[THINK]Let me count: one two three four five six[/THINK]I counted for long."
BOOT = 400  # seconds; a busy machine takes two minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("vllm")
    (found / "home" / "cache").mkdir(parents=True)
    (found / "home" / "cache" / "engines").symlink_to(ENGINES)
    write_scripted_model(found / "endless", SCRIPT, loop_from=" one")
    return found


@pytest.fixture(scope="module")
def everything(folder) -> Iterator[Room]:
    """All that these tests start; in the end nothing of it is left."""
    room = Room(folder / "home")
    with runtime_folder(), pytest.MonkeyPatch.context() as patch:
        yield room
        patch.setenv(paths.HOME_VARIABLE, str(room.home))
        try:
            for server in magistral_nb.servers():
                server.stop()
            room.check()
            assert room.ours() == set()
        finally:
            room.sweep()


@pytest.fixture(autouse=True)
def home(everything, folder, monkeypatch) -> Path:
    """One home for all of them."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(everything.home))
    monkeypatch.setattr(flags, "_BIG_MODEL", 0)
    return everything.home


@pytest.fixture
def room(everything) -> Iterator[Room]:
    everything.asked.clear()
    yield everything
    everything.check()


def boot(folder: Path, room: Room, **options) -> magistral_nb.Server:
    """The server, booted where it does not run; it is started again where it fails."""
    server = magistral_nb.serve(str(folder / "endless"), restart="on-failure", **options)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in dict(server.plan.environment)
    room.note()
    return server


def family(server) -> dict[str, Process]:
    """vLLM's processes by name."""
    first = psutil.Process(engine_of(server).pid)
    return {each.name(): Process.of(each.pid) for each in (first, *first.children(recursive=True))}


def core_of(server) -> Process | None:
    return next((process for name, process in family(server).items() if "EngineCore" in name), None)


def gone(*processes: Process) -> float:
    """Seconds until all have gone."""
    began = time.monotonic()
    until(lambda: not any(process.is_alive() for process in processes), "they have gone", 30)
    return time.monotonic() - began


def generated(server) -> int:
    return metrics.read(server.endpoint).generated_tokens


def stands_still(server) -> bool:
    """Whether it generates for nobody."""
    before = generated(server)
    time.sleep(1)
    return generated(server) == before


def test_its_processes_are_these_and_its_supervisor_is_small(folder, room):
    server = boot(folder, room)
    found = family(server)
    assert any("EngineCore" in name for name in found)
    size = psutil.Process(supervisor_of(server).pid).memory_info().rss
    code = "import time, magistral_nb as m; t = time.monotonic(); m.Server().reason; m.Server().status(); "
    code += "print(time.monotonic() - t)"
    took = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )
    print(f"\nprocesses: {', '.join(found)}; supervisor: {size / 1e6:.0f} MB; found again in {took:.3f} s")
    assert size < 60e6
    assert took < 1


def test_a_client_that_is_killed_in_mid_stream(folder, room):
    server = boot(folder, room)
    code = "import magistral_nb as m; m.reason('Kernel?', server='default')"
    with subprocess.Popen([sys.executable, "-c", code]) as client:
        until(lambda: kept_answers("Kernel?") and kept_answers("Kernel?")[0].thinking, "it is answered", 60)
        time.sleep(2)
        client.kill()
    until(lambda: stands_still(server), "vLLM works for nobody")
    (answer,) = kept_answers("Kernel?")
    assert answer.error == CUT_SHORT
    assert answer.thinking.startswith("Let me count: one two three")


def test_the_api_process_is_killed_in_mid_stream(folder, room):
    server = boot(folder, room)
    found = family(server)
    asking = room.ask(server, "Killed?")
    send(signal.SIGKILL, engine_of(server))
    took = gone(*found.values())
    assert asking.over().answer.finish_reason == "error"
    assert asking.answer.thinking.startswith("Let me count: one two three")
    print(f"\nfrom SIGKILL of the API process until all of {', '.join(found)} were gone: {took:.2f} s")
    assert took < 10
    assert server.wait(BOOT).reason("Back?", max_tokens=9).thinking.startswith("Let me count")
    assert server.state().restarts == 1


def test_the_engine_core_is_killed_in_mid_stream(folder, room):
    server = boot(folder, room)
    found = family(server)
    asking = room.ask(server, "Core?")
    send(signal.SIGKILL, core_of(server))
    assert asking.over(60).answer.finish_reason == "error"
    print(f"\nfrom SIGKILL of EngineCore until all were gone: {gone(*found.values()):.2f} s")
    assert server.wait(BOOT).reason("Back?", max_tokens=9).thinking.startswith("Let me count")


def test_the_supervisor_is_killed_then_the_api_process_of_the_adopted_server(folder, room, status):
    server = boot(folder, room)
    asking = room.ask(server, "Adopted?")
    send(signal.SIGKILL, supervisor_of(server))
    assert "has a new one" in status()
    seen = len(asking.seen)
    until(lambda: len(asking.seen) > seen + 5, "the answer goes on to arrive")
    found = family(server)
    send(signal.SIGKILL, engine_of(server))
    gone(*found.values())
    assert asking.over().answer.finish_reason == "error"
    assert server.wait(BOOT).reason("Back?", max_tokens=9).thinking.startswith("Let me count")


def test_supervisor_and_api_process_are_killed_and_status_ends_the_engine_core(folder, room, status):
    server = boot(folder, room)
    found = family(server)
    send(signal.SIGKILL, supervisor_of(server), engine_of(server))
    status()
    gone(*found.values())
    assert server.status() == "failed"


def test_the_supervisor_is_killed_during_the_boot(folder, room, status):
    server = boot(folder, room, wait=False)
    until(lambda: core_of(server), "EngineCore is started", BOOT)
    found = family(server)
    send(signal.SIGKILL, supervisor_of(server))
    assert "has ended" in status()
    gone(*found.values())


def test_a_preemption_in_mid_stream(folder, room):
    server = boot(folder, room)
    found = family(server)
    asking = room.ask(server, "Preempted?")
    began = time.monotonic()
    send(signal.SIGTERM, supervisor_of(server))
    assert asking.over(30).answer.finish_reason == "error"
    assert asking.answer.thinking.startswith("Let me count: one two three")
    gone(*found.values())
    print(f"\nfrom SIGTERM until all were gone: {time.monotonic() - began:.2f} s")
    until(lambda: server.status() == "ended", "it has ended")


@pytest.mark.parametrize("first", ["supervisor", "engine"])
def test_a_batch_system_ends_everything_at_once(folder, room, first):
    """Every process gets SIGTERM, as from Slurm or a container's end; vLLM's own handlers run against ours."""
    server = boot(folder, room)
    found = list(family(server).values())
    order = [supervisor_of(server), *found] if first == "supervisor" else [*found, supervisor_of(server)]
    for process in order:
        os.kill(process.pid, signal.SIGTERM)
    gone(*order)
    assert server.status() == "ended", "and is not started again"
    assert not any(is_running(process.pid) for process in order)
