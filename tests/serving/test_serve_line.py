"""The line that is offered, held against the parser that will read it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings, strategies as st

from magistral_nb.options import serve_options, split_raw, split_words
from magistral_nb.serving.serve_line import serve_line


def flat(groups):
    return [word for group in groups for word in group]


WORD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda word: not word.startswith("-") and word.strip()
)
VALUES = {
    "--context": st.integers(1, 10**6).map(str),
    "--quantization": st.sampled_from(["fp8", "none"]),
    "--kv-cache": st.sampled_from(["fp8", "auto"]),
    "--name": WORD,
    "--engine": WORD,
    "--port": st.integers(1, 65535).map(str),
    "--price-per-hour": st.floats(0, 100).map(str),
}
SWITCHES = ("--replace", "--no-wait", "--install", "--yes")
PARSER = serve_options("%magistral_serve")
OWN = st.one_of(
    st.sampled_from(list(VALUES)).flatmap(lambda name: VALUES[name].map(lambda value: [name, value])),
    st.sampled_from(list(VALUES)).flatmap(lambda name: VALUES[name].map(lambda value: [f"{name}={value}"])),
    st.sampled_from(SWITCHES).map(lambda name: [name]),
)
RAW = st.one_of(
    st.tuples(st.sampled_from(["--max-num-seqs", "--max_num_seqs", "--dtype", "--max-model-len"]), WORD).map(list),
    st.tuples(st.sampled_from(["--max-num-seqs", "--limit-mm-per-prompt"]), WORD).map(lambda two: ["=".join(two)]),
    st.sampled_from([["--enforce-eager"], ["--served-model-name", "a", "b"], ["--nice", "-5"]]),
)
MODEL = st.one_of(st.just([]), st.sampled_from([["2509"], ["/a folder/with blanks"], ["it's"]]))
TYPED = st.tuples(MODEL, st.lists(OWN, max_size=5).map(flat), st.lists(RAW, max_size=4).map(flat))
CHANGE = st.one_of(
    st.sampled_from(list(VALUES)).flatmap(
        lambda name: st.one_of(st.none(), VALUES[name]).map(lambda value: (name, value))
    ),
    st.sampled_from(SWITCHES).flatmap(lambda name: st.sampled_from([(name, ""), (name, None)])),
)


def read(line):
    """What the magic would read: the options and the raw flags."""
    magic, _, rest = line.partition(" ")
    assert magic == "%magistral_serve"
    own, raw = split_raw(split_words(rest))
    return vars(PARSER.parse_args(own)), raw


def typed_words(typed):
    model, own, raw = typed
    return [*model, *own, *(["--", *raw] if raw else [])]


@settings(max_examples=40)
@given(TYPED)
def test_without_a_change_the_line_reads_as_it_was_typed(typed):
    line = serve_line(typed_words(typed), ())
    assert read(line) == read(f"%magistral_serve {shlex.join(typed_words(typed))}")


@settings(max_examples=40)
@given(TYPED, st.lists(CHANGE, max_size=4, unique_by=lambda change: change[0]))
def test_the_line_reads_back_to_the_changed_options_and_to_no_other(typed, changes):
    before, raw_before = read(f"%magistral_serve {shlex.join(typed_words(typed))}")
    after, raw_after = read(serve_line(typed_words(typed), changes))
    unset, _ = read("%magistral_serve ")
    for option, value in changes:
        name = option.removeprefix("--").replace("-", "_")
        alone, _ = (unset, ()) if value is None else read(serve_line([], [(option, value)]))
        assert after[name] == alone[name]
        before[name] = after[name]
    assert after == before
    if not {"--context"} & {option for option, _ in changes}:
        assert raw_after == raw_before


@settings(max_examples=40)
@given(TYPED, st.sampled_from(["--max-num-seqs", "--dtype", "--enforce-eager"]), st.sampled_from(["16", "", None]))
def test_a_raw_flag_stands_once_behind_the_dashes_or_not_at_all(typed, flag, value):
    options_before, _ = read(f"%magistral_serve {shlex.join(typed_words(typed))}")
    options_after, raw = read(serve_line(typed_words(typed), [(f"-- {flag}", value)]))
    assert options_after == options_before
    names = [word.split("=")[0].replace("_", "-") for word in raw if word.startswith("--")]
    assert names.count(flag) == (0 if value is None else 1)
    if value:
        assert raw[raw.index(flag) + 1] == value


@pytest.mark.parametrize(
    ("typed", "changes", "line"),
    [
        ("2509 --context 131072", [("--context", "32768")], "2509 --context 32768"),
        ("--context=131072 2509", [("--context", "32768")], "--context 32768 2509"),
        ("2509", [("--context", "32768")], "2509 --context 32768"),
        ("2509 -- --max-num-seqs 8", [("--context", "32768")], "2509 --context 32768 -- --max-num-seqs 8"),
        ("2509 -- --max-model-len 131072", [("--context", "32768")], "2509 --context 32768"),
        ("2509 -- --kv_cache_dtype=fp8_e5m2 -tp 2", [("--kv-cache", "auto")], "2509 --kv-cache auto -- -tp 2"),
        ("2509 -- -tp 2 --dtype half", [("--gpus", "1")], "2509 --gpus 1 -- --dtype half"),
        ("2509 -- --max_num_seqs=64 --x", [("-- --max-num-seqs", "16")], "2509 -- --max-num-seqs 16 --x"),
        ("2509", [("-- --nice", ""), ("-- --max-num-seqs", "16")], "2509 -- --nice --max-num-seqs 16"),
        ("2509 -- --dtype fp8", [("-- --dtype", None)], "2509"),
        ("2509 --port 8000", [("--port", None)], "2509"),
        ("--engine here --yes", [("--engine", None), ("--install", "")], "--yes --install"),
        ("--install 2509", [("--install", "")], "--install 2509"),
        ("2509 -- --reasoning-parser x", [("-- --reasoning-parser=", "")], "2509 -- --reasoning-parser="),
        ("'/a b/c' --name \"it's\"", [("--replace", "")], "'/a b/c' --name 'it'\"'\"'s' --replace"),
        ("", [], ""),
    ],
)  # fmt: skip
def test_the_line_as_it_is_shown(typed, changes, line):
    assert serve_line(shlex.split(typed), changes) == f"%magistral_serve {line}".rstrip()
