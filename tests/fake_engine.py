"""A stand-in for the `vllm` command: its log lines and its API, in a second instead of half a minute.

It is started by the real supervisor in place of vLLM. Where the model's folder holds a file `behaviour`, its
word says how to misbehave: "die" (while loading), "mute" (never healthy), "useless" (healthy, but every
question is answered with 400), "silent" (healthy, but no question is answered), "deaf" (ignores
SIGTERM and has a child that does too). Words with a number end it while it streams, the first time only ("once") or
whenever it is asked ("always"): "once 3" after three tokens of the thought, "answer 1" after one of the answer that
continues from a closed thought, each with a last word in the log, as a crash has it. A streamed thought has 12 tokens
in half a second. In place of a port it takes vLLM's --uds, and then it can sleep.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

LOG = """\
INFO 11-21 [api_utils.py:347]  version 0.32.0
INFO 11-21 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'
INFO 11-21 [cpu_model_runner.py:68] Starting to load model m...
Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]
Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 33.34it/s]
INFO 11-21 [kv_cache_utils.py:2327] CPU KV cache size: 32,768 tokens
INFO 11-21 [entry.py:140] Starting vLLM server on http://127.0.0.1:8765
INFO:     Application startup complete.
"""
DEATH = """\
Traceback (most recent call last):
ValueError: the weights are made of cheese
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


THOUGHT = ["1", *(f" {number}" for number in range(2, 13))]
ANSWER = ["I counted", " to twelve."]


class Handler(BaseHTTPRequestHandler):
    behaviour = ""
    asleep = False
    word = Path()
    key = os.environ.get("VLLM_API_KEY", "")

    def log_message(self, *_args):
        pass

    def say(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.path == "/health":
            self.say(503 if self.behaviour == "mute" else 200, {})
        elif self.path == "/is_sleeping":
            self.say(200, {"is_sleeping": Handler.asleep})
        elif self.headers.get("Authorization") != f"Bearer {self.key}":
            self.say(401, {"error": "Unauthorized"})
        else:
            self.say(200, {"data": [{"id": "m", "max_model_len": 1234}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.behaviour == "silent":
            time.sleep(60)
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.say(401, {"error": "Unauthorized"})
        elif self.behaviour == "useless":
            self.say(400, {"error": {"message": "missing 1 required positional argument: 'force_tool_names'"}})
        elif self.path in {"/sleep?level=1", "/wake_up"}:
            Handler.asleep = self.path != "/wake_up"
            self.say(200, {"status": "sleeping" if Handler.asleep else "awake"})
        elif body.get("stream"):
            self.stream("answer" if body.get("continue_final_message") else "thought")
        else:
            self.say(200, {"choices": [{"message": {"content": "4"}}]})

    def stream(self, part):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        deltas = [{"reasoning": text} for text in THOUGHT] if part == "thought" else []
        deltas += [{"content": text} for text in ANSWER]
        for count, delta in enumerate(deltas):
            self.die_after(count, part)
            self.piece({"choices": [{"index": 0, "delta": delta, "finish_reason": None, "token_ids": [count + 100]}]})
            time.sleep(0.04)
        self.piece({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    def piece(self, body):
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")

    def die_after(self, count, part):
        how, _, number = self.behaviour.partition(" ")
        if number == str(count) and how in {"thought": ("once", "always"), "answer": ("answer",)}[part]:
            if how != "always":
                self.word.unlink()
            sys.stderr.write(DEATH)
            sys.stderr.flush()
            os._exit(1)


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        return self.socket.accept()[0], ("", 0)


def main():
    model = sys.argv[2]
    word = Handler.word = Path(model, "behaviour")
    Handler.behaviour = word.read_text().strip() if word.is_file() else ""
    for line in LOG.splitlines(keepends=True)[:3]:
        sys.stderr.write(line)
    time.sleep(0.1)
    if Handler.behaviour == "die":
        sys.stderr.write(DEATH)
        sys.exit(1)
    if Handler.behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
    for line in LOG.splitlines(keepends=True)[3:]:
        sys.stderr.write(line)
        sys.stderr.flush()
        time.sleep(0.01)
    if "--uds" in sys.argv:
        UnixServer(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
