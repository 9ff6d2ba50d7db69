"""What clashes in a Python, and where it runs, as the page for a bug report tells it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_doctor import told

from magistral_nb.serving.doctor import installed, surroundings
from magistral_nb.serving.doctor.installed import Package

GOOD = {
    "magistral-nb": Package("0.1.0", ("openai>=1.60", 'tomli; python_version < "3"', 'pytest; extra == "test"')),
    "openai": Package("2.0.0", ("httpx[http2]<1,>=0.23",)),
    "httpx": Package("0.28.1", ('h2>=3; extra == "http2"', 'socksio==1.*; extra == "socks"')),
    "h2": Package("4.1.0", ("httpx",)),
    "nvidia-ml-py": Package("13.615.71"),
    "ipywidgets": Package("7.7.1"),
}


def clashes(changed=None, modules=None, lab=None):
    return told(installed.clashes((GOOD | (changed or {})).get, modules or {}, lab))


def test_what_fits_is_no_clash():
    assert clashes() == []
    assert clashes({"pynvml": Package("13.0.1")}) == [], "it brings no module of that name any more"
    assert clashes({"openai": Package("2.0.0rc1")}) == [], "a release candidate counts"
    assert clashes({"openai": Package("unknown", ("not a requirement!",))}) == []


def test_this_environment_has_no_clash():
    assert told(installed.clashes(installed.find, sys.modules, installed.find("jupyterlab"))) == []


def test_a_requirement_that_is_not_met_is_named_however_deep_it_is():
    assert clashes({"openai": Package("1.2.0", GOOD["openai"].requires)}) == [
        "openai: 1.2.0, but magistral-nb wants openai>=1.60 -> pip install 'openai>=1.60'"
    ]
    assert clashes({"h2": None}) == ["h2: none, but httpx wants h2>=3 -> pip install 'h2>=3'"]
    assert clashes({"h2": Package("4.1.0", ("httpx[socks]",)), "socksio": Package("2.0")}) == [
        "socksio: 2.0, but httpx wants socksio==1.* -> pip install 'socksio==1.*'"
    ]
    assert "httpx: 1.0, but openai wants httpx<1,>=0.23" in clashes({"httpx": Package("1.0")})[0]


@pytest.mark.parametrize(("name", "version"), [("pynvml", "11.5.0"), ("nvidia-ml-py3", "7.352.0")])
def test_an_old_pynvml_hides_nvidia_s_own(name, version):
    (clash,) = clashes({name: Package(version)})
    assert clash.startswith(f"{name}: {version} hides the module of nvidia-ml-py")
    assert f"-> pip uninstall -y {name}; pip install --force-reinstall --no-deps nvidia-ml-py" in clash


def test_ipywidgets_7_from_before_jupyterlab_4():
    assert "ipywidgets: 7.7.1 is made for JupyterLab 3, and this is 4.4.0" in clashes(lab=Package("4.4.0"))[0]
    assert clashes(lab=Package("3.6.8")) == []
    assert clashes({"ipywidgets": Package("7.8.5")}, lab=Package("4.4.0")) == []


def test_a_package_that_was_replaced_under_a_running_kernel():
    modules = {"openai": SimpleNamespace(__version__="1.99.0"), "httpx": SimpleNamespace(__version__="0.28.1")}
    assert clashes(modules=modules) == ["openai: 2.0.0 is installed, and 1.99.0 is loaded -> restart the kernel"]


def test_the_page_s_half_of_anywidget(tmp_path):
    def extension(name, version):
        folder = tmp_path / name
        (folder / "anywidget").mkdir(parents=True)
        (folder / "anywidget" / "package.json").write_text(json.dumps({"version": version}))
        return folder

    new, old = extension("new", "0.11.2"), extension("old", "0.9.13")
    assert installed.front_end_clash("0.11.0", [tmp_path, new, old], expected=True) is None, "the first that is there"
    clash = installed.front_end_clash("0.11.0", [old, new], expected=True)
    assert clash.value == f"0.11.0 in Python, 0.9.13 in the page (from {old})"
    assert "pip install anywidget==0.11.0 where JupyterLab is installed" in clash.remedy
    assert "none in the page" in installed.front_end_clash("0.11.0", [tmp_path], expected=True).value
    assert installed.front_end_clash("0.11.0", [tmp_path], expected=False) is None


def test_files_that_are_imported_by_mistake(tmp_path):
    for name in ("random.py", "notes.py", "test.py", "vllm.txt", "openai/__init__.py", "httpx/data.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = told(installed.shadowing(tmp_path))
    assert [line.partition(" ->")[0] for line in found] == [
        f"openai: in {tmp_path} hides openai",
        f"random.py: in {tmp_path} hides Python's random",
    ]
    assert "give it another name" in found[0]


def test_what_an_interrupted_pip_left_is_passed_over(tmp_path):
    (tmp_path / "openai-2.0.0.dist-info").mkdir()
    assert installed.find("openai", [str(tmp_path)]) is None


# Where it runs


def test_front_ends_by_their_command_lines():
    lab = surroundings.FrontEnd("JupyterLab", Path("/opt/x"))
    assert surroundings.told_by(["/opt/x/bin/python", "-m", "jupyterlab", "/home/jupyter-notebook"]) == lab
    assert surroundings.told_by(["/opt/x/bin/python3.12", "/opt/x/bin/jupyter-labhub"]) == lab
    assert surroundings.told_by(["python", "-m", "jupyter", "lab"]) == surroundings.FrontEnd("JupyterLab", None)
    assert surroundings.told_by(["/opt/x/bin/python", "/opt/x/bin/jupyter-notebook"]).name == "Jupyter Notebook"
    assert surroundings.told_by(["/usr/bin/python3", "-m", "pytest"]) is None


def test_of_slurm_only_shares_are_told():
    slurm = {"SLURM_JOB_GPUS": "0", "SLURM_MEM_PER_NODE": "64", "SLURM_JOB_USER": "ada", "SLURMD_NODENAME": "n1"}
    assert told(surroundings.variables(slurm)) == ["SLURM_JOB_GPUS: 0", "SLURM_MEM_PER_NODE: 64"]
    assert surroundings.places({"SLURM_JOB_ID": "1", "COLAB_RELEASE_TAG": "x"})[:2] == ["Colab", "a Slurm job"]


def test_variables_that_are_set_to_nothing_are_told():
    told_of = {"CUDA_VISIBLE_DEVICES": "", "HF_TOKEN": " ", "VLLM_USE_V1": "0", "vllm_lower": "1"}
    assert told(surroundings.variables(told_of)) == ["CUDA_VISIBLE_DEVICES: empty", "HF_TOKEN: empty", "VLLM_USE_V1: 0"]
