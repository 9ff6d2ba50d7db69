"""What the classroom's proxy costs: latency, CPU per streamed token, memory; beside the same server without it.

    python tests/bench/proxy.py [--seconds 10] [--rate 50]

The server of many_streams.py stands for vLLM: it makes a step every 1/rate seconds, in which each stream gets a token
whose text is the time at which it was sent. The client reads raw sockets, so that its own cost is small. "First event"
is from sending a question until the first event of its reply arrives, the median of 100 questions one after the other.
Lag is from a token's step until it is read. CPU is that of the proxy's process (user and system), memory its resident
set, after the run. Nobody waits in the queue.
"""

from __future__ import annotations

import argparse
import asyncio
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
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sharing"))

from classroom import state_of, until

from magistral_nb.serving import registry
from magistral_nb.sharing import key_ring, usage
from magistral_nb.sharing.share import Share, students_of

STUDENTS = 32
STAMP = re.compile(rb'"reasoning": ?" ([\d.]+)"')


async def ask(port: int, key: str, max_tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first event, and the lag of each token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    message = {"role": "user", "content": "How long does this take?"}
    body = json.dumps({"messages": [message], "stream": True, "max_tokens": max_tokens, "return_token_ids": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    began, first, rest = time.monotonic(), 0.0, b""
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    lags: list[float] = []
    done = False
    while not done:
        data = await reader.read(65536)
        assert data, rest
        now = time.monotonic()
        first = first or (now - began if b"data:" in data else 0.0)
        rest += data
        lags += [now - float(sent) for sent in STAMP.findall(rest)]
        done = b"[DONE]" in rest
        rest = rest[rest.rfind(b"\n\n") :]  # each token is counted once
    writer.close()
    assert len(lags) == max_tokens, (len(lags), max_tokens)
    return first, lags


async def first_events(port: int, key: str) -> float:
    """Milliseconds, the median."""
    times = sorted([(await ask(port, key, 1))[0] for _ in range(100)])
    return times[len(times) // 2] * 1e3


async def streams(port: int, keys: list[str], max_tokens: int) -> list[float]:
    """All lags, in order of size."""
    answers = await asyncio.gather(*[ask(port, key, max_tokens) for key in keys])
    return sorted(lag for _, lags in answers for lag in lags)


def row(name: str, port: int, keys: list[str], n_tokens: int, proxy: psutil.Process | None) -> str:
    before = sum(proxy.cpu_times()[:2]) if proxy else 0.0
    began = time.monotonic()
    lags = asyncio.run(streams(port, keys, n_tokens))
    wall = time.monotonic() - began
    spent = f"{'':>30}"
    if proxy:
        cpu = sum(proxy.cpu_times()[:2]) - before
        spent = f"{cpu / len(lags) * 1e6:>10.0f}{cpu / wall:>10.2f}{proxy.memory_info().rss / 2**20:>10.0f}"
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    return f"{name:<10}{len(keys):>8}{p50 * 1e3:>10.1f}{p99 * 1e3:>10.1f}{spent}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50, help="tokens a second of each stream")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    n_tokens = int(options.rate * options.seconds)
    command = [sys.executable, str(Path(__file__).with_name("many_streams.py")), "--serve", "--rate", str(options.rate)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "default.json"
        direct = int(server.stdout.readline())
        share = Share(students=students_of(str(STUDENTS)), at_once=STUDENTS, tokens_per_minute=10**9)
        registry.save(path, state_of(f"http://127.0.0.1:{direct}/v1", share))
        keys = list(key_ring.add(key_ring.path_of(path), share.students).keys.values())
        proxy = subprocess.Popen([sys.executable, "-P", "-m", "magistral_nb.sharing.proxy", str(path)])
        try:
            report = usage.path_of(path)
            until(lambda: usage.load(report) is not None, 20)
            port, process = usage.load(report).port, psutil.Process(proxy.pid)
            print(f"Python {platform.python_version()}, starlette {version('starlette')},", end=" ")
            print(f"uvicorn {version('uvicorn')}, httpx {version('httpx')}, {os.cpu_count()} cores;", end=" ")
            print(f"streams of {n_tokens:,} tokens at {options.rate:g} a second\n")
            time.sleep(0.5)
            plain, through = (asyncio.run(first_events(each, keys[0])) for each in (direct, port))
            print(f"first event: direct {plain:.1f} ms, through the proxy {through:.1f} ms\n")
            print(f"{'':18}{'lag, ms':>10}{'':>10}{'CPU,':>10}{'CPU,':>10}{'memory,':>10}")
            print(f"{'':10}{'streams':>8}{'p50':>10}{'p99':>10}{'µs/token':>10}{'cores':>10}{'MiB':>10}")
            for number in (1, 8, STUDENTS):
                print(row("direct", direct, keys[:number], n_tokens, None))
                print(row("proxy", port, keys[:number], n_tokens, process))
        finally:
            proxy.terminate()
            server.kill()
            proxy.wait()
            server.wait()


if __name__ == "__main__":
    main()
