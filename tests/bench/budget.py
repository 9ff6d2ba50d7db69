"""How exact a thinking budget is, and what a cut costs, on the real vLLM and a thought that never ends by itself.

    python tests/bench/budget.py [--times 5] [--budgets 0 1 5 100 1000]

A proxy in another process stands before the server, and notes when what passes. Own time is what we add to the
server's. "asking": from the moment at which the token behind the budget has left the proxy for us until the
whole second request has reached it, without the server's own time for /detokenize in between; where nothing is
cut, at a budget of 0, it begins with the call. "return": from the end of the last reply until `reason` returns.
The target is 0.1 s for both together. Rivals, at the same server: vLLM's own `thinking_token_budget`, which it
takes and which does nothing with a Mistral tokenizer, and max_tokens, which cuts and never answers. The first
gets a max_tokens of the budget and a hundred more, or it would think until the context is full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripted_model import write_scripted_model

import magistral_nb
from magistral_nb import paths
from magistral_nb.asking.events import Thinking
from magistral_nb.asking.wire import Wire

TARGET = 0.1  # seconds
SCRIPT = "[THINK]Let me count: one two three four five six[/THINK]I counted for long."
ANSWER = "I counted for long."
QUESTION = "Count."
CHAT = "/v1/chat/completions"
LEEWAY = 100  # tokens for a rival that should have stopped


# The proxy


class Passed(NamedTuple):
    """One request that has passed; times are time.monotonic, which all processes of a machine share."""

    path: str
    sent: float  # its last byte came from the client
    tokens: list[tuple[float, int]]  # thinking tokens up to then, and when they had been handed on
    ended: float  # the reply's last byte was handed on


class Proxy:
    """Hands everything on, both ways; `GET /passed` tells of the requests since the last time."""

    def __init__(self, host: str, port: int) -> None:
        self.target = host, port
        self.passed: list[dict] = []

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(2**16)
        if first.startswith(b"GET /passed "):
            body = json.dumps(self.passed).encode()
            self.passed.clear()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
            writer.close()
            return
        back_reader, back_writer = await asyncio.open_connection(*self.target)
        now: dict = {}
        await asyncio.gather(
            self.hand_on(reader, back_writer, lambda data: self.asked(now, data), first),
            self.hand_on(back_reader, writer, lambda data: self.replied(now, data)),
        )

    async def hand_on(self, reader, writer, note, data=b"") -> None:
        try:
            while data := data or await reader.read(2**16):
                writer.write(data)
                note(data)
                data = b""
        except ConnectionError:
            pass
        writer.close()

    def asked(self, now: dict, data: bytes) -> None:
        if not now or now["ended"]:  # not the rest of a body
            now.clear()
            path = data.split(b" ", 2)[1].decode()
            now |= {"path": path, "sent": 0.0, "tokens": [], "ended": 0.0, "wire": Wire()}
            entry = {name: now[name] for name in Passed._fields}
            self.passed.append(entry)
            now["entry"] = entry
        now["entry"]["sent"] = time.monotonic()

    def replied(self, now: dict, data: bytes) -> None:
        entry = now["entry"]
        now["ended"] = entry["ended"] = time.monotonic()
        if entry["path"] == CHAT:  # an event to a chunk: heads and lengths of chunks are lines that say nothing
            count = sum(event.tokens or 0 for event in now["wire"].feed(data) if isinstance(event, Thinking))
            before = entry["tokens"][-1][1] if entry["tokens"] else 0
            entry["tokens"].append((now["ended"], before + count))


def passed(proxy: str) -> list[Passed]:
    with urllib.request.urlopen(f"{proxy}/passed", timeout=10) as reply:
        return [Passed(**entry) for entry in json.load(reply)]


# The ways


class Row(NamedTuple):
    """What one question came to; own time has its two parts."""

    kept: int
    answered: bool
    wall: float
    asking: float | None = None
    returning: float | None = None

    @property
    def own(self) -> float:
        return (self.asking or 0.0) + (self.returning or 0.0)


def ours(proxy: str, budget: int) -> Row:
    passed(proxy)
    began = time.monotonic()
    answer = magistral_nb.reason(QUESTION, thinking_budget=budget)
    returned = time.monotonic()
    requests = passed(proxy)
    first, last = requests[0], requests[-1]
    cut = began if first is last else next(when for when, count in first.tokens if count > budget)
    served = sum(aside.ended - aside.sent for aside in requests[1:-1])
    kept, answered = answer.usage.thinking_tokens, answer.text == ANSWER
    return Row(kept, answered, returned - began, last.sent - cut - served, returned - last.ended)


def vllm_s_own(server: magistral_nb.Server, budget: int) -> Row:
    return rival(server, thinking_token_budget=budget, max_tokens=budget + LEEWAY)


def max_tokens(server: magistral_nb.Server, budget: int) -> Row | None:
    return rival(server, max_tokens=budget) if budget else None


def rival(server: magistral_nb.Server, **fields: int) -> Row:
    body = {"model": server.model, "messages": [{"role": "user", "content": QUESTION}], **fields}
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.base_url}/chat/completions", json.dumps(body).encode(), headers)
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=600) as reply:
        said = json.load(reply)
    details = said["usage"].get("completion_tokens_details") or {}
    kept = details.get("reasoning_tokens", said["usage"]["completion_tokens"])
    text = said["choices"][0]["message"].get("content") or ""
    return Row(kept, text.strip() == ANSWER, time.monotonic() - began)


def line(name: str, budget: int, rows: list[Row]) -> str:
    kept = sorted({row.kept for row in rows})
    exact = "exact" if kept == [budget] else f"{kept[-1] - budget:+,}"
    answered = f"{sum(row.answered for row in rows)}/{len(rows)}"
    wall = statistics.median(row.wall for row in rows)
    cost = " " * 36
    if rows[0].asking is not None:
        parts = [[row.asking for row in rows], [row.returning for row in rows], [row.own for row in rows]]
        medians = [*map(statistics.median, parts), max(parts[-1])]
        cost = "".join(f"{seconds * 1e3:>9.1f}" for seconds in medians)
    return f"{name:<24}{budget:>6,}{kept[-1]:>8,}{exact:>7}{answered:>10}{cost}{wall:>8.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--budgets", type=int, nargs="+", default=[0, 1, 5, 100, 1000])
    parser.add_argument("--proxy-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.proxy_of:
        address = urlsplit(options.proxy_of)
        asyncio.run(Proxy(address.hostname, address.port).serve())
        return
    engines = paths.engines()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[paths.HOME_VARIABLE] = folder
        (Path(folder) / "cache").mkdir()
        (Path(folder) / "cache" / "engines").symlink_to(engines)
        model = write_scripted_model(Path(folder) / "endless", SCRIPT, loop_from=" one")
        server = magistral_nb.serve(str(model))
        command = [sys.executable, __file__, "--proxy-of", server.base_url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            proxy = f"http://127.0.0.1:{int(process.stdout.readline())}"
            magistral_nb.connect(f"{proxy}/v1", api_key=server.api_key, name="proxied")
            ours(proxy, 3)  # imports and connections
            compare(proxy, server, options.budgets, options.times)
        finally:
            process.kill()
            process.wait()
            server.stop()


def compare(proxy: str, server: magistral_nb.Server, budgets: list[int], times: int) -> None:
    with urllib.request.urlopen(server.base_url.replace("/v1", "/version"), timeout=10) as reply:
        engine = json.load(reply)["version"]
    print(f"Python {platform.python_version()}, openai {version('openai')}, vLLM {engine} on a CPU; {times} times\n")
    print(f"{'':38}{'':>17}{'own time, ms: median of':>29}{'':>7}{'wall,':>8}")
    print(f"{'':24}{'budget':>6}{'kept':>8}{'answered':>17}", end="")
    print(f"{'asking':>9}{'return':>9}{'both':>9}{'largest':>9}{'s':>8}")
    worst = 0.0
    for budget in budgets:
        rows = [ours(proxy, budget) for _ in range(times)]
        worst = max(worst, *(row.own for row in rows))
        print(line("thinking_budget", budget, rows))
        for name, way in (("vLLM's own parameter", vllm_s_own), ("max_tokens", max_tokens)):
            row = way(server, budget)
            if row is not None:
                print(line(f"  {name}", budget, [row]), flush=True)
    verdict = "within" if worst <= TARGET else "OVER"
    print(f"\nlargest own time {worst * 1e3:.1f} ms: {verdict} the target of {TARGET * 1e3:g} ms")


if __name__ == "__main__":
    main()
