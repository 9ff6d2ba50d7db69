"""A hub on this machine: the two routes by which a repository is read, its refusals, and huggingface_hub's cache.

    with ScriptedHub() as hub:
        hub.repositories["you/model"] = {"config.json": b"{}", "model.safetensors": 48_000_000_000}
        ...  # with HF_ENDPOINT at hub.url
        assert hub.asked == ["/api/models/you/model?blobs=true", "/you/model/resolve/main/config.json"]

A number in place of a file's bytes is its size: such a file is listed, and nobody may fetch it.
"""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Repository = dict[str, bytes | int]
NOBODY = "http://127.0.0.1:9"  # nobody listens there


class ScriptedHub:
    """The server.

    Attributes:
        repositories: files by repository.
        cards: the front matter of a repository's card.
        refusals: by the beginning of a path: status, X-Error-Code and X-Error-Message.
        asked: every path, in the order of arrival.
        tokens: what came with them as Authorization.
        sent: bytes of each answer.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.refusals: dict[str, tuple[int, str, str]] = {}
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.sent: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), name="hub")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply_to(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        for beginning, (status, code, message) in self.refusals.items():
            if path.startswith(beginning):
                return status, b"", {"X-Error-Code": code, "X-Error-Message": message}
        name = path.partition("?")[0].removeprefix("/api/models/")
        if name in self.repositories:
            files = self.repositories[name].items()
            siblings = [
                {"rfilename": file, "size": size if isinstance(size, int) else len(size)} for file, size in files
            ]
            return 200, json.dumps({"id": name, "siblings": siblings, "cardData": self.cards.get(name)}).encode(), {}
        repository, _, file = path.removeprefix("/").partition("/resolve/main/")
        content = self.repositories.get(repository, {}).get(file)
        if isinstance(content, bytes):
            return 200, content, {}
        return 404, b"", {"X-Error-Code": "EntryNotFound" if repository in self.repositories else "RepoNotFound"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: ScriptedHub, *connection: Any) -> None:
        self._hub = hub
        super().__init__(*connection)

    def do_GET(self) -> None:
        self._hub.asked.append(self.path)
        self._hub.tokens.append(self.headers["Authorization"])
        status, content, headers = self._hub.reply_to(self.path)
        if (wanted := self.headers["Range"]) and status == 200:
            status, content = 206, content[-int(wanted.removeprefix("bytes=-")) :]
        self._hub.sent.append(len(content))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")  # a connection that is kept would hold the server's end up
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def put_into_cache(cache: Path, repository: str, files: Mapping[str, bytes]) -> Path:
    """Lay files where huggingface_hub keeps what it has downloaded."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot
