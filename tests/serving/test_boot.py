"""A boot's whole way with the real supervisor and a stand-in engine (real vLLM: tests/engine)."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import magistral_nb
from magistral_nb import errors
from magistral_nb.serving import boot, orphans, registry
from magistral_nb.serving.server import find_server
from magistral_nb.sharing.share import Share

pytestmark = pytest.mark.engine


@pytest.fixture
def serve(fake_engine, checkpoint):
    def call(**options):
        return magistral_nb.serve(**({"model": str(checkpoint), "engine": fake_engine} | options))

    yield call
    for server in magistral_nb.servers():
        server.stop()


def behave(checkpoint: Path, word: str):
    (checkpoint / "behaviour").write_text(word)


def processes(server) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while (state := server.state()).engine is None:  # its supervisor has begun, and is about to start it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [psutil.Process(state.supervisor.pid), psutil.Process(state.engine.pid)]


def gone(these: list[psutil.Process]) -> bool:
    return not [p for p in these if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_ready_only_after_a_first_question(serve):
    seen = []
    server = serve(watch=lambda state: seen.append((state.status, state.stages[-1:])))
    assert server.status() == "ready"
    assert seen[0][0] == "booting"
    state = server.state()
    assert state.stages[-1][0] == "Asking a first question"
    assert state.stages[0][0] == "Starting vLLM"
    assert state.context == 1234, "the server's own word counts"
    assert server.endpoint.system_prompt == "Think first."


def test_key_is_private(serve, home, fake_engine):
    server = serve()
    path = registry.path_of("default")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = server.api_key
    assert len(key) >= 43, "256 bits in base64"
    assert key not in repr(server)
    assert key not in repr(server.endpoint)
    assert key not in repr(server.state())
    assert key not in Path(server.log_path).read_text()
    for process in psutil.process_iter():
        try:
            assert key not in " ".join(process.cmdline())
        except psutil.Error:
            continue
    assert key not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=False).stdout


def test_same_plan_attaches_in_under_a_second(serve):
    first = serve()
    began = time.monotonic()
    second = serve()
    assert time.monotonic() - began < 1
    assert second.state().engine == first.state().engine


def test_another_kernel_finds_it(serve, fake_engine, checkpoint):
    server = serve()
    script = f"import magistral_nb as m; s = m.serve({str(checkpoint)!r}, engine={fake_engine!r}); print(s.base_url)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert found.stdout.strip() == server.base_url


def test_another_price_is_no_other_plan(serve, fake_engine, checkpoint):
    server = serve(price_per_hour=2.5)
    assert server.endpoint.price_per_hour == 2.5
    assert serve().endpoint.price_per_hour == 2.5
    assert serve(price_per_hour=3).endpoint.price_per_hour == 3
    assert server.endpoint.price_per_hour == 3
    assert server.state().terms.price_per_hour == 2.5, "for other processes"


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_what_is_no_price_is_refused_before_anything_is_started(serve, price):
    with pytest.raises(errors.InvalidOption, match="price_per_hour"):
        serve(price_per_hour=price)
    assert not magistral_nb.servers()


def test_another_plan_under_the_same_name_is_refused(serve):
    server = serve()
    with pytest.raises(errors.NameTaken, match=r"--replace.*--name"):
        serve(context=512)
    assert server.status() == "ready"
    other = serve(context=512, name="other")
    assert {s.name for s in magistral_nb.servers()} == {"default", "other"}
    assert other.base_url != server.base_url


@pytest.mark.parametrize("terms", [{"restart": "on-failure"}, {"idle_stop": None}, {"share": Share(students=("ada",))}])
def test_other_terms_are_refused_and_not_dropped_in_silence(serve, terms):
    server = serve(idle_stop=90.0)
    with pytest.raises(errors.NameTaken, match=r"on other terms \(--idle-stop 90s\): add --replace"):
        serve(**terms)
    assert serve().state() == serve(idle_stop=90.0).state() == server.state()


def test_replace_ends_the_first(serve):
    old = processes(serve())
    server = serve(context=512, replace=True)
    assert gone(old)
    assert "512" in server.plan.argv


def test_two_at_once_start_one(serve):
    handles = []
    threads = [threading.Thread(target=lambda: handles.append(serve(wait=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 2
    assert handles[0].wait(20).state().engine == handles[1].wait(20).state().engine


def test_no_wait_returns_at_once_and_wait_waits(serve):
    began = time.monotonic()
    server = serve(wait=False)
    assert time.monotonic() - began < 3
    assert server.status() == "booting"
    with pytest.raises(errors.ServerNotFound, match="still booting"):
        server.reason("2+2?")
    assert server.wait(20).status() == "ready"


def test_stop_leaves_nothing(serve):
    server = serve()
    state, old = server.state(), processes(server)
    server.stop()
    assert gone(old)
    assert not registry.path_of("default").exists()
    assert Path(state.log_path).exists(), "the log stays to be read"
    with pytest.raises(errors.ServerNotFound):
        server.status()
    assert "stopped" in repr(server)


@pytest.mark.long
def test_stop_ends_what_ignores_sigterm_with_its_children(serve, checkpoint):
    behave(checkpoint, "deaf")
    server = serve()
    engine = psutil.Process(server.state().engine.pid)
    family = [engine, *engine.children(recursive=True)]
    assert len(family) == 2
    server.stop()
    assert gone(family)


def test_death_while_loading_names_the_root_cause(serve, checkpoint):
    behave(checkpoint, "die")
    with pytest.raises(errors.BootFailed, match="made of cheese") as caught:
        serve()
    told, *shown = str(caught.value).splitlines()
    assert "%magistral_logs" in told
    assert "    ValueError: the weights are made of cheese" in shown
    server = find_server()
    assert server.status() == "failed"
    assert "made of cheese" in server.logs()
    with pytest.raises(errors.ServerDied, match="made of cheese"):
        server.reason("2+2?")


def test_a_failed_boot_can_be_tried_again_without_replace(serve, checkpoint):
    behave(checkpoint, "die")
    with pytest.raises(errors.BootFailed):
        serve()
    behave(checkpoint, "")
    assert serve().status() == "ready"


def test_up_but_useless_is_a_failed_boot(serve, checkpoint):
    behave(checkpoint, "useless")
    with pytest.raises(errors.BootFailed, match="force_tool_names"):
        serve()
    time.sleep(0.3)
    assert not find_server().is_alive()


def test_a_timeout_leaves_the_boot_alone(serve, checkpoint):
    behave(checkpoint, "mute")
    server = serve(wait=False)
    with pytest.raises(TimeoutError, match="goes on"):
        server.wait(timeout=0.5)
    assert server.is_alive()


def test_engine_killed_later_is_told_as_died(serve):
    server = serve()
    os.kill(server.state().engine.pid, signal.SIGKILL)
    time.sleep(0.2)  # the kernel's own work, not the supervisor's
    assert server.status() == "failed"
    with pytest.raises(errors.ServerDied, match="has died"):
        magistral_nb.reason("2+2?")
    deadline = time.monotonic() + 5
    while "SIGKILL" not in str(server.state().error) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.state().diagnosis.id == "killed"


def test_supervisor_killed_during_the_boot_is_a_failed_boot(serve, checkpoint):
    behave(checkpoint, "mute")
    server = serve(wait=False)
    supervisor, engine = processes(server)
    supervisor.kill()
    supervisor.wait()
    with pytest.raises(errors.BootFailed, match="supervisor was killed"):
        server.wait(5)
    behave(checkpoint, "")
    assert serve().status() == "ready", "the same plan boots again"
    assert gone([engine]), "and nothing of the first boot is left"


def test_a_running_server_is_found_also_when_the_gpu_is_full(serve, monkeypatch):
    """The server itself holds the memory that a new plan would need (a simulated GPU; the engine is a stand-in)."""
    from magistral_nb.serving import freeing, hardware

    def machine(free: int = 80) -> hardware.Hardware:
        gpu = hardware.Gpu("NVIDIA H100 80GB HBM3", 80 << 30, free << 30, (9, 0))
        return hardware.Hardware("Linux", "x86_64", 8, gpus=(gpu,))

    real = boot.find_engine
    monkeypatch.setattr(boot, "find_engine", lambda *a, **k: dataclasses.replace(real(*a, **k), build="cuda"))
    monkeypatch.setattr(hardware, "detect", machine)
    monkeypatch.setattr(freeing, "_PATIENCE_SECONDS", 0.1)  # nothing frees what is simulated
    first = serve()
    monkeypatch.setattr(hardware, "detect", lambda: machine(free=2))
    assert serve().state().engine == first.state().engine
    second = serve(context=512, replace=True)
    share = float(second.plan.argv[second.plan.argv.index("--gpu-memory-utilization") + 1])
    assert share * 80 > 2, "what the first one held counts as free"
    with pytest.raises(errors.PlanRefused, match=r"78\.0 GiB that somebody who cannot be seen from here holds"):
        serve(name="other")


def test_supervisor_killed_then_stop_ends_the_orphan(serve):
    server = serve()
    family = processes(server)
    family[0].kill()
    family[0].wait()
    assert server.is_alive(), "the engine is an orphan now"
    server.stop()
    assert gone(family)


def test_engine_and_supervisor_killed_then_stop_ends_what_they_left(serve, checkpoint):
    behave(checkpoint, "deaf")
    server = serve()
    (child,) = psutil.Process(server.state().engine.pid).children()
    for process in processes(server):
        process.kill()
        process.wait()
    assert server.status() == "failed"
    left = {orphan.process.pid: orphan.server for orphan in orphans.find_orphans()}
    assert left[child.pid] == "default", "by the mark that the supervisor has given it"
    server.stop()
    assert gone([child])


def test_a_taken_port_is_refused_at_once(serve, stand_in):
    port = int(stand_in.root.rpartition(":")[2])
    with pytest.raises(errors.PlanRefused, match=f"Port {port} is taken"):
        serve(port=port)
    assert not magistral_nb.servers()


def test_supervisor_is_small(serve):
    assert processes(serve())[0].memory_info().rss < 60e6


def test_programs_that_came_with_the_engine_are_found(serve):
    """FlashInfer calls ninja, which the engine's environment has and the notebook's PATH has not."""
    state = serve().state()
    engine = psutil.Process(state.engine.pid)
    first, rest = engine.environ()["PATH"].split(os.pathsep, 1)
    assert first == str(Path(state.plan.argv[0]).parent)
    assert rest == os.environ["PATH"]


def test_an_engine_that_is_built_for_another_machine_is_refused(serve, monkeypatch):
    from magistral_nb.serving import hardware

    gpu = hardware.Gpu("NVIDIA H100 80GB HBM3", 80 << 30, 80 << 30, (9, 0))
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Hardware("Linux", "x86_64", 8, gpus=(gpu,)))
    with pytest.raises(errors.PlanRefused, match="is built for CPU, and this machine has GPUs: leave --engine away"):
        serve()


def test_stopping_does_not_wait_for_a_first_question_that_nobody_answers(serve, checkpoint):
    behave(checkpoint, "silent")
    server = serve(wait=False)
    deadline = time.monotonic() + 20
    while not any(stage == "Asking a first question" for stage, _ in server.state().stages):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family, began = processes(server), time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10, "and not the thirty seconds after which it is killed"
    assert gone(family)
    time.sleep(0.3)
    assert registry.load("default") is None, "the supervisor writes nothing once it was told to stop"


def test_a_log_that_is_gone_leaves_no_process_behind(serve):
    server = serve()
    family = processes(server)
    Path(server.log_path).unlink()
    os.kill(family[1].pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not gone(family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(family)
    assert "was killed (SIGKILL)" in server.state().error, "its exit code tells without a log"
