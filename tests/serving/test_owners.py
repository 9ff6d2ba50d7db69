"""Who holds a GPU's memory, and what to do about it: values for the GPUs, real processes for their owners."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given, strategies as st
from serving.test_plan import GIB, VLLM

from magistral_nb import errors
from magistral_nb.processes import Process
from magistral_nb.serving import boot, hardware, owners, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.hardware import Gpu, Hardware, Holder
from magistral_nb.serving.owners import Owner, explain_full
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

NOTEBOOK, ORPHAN, SERVER = Owner("notebook"), Owner("orphan", "VLLM::EngineCore", 815), Owner("server", "default")
SECOND = Owner("server", "second")
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
    by_us = told(machine(gpu({815: 70})), who={815: Owner("orphan", "VLLM::EngineCore", 815, by_us=True)})
    assert by_us.endswith("which a dead server left, holds: type %magistral_stop --orphans.")
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
    ours = {pid: Owner("orphan", "VLLM::Worker", pid, by_us=True) for pid in (815, 816)}
    assert told(machine(gpu({815: 35, 816: 35})), who=ours).endswith("holds: type %magistral_stop --orphans.")


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
def sleeps(monkeypatch):
    """Take each process that is called sleep for one of vLLM's."""
    monkeypatch.setattr(owners, "_VLLM", "sleep")


def holding(*pids, ours=False):
    holders = tuple(Holder(pid, "?", GIB, ours=ours) for pid in pids)
    return machine(Gpu("NVIDIA H100", 80 * GIB, 9 * GIB, (9, 0), holders=holders, holders_known=True))


def killed(leader):
    leader.kill()
    leader.wait()
    time.sleep(0.05)


def test_a_server_s_processes_are_the_server_s_though_this_kernel_started_it(started):
    _, leader, child = started(supervisor=Process.of(os.getpid()))
    assert owners.find_owners(holding(leader.pid, child, ours=True)) == dict.fromkeys((leader.pid, child), SECOND)


def test_without_its_supervisor_a_server_is_an_orphan_that_magistral_stop_ends(started):
    _, leader, child = started()
    found = owners.find_owners(holding(child))
    assert found[leader.pid] == found[child] == Owner("orphan", "second")
    assert found[child].remedy == "%magistral_stop second ends it"
    killed(leader)
    assert owners.find_owners(holding(child))[child] == Owner("orphan", "second"), "also what its engine left"
    assert owners.find_owners(holding())[child] == Owner("orphan", "second"), "also where NVML does not show it"


def test_what_a_server_left_that_nobody_knows_any_more_is_ended_by_one_line(started):
    _, leader, child = started()
    registry.forget("second")
    killed(leader)
    orphan = Owner("orphan", "sleep", child, by_us=True)
    assert owners.find_owners(holding(child))[child] == orphan
    assert owners.find_owners(holding())[child] == orphan
    assert orphan.remedy == "type %magistral_stop --orphans"


def test_what_somebody_else_s_vllm_left_has_to_be_killed_by_number(group, sleeps):
    leader, child = group()
    killed(leader)
    orphan = Owner("orphan", "sleep", child)
    assert owners.find_owners(holding(child))[child] == orphan
    assert owners.find_owners(holding())[child] == orphan
    assert orphan.remedy == f"type kill -9 {child} in a terminal"


def test_somebody_else_s_vllm_that_serves_is_no_orphan(group, sleeps):
    _, child = group()
    assert owners.find_owners(holding(child))[child] == Owner("process", "sleep", child)
    assert child not in owners.find_owners(holding())


@pytest.mark.parametrize("dead", [False, True])
def test_what_will_be_ended_first_is_in_nobody_s_way(started, group, no_hub, monkeypatch, dead):
    _, leader, child = started(supervisor=Process(2**22 + 1, 0.0) if dead else Process.of(os.getpid()))
    _, other = group()
    if dead:
        killed(leader)

    def prepare(*, server, others):
        holders = Holder(child, "VLLM::EngineCore", server * GIB), Holder(other, "sleep", others * GIB)
        full = Gpu("NVIDIA H100", 80 * GIB, (79 - server - others) * GIB, (9, 0), holders=holders, holders_known=True)
        monkeypatch.setattr(hardware, "detect", lambda: machine(full))
        return boot.prepare(Wishes("2506", context=50_000), name="second", replace=not dead)

    monkeypatch.setattr(boot, "find_engine", lambda *_, **__: VLLM)
    assert prepare(server=40, others=30).plan.context == 50_000
    with pytest.raises(
        errors.PlanRefused, match=rf"60\.0 GiB that sleep \(process {other}\) holds: end sleep"
    ) as caught:
        prepare(server=15, others=60)
    assert "second" not in str(caught.value)


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
