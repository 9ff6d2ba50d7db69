"""What vLLM has beside the OpenAI API, asked of a server that keeps what it hears."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from magistral_nb.asking.engine_api import EngineApi


@pytest.fixture
def heard():
    """The Authorization of each request, by its path; the address is under ""."""
    found: dict[str, str | None] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found[self.path] = self.headers["Authorization"]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found[""] = f"http://127.0.0.1:{server.server_port}/v1"
        yield found
        server.shutdown()


def test_whether_it_lives_is_asked_without_the_key(heard):
    api = EngineApi(heard[""], "secret")
    assert api.is_healthy()
    assert not api.has_lost_its_engine()
    assert heard["/health"] is None


def test_anything_else_is_asked_with_it_unless_told_otherwise(heard):
    api = EngineApi(heard[""], "secret")
    api.request("GET", "/v1/models")
    api.request("GET", "/metrics", with_key=False)
    assert (heard["/v1/models"], heard["/metrics"]) == ("Bearer secret", None)
