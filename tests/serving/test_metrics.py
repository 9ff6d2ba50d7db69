"""Metrics, read from pages that prometheus_client wrote, as vLLM's are."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from stand_in import Reply, StandIn, silence

from magistral_nb import errors
from magistral_nb.asking.endpoint import Endpoint
from magistral_nb.serving import metrics
from magistral_nb.serving.metrics import Metrics, Rates, parse, rates

MODEL = "mistralai/Magistral-Small-2509"
BUCKETS = [0.001 * 1.5**n for n in range(22)]
HISTOGRAMS = (  # the names of 0.32
    *("request_prompt_tokens", "request_generation_tokens", "iteration_tokens_total", "request_params_n"),
    *("request_max_num_generation_tokens", "request_params_max_tokens", "request_num_preemptions"),
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "request_time_per_output_token_seconds"),
    *("e2e_request_latency_seconds", "request_queue_time_seconds", "request_inference_time_seconds"),
    *("request_prefill_time_seconds", "request_decode_time_seconds", "request_prefill_kv_computed_tokens"),
)
AT_REST = Metrics(
    when=0.0,
    running=0,
    waiting=0,
    kv_cache_share=0.0,
    generated_tokens=0,
    prompt_tokens=0,
    finished=0,
    preemptions=0,
    prefix_hits=0,
    prefix_queries=0,
)


def page(*engines: Metrics, model: str = MODEL, histograms: tuple[str, ...] = HISTOGRAMS) -> str:
    """What vLLM 0.32 shows with these engines side by side."""
    registry = CollectorRegistry()
    labels = ["model_name", "engine"]
    gauges = {
        name: Gauge(f"vllm:{name}", name, labels, registry=registry)
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    }
    counters = {
        name: Counter(f"vllm:{name}", name, labels, registry=registry)
        for name in (
            *("num_preemptions", "prompt_tokens", "generation_tokens", "prompt_tokens_cached"),
            *("prefix_cache_hits", "prefix_cache_queries", "external_prefix_cache_hits", "mm_cache_hits"),
        )
    }
    by_reason = Gauge("vllm:num_requests_waiting_by_reason", "Waiting", [*labels, "reason"], registry=registry)
    by_source = Counter("vllm:prompt_tokens_by_source", "Tokens", [*labels, "source"], registry=registry)
    finished = Counter("vllm:request_success", "Finished", [*labels, "finished_reason"], registry=registry)
    all_seconds = [Histogram(f"vllm:{n}", n, labels, registry=registry, buckets=BUCKETS) for n in histograms]
    for number, engine in enumerate(engines):
        here = (model, str(number))
        gauges["num_requests_running"].labels(*here).set(engine.running)
        gauges["num_requests_waiting"].labels(*here).set(engine.waiting)
        gauges["kv_cache_usage_perc"].labels(*here).set(engine.kv_cache_share)
        by_reason.labels(*here, "capacity").set(engine.waiting)
        by_reason.labels(*here, "deferred").set(0)
        by_source.labels(*here, "local_compute").inc(engine.prompt_tokens)
        counters["prompt_tokens_cached"].labels(*here).inc(7)
        counters["external_prefix_cache_hits"].labels(*here).inc(7)
        counters["mm_cache_hits"].labels(*here).inc(7)
        counters["num_preemptions"].labels(*here).inc(engine.preemptions)
        counters["prompt_tokens"].labels(*here).inc(engine.prompt_tokens)
        counters["generation_tokens"].labels(*here).inc(engine.generated_tokens)
        counters["prefix_cache_hits"].labels(*here).inc(engine.prefix_hits)
        counters["prefix_cache_queries"].labels(*here).inc(engine.prefix_queries)
        finished.labels(*here, "stop").inc(engine.finished - engine.finished // 3)
        finished.labels(*here, "abort").inc(engine.finished // 3)
        for histogram in all_seconds:
            histogram.labels(*here).observe(0.3)
    return generate_latest(registry).decode()


BUSY = dataclasses.replace(
    AT_REST,
    running=40,
    waiting=4,
    kv_cache_share=0.5,
    generated_tokens=123_456,
    prompt_tokens=5_000,
    finished=19,
    preemptions=2,
    prefix_hits=400,
    prefix_queries=1_000,
)
PAGE = page(BUSY)
OLDER = """\
# HELP vllm:num_requests_running Number of requests currently running on GPU.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 2.0
vllm:num_requests_waiting{model_name="m"} 1.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:cpu_cache_usage_perc{model_name="m"} 0.9
vllm:gpu_prefix_cache_queries_total{model_name="m"} 30.0
vllm:gpu_prefix_cache_hits_total{model_name="m"} 10.0
vllm:generation_tokens_total{model_name="m"} 1.234567e+06
vllm:generation_tokens_created{model_name="m"} 1.7953277449032013e+09
"""


def test_all_that_a_page_of_vllm_tells_is_read():
    assert len(PAGE.splitlines()) > 400
    assert parse(PAGE, 0.0) == BUSY


def test_a_server_that_has_just_booted_is_idle():
    assert parse(page(AT_REST), 0.0).is_idle
    assert not dataclasses.replace(AT_REST, waiting=1).is_idle


def test_engines_add_up_but_the_fullest_kv_cache_counts():
    other = dataclasses.replace(BUSY, running=2, waiting=0, kv_cache_share=0.9, finished=1, prefix_hits=0)
    both = parse(page(BUSY, other), 5.0)
    assert (both.when, both.engines, both.running, both.waiting) == (5.0, 2, 42, 4)
    assert both.kv_cache_share == 0.9
    assert (both.generated_tokens, both.finished, both.prefix_hits) == (246_912, 20, 400)


def test_an_older_page_has_other_names_and_lacks_what_never_happened():
    older = parse(OLDER, 0.0)
    assert (older.running, older.waiting, older.kv_cache_share) == (2, 1, 0.25)
    assert (older.prefix_hits, older.prefix_queries) == (10, 30)
    assert (older.generated_tokens, older.finished, older.preemptions) == (1_234_567, 0, 0)
    assert parse(OLDER.replace("gpu_prefix", "no_prefix"), 0.0).prefix_hits is None


def test_what_stands_under_its_old_and_its_new_name_counts_once():
    """As in vLLM 0.10, where the old ones are marked as deprecated."""
    deprecated = "vllm:gpu_cache_usage_perc 0.99\nvllm:gpu_prefix_cache_hits_total 9.0\n"
    assert parse(deprecated + PAGE + deprecated, 0.0) == BUSY


def test_counters_may_lack_their_total():
    assert parse(PAGE.replace("_total{", "{"), 0.0) == BUSY


@pytest.mark.parametrize(
    "model", ["}", '{a="b",engine="9"} 5', "a\nvllm:num_requests_running 99", "\u2028\x85\x0b", "\\"]
)
def test_a_model_s_name_may_hold_anything(model):
    assert parse(page(BUSY, model=model), 0.0) == BUSY


def test_a_sample_may_carry_its_time():
    assert parse(PAGE.replace("} 40.0\n", "} 40.0 1795327723980\n"), 0.0) == BUSY


counts = st.integers(0, 10**12)
engine_values = st.builds(
    Metrics,
    when=st.just(0.0),
    running=st.integers(0, 1024),
    waiting=st.integers(0, 10**6),
    kv_cache_share=st.floats(0, 1),
    generated_tokens=counts,
    prompt_tokens=counts,
    finished=counts,
    preemptions=counts,
    prefix_hits=counts,
    prefix_queries=counts,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(engine_values, min_size=1, max_size=3), st.text(max_size=8))
def test_what_is_read_is_what_prometheus_own_parser_reads(engines, model):
    text = page(*engines, model=model, histograms=())  # reading them is what takes prometheus_client long
    read = parse(text, 0.0)
    told = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            told.setdefault(sample.name, []).append(sample.value)
    assert read.engines == len(engines)
    assert read.running == sum(told["vllm:num_requests_running"]) == sum(each.running for each in engines)
    assert read.waiting == sum(told["vllm:num_requests_waiting"])
    assert read.kv_cache_share == max(told["vllm:kv_cache_usage_perc"])
    assert read.generated_tokens == sum(told["vllm:generation_tokens_total"])
    assert read.prompt_tokens == sum(told["vllm:prompt_tokens_total"])
    assert read.finished == sum(told["vllm:request_success_total"]) == sum(each.finished for each in engines)
    assert read.preemptions == sum(told["vllm:num_preemptions_total"])
    assert read.prefix_hits == sum(told["vllm:prefix_cache_hits_total"])
    assert read.prefix_queries == sum(told["vllm:prefix_cache_queries_total"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Not Found</html>",
        "llamacpp:requests_processing 1\n",
        PAGE.replace("vllm:kv_cache_usage_perc{", "vllm:something_new{"),
        PAGE.replace("} 40.0\n", "} NaN\n"),
        PAGE.replace("} 40.0\n", "} +Inf\n"),
        PAGE.replace("} 40.0\n", "} forty\n"),
    ],
)
def test_what_is_no_page_of_a_vllm_is_refused(text):
    with pytest.raises(ValueError, match=r"no vllm:|forty"):
        parse(text, 0.0)


# How fast


def test_rates_are_what_was_added_in_a_second():
    later = dataclasses.replace(BUSY, when=4.0, generated_tokens=123_456 + 1_000, finished=21)
    assert rates(BUSY, later) == Rates(4.0, 250.0, 0.5)


def test_no_rate_across_a_restart_nor_without_time():
    assert rates(BUSY, dataclasses.replace(AT_REST, when=4.0)) is None
    assert dataclasses.replace(AT_REST, when=4.0).restarted_since(BUSY)
    assert rates(BUSY, BUSY) is None
    assert rates(dataclasses.replace(BUSY, when=1.0), BUSY) is None
    assert not dataclasses.replace(BUSY, running=0, kv_cache_share=0.0).restarted_since(BUSY), "gauges may fall"


@pytest.mark.parametrize("counter", ["generated_tokens", "prompt_tokens", "finished", "preemptions"])
def test_one_counter_that_went_back_tells_a_restart(counter):
    assert dataclasses.replace(BUSY, **{counter: 1}).restarted_since(BUSY)


@settings(max_examples=60)
@given(engine_values, engine_values, st.floats(0.001, 1e6))
def test_a_rate_is_never_below_nothing(earlier, later, seconds):
    told = rates(earlier, dataclasses.replace(later, when=seconds))
    assert told is None or min(told.tokens_per_second, told.requests_per_second) >= 0
    assert (told is None) == later.restarted_since(earlier)


# Asking for them


def metrics_page(text: str = PAGE) -> Reply:
    return Reply(headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, chunks=(text.encode(),))


def test_a_server_is_asked_directly_whatever_proxy_the_environment_names(stand_in, monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    stand_in.pages["/metrics"] = metrics_page()
    first, second = (metrics.read(Endpoint(stand_in.url, "m")) for _ in range(2))
    assert dataclasses.replace(first, when=0.0) == BUSY
    assert 0 < first.when < second.when


def test_a_server_on_a_unix_socket_is_asked_there(tmp_path):
    with StandIn(unix=str(tmp_path / "vllm.sock")) as server:
        server.pages["/metrics"] = metrics_page()
        assert metrics.read(Endpoint(server.url, "m")).running == 40


@pytest.mark.parametrize("reply", [None, metrics_page("llamacpp:requests_processing 1\n")])
def test_a_server_without_such_a_page_is_told_of_in_one_line(stand_in, reply):
    if reply is not None:
        stand_in.pages["/metrics"] = reply
    with pytest.raises(errors.Rejected, match=r"has no /metrics page of a vLLM.*%magistral_connect") as caught:
        metrics.read(Endpoint(stand_in.url, "m"))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_silent_or_gone_is_not_waited_for(stand_in):
    stand_in.pages["/metrics"] = silence()
    endpoint = Endpoint(stand_in.url, "m")
    with pytest.raises(errors.Unreachable, match="in time"):
        metrics.read(endpoint, timeout=0.1)
    stand_in.close()
    with pytest.raises(errors.Unreachable, match="Nothing answers"):
        metrics.read(endpoint)


def test_a_key_that_is_refused_is_no_missing_page():
    with StandIn(key="right") as server, pytest.raises(errors.Unauthorized):
        metrics.read(Endpoint(server.url, "m", api_key="wrong"))
