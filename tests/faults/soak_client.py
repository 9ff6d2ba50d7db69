"""A notebook of the soak: asks what stands in the lines of its input, and writes down what arrives as it arrives.

Each line is a JSON object: `question`, `cut` (seconds after which it interrupts itself, or null) and `file`, to which
every piece is appended with the moment at which it came. It answers with a line: what the Answer says, or the error,
and this process's memory.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import sys
import threading
import time
from pathlib import Path

import psutil

import magistral_nb
from magistral_nb.asking.events import Said, Thinking


class Notes:
    """A view that writes down what it is shown."""

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 - closed by `close`, or with the process

    def update(self, events, _progress) -> None:
        pieces = [event.text for event in events if isinstance(event, Thinking | Said)]
        if pieces:
            self.file.write(json.dumps([time.monotonic(), "".join(pieces)]) + "\n")
            self.file.flush()

    def close(self, _answer) -> None:
        self.file.close()


def ask(question: str, cut: float | None, file: str) -> dict[str, str]:
    """What came of it."""
    timer = None if cut is None else threading.Timer(cut, _thread.interrupt_main)
    try:
        if timer is not None:
            timer.start()
        answer = magistral_nb.reason(question, server="default", views=[Notes(file)])
    except magistral_nb.Interrupted as interrupted:
        answer = interrupted.answer
    except magistral_nb.MagistralError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        if timer is not None:
            timer.cancel()
    return {"id": answer.id, "thinking": answer.thinking, "text": answer.text, "reason": answer.finish_reason}


def main() -> None:
    """Until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        told: dict[str, object] = {}
        while not told:
            with contextlib.suppress(KeyboardInterrupt):  # of a timer that went off as the answer ended
                told = {**ask(**asked)}
        told["memory"] = psutil.Process().memory_info().rss
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
