"""What is wrong with an NVIDIA driver or a card and what to do, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD_FILES = Path("/dev")  # nvidia0 and so on: a card that a driver has served, or that a container was given
_DRIVER_FILES = Path("/proc/driver/nvidia")  # there while the driver's kernel module is loaded
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"  # its number as a maker of PCI devices


def of_driver(error: Any) -> str | None:
    """Why NVML does not start; None where there is nothing for it to start on."""
    import pynvml

    given = any(_CARD_FILES.glob("nvidia[0-9]*"))
    # After a kernel update without the driver's module, only the PCI bus still knows of the card.
    present = given or _DRIVER_FILES.exists() or any(text_of(file) == _NVIDIA for file in _PCI.glob("*/vendor"))
    missing = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    unloaded = error.value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    if (missing and not given) or (unloaded and not present):
        return None
    remedies = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "its library libnvidia-ml is missing: install the driver again; a "
        "container gets the library with NVIDIA_DRIVER_CAPABILITIES=compute,utility.",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "its kernel module is not loaded: type sudo modprobe nvidia, and install "
        "the driver again if that fails; a container must be started with its GPUs, as by docker run --gpus all.",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "its library and its kernel module are of different versions, as "
        "after an update: restart this machine; a container must be started again.",
        pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open it: ls -l /dev/nvidia* shows which group may.",
    }
    # What is left to a container once systemd on its host has reloaded: NVIDIA/nvidia-container-toolkit#1227.
    other = f"NVML says {str(error)!r}: nvidia-smi may tell more; a container must be started again."
    return f"The NVIDIA driver does not answer, as {remedies.get(error.value, other)}"


def of_card(index: int, error: Any) -> str:
    """Why NVML hands out a card not at all, or without its memory."""
    return (
        f"GPU {index} cannot be used, as NVML says {str(error)!r}: nvidia-smi -q may tell more, or restart the machine."
    )


def text_of(file: Path) -> str:
    """What a file of the system's says; nothing where it may not be read or is not there."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
