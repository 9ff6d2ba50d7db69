"""One large file of the hub, fetched in parts that outlive whoever fetches them.

huggingface_hub resumes no more: since its pull request 4306 (June 2026) a download that is killed begins again, as it
always did over Xet, and Magistral Small in Mistral's format is one file of 48 GB. So its `http_get` is asked for one
part after the other, several at once, which also fills a fast line as one connection does not. What has arrived lies
in the hub's cache beside the place where huggingface_hub looks for the finished file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

# Bytes. Each part is one request, 1,430 for Magistral's 48 GB; the hub takes 3,000 in five minutes from somebody
# without an account (its documentation on rate limits).
PART = 32 * 2**20
_AT_ONCE = 8  # parts; each is held in memory until it is whole
_PAUSES = (1.0, 4.0, 15.0, 60.0)  # seconds between tries: a router restarts in about a minute
_SUFFIX = ".parts"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_SERVER_ERROR = 500  # from there on HTTP's statuses are the server's own trouble
_LATER = (408, 429)  # HTTP's "request timeout" and "too many requests"


class NoParts(Exception):
    """The server sends whole files alone."""


class Parts:
    """A file on its way.

    Attributes:
        blob: where it will lie once it is whole.
        size: bytes in the end.
    """

    def __init__(self, blob: Path, size: int) -> None:
        """Look at what has arrived before."""
        self.blob, self.size = blob, size
        self._data = blob.with_name(f"{blob.name}{_SUFFIX}")
        self._marks = blob.with_name(f"{blob.name}{_SUFFIX}.{PART}")  # a byte for each part, 1 once it is on the disk
        self._count = -(-size // PART)
        self._arriving: dict[int, _Part] = {}

    @property
    def done(self) -> int:
        """Bytes that are here, those of unfinished parts included."""
        if self.blob.exists():
            return self.size
        marks = self._marks.read_bytes() if self._marks.exists() else b""
        here = sum(self._length(number) for number in range(min(len(marks), self._count)) if marks[number])
        return min(self.size, here + sum(part.tell() for part in list(self._arriving.values())))

    def fetch(self, url: str, headers: Mapping[str, str]) -> None:
        """Fetch what is missing, and put the file into its place.

        Args:
            url: of the file; it may redirect.
            headers: of each request, a token among them.

        Raises:
            NoParts: the server sends whole files alone.
            Exception: whichever the hub's client raises when all tries have failed; what has arrived stays.
        """
        if self.blob.exists():
            return
        self.blob.parent.mkdir(parents=True, exist_ok=True)
        with _opened(self._data) as data, _opened(self._marks) as marks:
            here = os.pread(marks, self._count + 1, 0)
            reach = min(self.size, (here.rfind(b"\1") + 1) * PART)  # bytes; with less, somebody has deleted the data
            if len(here) != self._count or not reach <= os.fstat(data).st_size <= self.size:
                os.ftruncate(data, 0)
                os.ftruncate(marks, 0)
                os.ftruncate(marks, self._count)
            missing = [number for number, mark in enumerate(os.pread(marks, self._count, 0)) if not mark]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                running = [pool.submit(self._fetch, number, url, headers, data, marks) for number in missing]
                try:
                    for part in as_completed(running):
                        part.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        self._data.replace(self.blob)
        self._marks.unlink()

    def _fetch(self, number: int, url: str, headers: Mapping[str, str], data: int, marks: int) -> None:
        length = self._length(number)
        try:
            part = patiently(lambda: self._get(number, url, headers))
            if os.pwrite(data, part.getbuffer(), number * PART) != length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._data))
            os.fdatasync(data)  # a mark that outlives its part would be weights of zeros after a power cut
            os.pwrite(marks, b"\1", number)
        finally:
            self._arriving.pop(number, None)

    def _get(self, number: int, url: str, headers: Mapping[str, str]) -> _Part:
        from huggingface_hub.file_download import http_get

        first, length = number * PART, self._length(number)
        part = self._arriving[number] = _Part(length)
        span = {"Range": f"bytes={first}-{first + length - 1}", "Accept-Encoding": "identity"}
        http_get(url, part, headers={**headers, **span}, expected_size=length)
        return part

    def _length(self, number: int) -> int:
        return min(PART, self.size - number * PART)


class _Part(io.BytesIO):
    """A part as it arrives."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def write(self, data: Any) -> int:
        """Take in what has arrived, but not a whole file where a part of it was asked for."""
        if self.tell() + len(data) > self._length:
            raise NoParts
        return super().write(data)


def kept(blobs: Path) -> int:
    """Bytes of unfinished files that lie in a folder of blobs."""
    return sum(path.stat().st_blocks * 512 for path in blobs.glob(f"*{_SUFFIX}"))


def patiently(call: Callable[[], T]) -> T:
    """What the call returns, tried again for about a minute and a half while the network or the hub is away."""
    for pause in _PAUSES:
        try:
            return call()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(pause)
    return call()


def status_of(error: BaseException) -> int | None:
    """The HTTP status with which the hub refused; None where it never answered."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def is_disk(error: BaseException) -> bool:
    """Whether it is the disk that refuses."""
    return isinstance(error, OSError) and error.errno in _DISK


def may_pass(error: BaseException) -> bool:
    """Whether the network or the hub is away, and may come back."""
    if (status := status_of(error)) is not None:
        return status >= _SERVER_ERROR or status in _LATER
    # The errors of httpx, on which newer hub's clients stand, have no base that is built in; those of requests have.
    of_network = isinstance(error, OSError) or type(error).__module__.startswith("http")
    return of_network and not is_disk(error)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
