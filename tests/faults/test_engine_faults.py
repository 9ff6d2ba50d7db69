"""Faults of vLLM's own processes: killed, crashed, hanging, robbed of their port, idle for long, too talkative.

Real supervisors; the engine is the talking stand-in, which can be told how to fail. Real vLLM: test_vllm_faults.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.harness import engine_of, is_listened_on, is_running, kept_answers, send, supervisor_of, until

from magistral_nb import errors
from magistral_nb.serving import log_file, registry
from magistral_nb.serving.launch import free_port
from magistral_nb.serving.supervisor import MOST_RESTARTS

pytestmark = pytest.mark.engine


def port_of(server) -> int:
    return int(server.base_url.rpartition(":")[2].removesuffix("/v1"))


# It ends


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, pytest.param(signal.SIGABRT, marks=pytest.mark.long)]
)
def test_ended_by_a_signal_in_mid_stream_the_answer_so_far_is_kept(serve, room, number, status):
    server = serve()
    asking = room.ask(server)
    send(number, engine_of(server))
    assert asking.over().answer.finish_reason == "error"
    assert asking.answer.thinking.startswith(" 0 1 2 3")
    assert kept_answers("count") == [asking.answer]
    until(lambda: registry.load("default").is_down, "its supervisor has written that down")
    assert "failed" in status()
    until(lambda: not is_running(supervisor_of(server).pid), "its supervisor has nothing left to do")


@pytest.mark.long
def test_what_was_sent_before_a_kill_is_in_the_answer(serve, room, checkpoint):
    server = serve()
    asking = room.ask(server)
    send(signal.SIGKILL, engine_of(server))
    sent = [line.split(" ", 2)[1] for line in (checkpoint / "sent").read_text().splitlines()]
    assert asking.over().answer.thinking.split()[: len(sent)] == sent


def test_a_crash_that_nobody_asked_during_is_told_by_the_next_question(serve):
    server = serve()
    send(signal.SIGKILL, engine_of(server))
    with pytest.raises(errors.ServerDied, match="has died"):
        server.reason("count 5")


@pytest.mark.long  # vLLM is given 15 seconds to end
def test_it_is_deaf_and_has_a_deaf_child(serve, behave, room):
    behave("deaf")
    server = serve()
    assert len(room.ours()) == 3
    server.stop()
    assert room.ours() == set()


def test_it_hangs(serve, room):
    """Stopped, as by a driver or a debugger: it is up, answers nobody, and can be ended."""
    server = serve()
    asking = room.ask(server)
    send(signal.SIGSTOP, engine_of(server))
    assert server.status() == "ready"
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    assert asking.over().answer.finish_reason == "error"


# It is started again


def test_crashed_once_it_is_back_where_it_was(serve, room):
    server = serve(restart="on-failure")
    before, key, address = engine_of(server), server.api_key, server.base_url
    asking = room.ask(server)
    send(signal.SIGKILL, before)
    assert asking.over().answer.finish_reason == "error"
    assert server.wait(20).reason("count 5").text == "Done."
    assert (server.api_key, server.base_url) == (key, address)
    state = server.state()
    assert (state.restarts, state.error) == (1, None)


@pytest.mark.long
def test_crashed_while_it_is_started_again_it_is_tried_once_more(serve, behave):
    server = serve(restart="on-failure")
    behave("die")
    send(signal.SIGKILL, engine_of(server))
    until(lambda: server.state().restarts == 2, "the second try")
    behave("")
    assert server.wait(20).reason("count 5").text == "Done."


@pytest.mark.long  # 1, 4 and 16 seconds of pauses
def test_a_crash_each_time_is_given_up_on(serve, behave):
    behave("fleeting")
    server = serve(restart="on-failure")
    started = []
    deadline = time.monotonic() + 60
    while not server.state().is_down and time.monotonic() < deadline:
        if (state := server.state()).engine not in (None, *(engine for engine, _ in started)):
            started.append((state.engine, time.monotonic()))
        time.sleep(0.02)
    assert len(started) == 1 + MOST_RESTARTS
    (_, first), (_, second), (_, third), (_, last) = started
    assert second - first < third - second < last - third, "each pause is longer"
    assert server.status() == "failed"


def test_a_first_boot_that_fails_is_not_tried_again(serve, behave):
    behave("die")
    with pytest.raises(errors.BootFailed, match="made of cheese"):
        serve(restart="on-failure")


def test_a_stop_during_the_back_off_is_heard_at_once(serve, behave, room):
    server = serve(restart="on-failure")
    behave("die")
    send(signal.SIGKILL, engine_of(server))
    until(lambda: server.state().restarts == 2, "a pause of four seconds")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 3
    assert room.ours() == set()


# Its port is taken between choosing and binding


def robber_goes(checkpoint: Path) -> str:
    """What it has heard meanwhile."""
    heard = (checkpoint / "robber").read_text()
    (checkpoint / "robber").unlink()
    return heard


def test_its_port_is_taken_in_between_and_another_is_found(serve, behave, checkpoint, room):
    behave("robbed")
    server = serve(wait=False)
    lost = until(lambda: server.base_url and port_of(server), "a port is chosen")
    key = server.api_key
    assert server.wait(20).reason("count 5").text == "Done."
    assert port_of(server) != lost
    assert server.api_key != key
    assert is_listened_on(lost), "by whoever took it"
    heard = robber_goes(checkpoint)
    assert "GET /health" in heard
    assert "Authorization" not in heard


def test_its_wished_port_is_taken_in_between_and_that_is_told(serve, behave, checkpoint):
    behave("robbed")
    wished = free_port()
    with pytest.raises(errors.BootFailed, match="port is taken by another program"):
        serve(port=wished)
    robber_goes(checkpoint)
    until(lambda: not is_listened_on(wished), "it is free")
    assert port_of(serve(port=wished)) == wished


# Nobody asks


def test_nobody_asked_for_long_enough(serve, status):
    server = serve(idle_stop=0.5)
    until(lambda: server.status() == "ended", "it has ended")
    assert "nobody asked it for 0.5s, which is its --idle-stop" in status()


def test_one_that_answers_is_not_idle(serve, room):
    server = serve(idle_stop=0.5)
    asking = room.ask(server, "count 60").over()
    assert asking.answer.seconds > 1
    assert asking.answer.finish_reason == "stop"
    until(lambda: server.status() == "ended", "then it has ended")


@pytest.mark.long
@pytest.mark.parametrize("word", ["busy", "unmeasured"])
def test_one_that_says_it_is_busy_or_says_nothing_goes_on(serve, behave, word):
    behave(word)
    server = serve(idle_stop=0.5)
    time.sleep(1.5)
    assert server.status() == "ready"


# Its log


def test_a_log_that_is_kept_short_while_it_is_written(tmp_path):
    """The writer is real, and as fast as it can be; what is lost is what it writes between copying and cutting."""
    log = log_file.fresh(tmp_path / "default.log")
    code = "import sys\nfor n in range(200_000): sys.stderr.write(f'line {n:09}\\n')"
    with log.open("ab") as end, subprocess.Popen([sys.executable, "-c", code], stderr=end) as writer:
        cuts = 0
        kept = []
        while writer.poll() is None:
            if log_file.rotate(log, most=200_000):
                cuts += 1
                kept += (tmp_path / "default.log.1").read_text().splitlines()
    kept += log.read_text().splitlines()
    numbers = [int(line.split()[1]) for line in kept if line.startswith("line ") and len(line) == 14]
    assert cuts > 3
    assert numbers == sorted(numbers), "in order, and none twice"
    assert len(kept) - len(numbers) <= 2 * cuts, "at most a torn line on each side of a cut"
    assert kept[-1] == "line 000199999"
    assert len(numbers) > 150_000


@pytest.mark.long  # a supervisor looks at it every 15 seconds
def test_a_talkative_engine_does_not_fill_the_disk(serve, behave, room):
    behave("chatty")
    server = serve()
    path = Path(server.log_path)
    assert path.stat().st_size > log_file.MOST_BYTES
    until(lambda: path.stat().st_size < log_file.MOST_BYTES / 10, "the log is cut", 30)
    assert server.reason("count 5").text == "Done."
    assert "line 149999" in path.with_name("default.log.1").read_text()


def test_its_log_is_removed(serve, room, status):
    server = serve()
    Path(server.log_path).unlink()
    assert server.logs() == ""
    assert "ready" in status()
    assert room.ask(server, "count 20").over().answer.finish_reason == "stop"
