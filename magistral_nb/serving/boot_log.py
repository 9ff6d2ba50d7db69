"""vLLM's log lines in, the stages of a boot out. Pure."""

from __future__ import annotations

import re

STARTING = "Starting vLLM"
DOWNLOADING = "Downloading the model"
ASKING = "Asking a first question"

# In the order of a boot; wording as of vLLM 0.32.
_STAGES = (
    (re.compile(r"Initializing a V1 LLM engine"), "Preparing the engine"),
    (re.compile(r"Downloading|Fetching \d+ files"), DOWNLOADING),
    (re.compile(r"Starting to load model|Loading safetensors checkpoint shards"), "Loading the weights"),
    (re.compile(r"Dynamo bytecode transform|torch\.compile took|Compiling a graph"), "Compiling"),
    (re.compile(r"Available KV cache memory|KV cache size"), "Sizing the KV cache"),
    (re.compile(r"Capturing CUDA graphs"), "Capturing CUDA graphs"),
    (re.compile(r"Starting vLLM (API )?server"), "Opening the API"),
)
_PERCENT = re.compile(r"(\d{1,3})%")


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
                if percents := _PERCENT.findall(line):
                    self.detail = f"{percents[-1]}%"  # a bar that rewrites itself is one line to us
                return
