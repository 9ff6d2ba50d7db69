"""Which GPUs a model goes to, and how they share it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st
from machines import CARDS, GIB, MACHINES, flag, gpus, machine, one, vllm
from planning import plan_on, told

from magistral_nb.dialect import dialect
from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import CATALOGUE, RELEASES, abacus
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.placement import alike, placements
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

NOW = dialect(VLLM_VERSION)
MAGISTRAL = RELEASES["2509"]
TWO, EIGHT = MACHINES["2 x H100 80"], MACHINES["8 x H100 80"]
_CARD = CARDS["A100 40"]
BUSY = machine(gpus(_CARD), gpus(_CARD, held=30 * GIB, first=1), gpus(_CARD, held=GIB, first=2))


def ways(hardware, wishes=None, profile=MAGISTRAL, version=VLLM_VERSION):
    return placements(hardware, profile, wishes or Wishes(), dialect(version))


def counts(hardware, wishes=None, profile=MAGISTRAL):
    """GPUs and tensor parallelism of each way."""
    return [(len(way.gpus), way.tensor_parallel) for way in ways(hardware, wishes, profile)]


def planned(hardware, wishes=None, profile=MAGISTRAL, version=VLLM_VERSION):
    return make_plan(hardware, profile, wishes or Wishes(), vllm(version))


def refused(hardware, wishes, profile=MAGISTRAL, version=VLLM_VERSION):
    with pytest.raises(PlanRefused) as caught:
        planned(hardware, wishes, profile, version)
    return str(caught.value)


# Who can share


def test_one_kind_shares_and_slices_never_do():
    mixed = machine(gpus(CARDS["T4"], 2), gpus(CARDS["L4"], first=2), gpus(_CARD, 2, mig=True, first=3))
    groups = alike(mixed.gpus)
    assert sorted(len(group) for group in groups) == [1, 1, 1, 2]
    assert all(len({gpu.name for gpu in group}) == 1 for group in groups)


def test_of_one_name_but_two_sizes_are_two_kinds():
    forty, eighty = replace(_CARD, name="A100"), replace(_CARD, name="A100", mib=81_920)
    assert len(alike(machine(gpus(forty), gpus(eighty, first=1)).gpus)) == 2


def test_the_emptiest_come_first():
    (group,) = alike(BUSY.gpus)
    assert [gpu.index for gpu in group] == [0, 2, 1]


@given(st.lists(st.tuples(st.sampled_from(["T4", "L4", "A10"]), st.booleans(), st.integers(0, 14)), max_size=8))
def test_every_gpu_is_in_one_group(kinds):
    there = machine(*(gpus(CARDS[k], mig=m, held=h * GIB, first=i) for i, (k, m, h) in enumerate(kinds)))
    groups = alike(there.gpus)
    assert sorted(gpu.uuid for group in groups for gpu in group) == sorted(gpu.uuid for gpu in there.gpus)
    emptiest = [group[0].free for group in groups]
    assert emptiest == sorted(emptiest, reverse=True)


# How many


def test_as_few_as_it_needs_are_tried_in_powers_of_two():
    assert counts(EIGHT) == [(1, 1), (2, 2), (4, 4), (8, 8)]
    assert counts(machine(gpus(CARDS["T4"], 3))) == [(1, 1), (2, 2)]
    assert planned(EIGHT).devices == (EIGHT.gpus[0].uuid,)
    assert flag(planned(EIGHT, Wishes(context=131_072)), "--tensor-parallel-size") is None


def test_a_second_one_is_taken_where_one_is_too_small():
    plan = planned(MACHINES["2 x T4"], profile=CATALOGUE["ministral-14b"])
    assert flag(plan, "--tensor-parallel-size") == "2"
    assert len(plan.devices) == 2


def test_as_many_as_are_wished_for():
    assert counts(EIGHT, Wishes(gpus=4)) == [(4, 4)]
    assert counts(EIGHT, Wishes(gpus=4, pipeline_parallel=2)) == [(4, 2)]
    assert counts(EIGHT, Wishes(gpus=2, data_parallel=3)) == [(6, 2)]
    assert counts(EIGHT, Wishes(pipeline_parallel=3)) == [(3, 1), (6, 2)]
    assert counts(EIGHT, Wishes(data_parallel=4)) == [(4, 1), (8, 2)]


def test_every_gpu_of_a_plan_is_named_once():
    plan = planned(EIGHT, Wishes(gpus=2, data_parallel=3))
    assert len(set(plan.devices)) == 6
    assert dict(plan.environment)["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5"


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(gpus=3),
        Wishes(gpus=6),
        Wishes(gpus=5, pipeline_parallel=2),
        Wishes(gpus=7, pipeline_parallel=3),
        Wishes(gpus=3, data_parallel=2),
        Wishes(gpus=3, data_parallel=4),
    ],
)
def test_heads_that_cannot_be_divided_are_refused_with_a_number_that_works(wishes):
    message = refused(EIGHT, wishes)
    number = int(re.search(r"try --gpus (\d+)\.$", message)[1])
    assert len(planned(EIGHT, replace(wishes, gpus=number)).devices) == number * wishes.data_parallel
    assert "1 stages" not in message


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (
            Wishes(gpus=3),
            "3 GPUs cannot share magistral-small-2509, as tensor parallelism divides 32 heads: try --gpus 2.",
        ),
        (Wishes(gpus=1, pipeline_parallel=2), "1 GPU cannot be split into 2 stages: try --gpus 2."),
        (Wishes(gpus=7, pipeline_parallel=3), "7 GPUs cannot be split into 3 stages: try --gpus 6."),
        (Wishes(gpus=6, pipeline_parallel=2), "3 GPUs in each stage cannot share magistral-small-2509, as"),
    ],
)
def test_the_nearest_number_below_is_named_else_the_nearest_above(wishes, words):
    assert refused(EIGHT, wishes).startswith(words)


def test_a_number_that_is_offered_is_there():
    """Three stages of two GPUs are six; with two there is no number that works."""
    assert "--gpus" not in refused(TWO, Wishes(gpus=4, pipeline_parallel=3)).rpartition(": ")[2]
    assert "try --gpus 1" in refused(one("H100 80"), Wishes(gpus=3))


@pytest.mark.parametrize("wishes", [Wishes(gpus=16), Wishes(data_parallel=9), Wishes(gpus=4, data_parallel=4)])
def test_more_than_are_here_are_refused_unless_there_is_a_cluster(wishes):
    wanted = (wishes.gpus or 1) * wishes.data_parallel
    assert refused(EIGHT, wishes).startswith(f"{wanted} GPUs are wished for, and 8 NVIDIA H100 80GB HBM3 are here")
    plan = planned(EIGHT, replace(wishes, ray=True))
    assert flag(plan, "--distributed-executor-backend") == "ray"
    assert len(plan.devices) <= 8


def test_two_cards_of_different_kinds_are_not_two():
    different = MACHINES["RTX 4090 and RTX 3090"]
    message = refused(different, Wishes(gpus=2), CATALOGUE["2509-4bit"])
    assert "1 NVIDIA GeForce RTX 4090 and 1 NVIDIA GeForce RTX 3090 are here, where only whole ones of one" in message
    assert plan_on(different, "2509-4bit", Wishes(gpus=int(re.search(r"try --gpus (\d)", message)[1])))


def test_of_two_different_cards_the_refusal_is_the_newer_one_s():
    """The older one may have more memory free, and could do even less."""
    message = refused(MACHINES["RTX 4090 and RTX 3090"], Wishes(kv_cache="fp8"), version="0.10.2")
    assert "4090" in message.partition(": ")[0]
    assert "3090" not in message


def test_more_copies_or_stages_than_are_here_can_be_left_away():
    assert refused(TWO, Wishes(data_parallel=4)).endswith("try --data-parallel 2, or add --ray on a Ray cluster.")
    assert "leave --pipeline-parallel away, or add --ray" in refused(TWO, Wishes(pipeline_parallel=3))
    assert flag(planned(TWO, Wishes(pipeline_parallel=3, ray=True)), "--pipeline-parallel-size") == "3"


def test_slices_are_not_counted_together():
    slices = machine(gpus(_CARD, 2, mig=True))
    assert "2 GPUs are wished for" in refused(slices, Wishes(gpus=2))


def test_a_model_with_an_odd_number_of_heads_is_shared_by_what_divides_it():
    assert counts(EIGHT, profile=replace(MAGISTRAL, shape=replace(MAGISTRAL.shape, heads=6))) == [(1, 1), (2, 2)]
    unknown = replace(MAGISTRAL, shape=None)
    assert counts(TWO, profile=unknown) == [(1, 1), (2, 2)]
    assert all(way.tokens == float("inf") for way in ways(TWO, profile=unknown))


@pytest.mark.parametrize(
    ("hardware", "name", "link"),
    [
        (MACHINES["2 x T4"], "ministral-14b", "over PCIe"),
        (one("L4", 2), "2509", "over PCIe"),
        (TWO, "2509", "linked by NVLink"),
        (one("A100 40", 2), "2509", "linked by NVLink"),
    ],
)
def test_how_cards_that_share_are_linked_is_told(hardware, name, link):
    assert link in told(planned(hardware, Wishes(gpus=2), CATALOGUE[name]), "tensor parallel").why


# Which, and how much of each


def test_the_emptiest_gpus_are_taken():
    assert planned(BUSY).devices == (BUSY.gpus[0].uuid,)
    assert set(planned(BUSY, Wishes(gpus=2)).devices) == {BUSY.gpus[0].uuid, BUSY.gpus[2].uuid}


def test_the_least_memory_decides_for_all():
    """vLLM takes the same share of each."""
    busy = machine(gpus(_CARD), gpus(_CARD, held=4 * GIB, first=1))
    plan = planned(busy, Wishes(gpus=2))
    share = float(flag(plan, "--gpu-memory-utilization"))
    assert share < 0.90
    assert all(share * gpu.total <= gpu.free for gpu in busy.gpus)


def test_the_card_that_holds_it_is_found_among_different_ones():
    there = machine(gpus(CARDS["T4"]), gpus(CARDS["H100 80"], first=1))
    plan = planned(there)
    assert plan.devices == (there.gpus[1].uuid,)
    assert "H100" in plan.title
    assert "T4" not in plan.title


def test_gpus_are_named_in_the_order_of_nvidia_smi():
    environment = dict(planned(BUSY, Wishes(gpus=2)).environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_slice_is_named_by_its_uuid():
    slices = MACHINES["MIG slice of 20 GB"]
    plan = planned(slices, profile=CATALOGUE["ministral-8b"])
    assert dict(plan.environment)["CUDA_VISIBLE_DEVICES"] == slices.gpus[0].uuid


def test_before_vllm_reads_uuids_a_slice_is_named_by_its_card_s_place():
    """It takes every name there for a number, and CUDA the first slice of a card for the card."""
    plan = planned(MACHINES["MIG slice of 20 GB"], profile=CATALOGUE["ministral-8b"], version="0.23.0")
    assert dict(plan.environment)["CUDA_VISIBLE_DEVICES"] == "0"


def test_cards_are_named_as_cuda_counts_where_a_cgroup_hides_others():
    """NVML counts those as well; by UUID vLLM finds the same card there."""
    cards = tuple(replace(gpu, index=gpu.index + 1) for gpu in gpus(CARDS["H100 80"], 2))
    hidden = machine(cards)
    for version, names in (("0.23.0", "0,1"), ("0.24.0", ",".join(gpu.uuid for gpu in cards))):
        plan = planned(hidden, Wishes(gpus=2), version=version)
        assert dict(plan.environment)["CUDA_VISIBLE_DEVICES"] == names


def test_where_nvml_tells_no_uuid_nothing_is_chosen():
    (gpu,) = gpus(CARDS["H100 80"])
    plan = planned(machine((replace(gpu, uuid=""),)))
    assert "CUDA_VISIBLE_DEVICES" not in dict(plan.environment)


# Types of weights and KV cache


@pytest.mark.parametrize(
    ("kind", "version", "fp8", "fp8_kv"),
    [
        ("H100 80", "0.9.2", True, True),
        ("H100 80", "0.32.0", True, True),
        ("L40S", "0.10.2", True, False),
        ("L40S", "0.32.0", True, True),
        ("A100 80", "0.10.2", True, False),
        ("A100 80", "0.32.0", True, True),
        ("T4", "0.13.0", False, False),
        ("T4", "0.32.0", True, False),
    ],
)
def test_types_are_those_that_the_card_and_this_vllm_have(kind, version, fp8, fp8_kv):
    (way,) = ways(one(kind), version=version)
    assert (way.fp8, way.fp8_kv) == (fp8, fp8_kv)


def test_a_card_that_tells_no_capability_is_taken_for_a_new_one():
    unknown = machine(gpus(replace(CARDS["H100 80"], capability=(0, 0))))
    (way,) = ways(unknown)
    assert (way.fp8, way.fp8_kv) == (True, True)
    assert "--dtype" not in planned(unknown).argv


def test_what_is_stored_quantised_stays_so():
    for name in ("2506-fp8", "2509-fp8", "2509-4bit"):
        (way,) = ways(one("H100 80"), profile=CATALOGUE[name])
        assert not way.fp8
        assert "--quantization" not in planned(one("H100 80"), profile=CATALOGUE[name]).argv
    assert "--quantization" not in planned(one("H100 80"), Wishes(quantization="fp8"), CATALOGUE["2509-fp8"]).argv


@pytest.mark.parametrize("name", ["2506-fp8", "2509-fp8", "2509-4bit"])
def test_stored_types_need_a_card_that_knows_them(name):
    """Marlin came to Turing with 0.14; before, the layers of compressed-tensors want an Ampere card."""
    big = machine(gpus(replace(CARDS["T4"], mib=49_152)))
    assert ways(big, profile=CATALOGUE[name], version="0.19.1")
    with pytest.raises(PlanRefused):
        ways(big, profile=CATALOGUE[name], version="0.13.0")


def test_a_wish_beats_the_default():
    (way,) = ways(one("H100 80"), Wishes(quantization="none", kv_cache="auto"))
    assert (way.fp8, way.fp8_kv) == (False, False)


def test_a_small_model_goes_to_a_gpu_as_well():
    plan = planned(MACHINES["T4"], profile=abacus())
    assert plan.devices == (MACHINES["T4"].gpus[0].uuid,)
    assert plan.niceness == 0
