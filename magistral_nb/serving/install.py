"""Making an environment of our own for vLLM, with a marker in it once it is whole."""

from __future__ import annotations

import contextlib
import errno
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
from magistral_nb.serving import companion, hardware, installer as installers, packages, recipe as recipes
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
from magistral_nb.serving.packages import Cause, Failure, Step
from magistral_nb.serving.recipe import LOCK, Recipe
from magistral_nb.serving.releases import dotted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.installer import Installer, Program

    Report = Callable[[Step], None]

# More than a look at the files: a torch that does not load and a vLLM that does not know what it runs on show here.
_CHECK = """
import importlib.metadata
import platform
import torch
from vllm.platforms import current_platform
print(platform.python_version(), importlib.metadata.version("vllm"), current_platform.device_type)
"""
_NOT_THE_DISK: frozenset[Cause] = frozenset({"network", "hash", "undated", "missing", "other"})
_UNDATED: frozenset[Cause] = frozenset({"undated"})
_INDEX: dict[Program, str] = {"pip": "PIP_INDEX_URL", "uv": "UV_DEFAULT_INDEX"}
_PURGE: dict[Program, str] = {"pip": "pip cache purge", "uv": "uv cache clean"}
_ELSEWHERE = f"make room, or set {paths.HOME_VARIABLE} to a folder on another disk"
_MORE_ROOM: dict[Program, str] = {"pip": _ELSEWHERE, "uv": f"{_ELSEWHERE} (and UV_CACHE_DIR to one on the same)"}
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
    environment = installers.clean_environment(os.environ)
    here = hardware.detect() if gpu else None
    wanted = _for_driver(here, environment) if here else [Recipe(_running())]
    first = wanted[0]
    if ready := _ready(first):
        return ready
    root = paths.engines()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if here and here.cuda:
            report(Step("driver", detail=f"{here.driver} knows CUDA {dotted(here.cuda)}"))
        return _make_first(root, wanted, environment, report)
    except OSError as error:
        cause: Cause = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "other"
        raise _failed(Failure(cause, str(error)), "making the environment", root / f"{first.name}.log") from error


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
        # tqdm puts ", " before the postfix.
        form = "{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}{postfix}" if step.total else "{desc}{postfix}"
        if bar is None:
            bar = tqdm(total=step.total or None, desc=step.name, bar_format=form, file=sys.stderr)
            name = step.name
        bar.total, bar.bar_format = step.total or None, form  # uv tells how many only once it has chosen
        bar.set_postfix_str(step.detail, refresh=False)
        bar.update(step.done - bar.n)
        bar.refresh()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _running() -> tuple[int, int]:
    return sys.version_info.major, sys.version_info.minor


def _for_driver(here: Hardware, environment: Mapping[str, str]) -> list[Recipe]:
    """What this machine's driver and cards run, the newest first."""
    running, installed, uv = _running(), [], installers.find_uv(environment)
    found = recipes.candidates(here, None if uv else running)
    if uv and not all(recipes.accepts(release, running) for release in found):
        installed = installers.uv_pythons(uv, environment)
    return [Recipe(recipes.choose_python(release, running, installed), release) for release in found]


def _ready(recipe: Recipe) -> Engine | None:
    # Any Python will do: the engine runs as a process of its own.
    return next((engine for engine in own_environments(recipe.build) if engine.version == recipe.version), None)


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


def _make_first(root: Path, wanted: Sequence[Recipe], environment: Mapping[str, str], report: Report) -> Engine:
    """Make the first of these whose packages are to be had."""
    recipe, *others = wanted
    try:
        with _turn(root / f"vllm-{recipe.build}-{recipe.version}.lock", report):
            # Looked at again: another install may have made it while this one waited.
            return _ready(recipe) or _make(root, recipe, environment, report)
    except _NotToBeHad as error:
        if not others:
            raise
        instead = f"vLLM {others[0].version}, since {recipe.version} cannot be had here: {error.line}"
    report(Step("instead", detail=instead))
    return _make_first(root, others, environment, report)


def _make(root: Path, recipe: Recipe, environment: Mapping[str, str], report: Report) -> Engine:
    folder, log = root / recipe.name, root / f"{recipe.name}.log"
    _sweep(root, recipe)
    try:
        with log.open("w", encoding="utf-8") as file:
            _fill(folder, recipe, environment, file, report)
    except BaseException:
        # An interrupt as well: what is half is of no use to anyone, and a full disk needs the room.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    engine = _ready(recipe)
    if engine is None:
        raise _failed(Failure("other", f"{folder} is gone again"), "checking", log)
    return engine


def _sweep(root: Path, recipe: Recipe) -> None:
    """Remove what an install left that was killed, or whose Python is gone."""
    for folder in root.glob(f"vllm-{recipe.build}-{recipe.version}-*"):
        if folder.is_dir() and own_engine(folder) is None:
            shutil.rmtree(folder)


def _fill(folder: Path, recipe: Recipe, environment: Mapping[str, str], log: IO[str], report: Report) -> None:
    if recipe.release:
        report(Step("release", detail=recipes.told(recipe.release, recipe.python)))
    report(Step("environment", detail=str(folder)))
    python = _empty(folder, recipe, environment, log)
    # Beside its destination, since a small /tmp could not hold torch; and gone with the environment.
    scratch = folder / "tmp"
    scratch.mkdir()
    environment = {**environment, "TMPDIR": str(scratch)}
    installer = installers.find_installer(python, environment, uv_first=recipe.release is not None)
    _check_room(folder.parent, recipe, installer.program)
    fetch = _Fetch(folder, installer, log, report, environment)
    if recipe.release is None:
        pins = sum("==" in line for line in LOCK.read_text(encoding="utf-8").splitlines() if line[:1].isalnum())
        fetch.get(Step("packages", 0, 2 * pins), recipes.lock_request())
        fetch.get(Step("torch", 0, 2), recipes.torch_request(), recipes.torch_request(recipes.TORCH_CPU_INDEX))
        companion.write_metadata(libraries(folder)[0], VLLM_VERSION)
        companion.write_amx_request(libraries(folder)[0])
    else:
        requests = [recipes.cuda_request(recipe.release, cutoff) for cutoff in (installer.cutoff, None)]
        fetch.get(Step("packages"), *requests, after=_UNDATED)
    report(Step("checking", detail="whether vllm loads"))
    python_version = _verify(python, recipe, environment, log)
    shutil.rmtree(scratch)
    marker = {
        "vllm": recipe.version,
        "build": recipe.build,
        "python": python_version,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / f"{MARKER}.new").write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    (folder / f"{MARKER}.new").replace(folder / MARKER)


def _empty(folder: Path, recipe: Recipe, environment: Mapping[str, str], log: IO[str]) -> Path:
    """Make an environment with nothing in it; its Python."""
    if recipe.python == _running():
        # Without pip: Debian's Python brings none along unless python3-venv is installed.
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    elif uv := installers.find_uv(environment):
        version = dotted(recipe.python)
        command = installers.uv_venv(uv, version, folder)
        if failure := packages.run(command, environment=environment, folder=folder.parent, log=log):
            raise EngineInstallFailed(
                f"vLLM {recipe.version} does not run on this Python, and uv could not get Python {version}: "
                f"{failure.line.rstrip('.')}; install Python {version}, then {_AGAIN}; full log: {log.name}."
            )
    python = python_of(folder)
    if python is None:
        raise _failed(Failure("other", f"no Python in {folder}"), "environment", Path(log.name))
    return python


def _check_room(root: Path, recipe: Recipe, program: Program) -> None:
    needed, free = recipes.room(recipe.build, program), shutil.disk_usage(root).free
    if free < needed:
        raise EngineInstallFailed(
            f"The engine needs {needed / 1e9:.1f} GB and {root} has {free / 1e9:.1f} GB left: "
            f"{_MORE_ROOM[program]}, then {_AGAIN}."
        )


class _Fetch:
    """Puts packages into one environment and tells how far it is."""

    def __init__(
        self, folder: Path, installer: Installer, log: IO[str], report: Report, environment: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._installer = installer
        self._log = log
        self._report = report
        self._environment = environment

    def get(self, step: Step, *requests: list[str], after: frozenset[Cause] = _NOT_THE_DISK) -> None:
        """Fetch by the first request; by the next one after a failure of these causes."""
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
            half = now.total // 2
            if half and now.done >= half:
                done = min(half + _installed(library) - before, now.total)
                self._report(replace(now, done=max(done, now.done)))

        self._report(step)
        failure = None
        for request in requests:
            now = step
            failure = packages.run(
                self._installer.argv(request),
                environment=self._environment,
                folder=self._folder,
                log=self._log,
                on_line=on_line,
                on_idle=on_idle,
            )
            if failure is None or failure.cause not in after:
                break
        if failure is not None:
            raise _failed(failure, step.name, Path(self._log.name), self._installer.program)


def _installed(library: Path) -> int:
    return sum(1 for _ in library.glob("*.dist-info"))


def _verify(python: Path, recipe: Recipe, environment: Mapping[str, str], log: IO[str]) -> str:
    """Load what was installed; the version of the environment's Python."""
    done = subprocess.run(
        [python, "-P", "-c", _CHECK],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(log.name).parent,
    )
    log.write(f"$ {python} -P -c ...\n{done.stdout}{done.stderr}")
    said = (done.stdout.strip().splitlines() or [""])[-1].split()
    # A CUDA build is made on a machine without a GPU too (a login node), where it knows of no device.
    wanted = [f"{recipe.version}+cpu", "cpu"] if recipe.build == "cpu" else [recipe.version]
    if said[1 : 1 + len(wanted)] != wanted:
        last = ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"])[-1]
        raise _failed(Failure("other", f"vllm does not load: {last}"), "checking", Path(log.name))
    return said[0]


class _NotToBeHad(EngineInstallFailed):
    """The packages that were asked for are not there, or do not go together any more.

    Attributes:
        line: of pip or uv, about which.
    """

    def __init__(self, message: str, line: str) -> None:
        super().__init__(message)
        self.line = line


def _failed(failure: Failure, step: str, log: Path, program: Program = "pip") -> EngineInstallFailed:
    """One line: what happened, why, and what to type next."""
    index = _INDEX[program]
    remedy = {
        "disk": f"{_MORE_ROOM[program]}, then {_AGAIN}",
        "network": f"see that {program} reaches its package index (a proxy? {index}?), then {_AGAIN}",
        "hash": f"a fetched file is not the one that was tested: type {_PURGE[program]}, then {_AGAIN}",
        "missing": f"the index that {program} is set to lacks this file for this Python and system: "
        f"set {index} to one that has it, then {_AGAIN}",
    }.get(failure.cause, f"the log tells more; to try again, {_AGAIN.removesuffix(')')})")
    line = failure.line.rstrip(".")
    message = f"The engine could not be installed ({step}): {line}; {remedy}; full log: {log}."
    return _NotToBeHad(message, line) if failure.cause == "missing" else EngineInstallFailed(message)
