from __future__ import annotations

import io

from magistral_nb.views.boot_view import BootView


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_a_stage():
    out = io.StringIO()
    view = BootView(rich=False, stream=out)
    view.update([], "")
    view.update([("Starting vLLM", 0.5)])
    view.update([("Starting vLLM", 1.0)], "10%")
    view.update([("Starting vLLM", 2.04), ("Loading weights", 0.1)])
    view.update([("Starting vLLM", 2.04), ("Loading weights", 2.0), ("Warming up", 71.0)])
    view.close("abacus is ready after 75 s.", ok=True)
    assert out.getvalue().splitlines() == [
        "Starting vLLM  2.0 s",
        "Loading weights  2.0 s",
        "Warming up  1 min 11 s",
        "abacus is ready after 75 s.",
    ]


def test_a_failure_ends_the_running_line():
    out = io.StringIO()
    view = BootView(rich=False, stream=out)
    view.update([("Starting \x1b[2Jvllm", 0.5)])
    view.close("The boot failed.", ok=False)
    assert out.getvalue() == "Starting ␛[2Jvllm\nThe boot failed.\n"


def test_a_terminal_shows_the_note_in_the_running_line():
    out = Terminal()
    view = BootView(rich=False, stream=out)
    view.update([("Loading weights", 0.5)], "40%")
    view.update([("Loading weights", 0.6)], "40%")
    assert out.getvalue().count("40%") == 1
    assert "\n" not in out.getvalue()


def test_a_notebook_gets_one_output_rewritten_when_it_changes(page):
    view = BootView(rich=True)
    for tenth in range(1, 25):
        view.update([("Starting vLLM", 2.0), ("Loading <weights>", tenth / 10)], "40%")
    assert len(page.displays) == 3  # 0 s, 1 s, 2 s
    view.close("abacus is ready after 4 s.", ok=True)
    assert len({shown["id"] for shown in page.displays}) == 1
    assert [shown["update"] for shown in page.displays] == [False, True, True, True]
    last = page.displays[-1]["content"]
    assert last["text/plain"] == "abacus is ready after 4 s."
    assert "Loading &lt;weights&gt;" in last["text/html"]
    assert "2.4 s" in last["text/html"]


def test_a_boot_that_was_there_already_shows_its_line_only(page):
    BootView(rich=True).close("Ready.", ok=True)
    assert "<details" not in page.displays[0]["content"]["text/html"]
