"""A long day in minutes: 200 questions over 8 notebooks at once to the real vLLM (CPU), while things go wrong.

Notebooks are processes of their own. As a seed has drawn it, some interrupt their question, some are killed in
mid-stream and started again, and halfway vLLM is killed. In the end every question has an answer, or a part of one with
a reason, in the journal, all that had arrived is in it, and neither the supervisor nor a notebook has grown.
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from faults.harness import PATIENCE, SETTLED, Room, engine_of, runtime_folder, supervisor_of, until

import magistral_nb
from magistral_nb import paths
from magistral_nb.answers.journal import journal
from magistral_nb.answers.journal_row import CUT_SHORT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]

QUESTIONS, STREAMS = 200, 8
SEED = 6
CUT, KILLED = 0.12, 0.08  # of the questions; interrupted by their notebook, and killed with it
CLIENT = [sys.executable, str(Path(__file__).with_name("soak_client.py"))]
WARM = 5  # questions after which a process has loaded what it needs
# Bytes that a process may grow by. What grows at first are caches with a bound (SQLite's pages, 2 MB; connections;
# compiled patterns) and the gaps between Python's objects; a leak of an answer's text, or of the metrics page, which is
# read every 30 s, would be many times that over the day.
GROWTH = {"supervisor": 3e6, "notebook": 12e6}


class Notebook:
    """A process that asks; it can be killed, and is started again."""

    def __init__(self) -> None:
        self.starts = 0
        self.memory: list[int] = []
        self.start()

    def start(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(CLIENT, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout.readline() == "ready\n"
        self.starts += 1

    def ask(self, question: str, file: Path, *, cut: float | None = None) -> None:
        self.process.stdin.write(json.dumps({"question": question, "cut": cut, "file": str(file)}) + "\n")
        self.process.stdin.flush()

    def told(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        self.process.wait(PATIENCE)


class Day:
    """The soak."""

    def __init__(self, server: magistral_nb.Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.outcomes: dict[str, dict] = {}
        self.killed_at: dict[str, float] = {}
        self.notebooks: dict[int, Notebook] = {}  # by stream
        self._left: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        draw = random.Random(SEED)
        for number in range(QUESTIONS):
            a, b = draw.randint(100, 999), draw.randint(11, 99)
            self._left.put((number, f"What is {a} {draw.choice('+-×')} {b}? ({number})"))
        # Later than that, on a quick machine, most have their answer already.
        self._plans = {number: (draw.random(), draw.uniform(SETTLED, 3.0)) for number in range(QUESTIONS)}
        self.engine_killed = 0

    def run(self) -> None:
        threads = [threading.Thread(target=self._stream, args=(number,)) for number in range(STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def file(self, question: str) -> Path:
        return self.folder / f"{question.rpartition('(')[2].rstrip(')')}.arrived"

    def _stream(self, stream: int) -> None:
        notebook = Notebook()
        self.notebooks[stream] = notebook
        while True:
            try:
                number, question = self._left.get_nowait()
            except queue.Empty:
                break
            if number == QUESTIONS // 2:
                os.kill(engine_of(self.server).pid, signal.SIGKILL)
                self.engine_killed += 1
            chance, seconds = self._plans[number]
            # The first notebook is never killed: its memory is looked at.
            if chance < KILLED and stream:
                notebook.ask(question, self.file(question))
                until(self.file(question).exists, "it is about to ask", 60)
                time.sleep(seconds)
                self.killed_at[question] = time.monotonic()
                notebook.kill()
                notebook.start()
            else:
                notebook.ask(question, self.file(question), cut=seconds if chance > 1 - CUT else None)
                self.outcomes[question] = told = notebook.told()
                notebook.memory.append(told["memory"])
        notebook.end()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """One of its own, with the real engines: this server is killed."""
    folder = tmp_path / "home"
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "engines").symlink_to(ENGINES)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(folder))
    return folder


ENGINES = paths.engines()


@pytest.fixture
def room(home) -> Iterator[Room]:
    found = Room(home)
    with runtime_folder():
        yield found
        try:
            for server in magistral_nb.servers():
                server.stop()
            found.check()
            assert found.ours() == set()
        finally:
            found.sweep()


def arrived(file: Path, before: float) -> str:
    """What a notebook's view had been shown by then."""
    lines = file.read_text().splitlines() if file.exists() else []
    pieces = [json.loads(line) for line in lines if line.endswith("]")]
    return "".join(text for at, text in pieces if at < before)


def looked_at(day: Day) -> tuple[list[str], Counter[str], int]:
    """What is lost, how the questions ended, and how many tokens they took, by the journal."""
    assert journal().flush()
    rows = magistral_nb.history(limit=10 * QUESTIONS)
    kept = {row.prompt: magistral_nb.recall(row.id) for row in rows.itertuples()}
    lost, reasons, tokens = [], Counter(), 0
    for question in [*day.outcomes, *day.killed_at]:
        told = day.outcomes.get(question, {})
        # One that was interrupted a moment after its end was asked again: each is known by its id.
        answer = magistral_nb.recall(told["id"]) if "id" in told else kept.get(question)
        if answer is None:
            lost.append(f"{question}: not in the journal")
            continue
        if "id" in told and (answer.thinking, answer.text) != (told["thinking"], told["text"]):
            lost.append(f"{question}: the journal has another text than the Answer")
        moment = day.killed_at[question] - SETTLED if question in day.killed_at else float("inf")
        if not (answer.thinking + answer.text).startswith(arrived(day.file(question), moment)):
            lost.append(f"{question}: what had arrived is not in the journal")
        if answer.finish_reason == "stop" and not answer.text:
            lost.append(f"{question}: ended without an answer")
        if answer.finish_reason == "error" and not answer.error:
            lost.append(f"{question}: ended without a reason")
        reasons["killed with its notebook" if answer.error == CUT_SHORT else answer.finish_reason] += 1
        tokens += answer.usage.completion_tokens or 0
    return lost, reasons, tokens


def test_two_hundred_questions_and_nothing_is_lost(room, tmp_path):
    server = magistral_nb.serve("abacus", restart="on-failure")
    room.note()
    (tmp_path / "arrived").mkdir()
    day = Day(server, tmp_path / "arrived")
    watched = psutil.Process(supervisor_of(server).pid)
    server.reason("What is 2 + 2?")
    memory, began = [watched.memory_info().rss], time.monotonic()
    day.run()
    seconds = time.monotonic() - began
    memory.append(watched.memory_info().rss)
    assert day.engine_killed == 1
    until(lambda: server.status() == "ready", "it is up again", 300)
    assert watched.is_running(), "the same supervisor"
    lost, reasons, tokens = looked_at(day)
    first = day.notebooks[0].memory
    grown = f"{first[WARM] / 1e6:.1f} MB after {WARM} questions, {first[-1] / 1e6:.1f} MB after {len(first)}"
    table = {
        "questions": f"{len(day.outcomes) + len(day.killed_at)}, over {STREAMS} streams in {seconds:.0f} s",
        **{f"  {how}": count for how, count in reasons.most_common()},
        "notebooks killed and started again": sum(each.starts for each in day.notebooks.values()) - STREAMS,
        "vLLM killed": f"{day.engine_killed}, started again {server.state().restarts} time(s)",
        "tokens": f"{tokens:,}, {tokens / seconds:.0f} a second",
        "lost": len(lost),
        "supervisor": f"{memory[0] / 1e6:.1f} MB, then {memory[1] / 1e6:.1f} MB",
        "a notebook": grown,
    }
    print("", *(f"{what:36}{value}" for what, value in table.items()), sep="\n")
    assert lost == []
    assert len(day.outcomes) + len(day.killed_at) == QUESTIONS == sum(reasons.values())
    assert reasons["stop"] > QUESTIONS / 2
    assert reasons["interrupted"] > 5
    assert reasons["killed with its notebook"] > 2, "some had no answer yet"
    assert memory[1] - memory[0] < GROWTH["supervisor"]
    assert first[-1] - first[WARM] < GROWTH["notebook"]
