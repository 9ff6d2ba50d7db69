"""A real JupyterLab in a real browser, for tests to drive.

    with start_lab(folder) as server, open_browser() as browser:
        page = Lab(server, browser)
        page.open(server.write("hello.ipynb", ["print(6 * 7)"]))
        page.run_all()
        page.wait_cell(0)

Every server has folders of its own for settings, kernels' state and history, all in `folder`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from nbformat import NotebookNode
    from playwright.sync_api import Browser, Locator

PICTURES = Path(__file__).parent / "pictures"
ROOT = Path(__file__).parents[2]

_TOKEN = "token"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook"

# The page's own indicator says "idle" before the kernel's socket is up, and a cell run then is lost: ask the app.
_IDLE = """async () => {
    const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
    if (!session) return false;
    await session.ready;
    const kernel = session.session?.kernel;
    if (!kernel || kernel.connectionStatus !== "connected") return false;
    await kernel.info;
    return kernel.status === "idle";
}"""


@dataclass
class LabServer:
    """A JupyterLab that runs; notebooks lie in `folder`."""

    folder: Path
    port: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}{'&' if '?' in path else '?'}token={_TOKEN}"

    def write(self, name: str, cells: Sequence[str]) -> str:
        """Write a notebook of code cells and return its name."""
        import nbformat  # a second of imports, which only this needs

        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
        )
        nbformat.write(notebook, self.folder / name)
        return name

    def read(self, name: str) -> NotebookNode:
        import nbformat

        return nbformat.read(self.folder / name, as_version=4)


@contextlib.contextmanager
def start_lab(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[LabServer]:
    """Start JupyterLab; its kernels can import this project and see `environment` on top of the present one."""
    notebooks = folder / "notebooks"
    notebooks.mkdir(parents=True)
    chosen = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    chosen.parent.mkdir(parents=True)
    chosen.write_text('{"fetchNews": "false"}')  # else a question about news covers the page
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={_TOKEN}", f"--ServerApp.root_dir={notebooks}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **own, **(environment or {})}, cwd=notebooks, stdout=log, stderr=log
        )
        server = LabServer(notebooks, port)
        try:
            _wait(lambda: process.poll() is not None or _answers(server.url("api/status")), 120, "JupyterLab")
            assert process.poll() is None, (folder / "lab.log").read_text()
            yield server
        finally:
            process.terminate()  # it shuts its kernels down
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    assert path, "no Chromium on this machine: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Lab:
    """One browser window on a JupyterLab.

    Attributes:
        page: Playwright's page, for what this class does not do.
        errors: what JavaScript threw, and what the console called an error.
    """

    server: LabServer
    browser: Browser
    width: int = 1100
    height: int = 800
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context = self.browser.new_context(viewport={"width": self.width, "height": self.height})
        self.page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def close(self) -> None:
        """Close the window; the kernel goes on."""
        self._context.close()

    def open(self, name: str, *, kernel: bool = True) -> None:
        """Open a notebook; `kernel=False` opens it and shuts the kernel down before anything can run."""
        self.page.goto(self.server.url(f"lab/tree/{name}?reset"), wait_until="domcontentloaded")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=90_000)
        self.page.wait_for_selector(f"{_NOTEBOOK} .jp-Cell", timeout=60_000)
        self.wait_idle()
        if not kernel:
            self.shutdown_kernel()

    def wait_idle(self, seconds: float = 90) -> None:
        """Wait until the kernel is there and has nothing to do."""
        _wait(lambda: self.page.evaluate(_IDLE), seconds, "an idle kernel")

    def run_all(self) -> None:
        """Start all cells and return at once."""
        self._start("notebook:run-all-cells")

    def run_cell(self, index: int) -> None:
        """Start one cell and return at once."""
        self.cell(index).locator(".jp-InputPrompt").first.click()
        self.page.keyboard.press("Control+Enter")

    def interrupt(self) -> None:
        """What the square in the toolbar does."""
        self.command("notebook:interrupt-kernel")

    def save(self) -> None:
        self.command("docmanager:save")

    def shutdown_kernel(self) -> None:
        """Shut down without the question that the menu asks."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")

    def theme(self, name: str) -> None:
        """Choose "JupyterLab Light", "JupyterLab Dark" or another that is installed."""
        self.command("apputils:change-theme", {"theme": name})
        self.page.wait_for_selector(f"body[data-jp-theme-name='{name}']", state="attached")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")

    def command(self, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Run one of JupyterLab's commands and wait for it."""
        self.page.evaluate(
            "([name, arguments]) => window.jupyterapp.commands.execute(name, arguments).then(() => null)",
            [name, dict(arguments or {})],
        )

    def cell(self, index: int) -> Locator:
        return self.page.locator(f"{_NOTEBOOK} .jp-CodeCell").nth(index)

    def outputs(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-OutputArea-output")

    def wait_cell(self, index: int, seconds: float = 120) -> None:
        """Wait until a cell has ended, well or not."""
        prompt = self.cell(index).locator(".jp-InputPrompt").first
        _wait(lambda: prompt.inner_text().strip("[]: \u200b").isdigit(), seconds, f"the end of cell {index}")

    def picture(self, name: str, index: int | None = None) -> Path:
        """Take a picture of a cell's output, or of the whole window."""
        PICTURES.mkdir(exist_ok=True)
        path = PICTURES / f"{name}.png"
        what = self.page if index is None else self.cell(index).locator(".jp-Cell-outputWrapper")
        what.screenshot(path=path)
        return path

    def _start(self, command: str) -> None:
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); }", command)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return reply.status == 200
    return False


def _wait(is_so: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.1)
