"""What 100 answers at once cost the client, and how late it sees their tokens, beside the openai client's own loop.

    python tests/bench/many_streams.py [--streams 100] [--rate 100] [--seconds 12]

A server in another process answers every question in vLLM 0.32's own format with token ids: like vLLM it makes
a step every 1/rate seconds, in which each stream gets a token, and the token's text is the time at which it was
sent. Lag is from then until the client's event is recorded: when `Draft.add` returns in ours, when `async for`
hands over the chunk in the rival. CPU is that of the client's process with all its threads, as a share of one
core: time.process_time over the wall clock. Ours is the public `areason`, which counts, drafts the Answer and
keeps it in a journal; the rival does nothing but read. Targets: under one core, p99 of the lag under 0.25 s.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stand_in import done, finish, reasoning, role, usage

import magistral_nb
from magistral_nb import paths
from magistral_nb.asking.draft import Draft
from magistral_nb.asking.events import Thinking

CPU_TARGET, LAG_TARGET = 1.0, 0.25  # cores, seconds
PROMPT_TOKENS = 60


# The server


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


STAMP = b"0000000.000000"
BEFORE, AFTER = chunked(reasoning(" " + STAMP.decode(), [4711])).split(STAMP)
START = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PAGES = {
    b"models": b'{"object": "list", "data": [{"id": "stand-in", "object": "model", "max_model_len": 40960}]}',
    b"version": b'{"version": "0.32.0"}',
    b"tokenize": b'{"count": %d, "max_model_len": 40960}' % PROMPT_TOKENS,
}


class Steps:
    """All streams, and the steps in which they get their tokens."""

    def __init__(self, rate: float) -> None:
        self.pause = 1 / rate
        self.left: dict[asyncio.StreamWriter, int] = {}
        self.ended: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self.pause, time.monotonic() - 1)  # a stalled machine is not caught up with for long
            await asyncio.sleep(due - time.monotonic())
            for writer, left in list(self.left.items()):
                writer.write(BEFORE + b"%014.6f" % time.monotonic() + AFTER)
                if left == 1 or writer.is_closing():
                    del self.left[writer]
                    self.ended.pop(writer).set()
                else:
                    self.left[writer] = left - 1

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1]))) if length else {}
            page = PAGES.get(head.split()[1].rpartition(b"/")[2])
            if page is not None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(page) + page)
                continue
            count = body.get("max_tokens", 1)
            writer.write(START + chunked(role(list(range(PROMPT_TOKENS)))))
            ended = self.ended[writer] = asyncio.Event()
            self.left[writer] = count
            await ended.wait()
            end = (finish("length"), usage(PROMPT_TOKENS, count, count), done())
            writer.write(b"".join(map(chunked, end)) + b"0\r\n\r\n")


async def serve(rate: float) -> None:
    """Answer on a free port, which is printed."""
    steps = Steps(rate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await steps.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await steps.run()


# The clients


def note(lags: list[float], text: str) -> None:
    """The age of each token in a piece of text."""
    now = time.monotonic()
    lags.extend(now - float(sent) for sent in text.split())


def ours(url: str, n_streams: int, n_tokens: int) -> list[float]:
    """The public function; only `Draft.add` is watched."""
    magistral_nb.connect(url)
    lags: list[float] = []
    add = Draft.add

    def watched(self: Draft, event: object) -> None:
        add(self, event)
        if event.__class__ is Thinking:
            note(lags, event.text)

    async def ask_all() -> list[magistral_nb.Answer]:
        asked = [magistral_nb.areason(f"{n}?", max_tokens=n_tokens) for n in range(n_streams)]
        return await asyncio.gather(*asked)

    Draft.add = watched
    try:
        answers = asyncio.run(ask_all())
    finally:
        Draft.add = add
    assert all(answer.usage.thinking_tokens == n_tokens for answer in answers), answers[0].error
    return lags


def openai_loops(url: str, n_streams: int, n_tokens: int) -> list[float]:
    """The loop of every tutorial, many times in one event loop."""
    import openai

    lags: list[float] = []

    async def ask(client: openai.AsyncOpenAI, question: str) -> None:
        messages = [{"role": "user", "content": question}]
        stream = await client.chat.completions.create(
            model="stand-in", messages=messages, max_tokens=n_tokens, stream=True
        )
        async for chunk in stream:
            for choice in chunk.choices:
                note(lags, getattr(choice.delta, "reasoning", None) or "")

    async def ask_all() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            await asyncio.gather(*[ask(client, f"{n}?") for n in range(n_streams)])

    asyncio.run(ask_all())
    return lags


RUNS = {"magistral_nb.areason": ours, "openai, async for": openai_loops}


def measure(run, url: str, n_streams: int, n_tokens: int, server: psutil.Process) -> str:
    """One row of the table."""
    server_before = sum(server.cpu_times()[:2])
    cpu, wall = time.process_time(), time.monotonic()
    lags = sorted(run(url, n_streams, n_tokens))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    served = sum(server.cpu_times()[:2]) - server_before
    assert len(lags) == n_streams * n_tokens, f"{len(lags):,} tokens arrived"
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    return (
        f"{cpu / wall:>10.2f}{cpu / len(lags) * 1e6:>10.0f}{p50 * 1e3:>10.1f}{p99 * 1e3:>10.1f}{lags[-1] * 1e3:>10.1f}"
        f"{wall:>9.1f}{served / wall:>10.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100, help="tokens a second of each stream")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.rate))
        return
    command = [sys.executable, __file__, "--serve", "--rate", str(options.rate)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    n_tokens = int(options.rate * options.seconds)
    try:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            os.environ[paths.HOME_VARIABLE] = folder
            for run in RUNS.values():
                run(url, options.streams, 5)  # imports
            print(f"Python {platform.python_version()}, openai {version('openai')}, {os.cpu_count()} cores;", end=" ")
            print(f"{options.streams} streams of {n_tokens:,} tokens at {options.rate:g} a second\n")
            print(f"{'':24}{'CPU,':>10}{'CPU,':>10}{'lag, ms':>10}{'':>20}{'wall,':>9}{'server,':>10}")
            print(f"{'':24}{'cores':>10}{'µs/token':>10}{'p50':>10}{'p99':>10}{'largest':>10}{'s':>9}{'cores':>10}")
            for name, run in RUNS.items():
                print(f"{name:<24}{measure(run, url, options.streams, n_tokens, psutil.Process(server.pid))}")
        print(f"{'target':<24}{CPU_TARGET:>10.2f}{'':>20}{LAG_TARGET * 1e3:>10.1f}")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
