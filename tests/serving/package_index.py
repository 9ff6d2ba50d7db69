"""Package indexes served from a folder, for the real pip and the real uv; nobody is asked outside this machine."""

import contextlib
import hashlib
import http.server
import json
import os
import threading
import time
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

MAIN = "import importlib.metadata as m, sys\nif __name__ == '__main__': print(m.version('vllm'), *sys.argv[1:])\n"
# As the real one: the device is told by the version; a CUDA build on a machine without a GPU knows of none.
PLATFORMS = """
import importlib.metadata, types
current_platform = types.SimpleNamespace(device_type="cpu" if "cpu" in importlib.metadata.version("vllm") else "")
"""
VLLM = {f"vllm/{place}__init__.py": "" for place in ("", "entrypoints/", "entrypoints/cli/")} | {
    "vllm/entrypoints/cli/main.py": MAIN,
    "vllm/platforms.py": PLATFORMS,
}


def make_wheel(folder, name, version, files, requires=()):
    """Put a wheel into a folder of an index; its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(inner, text)
    page = "".join(f'<a href="{file.name}">{file.name}</a>' for file in folder.glob("*.whl"))
    (folder / "index.html").write_text(page)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; a request for what `stalls` names is never answered.

    With `uploaded`, wheel to time, pages are JSON and tell when their files came, as PyPI's do.
    """

    stalls = ""
    stalled = threading.Event()
    uploaded: dict = {}  # noqa: RUF012 - replaced, never changed

    def do_GET(self):
        if Pages.stalls and Pages.stalls in self.path:
            Pages.stalled.set()
            time.sleep(30)
        with contextlib.suppress(ConnectionError):  # an installer that was interrupted hangs up
            folder = Path(self.translate_path(self.path))
            if Pages.uploaded and self.path.endswith("/") and folder.is_dir():
                self.tell(folder)
            else:
                super().do_GET()

    def tell(self, folder):
        files = [
            {"filename": wheel.name, "url": wheel.name, "hashes": {}, "upload-time": Pages.uploaded[wheel.name]}
            for wheel in folder.glob("*.whl")
        ]
        body = json.dumps({"meta": {"api-version": "1.1"}, "name": folder.name, "files": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@dataclass
class Index:
    """Where the indexes are served, from which folder; the user's is its folder "user"."""

    url: str
    folder: Path

    @property
    def lock(self):
        return self.folder.parent / "lock.txt"


@contextlib.contextmanager
def serve_index(folder, monkeypatch):
    """Serve indexes from a folder, and let pip and uv know of the user's alone."""
    folder.mkdir(parents=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=folder))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    # /dev/null: no configuration file of this machine may bring torch along.
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{url}/user",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "UV_NO_CACHE": "1",
        "UV_NO_CONFIG": "1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Pages, "stalls", "")
    monkeypatch.setattr(Pages, "stalled", threading.Event())
    monkeypatch.setattr(Pages, "uploaded", {})
    try:
        yield Index(url, folder)
    finally:
        server.shutdown()
        server.server_close()
