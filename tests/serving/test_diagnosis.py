"""From whole logs to their root, as vLLM 0.32 and older releases write them."""

from __future__ import annotations

import dataclasses

import pytest
from boot_logs import (
    API,
    BOOTING,
    CAUSE,
    CORE,
    DEAD,
    DYING,
    FALLBACK,
    LOADED,
    LOGS,
    MEANWHILE,
    OLD_PREFIXES,
    OOM,
    WORKERS,
    WRAPPER,
    failed_core,
    failed_workers,
    logged,
    traceback,
)  # fmt: skip
from fake_engine import DEATH, LOG
from hypothesis import given, settings, strategies as st

from magistral_nb.serving.diagnosis import diagnose


def test_the_cause_stands_above_its_wrappers():
    found = diagnose(LOGS["kv_too_small_for_max_len"], exit_code=1)
    assert found.id == "kv_too_small_for_max_len"
    assert found.cause == "A context of 131072 tokens needs 20.0 GiB of KV cache, and the 5.1 GiB left hold 33424."
    assert found.evidence.startswith("ValueError: To serve at least one request")
    assert len(found.evidence) <= 300
    assert found.changes == (("--context", "32768"),)
    assert found.context == ()


def test_a_stand_in_s_logs_are_told_apart():
    assert diagnose(DEATH.splitlines()).cause == "ValueError: the weights are made of cheese"
    assert diagnose(LOG.splitlines()) is None


def test_memory_that_ran_out_while_loading_is_another_failure_than_later():
    before, after = diagnose(failed_workers(OOM, OOM)), diagnose(failed_workers(OOM, OOM, booting=[*BOOTING, LOADED]))
    assert before.cause == "The GPU was full before the weights were loaded: another 2.00 GiB did not fit."
    assert before.changes == ()
    assert after.cause.startswith("The weights fit the GPU")
    assert ("-- --enforce-eager", "") in after.changes


def test_the_first_worker_that_fails_is_the_root_and_the_other_only_misses_it():
    gone = "torch.distributed.DistBackendError: NCCL error in: ../c10d/ProcessGroupNCCL.cpp:94, remote process exited"
    for lost in (gone, "RuntimeError: [../gloo/tcp/pair.cc:589] Connection closed by peer [127.0.0.1]:3"):
        assert diagnose(failed_workers(OOM, lost)).id == "cuda_oom"
        assert diagnose(failed_workers("ValueError: cheese", lost)).evidence == "ValueError: cheese"


def test_of_a_chain_of_known_errors_the_first_is_the_root():
    chain = (
        "httpx.HTTPStatusError: Client error '403 Forbidden' for url 'https://hub.test/m/resolve/main/params.json'",
        (
            "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1-66)\n\n"
            "Cannot access gated repo for url https://hub.test/m/resolve/main/params.json.\nAccess to m is restricted."
        ),
        "OSError: Can't load tokenizer for 'mistralai/m'. If you were trying to load it from the hub",
    )
    for between in (CAUSE, MEANWHILE):
        found = diagnose(failed_core(*chain, between=between))
        assert found.id == "gated"
        assert found.evidence.startswith("huggingface_hub.errors.GatedRepoError: 403")


def test_an_unknown_error_is_shown_with_its_lines_and_as_the_root_of_its_chain():
    lines = failed_core("zipfile.BadZipFile: the cheese has holes", "RuntimeError: could not load it")
    found = diagnose(lines, exit_code=1)
    assert found.id == "unknown"
    assert found.cause == "BadZipFile: the cheese has holes"
    assert found.evidence == "zipfile.BadZipFile: the cheese has holes"
    assert found.context == (
        "Traceback (most recent call last):",
        '  File "/venv/vllm/v1/engine/core.py", line 1299, in run_engine_core',
        "    engine_core = EngineCoreProc(*args)",
        "                  ^^^^^^^^^^^^^^^^^^^^^",
        '  File "/venv/vllm/x.py", line 7, in start',
        "    raise zipfile.BadZipFile(message)",
        "zipfile.BadZipFile: the cheese has holes",
        CAUSE,
        "Traceback (most recent call last):",
    )
    assert "%magistral_logs" in found.remedy


def test_an_exception_needs_neither_a_message_nor_a_name_that_ends_in_error():
    for error in (
        "AssertionError",
        "KeyError: 'layers.0'",
        "torch._dynamo.exc.Unsupported: a graph break",
        "StopIteration",
    ):
        assert diagnose(failed_core(error)).evidence == error


def test_the_lines_around_an_error_are_its_own_process_s():
    trace = logged(CORE, "core.py:1510", *traceback("ValueError: cheese"))
    other = [f"{API} INFO 11-22 05:50:11 [x.py:1] waiting"] * len(trace)
    mixed = [line for pair in zip(trace, other, strict=True) for line in pair]
    assert diagnose(mixed).context == diagnose(trace).context


@pytest.mark.parametrize("message", ["Value error, Expecting value: line 1", "Assertion failed, no heads"])
def test_what_pydantic_found_wrong_stands_on_its_next_line(message):
    lines = [
        *traceback("pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig"),
        f"  {message} [type=value_error, input_value=ArgsKwargs((), {{'model': ...}}), input_type=ArgsKwargs]",
        "    For further information visit https://errors.test/2.12/v/value_error",
    ]
    assert diagnose(lines).cause == f"ValidationError: 1 validation error for ModelConfig: {message}"


def test_a_known_error_within_pydantic_s_is_known():
    lines = [
        *traceback("pydantic_core._pydantic_core.ValidationError: 1 validation error for ParallelConfig"),
        (
            "  Value error, World size (2) is larger than the number of available GPUs (1) in this node. If this is "
            "intentional and you are using:"
        ),
        "- ray, set '--distributed-executor-backend ray'. [type=value_error, input_value=ArgsKwargs(()), input_type=x]",
    ]
    found = diagnose(lines, exit_code=1)
    assert (found.id, found.changes) == ("world_size", (("--gpus", "1"),))


def test_a_wrong_flag_is_found_behind_the_usage():
    lines = ["usage: vllm serve [-h] [--dtype {auto,half}]", "vllm serve: error: unrecognized arguments: --nope"]
    assert diagnose(lines, exit_code=2).changes == (("-- --nope", None),)
    found = diagnose(["vllm serve: error: the following arguments are required: model"], exit_code=2)
    assert found.evidence == "vllm serve: error: the following arguments are required: model"


def test_a_warning_never_wins_over_an_error():
    assert diagnose([FALLBACK, *LOGS["unknown"]], exit_code=1).id == "unknown"
    assert diagnose([*LOGS["unknown"], FALLBACK], exit_code=1).id == "unknown"


def test_a_warning_is_told_where_a_boot_failed_without_a_word():
    assert diagnose([*BOOTING, FALLBACK], exit_code=1).id == "dtype_fallback"
    assert diagnose([*BOOTING, FALLBACK]) is None
    assert diagnose([*BOOTING, FALLBACK], exit_code=0) is None


def test_an_error_after_which_its_process_went_on_is_no_root():
    survived = logged(
        API, "repo_utils.py:127", "Error retrieving file list: OSError: We couldn't connect to 'x', retrying"
    )
    went_on = f"{API} INFO 11-22 05:50:03 [model.py:733] Resolved architecture: MistralForCausalLM"
    assert diagnose([*survived, went_on, *LOGS["unknown"]]).cause == "ValueError: the weights are made of cheese"
    assert diagnose([*LOGS["unknown"], *survived]).cause == "ValueError: the weights are made of cheese"
    assert diagnose([*survived, went_on], exit_code=1).id == "hub_unreachable"
    assert diagnose([went_on, *survived, *DYING], exit_code=1).id == "hub_unreachable"


def test_a_pointer_in_place_of_weights_is_no_lack_of_memory():
    asked = "Error parsing config for /models/mine: "
    retried = logged(API, "repo_utils.py:126", f"{asked}, retrying 1 of 2") + logged(API, "repo_utils.py:124", asked)
    memory = traceback("MemoryError")
    found = diagnose([*BOOTING[:2], *retried, *memory], exit_code=1)
    assert (found.id, found.evidence) == ("torn_weights", "Error parsing config for /models/mine: , retrying 1 of 2")
    assert diagnose([*BOOTING[:2], *memory], exit_code=1).id == "host_memory"
    assert diagnose([*retried, *BOOTING, *memory], exit_code=1).id == "host_memory", "the retry went well"


def test_a_stray_line_is_no_root_where_anyone_went_on_after_it():
    for stray in (["flash_attn: No module named 'flash_attn'"], traceback("ModuleNotFoundError: No module named 'x'")):
        assert diagnose([*stray, *LOGS["kv_too_small_for_max_len"]]).id == "kv_too_small_for_max_len"
        assert diagnose([*stray, *LOGS["unknown"]]).cause == "ValueError: the weights are made of cheese"
        assert diagnose([*stray, WRAPPER], exit_code=1).id == "module_missing"


def test_what_fails_while_all_goes_down_is_no_root():
    falling = traceback("PermissionError: [Errno 13] Permission denied: '/tmp/lock'")
    assert diagnose([*LOGS["unknown"], *falling]).cause == "ValueError: the weights are made of cheese"
    ending = [
        f"{CORE} INFO 11-22 05:50:12 [core.py:1635] [shutdown] EngineCore: start mode=abort timeout=0s",
        f"{CORE} INFO 11-22 05:50:12 [core.py:1499] [shutdown] EngineCore: exiting busy loop",
        'INFO:     127.0.0.1:54038 - "GET /health HTTP/1.1" 503 Service Unavailable',
        "INFO:     Waiting for application shutdown.",
    ]
    survived = logged(API, "x.py:1", "OSError: We couldn't connect to 'x'")
    for log in (LOGS["kv_too_small_for_max_len"], LOGS["unknown"]):
        assert diagnose([*survived, BOOTING[0], *log, *ending]).evidence == diagnose(log).evidence


def test_noise_of_the_last_moments_is_no_error():
    assert diagnose([*BOOTING, *DYING], exit_code=1) is None


def test_a_server_that_dies_while_it_serves_is_told_by_what_killed_it():
    serving = [*BOOTING, LOADED, "INFO:     Application startup complete."]
    serving += ['INFO:     127.0.0.1:54038 - "POST /v1/chat/completions HTTP/1.1" 200 OK']
    died = logged(CORE, "core.py:1512", "EngineCore encountered a fatal error.", *traceback(OOM))
    died += logged(API, "async_llm.py:906", "AsyncLLM output_handler failed.", *traceback(DEAD))
    assert diagnose([*serving, *died], exit_code=0).id == "cuda_oom"
    assert diagnose([*serving, *logged(API, "async_llm.py:906", *traceback(DEAD))]).id == "engine_dead"


def test_old_logs_are_read_as_well():
    trace = traceback("RuntimeError: something broke", "ValueError: No available memory for the cache blocks. Try")
    for prefix in OLD_PREFIXES:
        log = ["INFO 06-10 05:50:00 [__init__.py:239] Automatically detected platform cuda."]
        log += [f"{prefix}{line}" for line in trace]
        log += ["CRITICAL 06-10 05:50:12 [core_client.py:361] Got fatal signal from worker processes, shutting down."]
        found = diagnose(log, exit_code=1)
        assert found.id == "kv_no_memory"
        assert found.evidence == "ValueError: No available memory for the cache blocks. Try"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (-9, "killed"),
        (137, "killed"),
        (-4, "illegal_instruction"),
        (-11, "segfault"),
        (-7, "bus_error"),
        (-6, "aborted"),
    ],
)
def test_a_signal_is_told_where_the_log_tells_nothing(code, name):
    assert diagnose(BOOTING, exit_code=code).id == name
    assert diagnose(BOOTING, exit_code=code).evidence == f"exit code {code}"
    assert diagnose(LOGS["cuda_oom"], exit_code=code).id == "cuda_oom"
    assert diagnose(LOGS["unknown"], exit_code=code).id == "unknown"


def test_a_signal_without_an_entry_is_told_by_its_number():
    assert diagnose([], exit_code=-1).cause == "Signal 1 ended the engine."


def test_a_failing_exit_without_a_word_has_no_diagnosis():
    assert diagnose(BOOTING, exit_code=1) is None


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (WRAPPER.replace("'EngineCore': 1", "'EngineCore': -9"), "killed"),
        (WRAPPER.replace("'EngineCore': 1", "'EngineCore_DP0': 1, 'EngineCore_DP1': -4"), "illegal_instruction"),
        ("Worker proc VllmWorker-1 died unexpectedly (exit code: -9), shutting down executor.", "killed"),
        ("Fatal Python error: Segmentation fault", "segfault"),
        ("!!!!!!! Segfault encountered !!!!!!!", "segfault"),
        ("Fatal Python error: Bus error", "bus_error"),
        ("bash: line 1: 812 Illegal instruction     (core dumped) vllm serve m", "illegal_instruction"),
        ("Killed", "killed"),
    ],
)
def test_a_signal_that_ended_a_part_of_the_engine_is_found_in_the_log(line, name):
    found = diagnose([*BOOTING, line, *traceback(DEAD)], exit_code=1)
    assert (found.id, found.evidence) == (name, line)


def test_a_server_that_answers_with_an_error_is_diagnosed_by_its_answer():
    up = [*BOOTING, LOADED, "INFO:     Application startup complete."]
    pair = "GrammarFactory.get_lark_from_jinja() missing 1 required positional argument: 'force_tool_names'"
    found = diagnose(up, reply=pair)
    assert found.id == "mistral_common_pair"
    assert found.evidence == pair
    assert found.changes == (("--engine", None), ("--install", ""))
    unknown = diagnose(up, reply="the moon is made of cheese.")
    assert unknown.id == "question_refused"
    assert unknown.cause == "The server is up, but answers a question with an error: the moon is made of cheese."


@pytest.mark.parametrize("reply", ["Internal Server Error", "", DEAD])
def test_an_answer_that_says_nothing_leaves_it_to_the_log(reply):
    up = [*BOOTING, LOADED, "INFO:     Application startup complete."]
    trace = ["ERROR:    Exception in ASGI application", *traceback("ValueError: cheese")]
    refused = ['INFO:     127.0.0.1:54038 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error']
    assert diagnose([*up, *trace, *refused], reply=reply).cause == "ValueError: cheese"
    assert diagnose([*up, *traceback(OOM)], reply=reply).id == "cuda_oom"
    assert diagnose(up, reply=reply).id in {"question_refused", "engine_dead"}


def test_a_line_that_only_calls_itself_an_error_is_better_than_nothing():
    found = diagnose([*BOOTING, f"{API} CRITICAL 11-22 05:50:11 [x.py:1] The moon set."], exit_code=1)
    assert (found.id, found.evidence) == ("unknown", "The moon set.")


def test_secrets_are_nowhere_in_a_diagnosis():
    key = "hf_0123456789abcdefABCDEF"
    for lines, reply in (
        (failed_core(f"ValueError: token {key} is no good"), None),
        (["vllm serve: error: unrecognized arguments: --api-key sk-0123456789abcdef"], None),
        ([f"    headers = 'Bearer {key}'", *traceback("ValueError: cheese")], None),
        ([], f"Authorization: Bearer {key}"),
    ):
        texts = [str(value) for value in dataclasses.astuple(diagnose(lines, reply=reply))]
        assert not any("0123456789" in text for text in texts)


LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=80)
CALM = st.one_of(
    st.builds("{}{} 11-22 05:50:11 [x.py:{}] {}".format, st.sampled_from(["", f"{CORE} ", f"{WORKERS[0]} "]),
              st.sampled_from(["INFO", "WARNING", "DEBUG"]), st.integers(1, 9999), LINE),
    st.builds("Loading safetensors checkpoint shards: {}% Completed | 1/9".format, st.integers(0, 100)),
    st.just(""),
)  # fmt: skip
UNRELATED = st.builds(
    "(Reporter pid={}) {} 11-22 05:50:11 [x.py:1] {}".format,
    st.integers(1, 9),
    st.sampled_from(["INFO", "WARNING"]),
    LINE,
)


@settings(max_examples=30)
@given(st.lists(CALM, max_size=30))
def test_a_log_without_errors_has_no_diagnosis(lines):
    assert diagnose(lines) is None


@settings(max_examples=30)
@given(st.sampled_from(list(LOGS.values())), st.lists(st.tuples(st.integers(0, 200), UNRELATED), max_size=8))
def test_unrelated_lines_change_nothing(log, more):
    mixed = list(log)
    for at, line in more:
        mixed.insert(at, line)
    assert diagnose(mixed, exit_code=1) == diagnose(log, exit_code=1)


@settings(max_examples=30)
@given(
    st.sampled_from(list(LOGS.values())), st.sampled_from(["", "\x1b[31m", "[rank3]: ", "(Some_Thing-7 rank=1 pid=3) "])
)
def test_a_prefix_more_changes_nothing_but_who_speaks(log, prefix):
    found, plain = diagnose([f"{prefix}{line}" for line in log]), diagnose(log)
    assert (found.id, found.cause, found.evidence) == (plain.id, plain.cause, plain.evidence)


@settings(max_examples=30)
@given(st.lists(st.one_of(LINE, st.sampled_from([line for log in LOGS.values() for line in log])), max_size=40),
       st.one_of(st.none(), st.integers(-64, 255)), st.one_of(st.none(), LINE))  # fmt: skip
def test_whatever_the_log_says_the_texts_are_single_short_lines(lines, exit_code, reply):
    found = diagnose(lines, exit_code=exit_code, reply=reply)
    for text in () if found is None else (found.cause, found.evidence, found.remedy, *found.context):
        assert len(text.splitlines()) <= 1
        assert len(text) < 400


@pytest.mark.timeout(20)  # a fifth of a second of one core; the tables must not be gone through for each line
def test_five_megabytes_take_a_moment():
    calm = (
        f"{CORE} INFO 11-22 05:50:11 [loggers.py:335] Engine 000: Avg prompt throughput: 5.6 tokens/s, Running: 0 reqs"
    )
    lines = [*([calm] * 25_000), *LOGS["cuda_oom"] * 200, *([calm.replace(CORE, API)] * 10_000), *LOGS["unknown"]]
    assert sum(map(len, lines)) > 5_000_000
    assert diagnose(lines).id == "cuda_oom"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["A." * 30_000, "Error: " * 10_000, "(a pid=1)" * 9_000, "ERROR " * 10_000, "'" * 60_000]
)
def test_one_endless_line_takes_a_moment(text):
    assert diagnose([text, f"ValueError: {text}", f"World size ({text}"] * 20) is not None
