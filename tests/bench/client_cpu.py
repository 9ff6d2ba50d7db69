"""What a streamed chunk costs the client in CPU time, from socket to Answer, beside the openai client's own loop.

    python tests/bench/client_cpu.py [--chunks 20000] [--rate 4000] [--profile]

A server in another process streams one and the same reply, in vLLM 0.32's own format with token ids, every
chunk an HTTP chunk and a packet of its own: once as fast as the client reads, once at a steady rate, where the
client wakes up for every chunk. CPU time is that of this process with all its threads (time.process_time);
the best of three runs. Columns: microseconds a chunk, and how many times less than the bare openai loop.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from stand_in import content, done, finish, reasoning, role, usage  # noqa: E402 - a script finds it by the path above

PER_MILLION = 1e6


# The server


def reply(n_chunks: int) -> list[bytes]:
    """Four fifths thinking, as a reasoning model's replies are, with a two-byte character now and then."""
    n_thinking = n_chunks * 4 // 5
    words = [" so", " 347", " ×", " 58", " is", " more", " than", " twenty", " thousand", ".\n\nWait"]
    events = [role(list(range(60)))]
    events += [reasoning(words[i % 10], [1000 + i % 5000]) for i in range(n_thinking)]
    events += [content(words[i % 10], [1000 + i % 5000]) for i in range(n_chunks - n_thinking)]
    return [*events, finish("stop"), usage(60, n_chunks, n_thinking), done()]


def serve() -> None:
    """Answer every request on a free port, which is printed; the body says how many chunks and how fast."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer_all, args=(connection,), daemon=True).start()


def answer_all(connection: socket.socket) -> None:
    file = connection.makefile("rb")
    while file.readline():
        length = 0
        while header := file.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = json.loads(file.read(length))
        packets = [f"{len(event):x}\r\n".encode() + event + b"\r\n" for event in reply(body["max_tokens"])]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        pause = 1 / body["seed"] if body["seed"] else 0.0
        due = time.perf_counter()
        for packet in packets:
            due += pause
            if pause and (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            connection.sendall(packet)
        connection.sendall(b"0\r\n\r\n")


# The clients


def ours(url: str, n_chunks: int, rate: int) -> int:
    """Thread, queue, events, draft: all that `%%reason` does but draw."""
    from magistral_nb.asking.endpoint import Endpoint, Question
    from magistral_nb.asking.running import Running

    question = Question(text="347 × 58?", max_tokens=n_chunks, seed=rate)
    answer = Running(Endpoint(url, "stand-in"), question).follow([])
    assert answer.usage.completion_tokens == n_chunks, answer.error
    return len(answer.thinking) + len(answer.text)


def openai_loop(url: str, n_chunks: int, rate: int) -> int:
    """The loop of every tutorial."""
    length = 0
    for chunk in client(url).chat.completions.create(**request(n_chunks, rate)):
        for choice in chunk.choices:
            length += len(getattr(choice.delta, "reasoning", None) or choice.delta.content or "")
    return length


def raw_lines(url: str, n_chunks: int, rate: int) -> int:
    """The same client's lines and json.loads: about the least that Python can do."""
    length = 0
    with client(url).chat.completions.with_streaming_response.create(**request(n_chunks, rate)) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    length += len(choice["delta"].get("reasoning") or choice["delta"].get("content") or "")
    return length


def wire_alone(url: str, n_chunks: int, rate: int) -> int:
    """Bytes to events, without a socket."""
    from magistral_nb.asking.wire import Wire

    del url, rate
    wire = Wire()
    return sum(len(getattr(event, "text", "")) for packet in reply_once(n_chunks) for event in wire.feed(packet))


def client(url: str):
    import openai

    if url not in CLIENTS:
        CLIENTS[url] = openai.OpenAI(base_url=url, api_key="none")
    return CLIENTS[url]


def request(n_chunks: int, rate: int) -> dict:
    messages = [{"role": "user", "content": "347 × 58?"}]
    return {"model": "stand-in", "messages": messages, "stream": True, "max_tokens": n_chunks, "seed": rate}


def reply_once(n_chunks: int) -> list[bytes]:
    if n_chunks not in REPLIES:
        REPLIES[n_chunks] = reply(n_chunks)
    return REPLIES[n_chunks]


CLIENTS: dict = {}
REPLIES: dict[int, list[bytes]] = {}
RUNS = {
    "openai loop": openai_loop,
    "ours, to the Answer": ours,
    "raw lines + json": raw_lines,
    "Wire alone": wire_alone,
}


def measure(run, url: str, n_chunks: int, rate: int, times: int = 3) -> tuple[float, int]:
    """CPU microseconds a chunk, the best of some runs, and how much text was read."""
    reply_once(n_chunks)
    best, length = float("inf"), 0
    for _ in range(times):
        began = time.process_time()
        length = run(url, n_chunks, rate)
        best = min(best, time.process_time() - began)
    return best * PER_MILLION / n_chunks, length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=4_000, help="chunks a second of the steady stream")
    parser.add_argument("--profile", action="store_true", help="say where our time goes, instead")
    options = parser.parse_args()
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        for run in RUNS.values():
            run(url, 200, 0)  # imports and connections
        if options.profile:
            profile(url, options.chunks)
            return
        print(f"Python {platform.python_version()}, openai {version('openai')}, {options.chunks:,} chunks")
        for how, rate in (("as fast as it reads", 0), (f"{options.rate:,} chunks a second", options.rate)):
            print(f"\n{how:24} µs/chunk   openai loop / this")
            base = None
            lengths = set()
            for name, run in RUNS.items():
                micros, length = measure(run, url, options.chunks, rate)
                base = base or micros
                lengths.add(length)
                print(f"{name:24} {micros:8.1f}   {base / micros:8.1f} ×")
            assert len(lengths) == 1 or rate, lengths
    finally:
        server.kill()
        server.wait()


def profile(url: str, n_chunks: int) -> None:
    """Run the events and the draft in this thread, where cProfile sees them."""
    from magistral_nb.asking.draft import Draft
    from magistral_nb.asking.endpoint import Endpoint, Question
    from magistral_nb.asking.stream import Stream

    stream = Stream(Endpoint(url, "stand-in"), Question(text="347 × 58?", max_tokens=n_chunks, seed=0))
    draft = Draft("347 × 58?", model="stand-in", server="bench")
    profiler = cProfile.Profile()
    profiler.enable()
    for event in stream.events():
        draft.add(event)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
