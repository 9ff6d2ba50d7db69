"""What is told before a boot: trouble, memory that somebody holds, the command itself. GPUs are simulated."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from machines import GIB, one

from magistral_nb import commands, errors, options
from magistral_nb.processes import Process
from magistral_nb.serving import boot, checkpoint, hardware, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.plan import Plan
from magistral_nb.serving.wishes import Wishes

LOST = "GPU 1 does not answer (GPU is lost): restart the machine."


@pytest.fixture(autouse=True)
def nobody_asks_the_hub(home, monkeypatch):
    monkeypatch.setattr(checkpoint.hub, "text", lambda *_: None)


@pytest.fixture
def on(monkeypatch):
    """Make this machine another one."""

    def become(there, **changes):
        monkeypatch.setattr(hardware, "detect", lambda: dataclasses.replace(there, **changes))

    return become


def shown(capsys, *words):
    own, raw = options.split_raw(list(words))
    chosen = options.serve_options("%magistral_serve").parse_args(own)
    assert commands.serve_shown(chosen, raw, rich=False, ask=False) is None
    return capsys.readouterr().out


def test_a_plan_needs_no_engine_and_names_the_one_that_install_would_bring(on, capsys):
    on(one("L40S"), cuda=(12, 8), driver="570.86.15")
    text = shown(capsys, "--plan")
    assert "vLLM 0.19.1" in text
    assert "not installed yet" in text
    with pytest.raises(errors.EngineNotFound):
        shown(capsys)


def test_a_plan_shows_the_whole_command_with_its_environment(on, capsys):
    on(one("H100 80"), cuda=(13, 0), nvcc=False)
    line = shown(capsys, "2509", "--plan").splitlines()[-1]
    assert "VLLM_USE_FLASHINFER_SAMPLER=0" in line
    assert "vllm serve mistralai/Magistral-Small-2509" in line
    assert """--limit-mm-per-prompt '{"image":0}'""" in line, "as a shell takes it"


def test_a_plan_beside_a_running_server_of_that_name_says_what_serving_would_say(on, capsys):
    on(one("H100 80"), cuda=(13, 0))
    prepared = boot.prepare(Wishes(model="2507"), only_plan=True)
    state = registry.ServerState(name="default", status="booting", plan=prepared.plan, api_key="k", log_path="")
    here = Process.of(os.getpid())
    registry.save(registry.path_of("default"), state.with_(supervisor=here, engine=here))
    text = shown(capsys, "2509", "--plan")
    assert "magistral-small-2509" in text
    assert "add --replace to end that one" in text


def test_what_is_wrong_with_the_machine_stands_under_every_plan(on, capsys):
    on(one("H100 80"), cuda=(13, 0), trouble=LOST)
    assert LOST in shown(capsys, "--plan")
    on(one("H100 80"), gpus=(), trouble="The driver does not answer: restart the machine.")
    text = shown(capsys, "--plan")
    assert "The driver does not answer" in text
    assert "this is abacus" in text


def test_whose_memory_keeps_magistral_away_is_told(on, capsys):
    on(one("H100 80", held=65 * GIB), cuda=(13, 0))
    text = shown(capsys, "--plan")
    assert "Ministral" in text
    assert "magistral-small-2509 would fit but for 65.0 GiB that this notebook itself holds: del its tensors" in text
    assert "would fit but for" not in shown(capsys, "ministral-3b", "--plan"), "who names a model wants that one"
    on(one("H100 80"), cuda=(13, 0))
    assert "would fit but for" not in shown(capsys, "--plan")


def test_a_fine_tune_that_thinks_is_asked_to(tmp_path):
    mine = dataclasses.replace(RELEASES["2509"], source=str(tmp_path), name="mine")
    text, source = checkpoint.system_prompt(mine)
    assert "[THINK]" in json.dumps(text)
    assert "in our words, as the folder has no SYSTEM_PROMPT.txt" in source
    other = dataclasses.replace(mine, thinks=False)
    assert checkpoint.system_prompt(other)[0] is None


def test_a_plan_comes_back_from_json_as_it_was(on):
    on(one("L40S"), cuda=(13, 0))
    plan = boot.prepare(Wishes(), only_plan=True).plan
    assert Plan.from_dict(json.loads(json.dumps(dataclasses.asdict(plan)))) == plan
