"""The machine and its driver, and which vLLM they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.errors import UnsupportedPlatform
from magistral_nb.serving.doctor.page import Line
from magistral_nb.serving.engine import VLLM_VERSION, check_platform, release_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from magistral_nb.serving.hardware import Gpu, Hardware

_GIB = 2**30
_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")  # by which vLLM chooses its kernels for a CPU


def lines(here: Hardware, environment: Mapping[str, str]) -> Iterator[Line]:
    """What this machine is, and what is wrong with it.

    Args:
        here: the machine.
        environment: of this process.
    """
    import psutil

    info = _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.exists() else ""
    yield Line("processor", f"{here.cpus} CPU{'s' if here.cpus > 1 else ''}, {here.machine}{processor(info)}")
    free = min(here.memory, psutil.virtual_memory().available)
    yield Line("memory", f"{here.memory / _GIB:.1f} GiB, {free / _GIB:.1f} GiB free")
    knows = f", knows CUDA {here.cuda[0]}.{here.cuda[1]}" if here.cuda else ""
    yield Line("NVIDIA driver", f"{here.driver}{knows}" if here.driver else "not known" if here.trouble else "none")
    if here.trouble:
        cause, _, remedy = here.trouble.partition(": ")
        yield Line("", cause, remedy or "nvidia-smi may tell more")
    elif here.driver and not here.gpus and "CUDA_VISIBLE_DEVICES" in environment:
        hides = f"none; CUDA_VISIBLE_DEVICES={environment['CUDA_VISIBLE_DEVICES']} hides them"
        yield Line("GPUs", hides, "unset CUDA_VISIBLE_DEVICES where Jupyter is started, start the kernel again")
    for gpu in here.gpus:
        yield Line(f"{'MIG slice' if gpu.mig else 'GPU'} {gpu.index}", _of_gpu(gpu))
        who = [holder.title for holder in gpu.holders] + ([] if gpu.holders_known else ["perhaps others unseen"])
        if gpu.holders:
            yield Line("", f"held by {'; '.join(who)}")
    if here.gpus:
        yield Line("CUDA compiler", "nvcc is here" if here.nvcc else "none, so that plans do without FlashInfer")
    yield _vllm_for(here)


def processor(info: str) -> str:
    r"""What /proc/cpuinfo tells of the processor, to be put behind its architecture.

    Example:
        >>> processor("model name : Xeon 8480\nflags : fpu avx2 amx_tile\n")
        ', Xeon 8480, avx2 amx_tile'
    """
    fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", info, re.MULTILINE))
    flags = fields.get("flags", "").split()
    told = (fields.get("model name", ""), " ".join(name for name in _INSTRUCTIONS if name in flags))
    return "".join(f", {part}" for part in told if part)


def _of_gpu(gpu: Gpu) -> str:
    """Its name and its state."""
    told = [gpu.name, f"{gpu.total / _GIB:.1f} GiB, {gpu.free / _GIB:.1f} GiB free"]
    told += [f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"] if any(gpu.capability) else []
    told += [f"{gpu.utilisation} % busy"] if gpu.utilisation is not None else []
    told += [f"{gpu.temperature} °C"] if gpu.temperature is not None else []
    if gpu.power_watts is not None:
        limit = f" of {gpu.power_limit_watts:.0f}" if gpu.power_limit_watts is not None else ""
        told.append(f"{gpu.power_watts:.0f}{limit} W")
    told += [f"NVLink to {len(gpu.linked)} other{'s' * (len(gpu.linked) > 1)}"] if gpu.linked else []
    return ", ".join(told)


def _vllm_for(here: Hardware) -> Line:
    try:
        version, doubt = newest_vllm(here)
    except UnsupportedPlatform as error:
        cause, _, remedy = str(error).partition(": ")
        return Line("vLLM for it", f"none: {cause}", remedy)
    remedy = "update the NVIDIA driver" if doubt else ""
    return Line("vLLM for it", ", but ".join(filter(None, (version, doubt))), remedy)


def newest_vllm(here: Hardware) -> tuple[str, str]:
    """The vLLM that would be installed, and why it may fail on this driver; "" if nothing speaks against it.

    Raises:
        UnsupportedPlatform: there is none.

    Example:
        >>> from magistral_nb.serving.hardware import Hardware
        >>> newest_vllm(Hardware("Linux", "x86_64", 2))
        ('0.32.0 for the CPU', '')
    """
    check_platform(here.system, here.machine)
    if not here.gpus:
        return f"{VLLM_VERSION} for the CPU", ""
    release = release_for(here)
    return release.version, release.doubt
