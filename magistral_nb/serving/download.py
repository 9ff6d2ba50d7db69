"""A model's files on their way from the hub into its cache: which are needed, and a process that fetches them.

Run as `python -m magistral_nb.serving.download mistral:OWNER/NAME …`, detached from the kernel like the engine that
waits for the files. It says how far it is in lines of `Progress`, and last why it failed.

Bytes are counted where they arrive. huggingface_hub's own bars count files alone before 1.0, and over Xet the size of
an unfinished file tells nothing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import os
import re
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import quote

from magistral_nb.errors import MagistralError, NotACheckpoint
from magistral_nb.serving import amounts, folder as folders, hub, parts
from magistral_nb.serving.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magistral_nb.serving.folder import Files
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.wishes import Wishes

What = Literal["mistral", "huggingface", "tokenizer", "adapter"]

# What vLLM reads beside the weights.
_BESIDE: dict[What, re.Pattern[str]] = {
    "mistral": re.compile(
        r"(params|tekken|config|generation_config|consolidated\.safetensors\.index)\.json|SYSTEM_PROMPT\.txt"
    ),
    "huggingface": re.compile(
        r"(\w*config|tokenizer|special_tokens_map|added_tokens|vocab|chat_template|tekken|model\.safetensors\.index)"
        r"\.json|(merges|vocab|SYSTEM_PROMPT)\.txt|tokenizer\.model.*|.*\.jinja"
    ),
    "tokenizer": re.compile(r"tekken\.json"),
    "adapter": re.compile(r"adapter_config\.json"),
}
# Without this one, nothing of the kind is there.
_FIRST: dict[What, str] = {
    "mistral": "params.json",
    "huggingface": "config.json",
    "tokenizer": "tekken.json",
    "adapter": "adapter_config.json",
}
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")  # vLLM takes the first that there is
# Raw flags after which vLLM looks for other files, or elsewhere.
_ELSEWHERE = frozenset({"--download-dir", "--revision", "--tokenizer-revision", "--load-format", "--config-format"})
_SECONDS = 10.0  # of silence, for a file's headers
_TICK_SECONDS = 1.0  # between two lines
_WINDOW = 30  # lines over which the rate is taken: what eight parts of a slow line bring comes in bursts
_CHUNK = 2**17  # bytes that are counted at once; huggingface_hub's 10 MB in each of eight parts came once in minutes
_STALLED_SECONDS = 20.0  # without a byte, which at this size of a chunk means less than 50 kB/s
_LINE = re.compile(r"Downloading: (\d+) of (\d+) bytes \(\d+%\)(?:, (\d+) bytes/s)?")
_FAILED = "Download failed: "


@dataclass(frozen=True, slots=True)
class Fetch:
    """What is wanted of one repository.

    Attributes:
        what: a model in one of the two layouts, a base's tekken.json, or a LoRA adapter.
        repository: on the hub.

    Example:
        >>> Fetch.read("mistral:mistralai/Magistral-Small-2509")
        Fetch(what='mistral', repository='mistralai/Magistral-Small-2509')
        >>> str(Fetch("adapter", "you/lora"))
        'adapter:you/lora'
    """

    what: What
    repository: str

    def __str__(self) -> str:
        """As a word of a command line."""
        return f"{self.what}:{self.repository}"

    @staticmethod
    def read(word: str) -> Fetch:
        """The inverse of `str`.

        Raises:
            ValueError: it is no such word.
        """
        what, _, repository = word.partition(":")
        for known in get_args(What):
            if what == known and repository:
                return Fetch(known, repository)
        raise ValueError(f"{word!r} names nothing to fetch")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is.

    Attributes:
        done: bytes that are here.
        total: bytes in the end.
        rate: bytes a second of late; 0 where nothing has arrived for long, None where that cannot be told.

    Example:
        >>> half = Progress(24_000_000_000, 48_000_000_000, 100e6)
        >>> print(half)
        Downloading: 24000000000 of 48000000000 bytes (50%), 100000000 bytes/s
        >>> Progress.read(str(half)).words
        '50%, 24.0 of 48.0 GB, 100 MB/s, 4 min left'
    """

    done: int
    total: int
    rate: float | None = None

    @property
    def words(self) -> str:
        """For people."""
        words = [f"{self._percent}%", amounts.part_of(self.done, self.total)]
        if self.rate:
            left = (self.total - self.done) / self.rate
            words += [f"{amounts.size(self.rate)}/s", f"{amounts.wait(left)} left"]
        elif self.rate is not None:
            words.append("stalled, trying again")
        return ", ".join(words)

    @property
    def _percent(self) -> int:
        return 100 * self.done // max(1, self.total)

    def __str__(self) -> str:
        """As a line of a log."""
        rate = "" if self.rate is None else f", {self.rate:.0f} bytes/s"
        return f"Downloading: {self.done} of {self.total} bytes ({self._percent}%){rate}"

    @staticmethod
    def read(line: str) -> Progress | None:
        """The inverse of `str`, None for any other line of a log."""
        if found := _LINE.search(line):
            return Progress(int(found[1]), int(found[2]), None if found[3] is None else float(found[3]))
        return None


def rate_of(samples: Sequence[tuple[float, int]]) -> float | None:
    """Bytes a second over the whole of the samples; None before anything has arrived in them.

    0 where nothing has arrived for 20 s: until then a few silent seconds only make it slower.

    Args:
        samples: (seconds, bytes that were there), in the order of time.

    Example:
        >>> rate_of([(0.0, 500), (1.0, 500), (2.0, 900)])
        200.0
        >>> rate_of([(0.0, 500)])
        >>> rate_of([(0.0, 500), (1.0, 900), (21.0, 900)])
        0.0
    """
    if not samples:
        return None
    (began, first), (ended, last) = samples[0], samples[-1]
    # A part that is begun again takes back what it had brought.
    latest = max((when for (_, before), (when, after) in pairwise(samples) if after > before), default=began)
    if ended - latest >= _STALLED_SECONDS:
        return 0.0
    return (last - first) / (ended - began) if ended > began and last > first else None


def failure_in(lines: Iterable[str]) -> str | None:
    """Why a download failed, as its last line says; None where none does."""
    return next((line[len(_FAILED) :].strip() for line in reversed([*lines]) if line.startswith(_FAILED)), None)


def fetches(profile: Profile, wishes: Wishes) -> tuple[Fetch, ...]:
    """What a boot of this model needs of the hub; nothing where raw flags send vLLM elsewhere.

    A draft model is not among them: vLLM fetches it.

    Example:
        >>> from magistral_nb.serving.catalogue import QUANTISED
        >>> from magistral_nb.serving.wishes import Wishes
        >>> for each in fetches(QUANTISED["2509-fp8"], Wishes()):
        ...     print(each)
        huggingface:unsloth/Magistral-Small-2509-FP8-Dynamic
        tokenizer:mistralai/Magistral-Small-2509
        >>> fetches(QUANTISED["2509-fp8"], Wishes(engine_args=("--download-dir", "/data")))
        ()
    """
    if any(arg.partition("=")[0].replace("_", "-") in _ELSEWHERE for arg in wishes.engine_args):
        return ()
    wanted = [Fetch(profile.layout, profile.source)]
    if profile.tokenizer not in {None, profile.source}:
        wanted.append(Fetch("tokenizer", str(profile.tokenizer)))
    wanted += [Fetch("adapter", adapter.path) for adapter in profile.adapters]
    return tuple(each for each in wanted if not Path(each.repository).is_absolute())


def needed(files: Files, what: What) -> dict[str, int]:
    """Bytes of each file that vLLM reads.

    In Mistral's own repositories both layouts lie side by side; only one of them is fetched.

    Raises:
        NotACheckpoint: there is no such thing in these files, or not all of it.
    """
    beside = {name: size for name, size in files.sizes.items() if _BESIDE[what].fullmatch(name)}
    if _FIRST[what] not in beside:
        raise NotACheckpoint(f"{files.where} has no {_FIRST[what]}: is it the right repository?")
    if what == "tokenizer":
        return beside
    if what == "adapter":
        weights = next((name for name in _ADAPTERS if name in files.sizes), None)
        if weights is None:
            raise NotACheckpoint(f"{files.where} has no {_ADAPTERS[0]}: is the adapter whole?")
        return {**beside, weights: files.sizes[weights]}
    return beside | folders.weights(files, what)


def is_cached(fetch: Fetch) -> bool:
    """Whether all of it lies in the hub's cache; nobody is asked."""
    first = hub.cached(fetch.repository, _FIRST[fetch.what])
    with contextlib.suppress(NotACheckpoint):
        return first is not None and bool(needed(folders.local(first.parent), fetch.what))
    return False


def missing_bytes(fetch: Fetch) -> int:
    """Bytes that have still to come, after asking the hub whether they will.

    Raises:
        UnknownModel: there is no such repository, it may not be read, or the hub is out of reach.
        NotACheckpoint: it does not hold what is wanted.
    """
    files = hub.files(fetch.repository)
    wanted = needed(files, fetch.what)
    files.read(_FIRST[fetch.what], 1)  # a gated repository shows its list all the same
    missing = sum(size for name, size in wanted.items() if hub.cached(fetch.repository, name) is None)
    return max(0, missing - parts.kept(hub.folder_of(fetch.repository) / "blobs"))


class Download:
    """Fetches into the hub's cache, and knows how far it is.

    Attributes:
        total: bytes in the end, 0 until the hub has told.
        repository: the one that is being fetched.
        counts: whether what arrives is counted by the byte now; small files and what another process fetches are not.
    """

    def __init__(self, wanted: Sequence[Fetch]) -> None:
        """Nothing is asked or fetched yet."""
        self._wanted = wanted
        self._here: tuple[int, parts.Parts | None] = (0, None)  # bytes of whole files, and the one that arrives
        self.total = 0
        self.counts = False
        self.repository = wanted[0].repository if wanted else ""

    @property
    def done(self) -> int:
        """Bytes that are here."""
        whole, arriving = self._here
        return whole + (0 if arriving is None else arriving.done)

    def run(self) -> None:
        """Fetch all that is missing.

        Raises:
            MagistralError: the hub refuses.
            Exception: whichever the hub's client raises when all tries have failed; what has arrived stays.
        """
        listed = []
        for fetch in self._wanted:
            if not is_cached(fetch):
                self.repository = fetch.repository
                listed.append((fetch.repository, needed(hub.files(fetch.repository), fetch.what)))
        self.total = sum(sum(sizes.values()) for _, sizes in listed)
        for self.repository, sizes in listed:
            self._fetch(sizes)

    def _fetch(self, sizes: dict[str, int]) -> None:
        """What is small first, so that whoever finds the weights in the cache finds the rest beside them."""
        from huggingface_hub import snapshot_download

        small = {name: size for name, size in sizes.items() if size < parts.PART}
        patterns = [glob.escape(name) for name in small]
        snapshot = Path(parts.patiently(lambda: snapshot_download(self.repository, allow_patterns=patterns)))
        whole = self._here[0] + sum(small.values())
        for name, size in sizes.items():
            self._here = whole, None
            if name not in small:
                if not (snapshot / name).exists():
                    self._fetch_large(snapshot, name, size)
                whole += size
        self._here = whole, None

    def _fetch_large(self, snapshot: Path, name: str, size: int) -> None:
        """One file, in parts to where huggingface_hub would have laid it; which then finds nothing left to fetch."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download
        from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

        commit, home = snapshot.name, snapshot.parents[1]
        url = f"{constants.ENDPOINT}/{self.repository}/resolve/{commit}/{quote(name)}"
        etag = parts.patiently(lambda: get_hf_file_metadata(url, timeout=_SECONDS)).etag
        if etag is not None:
            lock = home.parent / ".locks" / home.name / f"{etag}.lock"  # huggingface_hub's own
            lock.parent.mkdir(parents=True, exist_ok=True)
            arriving = parts.Parts(home / "blobs" / etag, size)
            self._here = self._here[0], arriving
            try:
                with WeakFileLock(lock):
                    self.counts = True
                    arriving.fetch(url, build_hf_headers())
            except parts.NoParts:
                say(masked(f"{constants.ENDPOINT} sends no parts of files, so {name} is fetched as a whole."))
            finally:
                self.counts = False
        parts.patiently(lambda: hf_hub_download(self.repository, name, revision=commit))

    def why(self, error: Exception) -> str:
        """What an error of `run` means, in one line."""
        from huggingface_hub import constants

        if isinstance(error, MagistralError):
            return str(error)
        again = "run the same line again, which goes on where it stopped"
        if parts.is_disk(error):
            return (
                f"{constants.HF_HUB_CACHE} cannot be written to ({getattr(error, 'strerror', error)}): free some of "
                f"that disk and {again}; or set HF_HOME to another folder."
            )
        if (status := parts.status_of(error)) is not None:
            told = getattr(error, "response").headers  # noqa: B009 - of requests or of httpx
            return hub.refusal(self.repository, status, told.get("X-Error-Code"), told.get("X-Error-Message"))
        if parts.may_pass(error):
            return f"{constants.ENDPOINT} cannot be reached any more ({type(error).__name__}): {again}."
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}: the lines above it in the log say where."


def say(line: object) -> None:
    """One line of the log."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Fetch what is named on the command line, and say how far it is."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants

    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    job = Download([Fetch.read(word) for word in sys.argv[1:]])
    samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.run)
        while not concurrent.futures.wait([running], _TICK_SECONDS).done:
            if job.counts:
                samples.append((time.monotonic(), job.done))
            else:
                samples.clear()
            if job.total:
                say(Progress(job.done, job.total, rate_of(samples)))
    error = running.exception()
    if isinstance(error, Exception):
        if not isinstance(error, MagistralError):
            say(masked("".join(traceback.format_exception(error))))
        say(f"{_FAILED}{masked(job.why(error))}")
        sys.exit(1)
    say(f"Downloaded {job.total} bytes.")


if __name__ == "__main__":
    main()
