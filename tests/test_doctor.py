"""The page for a bug report: what it tells, what it leaves out, and that it is made whatever is broken."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import string
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st
from serving.environments import make_own
from serving.machines import CARDS, gpus, machine, one
from serving.scripted_hub import put_into_cache

import magistral_nb
from magistral_nb import cli
from magistral_nb.asking.endpoint import Sampling
from magistral_nb.processes import Process
from magistral_nb.serving import doctor as room, hardware, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.diagnosis import Diagnosis
from magistral_nb.serving.doctor import engines, installed, machine as machines, servers, storage, surroundings
from magistral_nb.serving.doctor.disguise import Disguise, disguise
from magistral_nb.serving.doctor.installed import Package
from magistral_nb.serving.doctor.page import Line, Section, layout
from magistral_nb.serving.hardware import Hardware
from magistral_nb.serving.plan import Plan
from magistral_nb.serving.wishes import Wishes

TITLES = [*room._looks()]
HERE = machine()
WORDS = st.text(string.ascii_letters + string.digits, min_size=8, max_size=20)


def state(name="default", status="ready", **more):
    plan = Plan("magistral-small-2509", "Magistral on an H100", ("vllm",), (), 4096, Sampling(), (), "f", Wishes())
    made = {"plan": plan, "api_key": "k" * 43, "log_path": "/tmp/x.log", "created": time.time() - 5400} | more
    return registry.ServerState(name=name, status=status, **made)


def save(state):
    registry.save(registry.path_of(state.name), state)


def told(lines):
    """Lines as text, one each."""
    return [f"{line.label}: {line.value}" + (f" -> {line.remedy}" if line.remedy else "") for line in lines]


# The whole page


def test_the_command_examines_this_machine(capsys):
    shown = subprocess.run([sys.executable, "-m", cli.__name__, "doctor"], capture_output=True, text=True, check=True)
    page = shown.stdout
    assert shown.stderr == ""
    assert page.startswith("```text\nmagistral-nb doctor: ")
    assert page.endswith("\n```\n")
    assert [title for title in TITLES if f"\n{title}\n" in page] == TITLES
    assert re.search(rf"\n  Python +{sys.version.split()[0]}, ", page)
    assert "could not be examined" not in page
    assert str(Path.home()) not in page
    assert os.uname().nodename not in page


def test_a_notebook_shows_it_with_magics_and_python_gets_a_text(shell, capsys, monkeypatch):
    monkeypatch.setattr(
        room, "_looks", lambda: {"Engines": lambda: [Line("cpu", "none", "%magistral_serve --install")]}
    )
    shell.run_line_magic("magistral_doctor", "")
    assert "-> %magistral_serve --install" in capsys.readouterr().out
    assert "-> %magistral_serve --install" in magistral_nb.doctor()


def test_a_terminal_is_told_commands(capsys, monkeypatch):
    monkeypatch.setattr(
        room, "_looks", lambda: {"Engines": lambda: [Line("cpu", "none", "%magistral_serve --install")]}
    )
    assert cli.main(["doctor"]) == 0
    assert "-> magistral-nb serve --install" in capsys.readouterr().out
    assert cli.main(["doctor", "--all"]) == 1


def test_no_secret_and_no_name_is_shown(monkeypatch, home, tmp_path):
    secrets = {
        "HF_TOKEN": "no-usual-token-7",
        "MISTRAL_API_KEY": "mistral-0123456789",
        "SLURM_JWT": "eyJhbGciOiJIUzI1NiJ9",
        "https_proxy": "http://ada:hunter2@proxy.test:3128",
        "ALL_PROXY": "ada:pass/word@proxy.test:1080",
        "HF_ENDPOINT": "https://only-a-token@mirror.test/hub?token=in-the-query",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "ada.lovelace"))
    monkeypatch.setenv("USER", "ada.lovelace")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/scratch/ada.lovelace/vllm")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "ada.lovelace" / "cuda"))
    monkeypatch.setattr("platform.node", lambda: "difference-engine.example.org")
    key, old_key = "key-of-the-server-0123456789", "key-of-an-older-server-987654321"
    evidence = f"ValueError: {key} hf_abcdefghijklmnop no-usual-token-7 on difference-engine for ada.lovelace"
    found = Diagnosis("unknown", f"it said {key}", evidence, "type it again", context=(f"Bearer {key}", "hunter2"))
    typed = Wishes(engine_args=("--api-key", "typed-by-hand", "--hf-token", "also-typed"))
    plan = dataclasses.replace(state().plan, wishes=typed)
    save(state(status="failed", plan=plan, api_key=key, error=found.cause, diagnosis=found))
    registry.path_of("old").write_text(json.dumps({"version": 0, "api_key": old_key, "log": old_key}))
    monkeypatch.setattr(hardware, "detect", lambda: _break(f"{old_key} of ada.lovelace"))
    page = magistral_nb.doctor()
    for secret in (
        *("no-usual-token-7", "mistral-0123456789", "eyJhbGciOiJIUzI1NiJ9", "hunter2", "pass/word", "word@"),
        *("only-a-token", "in-the-query", "hf_abcdefghijklmnop", key, old_key, "typed-by-hand", "also-typed"),
        *("ada", "lovelace", "difference-engine", "example.org"),
    ):
        assert secret not in page, secret
    for kept in (
        *(
            "HF_TOKEN         set",
            "https_proxy      http://***@proxy.test:3128",
            "ALL_PROXY        ***@proxy.test:1080",
        ),
        *("/scratch/<user>/vllm", "~/cuda", "unknown: ValueError: *** *** *** on <host> for <user>"),
        *("%magistral_serve -- --api-key *** --hf-token ***", "Exception: *** of <user>", "old.json"),
    ):
        assert kept in page, kept


def _break(message):
    raise Exception(message)  # noqa: TRY002 - whichever it may be


def test_a_part_that_breaks_says_so_and_the_rest_goes_on(monkeypatch):
    def half():
        yield Line("processor", "2 CPUs")
        _break("NVML is\nnot itself")

    section = room.examined("Machine", half, Disguise())
    assert told(section.lines) == [
        "processor: 2 CPUs",
        ": this part could not be examined: Exception: NVML is not itself -> all the rest holds; please report this, too",
    ]
    real = importlib.import_module
    broken = {f"{room.__name__}.{name}" for name in ("servers", "storage", "machine")}
    monkeypatch.setattr(importlib, "import_module", lambda name: _break("gone") if name in broken else real(name))
    page = magistral_nb.doctor()
    assert page.count("could not be examined: Exception: gone") == 5
    assert "Python  " in page


@given(st.lists(st.lists(st.tuples(st.text(max_size=9), st.text(), st.text()), max_size=4), min_size=1, max_size=3))
def test_a_page_is_one_fence_and_loses_no_word(sections):
    hides = Disguise().hides
    made = [Section("T", tuple(Line(*map(hides, line)) for line in lines)) for lines in sections]
    page = layout(made)
    assert page.count("```") == 2
    inside = page.removeprefix("```text\n").removesuffix("\n```")
    for line in (line for section in made for line in section.lines):
        assert line.value.replace("```", "'''").split() <= inside.split()
    assert all(len(row) <= 110 or len(row.split()) <= 4 for row in inside.splitlines())


@given(WORDS, st.text(string.printable, max_size=30), st.text(string.printable, max_size=30))
def test_what_is_known_for_a_secret_is_hidden_wherever_it_stands(secret, before, after):
    hidden = disguise({"SOME_TOKEN": secret})
    assert secret not in hidden.hides(f"{before}{secret}{after}")


def test_a_folder_that_only_begins_like_the_home_is_none():
    ada = Disguise(homes=("/home/ada",), users=("ada",))
    assert ada.hides("/home/ada2 /home/ada/x:/home/ada file:///home/ada/y") == "/home/ada2 ~/x:~ file://~/y"
    assert ada.hides("adapters of Canada, ada_1") == "adapters of Canada, <user>_1"


# Packages


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


# Machine, engines, disks


def test_a_machine_with_a_gpu():
    here = dataclasses.replace(one("H100 80", held=3 * 2**30), driver="570.86.15", cuda=(12, 8))
    lines = told(machines.lines(here, {}))
    assert "NVIDIA driver: 570.86.15, knows CUDA 12.8" in lines
    assert "GPU 0: NVIDIA H100 80GB HBM3, 79.6 GiB, 76.2 GiB free, compute capability 9.0" in lines
    assert ": held by this notebook, 3.0 GiB" in lines
    assert lines[-1] == "vLLM for it: 0.11.2"


@pytest.mark.parametrize(
    ("changes", "environment", "wrong"),
    [
        ({"trouble": "The driver is away: type sudo modprobe nvidia."}, {}, "type sudo modprobe nvidia."),
        ({"driver": "570"}, {"CUDA_VISIBLE_DEVICES": "-1"}, "unset CUDA_VISIBLE_DEVICES"),
        ({"gpus": gpus(CARDS["H100 80"]), "driver": "550", "cuda": (12, 4)}, {}, "update the NVIDIA driver"),
        ({"gpus": gpus(CARDS["H100 80"]), "driver": "470", "cuda": (11, 4)}, {}, "update the NVIDIA driver, or type"),
        ({"system": "Darwin", "machine": "arm64"}, {}, "serve the model with Ollama"),
    ],
)
def test_what_is_wrong_with_a_machine_has_a_remedy(changes, environment, wrong):
    remedies = [
        line.remedy for line in machines.lines(dataclasses.replace(HERE, **changes), environment) if line.remedy
    ]
    assert len(remedies) == 1
    assert remedies[0].startswith(wrong)


@pytest.fixture
def no_engines(home):
    (home / "cache" / "engines").unlink()


def put_package(library, name, version):
    folder = library / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "RECORD").write_text("a.so,sha256=x,1000000000\nb.py,,\n")


def test_the_pair_that_answers_every_question_with_400(no_engines):
    folder = make_own("cpu")
    library = folder / "lib" / "python3.11" / "site-packages"
    put_package(library, "mistral-common", "1.13.0")
    (cpu, *_) = engines.lines(HERE)
    assert cpu.value.startswith("vLLM 0.32.0, mistral-common 1.13.0, with which every question is answered with 400")
    assert "1.0 GB" in cpu.value, "as its packages list themselves"
    assert cpu.remedy == f"pip --python {folder}/bin/python install 'mistral-common>=1.11.6,<1.13'"


def test_engines_that_are_missing_half_made_or_too_new_for_the_driver(no_engines):
    here = dataclasses.replace(one("A100 80"), cuda=(12, 8))
    assert told(engines.lines(here))[0] == "cuda: no environment of its own yet -> %magistral_serve --install"
    make_own("cuda", "0.33.0")
    half = make_own("cpu", marker=False)
    lines = told(engines.lines(here))
    assert "built with CUDA 13, and this driver knows 12.8 -> update the NVIDIA driver, or delete" in lines[0]
    assert lines[1] == (
        f"{half.name}: is half-made, or its Python is gone -> %magistral_serve --install, or delete {half}"
    )
    assert lines[2] == "this Python: has no vllm"
    assert told(engines.lines(Hardware("Darwin", "arm64", 8)))[-1] == "this Python: has no vllm"


def test_disks_that_are_full_or_closed(monkeypatch, tmp_path):
    assert storage.disk("models", tmp_path / "not" / "yet", "set HF_HOME").remedy == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    closed = storage.disk("models", tmp_path, "set HF_HOME")
    assert closed.value.endswith(", which may not be written to")
    assert closed.remedy == "set HF_HOME"


def test_little_shared_memory_matters_to_several_gpus(monkeypatch):
    monkeypatch.setattr(storage, "_LEAST_SHARED", 10**18)
    shared = [[*storage.disks({}, lambda count=count: one("T4", count))][-1] for count in (1, 2)]
    assert [bool(line.remedy) for line in shared] == [False, True]
    assert "--shm-size" in shared[1].remedy


def test_models_of_the_catalogue_in_the_hub_s_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert told(storage.models({}))[0] == "catalogue: none of its models is here"
    files = {"params.json": b"{}", "tekken.json": b"{}", "consolidated.safetensors": bytes(10**6)}
    put_into_cache(tmp_path, RELEASES["2507"].source, files)
    put_into_cache(tmp_path, RELEASES["2509"].source, {"params.json": b"{}"})
    put_into_cache(tmp_path, "ada/private", files)
    lines = told(storage.models({"HF_TOKEN": "x"}))
    assert lines == ["2507: 0.0 GB, whole", "2509: 0.0 GB, in part, of 48 GB", "login: in the environment"]


# Servers


def test_servers_are_told_with_memory_and_address(stand_in):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as engine:
        save(state(base_url="http://127.0.0.1:8123/v1", engine=Process.of(engine.pid)))
        magistral_nb.connect(stand_in.url, api_key="not-for-others", name="elsewhere")
        default, elsewhere, *_ = told(servers.lines(HERE))
        engine.kill()
    assert re.fullmatch(r"default: ready, magistral-small-2509, 127.0.0.1:8123, 0.0 GiB of RAM, up for 90 min", default)
    assert elsewhere == f"elsewhere: connected, stand-in, {stand_in.root.removeprefix('http://')}"
    assert servers.keys() == {"k" * 43, "not-for-others"}


def test_a_boot_is_told_with_its_stage_and_a_dead_server_with_its_cause():
    with subprocess.Popen(["sleep", "60"]) as process:
        alive = Process.of(process.pid)
        save(state(status="booting", stages=(("Loading the weights", 3.0),), detail="40%", supervisor=alive))
        save(state("dead", engine=Process(process.pid, 1.0)))
        default, dead, *_ = told(servers.lines(HERE))
        process.kill()
    assert default.endswith(", loading the weights 40%")
    assert "no address yet" in default
    assert dead == "dead: failed, magistral-small-2509: its vLLM process is gone"


def test_the_newest_failure_is_told_with_what_was_typed():
    found = Diagnosis("cuda_oom", "The GPU was full.", "OutOfMemoryError: …", "end the others", context=("a", "b"))
    plan = dataclasses.replace(state().plan, wishes=Wishes("2509", images=True))
    save(state("older", "failed", created=1.0, error="something else"))
    save(state("newer", "failed", plan=plan, error=found.cause, diagnosis=found, stages=(("Loading", 0.0),)))
    assert told(servers.last_failure()) == [
        "server: newer, begun 90 min ago, while: loading",
        "typed: %magistral_serve 2509 --images",
        "plan: Magistral on an H100",
        "cause: The GPU was full. -> end the others",
        "evidence: cuda_oom: OutOfMemoryError: …",
        "around it: a",
        ": b",
        "log: /tmp/x.log",
    ]


def test_a_supervisor_without_a_state_file_is_an_orphan(tmp_path):
    file = tmp_path / "gone.json"
    words = [sys.executable, "-c", "import time; time.sleep(60)", "magistral_nb.serving.supervisor", str(file)]
    with subprocess.Popen(words) as process:
        wanted = f"orphan: a supervisor (process {process.pid}) whose state file is gone"
        orphaned = [line for line in told(servers.lines(HERE)) if line.startswith(wanted)]
        file.touch()
        kept = [line for line in told(servers.lines(HERE)) if line.startswith(wanted)]
        process.kill()
    assert [line.partition(" -> ")[2] for line in orphaned] == [f"type kill {process.pid} in a terminal"]
    assert kept == []
