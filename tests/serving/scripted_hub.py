"""A hub on this machine: the routes by which a repository is read, its refusals, and huggingface_hub's cache.

    with ScriptedHub() as hub:
        hub.repositories["you/model"] = {"config.json": b"{}", "model.safetensors": 48_000_000_000}
        ...  # with HF_ENDPOINT at hub.url
        assert hub.asked == ["/api/models/you/model?blobs=true", "/you/model/resolve/main/config.json"]

A number in place of a file's bytes is its size: such a file is listed, and nobody may fetch it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Repository = dict[str, bytes | int]
NOBODY = "http://127.0.0.1:9"  # nobody listens there
COMMIT = "c0ffee" * 6 + "beef"  # all repositories are at this one
_REVISION = f"(?:main|{COMMIT})"
_LISTED = re.compile(rf"/api/models/(.+?)(?:/revision/{_REVISION})?")
_TREE = re.compile(rf"/api/models/(.+)/tree/{_REVISION}")
_FILE = re.compile(rf"/(.+)/resolve/{_REVISION}/(.+)")
_SLICE = 2**16  # bytes that are sent at a time


class ScriptedHub:
    """The server.

    Attributes:
        repositories: files by repository.
        cards: the front matter of a repository's card.
        refusals: by the beginning of a path: status, X-Error-Code and X-Error-Message.
        cuts: bytes after which the next answers with a file break off, one after the other.
        elsewhere: another server, to which requests for files are sent on.
        ranges: whether it sends parts of files.
        pause: seconds between two slices of an answer.
        asked: every path that was asked for with GET, in the order of arrival.
        spans: what came with them as Range.
        tokens: what came with them as Authorization.
        sent: bytes of each answer.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.refusals: dict[str, tuple[int, str, str]] = {}
        self.cuts: list[int] = []
        self.elsewhere: str | None = None
        self.ranges = True
        self.pause = 0.0
        self.asked: list[str] = []
        self.spans: list[str | None] = []
        self.tokens: list[str | None] = []
        self.sent: list[int] = []
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
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
        path = path.partition("?")[0]
        if found := _TREE.fullmatch(path):
            return 200, json.dumps([_in_tree(*each) for each in self._sizes(found[1])]).encode(), {}
        if (found := _LISTED.fullmatch(path)) and found[1] in self.repositories:
            siblings = [{"rfilename": file, "size": size} for file, size in self._sizes(found[1])]
            told = {"id": found[1], "sha": COMMIT, "siblings": siblings, "cardData": self.cards.get(found[1])}
            return 200, json.dumps(told).encode(), {}
        repository, file = found.groups() if (found := _FILE.fullmatch(path)) else ("", "")
        content = self.repositories.get(repository, {}).get(file)
        if isinstance(content, bytes):
            return 200, content, {"ETag": f'"{etag_of(content)}"', "X-Repo-Commit": COMMIT}
        return 404, b"", {"X-Error-Code": "EntryNotFound" if repository in self.repositories else "RepoNotFound"}

    def _sizes(self, repository: str) -> list[tuple[str, int]]:
        files = self.repositories[repository].items()
        return [(name, content if isinstance(content, int) else len(content)) for name, content in files]


@cache
def etag_of(content: bytes) -> str:
    """Under which huggingface_hub's cache keeps a file."""
    return hashlib.sha256(content).hexdigest()


def _in_tree(name: str, size: int) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # five by default, and a download comes with eight connections at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: ScriptedHub, *connection: Any) -> None:
        self._hub = hub
        super().__init__(*connection)

    def do_HEAD(self) -> None:
        status, content, headers = self._hub.reply_to(self.path)
        self._begin(status, headers | {"Content-Length": str(len(content))})

    def do_GET(self) -> None:
        hub = self._hub
        hub.asked.append(self.path)
        hub.tokens.append(self.headers["Authorization"])
        hub.spans.append(self.headers["Range"])
        status, content, headers = hub.reply_to(self.path)
        of_file = "ETag" in headers
        if of_file and hub.elsewhere:
            status, content, headers = 302, b"", {"Location": f"{hub.elsewhere}{self.path}"}
        elif self.headers["Range"] and status == 200 and hub.ranges:
            status, whole = 206, len(content)
            first, last = _span(self.headers["Range"], whole)
            content = content[first : last + 1]
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{whole}"}
        hub.sent.append(len(content))
        self._begin(status, headers | {"Content-Length": str(len(content))})
        if of_file and hub.cuts:
            content = content[: hub.cuts.pop(0)]
        for start in range(0, len(content), _SLICE):
            self.wfile.write(content[start : start + _SLICE])
            time.sleep(hub.pause)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")  # a connection that is kept would hold the server's end up
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _span(header: str, whole: int) -> tuple[int, int]:
    """The first and the last byte that a Range asks for."""
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, whole - int(last)), whole - 1
    return int(first), min(int(last or whole), whole - 1)


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
