"""Where this runs, and the variables that matter there."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.serving.doctor.disguise import is_secret
from magistral_nb.serving.doctor.page import Line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Slurm alone sets sixty, many of which name people and machines: only its shares of this one are told.
_TOLD = re.compile(
    r"(HF|HUGGING_?FACE|VLLM|CUDA|NVIDIA(?!_REQUIRE)|NCCL|TORCH\w*|PYTORCH|TRITON|TRANSFORMERS|MAGISTRAL_NB)_\w+"
    r"|OMP_NUM_THREADS|LD_(LIBRARY_PATH|PRELOAD)|PYTHON(PATH|HOME|NOUSERSITE)|XDG_(CACHE|DATA)_HOME"
    r"|(MISTRAL|OPENAI)_API_KEY|(?i:https?|all)_(proxy|PROXY)"
    r"|SLURM_(JOB|STEP)_GPUS|SLURM_(CPUS|GPUS|MEM|NTASKS)(_\w+)?|SLURM_(JOB_NUM_NODES|NNODES)"
)
# What tells of a place: a variable, or a file.
_BY_VARIABLE = {
    "COLAB_RELEASE_TAG": "Colab",
    "KAGGLE_KERNEL_RUN_TYPE": "Kaggle",
    "JUPYTERHUB_API_URL": "JupyterHub",
    "VSCODE_PID": "VS Code",
    "CODESPACES": "Codespaces",
    "SLURM_JOB_ID": "a Slurm job",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
    "APPTAINER_NAME": "an Apptainer container",
    "SINGULARITY_NAME": "a Singularity container",
    "WSL_DISTRO_NAME": "WSL",
}
_BY_FILE = {"/.dockerenv": "a container", "/run/.containerenv": "a container"}
# In the beginning of a server's command line, the first that fits.
_FRONT_ENDS = (
    (re.compile(r"jupyter[- ]?lab|singleuser"), "JupyterLab"),
    (re.compile(r"jupyter-notebook|(jupyter|-m) notebook|nbclassic"), "Jupyter Notebook"),
    (re.compile(r"jupyter"), "Jupyter"),
)
_BEGINNING = 4  # words: python -m jupyter lab


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """The Jupyter server that started this kernel.

    Attributes:
        name: of the page that it shows, as far as its command line tells.
        prefix: the environment that it runs in, which need not be the kernel's; None if that cannot be told.
    """

    name: str
    prefix: Path | None


def front_end(environment: Mapping[str, str]) -> FrontEnd | None:
    """The server that started this kernel; None outside of one, and where somebody else started it."""
    import psutil

    pid = environment.get("JPY_PARENT_PID", "")  # set by jupyter_client
    if not in_kernel() or not pid.isdecimal():
        return None
    try:
        return told_by(psutil.Process(int(pid)).cmdline())
    except psutil.Error:
        return None


def told_by(words: Sequence[str]) -> FrontEnd | None:
    """What a server's command line tells.

    Example:
        >>> told_by(["python3.12", "/opt/conda/bin/jupyter-lab", "--no-browser"])
        FrontEnd(name='JupyterLab', prefix=PosixPath('/opt/conda'))
        >>> told_by(["pytest", "tests/kernel"])
    """
    begun = " ".join(Path(word).name for word in words[:_BEGINNING])
    name = next((name for pattern, name in _FRONT_ENDS if pattern.search(begun)), None)
    programs = [Path(word) for word in words[:_BEGINNING] if Path(word).is_absolute()]
    prefix = next((program.parent.parent for program in programs if program.parent.name == "bin"), None)
    return None if name is None else FrontEnd(name, prefix)


def in_kernel() -> bool:
    """Whether this is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def places(environment: Mapping[str, str], release: str = "", root: Path = Path("/")) -> list[str]:
    """Where this runs, as far as the environment tells.

    Args:
        environment: of this process.
        release: the kernel's, as platform.release() says it.
        root: of the file system.

    Example:
        >>> places({"SLURM_JOB_ID": "7"}, "5.15.153.1-microsoft-standard-WSL2", root=Path("/nowhere"))
        ['a Slurm job', 'WSL']
    """
    found = [place for variable, place in _BY_VARIABLE.items() if variable in environment]
    found += [place for file, place in _BY_FILE.items() if (root / file.lstrip("/")).exists()]
    found += ["WSL"] if "microsoft" in release.lower() else []
    return list(dict.fromkeys(found))


def variables(environment: Mapping[str, str]) -> Iterator[Line]:
    """The variables that matter here, by name; of a secret one only that it is set.

    Example:
        >>> for line in variables({"HF_TOKEN": "hf_abc", "HTTPS_PROXY": "ada:pw@proxy.test:3128", "EDITOR": "vi"}):
        ...     print(line.label, line.value)
        HF_TOKEN set
        HTTPS_PROXY ***@proxy.test:3128
    """
    for name in sorted(filter(_TOLD.fullmatch, environment)):
        value = environment[name].strip()
        if is_secret(name):
            value = value and "set"
        elif name.lower().endswith("_proxy") and "@" in value and "://" not in value:
            value = f"***@{value.rpartition('@')[2]}"
        yield Line(name, value or "empty")
