"""The table of known failures, held against lines as vLLM and its libraries print them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from magistral_nb.serving.diagnosis import diagnose
from magistral_nb.serving.failures import REQUESTS, ROOTS, SIGNALS, WARNINGS, WRAPPERS
from magistral_nb.serving.log_errors import known_failure
from magistral_nb.serving.masking import masked

FILE = Path(__file__).with_name("boot_lines.txt")
PREFIXES = ("", "(EngineCore pid=123) ERROR 11-22 05:50:11 [core.py:1330] ", "ERROR 06-10 05:50:11 engine.py:22] ")


def lines_of(kind, mark=""):
    """The file's lines of one kind with this mark before them, by their failure."""
    found, lines = {}, []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if section := re.fullmatch(r"\[(\w+) (\w+)\]", line):
            lines = found.setdefault(section[2], []) if section[1] == kind else []
        elif (
            line and not line.startswith("#") and (line[: line.find(" ") + 1] if line.startswith(MARKS) else "") == mark
        ):
            lines.append(line.removeprefix(mark))
    return found


MARKS = (OTHER, NOT) = ("other: ", "not: ")
ROOT_LINES, OTHER_ERRORS, NO_ERRORS = (lines_of("root", mark) for mark in ("", OTHER, NOT))
REPLIES, POINTERS, NOTES = (lines_of(kind) for kind in ("request", "wrapper", "warning"))
TABLES = ((ROOTS, ROOT_LINES), (REQUESTS, REPLIES), (WRAPPERS, POINTERS), (WARNINGS, NOTES))


def test_each_cause_is_known_by_its_lines_in_a_log():
    for name, lines in ROOT_LINES.items():
        for line in lines:
            for prefix in PREFIXES:
                found = diagnose([f"{prefix}{line}", POINTERS["engine_init_wrapper"][0]])
                assert (line, found.id) == (line, name)
                assert not {"{", "}"} & set(found.cause + found.remedy)


def test_what_looks_alike_is_another_failure_or_none():
    assert OTHER_ERRORS.keys() == NO_ERRORS.keys() == ROOT_LINES.keys()
    for name in ROOT_LINES:
        (other,), (harmless,) = OTHER_ERRORS[name], NO_ERRORS[name]
        assert diagnose(["Traceback (most recent call last):", other]).id != name
        assert (name, diagnose([harmless], exit_code=1)) == (name, None)


def test_each_refusal_is_known_by_the_reply_and_is_none_in_a_log():
    for name, lines in REPLIES.items():
        for line in lines:
            assert (line, diagnose([], reply=line).id) == (line, name)
            assert diagnose([f"INFO:     {line}"]) is None


def test_what_points_further_up_is_told_only_where_there_is_nothing_else():
    for name, lines in POINTERS.items():
        for line in lines:
            assert (line, diagnose([line]).id) == (line, name)
            assert diagnose(["ValueError: cheese", line]).evidence == "ValueError: cheese"


def test_every_pattern_of_the_tables_has_a_line_here():
    lines = [line for _, samples in TABLES for group in samples.values() for line in group]
    unused = [
        pattern.pattern
        for rows, _ in TABLES
        for row in rows
        for pattern in row.patterns
        if not any(pattern.search(line) for line in lines)
    ]
    assert unused == []


def test_every_row_counts_for_a_line_that_no_row_above_it_takes():
    for rows, samples in TABLES:
        lines = [line for group in samples.values() for line in group]
        met = {
            id(known[0])
            for line in lines
            for loaded in (False, True)
            if (known := known_failure(line, rows, loaded=loaded))
        }
        assert met == {id(row) for row in rows}


def test_texts_are_one_line_and_sentences():
    for row in [*(row for rows, _ in TABLES for row in rows), *SIGNALS.values()]:
        for text in (row.cause, row.remedy):
            assert re.fullmatch(r"(vLLM|[A-Z{%]).*[.]", text), text
            assert len(text) < 200, text
            assert masked(text) == text, "what it says would be taken for a secret"


def test_patterns_begin_with_plain_text_so_that_a_long_line_takes_no_long_time():
    for rows, _ in TABLES:
        for row in rows:
            for pattern in row.patterns:
                assert re.match(r"\^|(\(\?P<\w+>)?(\\?[\w ,\[:'/-]){2}|\[", pattern.pattern), pattern.pattern


def test_figures_in_a_text_are_caught_by_each_pattern():
    for rows, _ in TABLES:
        for row in rows:
            wanted = set(re.findall(r"\{(\w+)\}", row.cause + row.remedy))
            for pattern in row.patterns:
                assert wanted <= set(pattern.groupindex), row.id


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "kv_no_memory",
            [(("-- --enforce-eager", ""), ("-- --max-num-seqs", "16"), ("-- --kv-cache-memory-bytes", None))],
        ),
        ("kv_too_small_for_max_len", [(("--context", fits),) for fits in ("32768", "25600", "20480")]),
        ("free_memory_below_budget", [(("-- --gpu-memory-utilization", share),) for share in ("0.72", "0.40")]),
        ("sampler_warmup_oom", [(("-- --max-num-seqs", "16"),), (("-- --max-num-seqs", "16"),)]),
        ("world_size", [(("--gpus", "1"),)]),
        ("heads_not_divisible", [(("--gpus", "2"),)]),
        ("bf16_unsupported", [(("-- --dtype", "half"),)]),
        ("fp8_kv_refused", [(("-- --kv-cache-dtype", "fp8"),), (("--kv-cache", "auto"),)]),
        ("unknown_flag", [(("-- --enable-reasoning", None), ("-- --old_flag", None)), (("-- --model", None),)]),
        (
            "flag_value",
            [
                (("-- --dtype", None),),
                (("-- --tensor-parallel-size", None), ("-- -tp", None)),
                (("-- --max-num-seqs", None),),
            ],
        ),
        ("context_beyond_model", [(("--context", "40960"),)]),
        ("batch_below_requests", [(("-- --max-num-seqs", "8"),)]),
        ("port_in_use", [(("--port", None),)] * 3),
        ("no_think_tokens", [(("-- --reasoning-parser=", ""),)]),
        ("transformers_v4", [(("--engine", None), ("--install", ""))]),
        ("disk_full", [(), (), (), ()]),
    ],
)
def test_safe_changes_are_reckoned_from_the_figures(name, changes):
    assert [diagnose([line]).changes for line in ROOT_LINES[name]] == changes


@pytest.mark.parametrize(
    ("line", "context"),
    [
        ("max seq len (800) is larger than the maximum number of tokens that can be stored in KV cache (600)", "600"),
        (
            "max seq len (9000) is larger than the maximum number of tokens that can be stored in KV cache (1024)",
            "1024",
        ),
        ("max seq len (9000) is larger than the maximum number of tokens that can be stored in KV cache (0)", None),
    ],
)
def test_a_short_context_is_not_rounded_and_none_is_not_offered(line, context):
    wanted = () if context is None else (("--context", context),)
    assert diagnose([f"ValueError: The model's {line}."]).changes == wanted


def test_as_many_gpus_as_there_are_to_a_power_of_two():
    line = "ValueError: World size (64) is larger than the number of available GPUs ({}) in this node."
    assert diagnose([line.format(0)]).changes == ()
    for gpus in range(1, 20):
        (_, count), *_ = diagnose([line.format(gpus)]).changes
        assert gpus / 2 < int(count) <= gpus


def test_a_gpu_that_is_full_leaves_no_share_to_ask_for():
    line = ROOT_LINES["free_memory_below_budget"][0].replace("59.32", "0.9")
    assert diagnose([line]).changes == ()


def test_a_question_that_fits_but_asks_for_too_much_gets_no_longer_context():
    too_long = REPLIES["context_overflow"][0]
    assert diagnose([], reply=too_long).changes == (("--context", None),)
    assert diagnose([], reply=too_long.replace("512 tokens", "40960 tokens")).changes == ()


def test_lines_of_one_failure_follow_each_other_in_the_tables():
    ids = [row.id for row in ROOTS]
    assert len([a for a, b in pairwise(ids) if a != b]) + 1 == len(set(ids))
