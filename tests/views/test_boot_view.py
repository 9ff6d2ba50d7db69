from __future__ import annotations

import io
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from magistral_nb import commands
from magistral_nb.serving import durations
from magistral_nb.serving.boot_log import DOWNLOADING
from magistral_nb.views.boot_view import BootView, _fitted

LOADING = "Loading the weights"
DOWNLOADED = "50%, 24.0 of 48.0 GB, 100 MB/s, 4 min left"


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Tags(HTMLParser):
    """Tags with their attributes, and words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def bars(self):
        return [attributes for tag, attributes in self.tags if tag == "progress"]


def shown(page):
    return page.displays[-1]["content"]


# In a log and in a terminal


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


def test_a_terminal_shows_the_bar_in_the_running_line(monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    out = Terminal()
    view = BootView(rich=False, stream=out)
    view.update([(LOADING, 0.5)], "40%")
    view.update([(LOADING, 0.6)], "40%")
    assert out.getvalue() == f"{LOADING}\r\x1b[K{LOADING}  [########............]  40%"
    view.update([(LOADING, 0.7), ("Compiling", 0.1)])
    assert out.getvalue().endswith(f"\r\x1b[K{LOADING}  0.7 s\nCompiling\r\x1b[KCompiling")


def test_a_bar_takes_the_room_that_the_words_leave():
    assert _fitted(DOWNLOADING, DOWNLOADED, 200).count("#") == 10
    line = _fitted(DOWNLOADING, DOWNLOADED, 80)
    assert re.search(r"\[#+\.+\]  50%, 24.0 of", line)
    assert _fitted(DOWNLOADING, DOWNLOADED, 72) == f"{DOWNLOADING}  {DOWNLOADED}", "no room for one"
    assert _fitted(DOWNLOADING, DOWNLOADED, 40) == f"{DOWNLOADING}  {DOWNLOADED}"[:39]


@given(st.text(max_size=60), st.integers(0, 999), st.text(max_size=60), st.integers(1, 200))
def test_no_line_is_as_long_as_the_terminal_is_wide(name, percent, rest, columns):
    line = _fitted(name, f"{percent}%{rest}", columns)
    assert len(line) < columns
    if bar := re.search(r"\[(#*)(\.*)\]  \d+%", line.removeprefix(name)):
        assert len(bar[1] + bar[2]) in {5, 10, 20}
        assert len(bar[1]) == min(100, percent) * len(bar[1] + bar[2]) // 100


# In a notebook


def test_a_notebook_gets_one_output_rewritten_once_a_second(page):
    view = BootView(rich=True)
    for tenth in range(1, 25):
        view.update([("Starting vLLM", 2.0), ("Loading <weights>", tenth / 10)], f"{tenth}%")
    assert len(page.displays) == 3  # 0 s, 1 s, 2 s
    view.close("abacus is ready after 4 s.", ok=True)
    assert len({each["id"] for each in page.displays}) == 1
    assert [each["update"] for each in page.displays] == [False, True, True, True]
    last = shown(page)
    assert last["text/plain"] == "abacus is ready after 4 s."
    assert "Loading &lt;weights&gt;" in last["text/html"]
    assert "2.4 s" in last["text/html"]
    assert "<progress" not in last["text/html"]


def test_a_new_stage_is_shown_at_once(page):
    view = BootView(rich=True)
    view.update([("Starting vLLM", 0.2)])
    view.update([("Starting vLLM", 0.25), (LOADING, 0.0)])
    assert len(page.displays) == 2


@pytest.mark.parametrize("note", ["40%", "40% · about 31 s left, as last time", "40%, 19.2 of 48.0 GB"])
def test_a_percentage_is_a_bar(page, note):
    BootView(rich=True).update([("Starting vLLM", 2.0), (LOADING, 12.0)], note)
    tags = Tags(shown(page)["text/html"])
    (bar,) = tags.bars()
    assert (bar["max"], bar["value"], bar["aria-label"]) == ("100", "40", LOADING)
    assert f"12 s · {note}" in tags.words
    text = f"Starting vLLM  2.0 s\n{LOADING}  [########............]  12 s · {note}"
    assert shown(page)["text/plain"] == text


@pytest.mark.parametrize("note", ["", "about 31 s left, as last time", "of 40% nothing is known", "%", "4 %"])
def test_without_a_percentage_there_is_no_bar(page, note):
    BootView(rich=True).update([(LOADING, 12.0)], note)
    assert not Tags(shown(page)["text/html"]).bars()
    assert "[" not in shown(page)["text/plain"]


def test_more_than_all_is_all(page):
    BootView(rich=True).update([(LOADING, 12.0)], "250%")
    assert Tags(shown(page)["text/html"]).bars()[0]["value"] == "100"


def test_whatever_a_log_says_is_text(page):
    hostile = '"><script>alert(1)</script><img src=x onerror="alert(1)'
    view = BootView(rich=True)
    view.update([(hostile, 1.0), (hostile, 2.0)], f"40%{hostile}")
    running = Tags(shown(page)["text/html"])
    view.close(hostile, ok=False)
    for tags in (running, Tags(shown(page)["text/html"])):
        assert {tag for tag, _ in tags.tags} <= {"div", "style", "b", "span", "progress", "details", "summary"}
        assert not [name for _, attributes in tags.tags for name in attributes if name.startswith("on")]
        assert tags.words.count(hostile) == 2 + (tags is not running)
    assert running.bars()[0]["aria-label"] == hostile


def test_a_boot_that_was_there_already_shows_its_line_only(page):
    BootView(rich=True).close("Ready.", ok=True)
    assert "<details" not in shown(page)["text/html"]


# With what is known of the boot


def watched(page, *states):
    """Wait for a made-up server whose boot goes through these states, and what was shown of each."""
    plan = SimpleNamespace(fingerprint="plan")
    told = []

    def wait(*, watch):
        for stages, detail in states:
            now = stages[-1][1] + 5.0
            watch(SimpleNamespace(created=commands.time.time() - now, status="booting", stages=stages, detail=detail))
            told.append(page.displays[-1]["content"]["text/plain"].splitlines()[-1])

    commands._wait_shown(SimpleNamespace(plan=plan, model="m", wait=wait), rich=True)
    return told


def test_there_is_one_estimate_that_of_the_download_or_that_of_the_last_boot(page):
    durations.save("plan", [("Starting vLLM", 10.0), (LOADING, 30.0)])
    download = (DOWNLOADING, 1.0)
    first, second, third = watched(
        page,
        ((download,), DOWNLOADED),
        ((download, ("Starting vLLM", 300.0)), ""),
        ((download, ("Starting vLLM", 300.0), (LOADING, 310.0)), "40%"),
    )
    assert first == f"{DOWNLOADING}  [##########..........]  5 s · {DOWNLOADED}"
    assert second == "Starting vLLM  5 s · about 35 s left, as last time"
    assert third == f"{LOADING}  [########............]  5 s · 40% · about 25 s left, as last time"


def test_a_first_boot_promises_nothing(page):
    assert watched(page, ((("Starting vLLM", 0.0),), "")) == ["Starting vLLM  5 s"]
