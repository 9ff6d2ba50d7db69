"""Several kernels at one server at the same moment: each is a process of its own, as a kernel is.

Real supervisors; the engine is the talking stand-in. The processes begin within a millisecond of each other, by the
wall clock, and at moments that a seed has drawn.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from faults.harness import engine_of, is_running, until

import magistral_nb
from magistral_nb import errors, paths
from magistral_nb.serving import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.engine

KERNEL = """
import os
import sys
import magistral_nb
magistral_nb.servers()
from time import sleep
from magistral_nb import serve
from magistral_nb.errors import MagistralError
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except MagistralError as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0], flush=True)
"""


class Kernels:
    """Processes that have everything imported and wait for a line to do."""

    def __init__(self, count: int) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", KERNEL]
        self._all = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
        for each in self._all:
            assert each.stdout.readline() == "ready\n"

    def do(self, *lines: str) -> list[str]:
        """A line for each, all at once; what each said."""
        for each, line in zip(self._all, lines, strict=False):
            each.stdin.write(f"{line}\n")
            each.stdin.flush()
        return [each.stdout.readline().strip() for each, _ in zip(self._all, lines, strict=False)]

    def end(self) -> None:
        for each in self._all:
            each.stdin.close()
            each.wait(20)
            each.stdout.close()


SERVE = "serve(model, engine=engine{}).state().engine"


@pytest.fixture(scope="module")
def started() -> Iterator[Kernels]:
    """Importing takes longer than what they do."""
    found = Kernels(4)
    yield found
    found.end()


@pytest.fixture
def kernels(started, room, engine, checkpoint) -> Kernels:
    """The kernels in this test's home."""
    names = (paths.HOME_VARIABLE, "TMPDIR")
    home = f"os.environ.update({ {name: os.environ[name] for name in names}!r})"
    started.do(*[f"{home}, globals().update(model={str(checkpoint)!r}, engine={engine!r})"] * 4)
    return started


def test_one_name_ends_with_one_server_and_a_handle_for_each(kernels, room):
    for _ in range(3):
        told = kernels.do(*[SERVE.format("")] * 4)
        assert len(set(told)) == 1, told
        assert told[0] == repr(engine_of(magistral_nb.Server()))
        assert len(room.ours()) == 2, "a supervisor and an engine"
        magistral_nb.Server().stop()
        room.check()


def test_different_names_end_on_different_ports(kernels, room):
    lines = [f"serve(model, engine=engine, name='n{n}').base_url" for n in range(4)]
    assert len(set(kernels.do(*lines))) == 4
    room.note()
    for server in magistral_nb.servers():
        assert server.reason("count 3").text == "Done."
        server.stop()


def test_one_name_and_two_plans_end_with_one_server_and_one_refusal(kernels, room):
    told = kernels.do(SERVE.format(""), SERVE.format(", context=512"))
    assert sorted(line.startswith("Process(") for line in told) == [False, True]
    assert next(line for line in told if not line.startswith("Process(")).startswith("NameTaken: ")


@pytest.mark.long
def test_a_serve_while_another_stops_waits_for_that_and_boots_anew(kernels, behave, room):
    """It is still up then, and takes two seconds to end."""
    behave("slow")
    dying = kernels.do(SERVE.format(""))[0]
    behave("")
    told = kernels.do("magistral_nb.Server().stop()", f"(sleep(0.5), {SERVE.format('')})[1]")
    assert told[0] == "None"
    assert told[1] not in ("None", dying)
    assert magistral_nb.Server().reason("count 3").text == "Done."


@pytest.mark.long
def test_a_serve_at_any_moment_of_a_stop_ends_with_a_server_or_without(kernels, room):
    draw = random.Random(6)
    for _ in range(3):
        kernels.do(SERVE.format(""))
        told = kernels.do("magistral_nb.Server().stop()", f"(sleep({draw.uniform(0, 0.5)}), {SERVE.format('')})[1]")
        assert told[0] == "None"
        assert told[1].startswith(("Process(", "ServerNotFound")), "the second where it came before the stop"
        room.check()
        assert len(room.ours()) in (0, 2)


def test_a_stop_while_it_boots_ends_it(serve, behave, room):
    behave("mute")
    waiting = serve(wait=False)
    engine = engine_of(waiting)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            waiting.wait(30)
        except errors.MagistralError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.stop()
    thread.join(10)
    assert [type(error) for error in raised] == [errors.ServerNotFound], "whoever waits is told"
    assert not is_running(engine.pid)


@pytest.mark.long
def test_stops_at_every_moment_of_a_boot_leave_nothing(serve, room):
    draw = random.Random(7)
    for _ in range(4):
        server = serve(wait=False)
        time.sleep(draw.uniform(0, 0.8))
        server.stop()
        room.check()
        assert not magistral_nb.servers()


def test_two_stops_at_once_are_one(kernels, room):
    for _ in range(2):
        kernels.do(SERVE.format(""))
        told = kernels.do(*["magistral_nb.Server().stop()"] * 4)
        assert "None" in told
        assert all(line == "None" or line.startswith("ServerNotFound") for line in told), told
        room.check()


@pytest.mark.long
def test_a_stop_that_lasts_ends_no_later_server_of_the_name(kernels, behave, room):
    """One stops a slow engine, another serves anew: the first stop must not take the second server with it."""
    behave("slow")
    kernels.do(SERVE.format(""))
    behave("")
    stop, again = "magistral_nb.Server().stop()", "serve(model, engine=engine, replace=True).reason('count 3').text"
    told = kernels.do(stop, f"(sleep(0.3), {again})[1]")
    assert told == ["None", "'Done.'"]
    time.sleep(1)
    assert magistral_nb.Server().reason("count 3").text == "Done."


@pytest.mark.long
def test_a_replace_while_another_attaches_leaves_one(kernels, room):
    for _ in range(2):
        kernels.do(SERVE.format(""))
        told = kernels.do(SERVE.format(", context=512, replace=True"), SERVE.format(""))
        assert told[0].startswith("Process("), told
        assert told[1].startswith(("Process(", "NameTaken", "ServerNotFound", "BootFailed")), told
        until(lambda: magistral_nb.Server().status() == "ready", "one is ready")
        assert len(room.ours()) == 2
        assert magistral_nb.Server().reason("count 3").text == "Done."
        room.note()
        magistral_nb.Server().stop()
        room.check()


def test_a_replace_in_mid_stream_keeps_the_answer(serve, room):
    asking = room.ask(serve())
    serve(context=512, replace=True)
    assert asking.over().answer.finish_reason == "error"


def test_a_kernel_that_dies_with_the_lock_holds_nobody_up(room, engine, checkpoint, serve):
    path = registry.path_of("default").with_suffix(".lock")
    code = (
        "import os, sys, time\nfrom magistral_nb.serving import registry\n"
        "with registry.lock('default'):\n    print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert path.exists()
        assert [line for line in room.damage() if "held" in line]
        asking = threading.Timer(0.3, holder.kill)
        asking.start()
        assert serve().status() == "ready"
