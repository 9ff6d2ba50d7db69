"""How far a download is: its lines, its figures, the words that name what is fetched."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from magistral_nb.serving import download
from magistral_nb.serving.download import Fetch, Progress


@given(st.integers(0, 10**13), st.integers(0, 10**13), st.none() | st.integers(0, 10**10).map(float))
def test_a_line_tells_what_was_put_in(done, more, rate):
    progress = Progress(done, done + more, rate)
    assert Progress.read(f"{progress}\n") == progress
    assert "\n" not in str(progress)
    assert re.match(r"\d+%, \d", progress.words), "the view makes a bar of it"
    assert ("stalled" in progress.words) == (rate == 0)
    assert ("left" in progress.words) == bool(rate)


@pytest.mark.parametrize("line", ["", "Downloading shards:  40%", "Downloading: many of more bytes", "INFO 40%"])
def test_other_lines_tell_nothing(line):
    assert Progress.read(line) is None


@given(st.floats(1, 1e10), st.floats(0.1, 60), st.integers(2, 40), st.integers(0, 10**12))
def test_a_steady_line_has_its_own_rate(rate, seconds, count, kept):
    samples = [(n * seconds, kept + int(n * seconds * rate)) for n in range(count)]
    if samples[-1][1] > kept:
        assert download.rate_of(samples) == pytest.approx(rate, rel=1 / (samples[-1][1] - kept) + 1e-9)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(0, 19_400_000), "0%, 0 of 19.4 MB"),
        (Progress(10**9, 4 * 10**9, 2e6), "25%, 1.0 of 4.0 GB, 2.0 MB/s, 25 min left"),
        (Progress(120_000, 640_000, 3_200), "18%, 120 of 640 kB, 3.2 kB/s, 3 min left"),
        (Progress(40_000_000, 48 * 10**9, 1.02e6), "0%, 40.0 MB of 48.0 GB, 1.0 MB/s, 13.1 h left"),
        (Progress(20, 60, 2), "33%, 20 of 60 bytes, 2 bytes/s, 20 s left"),
        (Progress(10**9, 4 * 10**9, 0), "25%, 1.0 of 4.0 GB, stalled, trying again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_units_fit(progress, words):
    assert progress.words == words


def test_a_silence_is_a_stall_after_20_seconds():
    arrived = [(0.0, 7), (1.0, 27)]
    assert download.rate_of([*arrived, (20.0, 27)]) == 1.0, "slower and slower until then"
    assert download.rate_of([*arrived, (21.0, 27)]) == 0
    assert download.rate_of([*arrived, (21.0, 28), (22.0, 28)]) > 0
    assert download.rate_of([*arrived, (10.0, 7), (21.0, 7)]) == 0, "a part that is begun again brings nothing"
    assert download.rate_of([(0.0, 7), (1.0, 7)]) is None, "it begins"
    assert download.rate_of([]) is None


def test_the_last_line_says_why():
    assert download.failure_in(["Downloading: 1 of 2 bytes (50%)", "Download failed: no more.\n"]) == "no more."
    assert download.failure_in(["Downloaded 2 bytes."]) is None


@pytest.mark.parametrize("word", ["", "mistral:", "mistral", "gguf:a/b", "a/b"])
def test_a_word_that_names_nothing_is_refused(word):
    with pytest.raises(ValueError, match="names nothing"):
        Fetch.read(word)
