"""The views in a real page: what a reader sees, can do, and finds again in the saved notebook."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

# A stream without an engine: the events of `script`, each after `pause` seconds, fed as the magic feeds a view.
SETUP = """
import time
from magistral_nb.asking.draft import Draft
from magistral_nb.asking.events import Finished, Queued, Said, Thinking, UsageReported
from magistral_nb.views.boot_view import BootView
from magistral_nb.views.trace_view import TraceView

def play(script, pause=0.05, view=None, **end):
    view, draft = view or TraceView(), Draft("?", model="abacus", server="default")
    try:
        for event in script:
            draft.add(event)
            view.update([event], draft.progress)
            time.sleep(pause * (5 if isinstance(event, Said) else 1))
    except KeyboardInterrupt:
        end = {"finish_reason": "interrupted"}
    answer = draft.answer(**end)
    view.close(answer)
    return answer

def thinking(text):
    return [Thinking(word + " ", tokens=1) for word in text.split(" ")]

def said(text):
    return [Said(word + " ", tokens=1) for word in text.split(" ")]
"""

TRACE = (
    "The train covers 120 km in 1.5 hours, so 80 km/h. In metres per second that is 80 × 1000 / 3600.\n"
    "80000 / 3600 = 22.22… Let me check: 22.22 × 3600 = 79,992, close to 80,000. Good.\n"
    "Wait, should I round? The question does not say. I could give 22.2 m/s and mention the exact value 200/9.\n"
)
ANSWER = r"The average speed is **22.2 m/s**, exactly $\frac{200}{9}$ m/s."
DETAILS = ".magistral-view details"


def stream(times: int) -> str:
    return f"play(thinking({TRACE * times!r}) + said({ANSWER!r}) + [Finished('stop')])"


EVIL = """<img src=x onerror='window.pwned=1'><script>window.pwned=1</script></pre></details><b onclick=1>"""

HOSTILE = r"""
`<img src=x onerror='window.pwned=1'>` [x](javascript:window.pwned=1) ![leak](http://127.0.0.1:9/leak.png)

```html" onload="window.pwned=1
<img src=x onerror='window.pwned=1'>
```

```mermaid
graph TD; A["<img src=x onerror='window.pwned=1'>"] --> B
```

- item
  ```
  <img src=x onerror='window.pwned=1'>
  ```

<style>body{display:none}</style><iframe srcdoc="<script>parent.pwned=1</script>"></iframe>

$\href{javascript:window.pwned=1}{click}$ &#36;\href{javascript:window.pwned=1}{click}&#36;
\$\\href{javascript:window.pwned=1}{click}\$ \\(\\href{javascript:window.pwned=1}{click}\\)

http://e.org/$" onmouseover="window.pwned=1" x="$

$$a < b <img src=x onerror='window.pwned=1'>$$
"""

GOOD = r"""Both spellings: \(a_1 < b\) and $x^2 \leq y$; a price is $5, another $10.

\[
\begin{aligned}
v &= \frac{s}{t} \\[2pt]
  &= 80\ \text{km/h}
\end{aligned}
\]

| quantity | value |
|----------|------:|
| $s$      | 120 km |
| `a < b`  | **yes** |

1. first
   - nested `code`

```python
def speed(s: float, t: float) -> float:
    return s / t if t > 0 else 0  # a < b & c
```

> A quote, a [link](https://jupyter.org) and ~~gone~~."""


def wait_for_text(lab: Lab, index: int, words: str, seconds: float = 30) -> None:
    lab.outputs(index).filter(has_text=words).first.wait_for(timeout=seconds * 1000)


def length(lab: Lab, index: int) -> int:
    return lab.cell(index).locator(".magistral-view pre").evaluate("element => element.textContent.length")


def test_the_place_in_a_queue_is_shown_until_the_first_token(lab: Lab) -> None:
    waiting = "[Queued(3, 12)] * 60 + [Queued(2, 12)] * 60"
    lab.open(
        lab.server.write("queue.ipynb", [SETUP, f"play({waiting} + thinking({TRACE * 3!r}) + [Finished('stop')])"])
    )
    lab.run_all()
    summary = lab.cell(1).locator(".magistral-view summary")
    for place in ("place 3 of 12", "place 2 of 12"):
        wait_for_text(lab, 1, place)
        assert summary.inner_text().startswith("Waiting")
    wait_for_text(lab, 1, "Thinking")
    assert "place" not in summary.inner_text()


def test_the_trace_grows_folds_and_rests(lab: Lab) -> None:
    name = lab.server.write("stream.ipynb", [SETUP, stream(3)])
    lab.open(name)
    lab.run_all()
    wait_for_text(lab, 1, "Thinking")
    details = lab.cell(1).locator(DETAILS)
    assert details.evaluate("element => element.open")  # open while it is live
    early = length(lab, 1)
    time.sleep(1)
    assert length(lab, 1) > early
    live = lab.cell(1).locator(".magistral-view pre").evaluate("element => element.textContent")
    assert TRACE.startswith(live[:80])  # also what came before the page had loaded the JavaScript
    lab.picture("live-light", 1)

    summary = lab.cell(1).locator("summary")
    summary.click()
    assert not details.evaluate("element => element.open")
    folded = length(lab, 1)
    time.sleep(0.5)
    assert length(lab, 1) > folded  # goes on while folded
    for key, is_open in (("Enter", True), ("Space", False), ("Enter", True)):
        summary.focus()
        lab.page.keyboard.press(key)
        assert details.evaluate("element => element.open") is is_open, key
    box = lab.cell(1).locator(".magistral-view pre")
    assert box.evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight") < 30  # follows the end

    wait_for_text(lab, 1, "Answering")
    lab.picture("answering-light", 1)
    lab.page.locator(".magistral-answer").filter(has_text="average").wait_for()
    lab.wait_cell(1)
    wait_for_text(lab, 1, "Thought for")
    assert not lab.cell(1).locator(DETAILS).evaluate("element => element.open")  # folded at rest
    assert lab.page.locator(".magistral-answer").count() == 0
    assert lab.cell(1).locator(".jp-RenderedMarkdown strong").inner_text() == "22.2 m/s"
    assert lab.outputs(1).count() == 2  # the trace and the answer, nothing twice
    text = lab.cell(1).locator(f"{DETAILS} pre").evaluate("element => element.textContent")
    assert text.count("22.22 × 3600") == 3
    assert "\n80000 / 3600" in text
    lab.cell(1).locator(".MathJax").first.wait_for()
    lab.picture("rest-light", 1)
    lab.cell(1).locator("summary").focus()
    lab.page.keyboard.press("Enter")
    assert lab.cell(1).locator(DETAILS).evaluate("element => element.open")
    lab.picture("rest-open-light", 1)
    lab.theme("JupyterLab Dark")
    lab.picture("rest-open-dark", 1)
    lab.theme("JupyterLab Light")

    lab.save()
    lab.shutdown_kernel()
    assert "application/vnd.jupyter.widget-view+json" not in str(lab.server.read(name))


AT_END = """() => {
    const box = document.querySelector(".magistral-view pre");
    return box.scrollHeight - box.scrollTop - box.clientHeight < 30;
}"""


def test_the_end_is_followed_until_the_reader_scrolls_away(lab: Lab) -> None:
    lab.open(lab.server.write("scroll.ipynb", [SETUP, f"play(thinking({TRACE * 12!r}), 0.02)"]))
    lab.theme("JupyterLab Dark")
    lab.run_all()
    wait_for_text(lab, 1, "Thinking")
    box = lab.cell(1).locator(".magistral-view pre")
    lab.page.wait_for_function("document.querySelector('.magistral-view pre').scrollTop > 100")
    lab.page.wait_for_function(AT_END)  # a piece that has just come is scrolled to in the next frame
    lab.picture("live-dark", 1)
    box.hover()
    lab.page.mouse.wheel(0, -60)
    time.sleep(0.5)
    top = box.evaluate("box => box.scrollTop")
    time.sleep(1)
    assert box.evaluate("box => box.scrollTop") == top
    box.focus()
    lab.page.keyboard.press("End")
    time.sleep(1.5)
    lab.page.wait_for_function(AT_END, timeout=5_000)
    lab.interrupt()
    lab.wait_cell(1)
    lab.theme("JupyterLab Light")


def test_a_saved_notebook_shows_the_trace_with_no_kernel(lab: Lab) -> None:
    name = lab.server.write("saved.ipynb", [SETUP, stream(1)])
    lab.open(name)
    lab.run_all()
    lab.wait_cell(1)
    lab.save()
    lab.shutdown_kernel()
    lab.page.goto("about:blank")
    for trusted in (True, False):
        if not trusted:  # as a reader who got it by mail has it
            notebook = lab.server.read(name)
            notebook.cells[1].metadata["x"] = notebook.metadata["x"] = "changed"
            lab.server.folder.joinpath("mailed.ipynb").write_text(json.dumps(notebook))
        lab.open(name if trusted else "mailed.ipynb", kernel=False)
        lab.cell(1).locator("summary").filter(has_text="Thought for").wait_for()
        assert "Error displaying widget" not in lab.cell(1).inner_text()
        lab.cell(1).locator("summary").click()
        assert lab.cell(1).locator("pre").is_visible()
        assert "22.22 × 3600" in lab.cell(1).locator("pre").inner_text()
        lab.picture(f"saved-{'trusted' if trusted else 'untrusted'}", 1)


def test_an_interrupt_keeps_what_had_arrived(lab: Lab) -> None:
    lab.open(lab.server.write("stop.ipynb", [SETUP, stream(3)]))
    lab.run_all()
    wait_for_text(lab, 1, "Thinking")
    time.sleep(1)
    lab.interrupt()
    lab.wait_cell(1)
    wait_for_text(lab, 1, "Stopped after")
    assert "120 km" in lab.cell(1).locator(f"{DETAILS} pre").evaluate("element => element.textContent")
    wait_for_text(lab, 1, "Stopped before the answer began.")


def test_nothing_a_model_writes_runs(lab: Lab) -> None:
    requests: list[str] = []
    lab.page.on("request", lambda request: requests.append(request.url))
    script = f"play(thinking({EVIL!r}) + [Said({EVIL + HOSTILE!r}, tokens=1), Finished('stop')])"
    lab.open(lab.server.write("hostile.ipynb", [SETUP, script]))
    lab.run_all()
    lab.wait_cell(1)
    wait_for_text(lab, 1, "Thought for")
    lab.cell(1).locator("summary").click()
    lab.cell(1).locator(".MathJax").first.wait_for()
    time.sleep(1)
    output = lab.cell(1).locator(".jp-OutputArea")
    assert lab.page.evaluate("window.pwned") is None
    assert output.locator("img, script, iframe, b[onclick], [onmouseover], [onerror], [onload]").count() == 0
    assert output.evaluate("area => [...area.querySelectorAll('a')].every(a => /^https?:/.test(a.href))")
    assert not [url for url in requests if "leak.png" in url]
    assert lab.cell(1).locator("pre").first.inner_text().count("<img") == 1  # shown, as text
    lab.picture("hostile", 1)


def test_maths_tables_and_code_are_rendered(lab: Lab) -> None:
    lab.open(
        lab.server.write(
            "good.ipynb", [SETUP, f"play([Thinking('hm', tokens=1), Said({GOOD!r}, tokens=1), Finished('stop')])"]
        )
    )
    lab.run_all()
    lab.wait_cell(1)
    answer = lab.cell(1).locator(".jp-RenderedMarkdown")
    answer.locator(".MathJax").nth(3).wait_for()
    assert answer.locator(".MathJax").count() == 4
    assert "a price is $5, another $10" in answer.inner_text()
    assert answer.locator("td code").inner_text() == "a < b"
    assert answer.locator("li li code").inner_text() == "code"
    assert "return s / t if t > 0 else 0  # a < b & c" in answer.locator("pre").inner_text()
    assert answer.locator("pre span").count() > 3  # highlighted
    assert answer.locator("a[href='https://jupyter.org']").count() == 1
    assert not [error for error in lab.errors if "MathJax" in error]
    lab.picture("answer-light", 1)
    lab.theme("JupyterLab Dark")
    lab.picture("answer-dark", 1)
    lab.theme("JupyterLab Light")


STATES = """
from magistral_nb.answers.answer import Answer, Usage
def rest(reason, thinking="2+2=4.", error=None, seconds=14.0, tokens=1655):
    usage = Usage(30, tokens, 20, None if tokens is None else tokens + 20)
    TraceView().close(Answer(prompt="?", thinking=thinking, text="4", finish_reason=reason, id="0", usage=usage,
                             seconds=seconds, time_to_first_token=0.1, error=error))
rest("stop"); rest("budget", seconds=5, tokens=512); rest("interrupted", seconds=3, tokens=301)
rest("length", seconds=65); rest("error", error="The server died; %magistral_logs shows why.", seconds=8, tokens=902)
rest("stop", thinking="", seconds=2); rest("stop", tokens=None)
"""

BOOT = """
boot = BootView(rich=True)
boot.update([("Starting vLLM", 4.1), ("Loading weights", 3.2)], "40%")
other = BootView(rich=True)
other.update([("Starting vLLM", 4.1), ("Loading weights", 3.2)])
other.close("abacus is ready after 12 s.", ok=True)
failed = BootView(rich=True)
failed.update([("Starting vLLM", 4.1)])
failed.close("The boot failed.", ok=False)
"""


def test_every_state_is_said_in_words(lab: Lab) -> None:
    lab.open(lab.server.write("states.ipynb", [SETUP, STATES, BOOT]))
    lab.run_all()
    lab.wait_cell(2)
    text = lab.cell(1).inner_text()
    for words in (
        "Thought for 14 s",
        "Stopped after 3 s",
        "Cut after 1 min 05 s",
        "Failed after 8 s",
        "without thinking",
    ):
        assert words in text
    assert "abacus is ready after 12 s." in lab.cell(2).inner_text()
    for theme in ("Light", "Dark"):
        lab.theme(f"JupyterLab {theme}")
        lab.picture(f"states-{theme.lower()}", 1)
        lab.picture(f"boot-{theme.lower()}", 2)
    lab.theme("JupyterLab Light")
