"""Who holds a GPU's memory, and what to do about it: values for the GPUs, real processes for their owners."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given, strategies as st
from serving.test_plan import GIB, H100, VLLM

from magistral_nb import errors
from magistral_nb.processes import Process
from magistral_nb.serving import owners, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.hardware import Gpu, Hardware, Holder
from magistral_nb.serving.owners import Owner, explain_full
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

NOTEBOOK, ORPHAN, SERVER = Owner("notebook"), Owner("orphan", "VLLM::EngineCore", 815), Owner("server", "default")
WHO = {7: NOTEBOOK, 815: ORPHAN, 9: SERVER, 10: Owner("kernel", "python3", 10), 11: Owner("process", "blender", 11)}
RESERVED = 0.5  # GiB that the driver keeps for itself


def gpu(held, *, known=True, total=80.0, untold=0.0):
    """A GPU of which these processes hold so many GiB; None stands for what NVML does not tell."""
    holders = tuple(
        Holder(pid, "python3", None if size is None else int(size * GIB), ours=pid == 7) for pid, size in held.items()
    )
    free = total - RESERVED - untold - sum(size or 0 for size in held.values())
    return Gpu("NVIDIA H100", int(total * GIB), int(free * GIB), (9, 0), holders=holders, holders_known=known)


def machine(*gpus):
    return Hardware("Linux", "x86_64", 8, gpus)


def told(hardware, release="2509", who=WHO, **wishes):
    """What is said of a plan, after checking that it is refused as it is."""

    def plan_with(there):
        return make_plan(there, RELEASES[release], Wishes(**wishes), VLLM)

    with pytest.raises(errors.PlanRefused):
        plan_with(hardware)
    text = explain_full(hardware, plan_with, who)
    assert text is None or "\n" not in text
    return text


def test_this_notebook_s_own_tensors():
    assert told(machine(gpu({7: 60}))) == (
        "magistral-small-2509 would fit but for 60.0 GiB that this notebook itself holds: del its tensors and call "
        "torch.cuda.empty_cache(), or restart the kernel."
    )


def test_what_a_dead_server_left():
    assert told(machine(gpu({815: 70}))) == (
        "magistral-small-2509 would fit but for 70.0 GiB that VLLM::EngineCore (process 815), which a dead server "
        "left, holds: type kill -9 815 in a terminal."
    )
    by_name = told(machine(gpu({815: 70})), who={815: Owner("orphan", "second")})
    assert "what is left of server 'second' holds: %magistral_stop second ends it." in by_name


def test_another_server_another_notebook_another_program():
    assert "server 'default' holds: %magistral_stop default ends it" in told(machine(gpu({9: 70})))
    assert "another notebook (process 10) holds: shut that one's kernel down" in told(machine(gpu({10: 70})))
    assert "blender (process 11) holds: end blender, or wait for it" in told(machine(gpu({11: 70})))
    assert "python3 (process 99) holds" in told(machine(gpu({99: 70}))), "which has ended since NVML told of it"


def test_of_several_the_one_is_named_that_is_missed_least():
    text = told(machine(gpu({9: 30, 7: 30, 815: 15})))
    assert "30.0 GiB that this notebook itself holds:" in text, "the orphan alone would not do"
    assert "server" not in text
    assert "VLLM" not in text


def test_where_one_is_not_enough_several_are_named():
    text = told(machine(gpu({7: 25, 815: 25, 816: 25})), who=WHO | {816: Owner("orphan", "VLLM::Worker_TP1", 816)})
    assert "25.0 GiB that VLLM::EngineCore (process 815)" in text
    assert text.endswith("type kill -9 815 816 in a terminal."), "the notebook may go on"


def test_the_same_owner_on_two_gpus_is_one():
    both = machine(gpu({7: 60}), gpu({7: 60}))
    assert "120.0 GiB that this notebook itself holds" in told(both, gpus=2, quantization="none", context=131_072)


def test_who_cannot_be_seen_is_told_of_all_the_same():
    hidden = told(machine(gpu({}, known=False, untold=70)), who={})
    assert "70.5 GiB that somebody who cannot be seen from here holds: nvidia-smi on the machine itself" in hidden
    assert "kill -9 815" in told(machine(gpu({}, known=False, untold=70)), who={815: ORPHAN}), (
        "it is most likely that one"
    )


def test_whose_bytes_are_not_told_may_hold_what_is_missing():
    assert "this notebook itself holds" in told(machine(gpu({7: None}, untold=70)))


def test_a_gpu_that_would_not_do_when_empty_either_is_nobody_s_fault():
    assert told(machine(gpu({7: 5}, total=22.5))) is None
    assert told(machine(gpu({7: 60})), context=10**7) is None


def refused(hardware):
    try:
        make_plan(hardware, RELEASES["2509"], Wishes(), VLLM)
    except errors.PlanRefused:
        return True
    return False


@given(st.dictionaries(st.sampled_from([*WHO, 99]), st.floats(0.01, 1) | st.none(), min_size=1), st.floats(50, 76))
def test_ending_whoever_is_named_is_enough_and_nobody_is_named_in_vain(shares, total):
    silent = None in shares.values()
    scale = (total - 3 * silent) / sum(share or 0 for share in shares.values()) if any(shares.values()) else 0
    held = {pid: None if share is None else share * scale for pid, share in shares.items()}
    full, tried = machine(gpu(held, untold=3 if silent and scale else total if silent else 0)), []
    assert refused(full)

    def plan_with(there):
        tried.append(there)
        return make_plan(there, RELEASES["2509"], Wishes(), VLLM)

    text = explain_full(full, plan_with, WHO)
    assert text is not None, "an empty one would do"
    assert not refused(tried[-1])
    assert all(map(refused, tried[:-1]))
    named = [float(size) for size in re.findall(r"([\d.]+) GiB that", text)]
    assert full.gpus[0].free + (sum(named) + 0.1 * len(named)) * GIB >= tried[-1].gpus[0].free


# Real processes


@pytest.fixture
def vllm(monkeypatch):
    """Start a group of two processes, of which the child is one of vLLM's by its name; the ids of both."""
    groups = []

    def start():
        code = (
            "import subprocess, sys, time;"
            "print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid, flush=True); time.sleep(60)"
        )
        leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
        groups.append(leader)
        return leader, int(leader.stdout.readline())

    monkeypatch.setattr(owners, "_VLLM", "sleep")
    yield start
    for leader in groups:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()


@pytest.fixture
def state(vllm):
    """The state of a server with such a group, and a supervisor that is alive."""
    leader, child = vllm()
    plan = make_plan(H100, RELEASES["2506"], Wishes(), VLLM)
    state = registry.ServerState(
        name="second",
        status="ready",
        plan=plan,
        api_key="k",
        log_path="/tmp/x.log",
        engine=Process.of(leader.pid),
        supervisor=Process.of(os.getpid()),
    )
    registry.save(registry.path_of("second"), state)
    return state, leader, child


def holding(*pids, ours=False):
    holders = tuple(Holder(pid, "?", GIB, ours=ours) for pid in pids)
    return machine(Gpu("NVIDIA H100", 80 * GIB, 9 * GIB, (9, 0), holders=holders, holders_known=True))


def killed(leader):
    leader.kill()
    leader.wait()
    time.sleep(0.05)


@pytest.mark.engine
def test_a_server_s_processes_are_the_server_s_though_this_kernel_started_it(state):
    _, leader, child = state
    assert owners.find_owners(holding(leader.pid, child, ours=True)) == dict.fromkeys(
        (leader.pid, child), Owner("server", "second")
    )


@pytest.mark.engine
def test_without_its_supervisor_a_server_is_an_orphan_that_magistral_stop_ends(state):
    known, _, child = state
    registry.save(registry.path_of("second"), known.with_(supervisor=Process(2**22 + 1, 0.0)))
    found = owners.find_owners(holding(child))
    assert found[child] == Owner("orphan", "second")
    assert found[child].remedy == "%magistral_stop second ends it"


@pytest.mark.engine
def test_a_worker_whose_engine_is_dead_has_to_be_killed_by_number(state):
    known, leader, child = state
    registry.save(registry.path_of("second"), known.with_(supervisor=Process(2**22 + 1, 0.0)))
    killed(leader)
    orphan = Owner("orphan", "sleep", child)
    assert owners.find_owners(holding(child))[child] == orphan
    assert owners.find_owners(holding())[child] == orphan, "also where NVML does not show it"
    registry.forget("second")
    assert owners.find_owners(holding())[child] == orphan, "also where nobody knows of it any more"


@pytest.mark.engine
def test_somebody_else_s_vllm_that_serves_is_no_orphan(vllm):
    _, child = vllm()
    assert owners.find_owners(holding(child))[child] == Owner("process", "sleep", child)
    assert child not in owners.find_owners(holding())


def test_this_process_and_one_that_has_ended():
    me = os.getpid()
    name = psutil.Process(me).name()
    assert owners.find_owners(holding(me, 2**22 + 1, ours=True)) == {me: NOTEBOOK}
    assert owners.find_owners(holding(me)) == {me: Owner("process", name, me)}


@pytest.mark.engine
def test_another_notebook_is_told_by_its_command_line():
    code = "import time; print(flush=True); time.sleep(60)"
    kernel = subprocess.Popen([sys.executable, "-c", code, "-m", "ipykernel_launcher"], stdout=subprocess.PIPE)
    kernel.stdout.readline()
    found = owners.find_owners(holding(kernel.pid))[kernel.pid]
    kernel.kill()
    kernel.wait()
    assert (found.kind, found.pid) == ("kernel", kernel.pid)
