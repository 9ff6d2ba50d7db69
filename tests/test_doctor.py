"""The page for a bug report: what it tells, what it leaves out, and that it is made whatever is broken."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import socket
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from serving.environments import make_own
from serving.machines import CARDS, gpus, machine, one
from serving.scripted_hub import put_into_cache

import magistral_nb
from magistral_nb import cli
from magistral_nb.asking.endpoint import Endpoint, Sampling
from magistral_nb.processes import Process
from magistral_nb.serving import doctor as room, hardware, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.diagnosis import Diagnosis
from magistral_nb.serving.doctor import engines, machine as machines, servers, storage
from magistral_nb.serving.doctor.disguise import Disguise, disguise
from magistral_nb.serving.doctor.page import Line, Section, layout
from magistral_nb.serving.hardware import Hardware
from magistral_nb.serving.plan import Plan
from magistral_nb.serving.server import adopt
from magistral_nb.serving.wishes import Wishes
from magistral_nb.sharing import key_ring

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


def test_nobody_is_asked_over_a_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: _break("asked"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: _break("asked"))
    assert "could not be examined" not in magistral_nb.doctor()


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
        *("HF_TOKEN set", "https_proxy http://***@proxy.test:3128", "ALL_PROXY ***@proxy.test:1080"),
        *("/scratch/<user>/vllm", "~/cuda", "unknown: ValueError: *** *** *** on <host> for <user>"),
        *("%magistral_serve -- --api-key *** --hf-token ***", "Exception: *** of <user>", "! old.json"),
    ):
        assert kept in " ".join(page.split()), kept


def _break(message):
    raise Exception(message)  # noqa: TRY002 - whichever it may be


def test_a_part_that_breaks_says_so_and_the_rest_goes_on(monkeypatch):
    def half():
        yield Line("processor", "2 CPUs")
        _break("NVML is\nnot itself")

    rest = "all the rest holds; please report this, too"
    section = room.examined("Machine", half, Disguise())
    assert told(section.lines) == [
        "processor: 2 CPUs",
        f": this part could not be examined: Exception: NVML is not itself -> {rest}",
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
        words = f"{line.label} {line.value} {line.remedy}".replace("```", "'''").split()
        assert set(words) <= set(inside.split())
        assert not line.remedy or f"! {line.label}".replace("```", "'''").rstrip() in inside
    assert all(len(row) <= 110 or len(row.split()) <= 4 for row in inside.splitlines())


@given(WORDS, st.text(string.printable, max_size=30), st.text(string.printable, max_size=30))
def test_what_is_known_for_a_secret_is_hidden_wherever_it_stands(secret, before, after):
    hidden = disguise({"SOME_TOKEN": secret})
    assert secret not in hidden.hides(f"{before}{secret}{after}")


def test_a_folder_that_only_begins_like_the_home_is_none():
    ada = Disguise(homes=("/home/ada",), users=("ada",))
    assert ada.hides("/home/ada2 /home/ada/x:/home/ada file:///home/ada/y") == "/home/ada2 ~/x:~ file://~/y"
    assert ada.hides("adapters of Canada, ada_1") == "adapters of Canada, <user>_1"


# Machine, engines, disks


def test_a_machine_with_a_gpu():
    here = dataclasses.replace(one("H100 80", held=3 * 2**30), driver="570.86.15", cuda=(12, 8))
    lines = told(machines.lines(here, {}))
    assert "NVIDIA driver: 570.86.15, knows CUDA 12.8" in lines
    assert "GPU 0: NVIDIA H100 80GB HBM3, 79.6 GiB, 76.2 GiB free, compute capability 9.0" in lines
    assert ": held by this notebook, 3.0 GiB" in lines
    assert lines[-2:] == ["CUDA compiler: nvcc is here", "vLLM for it: 0.11.2"]


def test_power_heat_links_and_a_missing_compiler_are_told():
    there = one("H100 80", 2)
    warm = [dataclasses.replace(gpu, power_watts=312.4, power_limit_watts=700.0, temperature=61) for gpu in there.gpus]
    page = "\n".join(told(machines.lines(dataclasses.replace(there, gpus=tuple(warm), nvcc=False), {})))
    assert "61 °C, 312 of 700 W, NVLink to 1 other" in page
    assert "CUDA compiler: none, so that plans do without FlashInfer" in page


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
    assert cpu.remedy == f"pip --python {folder}/bin/python install 'mistral-common<1.13'"


def test_engines_that_are_missing_half_made_or_too_new_for_the_driver(no_engines):
    here = dataclasses.replace(one("A100 80"), cuda=(12, 8))
    assert told(engines.lines(here))[0] == "cuda: no environment of its own yet -> %magistral_serve --install"
    make_own("cuda", "0.33.0")
    half = make_own("cpu", marker=False)
    lines = told(engines.lines(here))
    assert "which this driver or these cards do not run -> update the NVIDIA driver, or %magistral_serve" in lines[0]
    assert lines[1] == (
        f"{half.name}: is half-made, or its Python is gone -> %magistral_serve --install, or delete {half}"
    )
    assert lines[2] == "this Python: has no vllm"
    assert told(engines.lines(Hardware("Darwin", "arm64", 8)))[-1] == "this Python: has no vllm"


@pytest.mark.parametrize(("cuda", "card", "remedy"), [((11, 4), (9, 0), "update"), ((12, 8), (6, 1), "type")])
def test_where_no_vllm_runs_none_is_to_be_installed(no_engines, cuda, card, remedy):
    gpu = dataclasses.replace(one("H100 80").gpus[0], capability=card)
    here = dataclasses.replace(machine((gpu,)), cuda=cuda)
    assert told(engines.lines(here)) == ["this Python: has no vllm"]
    make_own("cuda", "0.33.0")
    (cuda_line, _) = engines.lines(here)
    assert "do not run" in cuda_line.value
    assert cuda_line.remedy.startswith(remedy)
    assert "--install" not in cuda_line.remedy
    assert "%magistral_connect URL" in cuda_line.remedy


def test_disks_that_are_full_or_closed(monkeypatch, tmp_path):
    assert storage.disk("models", tmp_path / "not" / "yet", "set HF_HOME").remedy == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    closed = storage.disk("models", tmp_path, "set HF_HOME")
    assert closed.value.endswith(", which may not be written to")
    assert closed.remedy == "set HF_HOME"


def test_little_shared_memory_matters_to_several_gpus(monkeypatch):
    monkeypatch.setattr(storage, "_LEAST_SHARED", 10**18)
    shared = [[*storage.disks({}, count)][-1] for count in (1, 2)]
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


def test_servers_are_told_with_memory_and_address():
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as engine:
        save(state(base_url="http://127.0.0.1:8123/v1", engine=Process.of(engine.pid)))
        there = Endpoint("https://me:hidden@gpu.test:8000/v1", "their-model", server="elsewhere", api_key="not-for-us")
        adopt(there, None)
        adopt(dataclasses.replace(there, base_url="unix:/run/vllm.sock", server="socket"), None)
        lines = told(servers.lines(HERE))
        engine.kill()
    assert lines[:3] == [
        "default: ready, magistral-small-2509, 127.0.0.1:8123, 0.0 GiB of RAM, up for 90 min",
        "elsewhere: connected, their-model, gpu.test:8000",
        "socket: connected, their-model, a Unix socket",
    ]
    ring = key_ring.add(key_ring.path_of(registry.path_of("default")), ["ada", "ben"])
    assert servers.keys() == {"k" * 43, "not-for-us", *ring.keys.values()}


def test_a_boot_is_told_with_its_stage_and_a_dead_server_with_its_cause():
    with subprocess.Popen(["sleep", "60"]) as process:
        alive = Process.of(process.pid)
        save(state(status="booting", stages=(("Loading the weights", 3.0),), detail="40%", supervisor=alive))
        save(state("dead", engine=Process(process.pid, 1.0)))
        dead, default, *_ = told(servers.lines(HERE))
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
