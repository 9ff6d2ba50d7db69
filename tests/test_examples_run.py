"""The README's first command in a fresh clone, with Debian's own Python where there is one: the real engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
DEBIAN_PYTHON = Path("/usr/bin/python3")

pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.mark.timeout(1500)
def test_examples_run_from_nothing(tmp_path):
    clone, home = tmp_path / "a clone", tmp_path / "home"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    # Not the environment that the tests run in; an engine of its own is installed as well.
    environment = {n: v for n, v in os.environ.items() if n not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    environment |= {"MAGISTRAL_NB_HOME": str(home)}
    if DEBIAN_PYTHON.exists():
        environment |= {"PYTHON": str(DEBIAN_PYTHON)}
    done = subprocess.run([clone / "examples" / "run"], env=environment, capture_output=True, text=True, check=False)
    command = clone / ".venv" / "bin" / "magistral-nb"
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "347 × 58 = 20126." in done.stdout
        assert "about 300×60=18000" in done.stderr
        assert "is ready after" in done.stderr
        assert done.stdout.rstrip().endswith("magistral-nb stop")
        assert (
            "JupyterLab"
            in subprocess.run([command, "lab", "--help"], capture_output=True, text=True, check=True).stdout
        )
    finally:
        subprocess.run([command, "stop", "--all"], env=environment, check=False)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(home) in " ".join(p.info["cmdline"] or [])]
