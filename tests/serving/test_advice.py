"""Advice over made-up minutes: pure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from magistral_nb.options import serve_options, split_raw, split_words
from magistral_nb.serving.advice import Capacity, advise
from magistral_nb.serving.metrics import Metrics

H100 = Capacity(max_num_seqs=64, context=40_960, typed=("2509",), gpus=1, gpus_here=2)
CPU = Capacity(max_num_seqs=None, context=2048)
FEWER, MORE = "fewer at once", "more at once"
AT_ONCE = r"at once \(%magistral_serve [^)]*--max-num-seqs (\d+)\)"


def seen(running=10, waiting=0, kv=0.3, *, when=0.0, preemptions=0, generated=1_000, engines=1) -> Metrics:
    return Metrics(
        when=when,
        running=running,
        waiting=waiting,
        kv_cache_share=kv,
        generated_tokens=generated,
        prompt_tokens=100,
        finished=5,
        preemptions=preemptions,
        engines=engines,
    )


def ids(*history: Metrics, capacity: Capacity = H100, gpu: float | None = None) -> list[str]:
    return [each.id for each in advise(history, capacity, gpu)]


def said(*history: Metrics, capacity: Capacity = H100, gpu: float | None = None) -> str:
    (advice,) = advise(history, capacity, gpu)
    return advice.text


# What is said


def test_a_kv_cache_above_85_percent_wants_fewer_shorter_or_more_gpus():
    text = said(seen(running=20, kv=0.92))
    assert "92 % full" in text
    assert "fewer at once (%magistral_serve 2509 --replace -- --max-num-seqs 18), or" in text, "18 of 20 hold 85 %"
    assert "a shorter context (%magistral_serve 2509 --context 20480 --replace), or" in text
    assert text.endswith("more GPUs (%magistral_serve 2509 --gpus 2 --replace)")


def test_the_threshold_of_the_kv_cache_is_exact():
    assert ids(seen(kv=0.85)) == []
    assert ids(seen(kv=0.8500001)) == ["kv-cache"]
    assert ids(seen(64, 1, 0.85), seen(64, 9, 0.85)) == ["queue"]


def test_fewer_at_once_is_counted_by_engine_and_is_below_what_it_was():
    assert "--max-num-seqs 18)" in said(seen(running=40, kv=0.92, engines=2))
    assert "--max-num-seqs 3)" in said(seen(running=20, kv=0.92), capacity=replace(H100, max_num_seqs=4)), "stale"


@pytest.mark.parametrize(
    ("gpus", "copies", "here", "wished"),
    [(1, 1, 1, None), (1, 1, 2, 2), (2, 1, 3, None), (2, 1, 8, 4), (1, 4, 4, None), (1, 4, 8, 2), (2, 2, 7, None)],
)
def test_more_gpus_are_those_of_one_copy_and_only_where_all_copies_can_have_them(gpus, copies, here, wished):
    capacity = replace(H100, gpus=gpus, copies=copies, gpus_here=here)
    text = said(seen(running=20, kv=0.92, engines=copies), capacity=capacity)
    assert [int(number) for number in re.findall(r"--gpus (\d+)", text)] == ([] if wished is None else [wished])


def test_a_line_is_what_was_typed_but_for_the_change():
    typed = ("my model", "--gpus", "2", "--port", "8000", "--", "--max_num_seqs=8", "--seed", "3")
    text = said(seen(running=8, kv=0.92), capacity=Capacity(8, 40_960, typed, gpus=2, gpus_here=4))
    assert commands(text) == [
        "%magistral_serve 'my model' --gpus 2 --port 8000 --replace -- --max-num-seqs 7 --seed 3",
        "%magistral_serve 'my model' --gpus 2 --port 8000 --context 20480 --replace -- --max_num_seqs=8 --seed 3",
        "%magistral_serve 'my model' --gpus 4 --port 8000 --replace -- --max_num_seqs=8 --seed 3",
    ]


def test_one_request_cannot_be_fewer():
    text = said(seen(running=1, kv=0.95), capacity=CPU)
    assert FEWER not in text
    assert "--context 1024" in text
    assert "GPU" not in text


def test_preemptions_come_first_and_tell_how_many():
    history = [seen(running=40, kv=0.99), seen(running=30, kv=0.9, preemptions=3, when=60)]
    first, second = advise(history, H100)
    assert (first.id, second.id) == ("preemptions", "kv-cache")
    assert first.text.startswith("3 requests were preempted in 60 s")
    assert first.text.endswith("--max-num-seqs 34)"), "the 40 that filled it, less 15 %"
    assert "--max-num-seqs 34" in second.text


def test_preemptions_of_long_ago_are_no_news():
    assert ids(seen(preemptions=3), seen(preemptions=3)) == []
    assert ids(seen(preemptions=3), seen(preemptions=4)) == ["preemptions"]


def test_a_queue_that_grows_before_a_full_server_wants_more_places():
    history = [seen(64, n, when=10.0 * n) for n in range(7)]
    text = said(*history)
    assert text.startswith("The queue grew from 0 to 6 requests in 60 s: all 64 places are taken")
    assert text.endswith("more at once (%magistral_serve 2509 --replace -- --max-num-seqs 128)")


@pytest.mark.parametrize(
    "waiting",
    [[5], [5, 5], [6, 5], [9, 3, 8, 9], [0, 5, 5, 0], [5, 9, 5, 9, 5, 9]],
    ids=lambda waiting: "-".join(map(str, waiting)),
)
def test_a_queue_that_only_swings_does_not_grow(waiting):
    assert ids(*(seen(64, n) for n in waiting)) == []


def test_a_queue_grows_for_other_reasons_while_places_are_free():
    assert ids(seen(64, 1), seen(64, 9)) == ["queue"]
    assert ids(seen(64, 1), seen(63, 9)) == []


def test_places_are_those_of_all_engines():
    assert ids(seen(64, 1, engines=2), seen(64, 9, engines=2)) == []
    assert "all 128 places" in said(seen(128, 1, engines=2), seen(128, 9, engines=2))


def test_more_places_are_no_more_than_the_kv_cache_will_hold():
    assert "--max-num-seqs 85" in said(seen(64, 1, 0.64), seen(64, 9, 0.64))
    text = said(seen(64, 1, 0.849), seen(64, 9, 0.849))
    assert "room for no more" in text
    assert "--gpus 2" in text
    assert "--max-num-seqs" not in text


def test_a_queue_before_a_full_kv_cache_is_the_cache_s_matter():
    assert ids(seen(64, 1, 0.9), seen(64, 9, 0.9)) == ["kv-cache"]


def test_a_gpu_below_60_percent_under_load_wants_more_at_once():
    assert ids(seen(64, 5), gpu=60.0) == []
    assert ids(seen(64, 5)) == [], "not known"
    text = said(seen(64, 5), gpu=59.9)
    assert text.startswith("The GPU is 59.9 % busy with 64 requests running and 5 waiting")
    assert text.endswith("--max-num-seqs 128)")


def test_load_is_a_queue_or_nine_tenths_of_the_places_and_lasts():
    assert ids(seen(10, 1), gpu=30) == ["utilisation"]
    assert ids(seen(58, 0), gpu=30) == ["utilisation"]
    assert ids(seen(57, 0), gpu=30) == [], "57 of 64 are 89 %"
    assert ids(seen(0, 3), gpu=0) == [], "a server that sleeps"
    assert ids(seen(10, 0), seen(10, 1), gpu=30) == [], "one that waits for a step"


def test_where_vllm_chose_the_places_none_are_advised():
    assert ids(seen(64, 1), seen(64, 9), capacity=replace(H100, max_num_seqs=None), gpu=10) == []


def test_what_lies_before_a_restart_is_passed_over():
    before = seen(64, 0, generated=9_000, preemptions=0)
    after = [seen(64, 50, generated=10, preemptions=2), seen(64, 50, generated=20, preemptions=2)]
    assert ids(before, *after) == []


def test_nothing_is_advised_of_nothing():
    assert advise([], H100, 10) == ()


# What is never said

moments = st.builds(
    seen,
    running=st.integers(0, 300),
    waiting=st.integers(0, 300),
    kv=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 5e-324, 0.425, 0.85, 1.0])),
    when=st.floats(0, 60),
    preemptions=st.integers(0, 3),
    generated=st.integers(0, 3),
    engines=st.integers(1, 4),
)
histories = st.lists(moments, max_size=4)
many = settings(max_examples=60, deadline=None)
capacities = st.builds(
    Capacity,
    st.none() | st.integers(1, 256),
    st.integers(1024, 131_072),
    st.sampled_from([(), ("2509",), ("--name", "b", "--", "--max-num-seqs", "9"), ("a (b", "--context", "9")]),
    gpus=st.sampled_from([0, 1, 2, 4]),
    copies=st.integers(1, 4),
    gpus_here=st.integers(0, 16),
)
utilisations = st.none() | st.floats(0, 100)


def commands(text: str) -> list[str]:
    """What stands in brackets."""
    return re.findall(r"\((%magistral_serve .+?)\)(?=, or|$)", text)


@many
@given(histories, capacities, utilisations)
def test_advice_never_contradicts_itself(history, capacity, gpu):
    advice = advise(history, capacity, gpu)
    whole = "\n".join(each.text for each in advice)
    assert not (FEWER in whole and MORE in whole)
    assert len(set(re.findall(AT_ONCE, whole))) <= 1
    order = ["preemptions", "kv-cache", "queue", "utilisation"]
    assert [each.id for each in advice] == [name for name in order if name in {each.id for each in advice}]


@many
@given(histories, capacities, utilisations)
def test_fewer_are_fewer_and_more_are_more(history, capacity, gpu):
    for each in advise(history, capacity, gpu):
        for number in map(int, re.findall(AT_ONCE, each.text)):
            places = capacity.max_num_seqs
            assert number >= 1
            if MORE in each.text:
                assert places < number <= 2 * places
                assert history[-1].kv_cache_share * number / places <= 0.85 + 1e-9, "or it would be fewer next"
            elif places is not None:
                assert number < places


@many
@given(histories, capacities, utilisations)
def test_an_idle_server_is_left_alone(history, capacity, gpu):
    assert advise([*history, seen(0, 0, 1.0, preemptions=9)], capacity, gpu) == ()


@many
@given(moments, capacities, utilisations)
def test_thresholds_hold_whatever_else_is_the_matter(now, capacity, gpu):
    told = [each.id for each in advise([now], capacity, gpu)]
    assert ("kv-cache" in told) == (now.kv_cache_share > 0.85 and not now.is_idle)
    assert "utilisation" not in told or gpu < 60


@many
@given(histories, capacities, utilisations)
def test_what_to_type_is_what_the_magic_takes(history, capacity, gpu):
    for each in advise(history, capacity, gpu):
        assert "\n" not in each.text
        assert commands(each.text)
        for command in commands(each.text):
            ours, raw = split_raw(split_words(command.removeprefix("%magistral_serve")))
            chosen = serve_options("%magistral_serve").parse_args(ours)
            assert chosen.replace
            shorter, more = chosen.context == capacity.context // 2, chosen.gpus is not None
            other = raw[:1] == ("--max-num-seqs",) and raw != capacity.typed[-2:]
            assert [shorter, more, other].count(True) == 1
            assert not more or chosen.gpus * capacity.copies <= capacity.gpus_here
