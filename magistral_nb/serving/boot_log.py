"""vLLM's log lines in, boot stages or the reason of a failure out. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

STARTING = "Starting vLLM"
ASKING = "Asking a first question"

# In the order of a boot; wording as of vLLM 0.32.
_STAGES = (
    (re.compile(r"Initializing a V1 LLM engine"), "Preparing the engine"),
    (re.compile(r"Downloading|Fetching \d+ files"), "Downloading the model"),
    (re.compile(r"Starting to load model|Loading safetensors checkpoint shards"), "Loading the weights"),
    (re.compile(r"Dynamo bytecode transform|torch\.compile took|Compiling a graph"), "Compiling"),
    (re.compile(r"Available KV cache memory|KV cache size"), "Sizing the KV cache"),
    (re.compile(r"Capturing CUDA graphs"), "Capturing CUDA graphs"),
    (re.compile(r"Starting vLLM (API )?server"), "Opening the API"),
)
_PERCENT = re.compile(r"(\d{1,3})%")
_ERROR = re.compile(r"(?:^|\s)((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (.+)")
_USAGE = re.compile(r"\berror: (.+)")
_WRAPPERS = (
    "Engine core initialization failed",
    "EngineCore encountered an issue",
    "Failed core proc",
    "EngineCore failed to start",
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class BootLog:
    """Follows a boot line by line.

    Attributes:
        stage: the stage that was reached last.
        detail: what the stage says of itself, such as "40%".

    Example:
        >>> log = BootLog()
        >>> log.feed("INFO Loading safetensors checkpoint shards:  40% Completed | 2/5")
        >>> log.stage, log.detail
        ('Loading the weights', '40%')
    """

    def __init__(self) -> None:
        """Nothing has been logged yet."""
        self.stage = STARTING
        self.detail = ""
        self._reached = -1

    def feed(self, line: str) -> None:
        """Take in the next line; a stage is never left backwards."""
        for index, (pattern, name) in enumerate(_STAGES):
            if index >= self._reached and pattern.search(line):
                if index > self._reached:
                    self._reached, self.stage, self.detail = index, name, ""
                if percent := _PERCENT.search(line):
                    self.detail = f"{percent[1]}%"
                return


def diagnose(lines: Iterable[str]) -> str | None:
    """The root error of a log in one line, None where there is none to be seen.

    The last error that is not merely the wrapper around another one.

    Example:
        >>> diagnose(["ValueError: too long", "RuntimeError: Engine core initialization failed. See root cause"])
        'ValueError: too long'
    """
    found = None
    for line in lines:
        text = _ANSI.sub("", line).strip()
        if match := _ERROR.search(text):
            if not any(wrapper in text for wrapper in _WRAPPERS):
                found = f"{match[1].rsplit('.', 1)[-1]}: {match[2]}"
        elif match := _USAGE.search(text):
            found = match[1]
    return found
