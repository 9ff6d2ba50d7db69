"""The magics in a real kernel of this environment, against a scripted server: what a notebook gets to see.

tests/colab runs these again with the kernel that Colab has.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client.manager import KernelManager
from stand_in import MODEL, content, deltas, done, finish, hang, reasoning, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from jupyter_client.blocking.client import BlockingKernelClient
    from stand_in import StandIn

pytestmark = pytest.mark.engine  # a real process each

GOOD = [reasoning("2 + 2 <b>is 4.", [1, 2, 3]), content("It is **4**.", [4]), finish("stop"), usage(9, 5, 3), done()]
WIDGET = "application/vnd.jupyter.widget-view+json"
PATIENCE = 60  # seconds; a busy machine takes ten to import ipywidgets


@dataclass
class Cell:
    """What one cell sent to the page, in its order."""

    reply: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message["content"] for message in self.messages if message["header"]["msg_type"] == kind]

    @property
    def written(self) -> str:
        return "".join(piece["text"] for piece in self.of("stream"))

    @property
    def value(self) -> dict[str, str]:
        (result,) = self.of("execute_result")
        return result["data"]


class Kernel:
    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str, *, seeing: Callable[[dict[str, Any]], None] | None = None) -> Cell:
        """Run a cell to its end; `seeing` gets each of its messages as it arrives."""
        asked, cell, idle = self.client.execute(code), Cell(), False
        while not idle:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == asked:
                cell.messages.append(message)
                idle = message["content"].get("execution_state") == "idle"
                if seeing is not None:
                    seeing(message)
        while not cell.reply:
            reply = self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"].get("msg_id") == asked:
                cell.reply = reply["content"]
        return cell

    def subshell(self) -> str | None:
        """A new subshell's id, as JupyterLab asks for one for each widget; None where the kernel has none."""
        if "kernel subshells" not in self.client.kernel_info(reply=True)["content"].get("supported_features", ()):
            return None
        self.client.control_channel.send(self.client.session.msg("create_subshell_request"))
        return self.client.get_control_msg(timeout=PATIENCE)["content"]["subshell_id"]

    def say(self, model: str, state: dict[str, Any], subshell: str | None) -> str:
        """Set traits of a widget as a page does; return the message's id."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": model, "data": data})
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def interrupt_at(self, word: str) -> Callable[[dict[str, Any]], None]:
        """Press the toolbar's square once the widget has heard of `word`."""
        waiting = [word]

        def seeing(message: dict[str, Any]) -> None:
            kind = message["header"]["msg_type"]
            if waiting and kind.startswith("comm_") and word in json.dumps(message["content"]):
                waiting.clear()
                self.manager.interrupt_kernel()

        return seeing


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all: starting it takes longer than any of these tests."""
    folder = tmp_path_factory.mktemp("kernel")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("MAGISTRAL_NB_HOME", str(folder / "home"))
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(started: Kernel, stand_in: StandIn) -> Kernel:
    """The kernel, connected."""
    cell = started.run(f"%load_ext magistral_nb\n%magistral_connect {stand_in.url} --name default")
    assert cell.reply["status"] == "ok", cell.reply
    return started


def test_a_question_streams_into_a_widget_and_rests_as_static_html(kernel, stand_in):
    stand_in.enqueue(deltas(GOOD, delay=0.2))
    cell = kernel.run("%%reason -o a\n2+2?")
    assert cell.reply["status"] == "ok", cell.reply
    assert not cell.written, "no warnings either"
    # The widget opens, and the cell shows it.
    opened = {comm["comm_id"]: comm["data"]["state"] for comm in cell.of("comm_open")}
    (shown,) = cell.of("display_data")
    model = shown["data"][WIDGET]["model_id"]
    assert opened[model]["_model_module"] == "anywidget"
    assert "export default" in opened[model]["_esm"]
    # The text travels to it.
    sent = json.dumps([message["data"] for message in cell.of("comm_msg") if message["comm_id"] == model])
    assert "2 + 2 <b>is 4." in sent
    assert "It is **4**." in sent
    # In the end static HTML has taken its place, and nothing of it is left in the page's memory.
    last = cell.of("update_display_data")[-1]
    assert last["transient"]["display_id"] == shown["transient"]["display_id"]
    assert "2 + 2 &lt;b&gt;is 4." in last["data"]["text/html"]
    assert {comm["comm_id"] for comm in cell.of("comm_close")} == set(opened)
    assert cell.value["text/markdown"] == "It is **4**."
    assert kernel.run("print(a.text, a is _)").written == "It is **4**. True\n"


def test_the_square_keeps_what_had_arrived_and_ends_the_cell_with_one_line(kernel, stand_in):
    stand_in.enqueue(deltas(GOOD[:1], ending="hang"))
    cell = kernel.run("%%reason -o a\n2+2?", seeing=kernel.interrupt_at("2 + 2"))
    assert (cell.reply["status"], cell.reply["ename"]) == ("error", "CellInterrupted"), "so that Run All stops"
    (error,) = cell.of("error")
    assert len(error["traceback"]) == 1
    assert "Interrupted" in error["traceback"][0]
    assert "Stopped after" in cell.of("update_display_data")[-1]["data"]["text/html"]
    assert "text/plain" in cell.value
    assert stand_in.wait_for().disconnected.wait(5), "the server still works on it"
    assert kernel.run("print(a.finish_reason, a.thinking)").written == "interrupted 2 + 2 <b>is 4.\n"


def test_the_square_does_not_wait_for_the_first_token(kernel, stand_in):
    stand_in.enqueue(hang())
    clicked = []

    def seeing(message: dict[str, Any]) -> None:
        if message["header"]["msg_type"] == "display_data" and not clicked:
            stand_in.wait_for()
            kernel.manager.interrupt_kernel()
            clicked.append(time.monotonic())

    cell = kernel.run("%%reason\n2+2?", seeing=seeing)
    assert time.monotonic() - clicked[0] < 10
    assert cell.reply["ename"] == "CellInterrupted", "\n".join(cell.reply["traceback"])
    assert len(cell.of("display_data")) == 1, "the static trace has taken the widget's place"
    assert stand_in.wait_for().disconnected.wait(5)


def test_what_the_page_says_while_it_streams_does_no_harm(kernel, stand_in):
    """Kernels with subshells hear it at once, in another thread; the others when the cell has ended."""
    stand_in.enqueue(deltas(GOOD, delay=0.2))
    subshell = kernel.subshell()
    said = []

    def seeing(message: dict[str, Any]) -> None:
        if message["header"]["msg_type"] == "display_data":
            model = message["content"]["data"][WIDGET]["model_id"]
            said.append(kernel.say(model, {"folded": True}, subshell))

    cell = kernel.run("%%reason\n2+2?", seeing=seeing)
    assert said
    assert cell.reply["status"] == "ok", cell.reply
    assert cell.value["text/markdown"] == "It is **4**."
    assert not cell.written
    assert kernel.run("print('well')").written == "well\n"


def test_a_mistake_is_one_line(kernel):
    cell = kernel.run("%%reason --server nowhere\n2+2?")
    (error,) = cell.of("error")
    assert len(error["traceback"]) == 1
    assert "No server 'nowhere'" in error["traceback"][0]
    assert not cell.written
    assert not cell.of("display_data")


def test_a_cell_may_await(kernel, stand_in):
    stand_in.enqueue(deltas(GOOD))
    cell = kernel.run("import magistral_nb\na = await magistral_nb.areason('2+2?')\na")
    assert cell.reply["status"] == "ok", cell.reply
    assert cell.value["text/markdown"] == "It is **4**."


def test_braces_and_a_semicolon(kernel, stand_in):
    stand_in.enqueue(deltas(GOOD))
    cell = kernel.run('n = 2\nv = %reason {n} + {n} in \\frac{1}{n} and {"a": {unknown}}')
    assert cell.reply["status"] == "ok", cell.reply
    asked = stand_in.requests[0].json["messages"][-1]["content"]
    assert asked == '2 + 2 in \\frac{1}{n} and {"a": {unknown}}'
    stand_in.enqueue(deltas(GOOD))
    cell = kernel.run("%reason 2+2?;")
    assert not cell.of("execute_result")
    assert kernel.run("print(_.text)").written == "It is **4**.\n"


def test_quiet_and_history_and_status(kernel, stand_in):
    stand_in.enqueue(deltas(GOOD))
    cell = kernel.run("%%reason --quiet\nHow quiet?")
    assert cell.written.count("\n") == 1
    assert not cell.of("comm_open")
    history = kernel.run('%magistral_history "How quiet?"')
    assert "How quiet?" in history.value["text/html"]
    assert MODEL in kernel.run("%magistral_status").written


def test_a_boot_shows_one_output_that_is_rewritten(kernel, fake_engine: str, checkpoint: Path):
    cell = kernel.run(f"s = %magistral_serve '{checkpoint}' --engine '{fake_engine}' --name boot")
    try:
        assert cell.reply["status"] == "ok", cell.reply
        updates = cell.of("update_display_data")
        places = [shown["transient"].get("display_id") for shown in cell.of("display_data")]
        assert {places.count(shown["transient"]["display_id"]) for shown in updates} == {1}
        assert "ready after" in updates[-1]["data"]["text/html"]
    finally:
        assert kernel.run("%magistral_stop boot").reply["status"] == "ok"


def test_the_magics_are_completed(kernel):
    """By IPython alone, with or without context matchers and jedi."""
    code = "%magistral_st"
    names = kernel.client.complete(code, reply=True, timeout=PATIENCE)["content"]["matches"]
    assert {"%magistral_status", "%magistral_stop"} <= set(names)
