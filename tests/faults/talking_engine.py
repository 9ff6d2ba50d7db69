"""The stand-in engine of tests/fake_engine.py, which here also streams, counts what it does, and fails in more ways.

A question "count" is answered with " 0 1 2 …" for ever, "count 40" with forty numbers, a piece every 20 ms; what was
sent, and when, stands in a file `sent` beside the model. /metrics is open as vLLM's is. More words in `behaviour`:
"slow" (takes two seconds to end), "fleeting" (exits with 1 soon after its first question), "leaver" (has a child that
leaves its process group), "robbed" (finds its port taken by a stranger who came a moment before), "unmeasured" (has no
/metrics), "busy" (says that it answers somebody), "chatty" (writes more log than is kept), "confiding" (writes the
tokens of its environment to the log) and "betraying" (does so, and dies of one).
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import fake_engine

MODEL = Path(sys.argv[2])
PACE = 0.02  # seconds between two pieces
CONFIDED = "MAGISTRAL_NB_TEST_CONFIDED"  # the variables whose values a confiding engine writes
PAGE = """\
vllm:num_requests_running{{engine="0"}} {running}
vllm:num_requests_waiting{{engine="0"}} 0.0
vllm:kv_cache_usage_perc{{engine="0"}} 0.0
vllm:generation_tokens_total{{engine="0"}} {generated}
vllm:prompt_tokens_total{{engine="0"}} 12.0
vllm:request_success_total{{engine="0"}} 1.0
"""


class Talker(fake_engine.Handler):
    lock = threading.Lock()
    running = generated = 0

    def do_GET(self):  # noqa: N802 - http.server's name
        if self.path != "/metrics":
            super().do_GET()
        elif self.behaviour == "unmeasured":
            self.say(404, {"detail": "Not Found"})
        else:
            page = PAGE.format(running=Talker.running + (self.behaviour == "busy"), generated=Talker.generated).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    def do_POST(self):  # noqa: N802 - http.server's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.rfile = io.BytesIO(body)  # to be read a second time
        asked = json.loads(body)
        if not asked.get("stream") or self.headers.get("Authorization") != f"Bearer {self.key}":
            super().do_POST()
            if self.behaviour == "fleeting":
                threading.Timer(0.3, os._exit, [1]).start()
            return
        question = asked["messages"][-1]["content"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with Talker.lock:
            Talker.running += 1
        try:
            self.stream(question, self.wanted(question))
        except OSError:
            pass  # the client has gone
        finally:
            with Talker.lock:
                Talker.running -= 1

    def say(self, status, body):
        """As the stand-in does, and as vLLM with a type, without which the openai client takes it for text."""
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def wanted(self, question):
        """How many numbers; any other question, as one by which a server is tried, gets three."""
        words = str(question).split()
        if words[:1] != ["count"]:
            return 3
        return int(words[1]) if words[1:] else -1

    def stream(self, question, wanted):
        number = 0
        with (MODEL / "sent").open("a") as sent:
            while number != wanted:
                self.send({"reasoning": f" {number}"}, [number])
                sent.write(f"{time.monotonic()} {number} {question}\n")
                sent.flush()
                number += 1
                Talker.generated += 1
                time.sleep(PACE)
        self.send({"content": "Done."}, [number])
        self.send({}, None, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, delta, token_ids, finish_reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "token_ids": token_ids}
        self.wfile.write(b"data: " + json.dumps({"object": "x", "choices": [choice]}).encode() + b"\n\n")


def rob(port):
    """A stranger, without our mark, listens on the port from now on, for as long as its file `robber` stands.

    It says that all is well, whatever it is asked, and writes what it hears into that file.
    """
    code = """if True:
        import pathlib, socket, sys
        flag, server = pathlib.Path(sys.argv[2]), socket.create_server(("127.0.0.1", int(sys.argv[1])))
        server.settimeout(0.05)
        print(flush=True)
        while flag.exists():
            try:
                caller, _ = server.accept()
                with caller, flag.open("r+b") as heard:
                    heard.seek(0, 2)
                    heard.write(caller.recv(65536))
                    caller.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
            except OSError:
                pass
    """
    flag = MODEL / "robber"
    flag.touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAGISTRAL_NB")}
    command = [sys.executable, "-c", code, str(port), str(flag)]
    thief = subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, start_new_session=True)
    thief.stdout.readline()
    (MODEL / "behaviour").write_text("")  # once


def main():
    word = MODEL / "behaviour"
    behaviour = word.read_text().strip() if word.is_file() else ""
    if behaviour == "slow":
        signal.signal(signal.SIGTERM, lambda *_: threading.Timer(2.0, os._exit, [0]).start())
    if behaviour == "leaver":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if behaviour == "chatty":
        for number in range(150_000):
            sys.stderr.write(f"INFO 11-21 [loggers.py:259] Engine 000: line {number} of a log that grows and grows\n")
    if behaviour in {"confiding", "betraying"}:
        for name in os.environ[CONFIDED].split():
            sys.stderr.write(f"INFO 11-21 [hub.py:1] {name}={os.environ[name]} and {os.environ[name]} alone\n")
    if behaviour == "betraying":
        sys.stderr.write(f"ValueError: {os.environ['HF_TOKEN']} may not read this model\n")
        sys.exit(1)
    if behaviour == "robbed":
        rob(int(sys.argv[sys.argv.index("--port") + 1]))
    fake_engine.Handler = Talker
    fake_engine.main()


if __name__ == "__main__":
    main()
