"""Downloads from a scripted hub into huggingface_hub's own cache."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from checkpoints import LORA, PARAMS, TEXT, THINKING, WHOLE, dump
from scripted_hub import COMMIT, ScriptedHub, etag_of, put_into_cache

from magistral_nb import errors
from magistral_nb.serving import download, hub as hub_cache, parts
from magistral_nb.serving.download import Download, Fetch, Progress

MODEL = "mistralai/Magistral-Small-2612"
FETCH = Fetch("mistral", MODEL)
WEIGHTS = random.Random(1).randbytes(10_500)
MISTRAL = {"params.json": dump(PARAMS), "tekken.json": THINKING, "consolidated.safetensors": WEIGHTS}


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 1,000 bytes, and nobody sleeps between two tries: neither here nor in huggingface_hub."""
    monkeypatch.setattr(parts, "PART", 1000)
    monkeypatch.setattr("time.sleep", lambda _: None)


def fetched(*wanted):
    job = Download(wanted)
    job.run()
    return job


def refused(*wanted):
    job = Download(wanted)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the hub's client stands on three HTTP libraries
        job.run()
    why = job.why(caught.value)
    assert "\n" not in why
    return why


def cached(name, repository=MODEL):
    """The content as vLLM would find it: by the branch."""
    found = huggingface_hub.try_to_load_from_cache(repository, name)
    return Path(found).read_bytes() if isinstance(found, str) else None


def spans_of(hub, name):
    asked = zip(hub.asked, hub.spans, strict=True)
    return [span for path, span in asked if path.endswith(name) and span is not None]


# The whole way


@pytest.mark.usefixtures("small_parts")
def test_files_come_into_the_hub_s_cache_and_no_more_than_are_needed(hub):
    hub.repositories[MODEL] = MISTRAL | {"model.safetensors": 9_000_000_000, "README.md": b"x"}
    job = fetched(FETCH)
    assert {name: cached(name) for name in MISTRAL} == MISTRAL
    assert job.done == job.total == sum(map(len, MISTRAL.values()))
    assert not any(path.endswith(("model.safetensors", "README.md")) for path in hub.asked)
    assert sorted(spans_of(hub, "consolidated.safetensors"))[:2] == ["bytes=0-999", "bytes=1000-1999"]
    assert {token for token in hub.tokens if token} == {"Bearer hf_mine"}
    assert download.is_cached(FETCH)


@pytest.mark.usefixtures("small_parts")
def test_what_is_there_is_not_asked_for_again(hub):
    hub.repositories[MODEL] = MISTRAL
    fetched(FETCH)
    hub.asked.clear()
    assert fetched(FETCH).total == 0
    assert hub.asked == []


@pytest.mark.usefixtures("small_parts")
def test_huggingface_hub_itself_finds_nothing_left_to_fetch(hub):
    hub.repositories[MODEL] = MISTRAL
    fetched(FETCH)
    hub.asked.clear()
    huggingface_hub.snapshot_download(MODEL, allow_patterns=list(MISTRAL))
    assert not any("/resolve/" in path for path in hub.asked)


@pytest.mark.usefixtures("small_parts")
def test_shards_tokenizer_and_adapter_of_three_repositories(hub, no_hub):
    shards = {f"model-{n}-of-3.safetensors": random.Random(n).randbytes(3000) for n in (1, 2, 3)}
    hub.repositories["you/tuned"] = {"config.json": dump(TEXT), **shards}
    hub.repositories["you/base"] = WHOLE
    hub.repositories["you/lora"] = {"adapter_config.json": dump(LORA), "adapter_model.safetensors": b"x" * 1500}
    wanted = Fetch("huggingface", "you/tuned"), Fetch("tokenizer", "you/base"), Fetch("adapter", "you/lora")
    fetched(*wanted)
    assert {name: cached(name, "you/tuned") for name in shards} == shards
    assert cached("tekken.json", "you/base") == THINKING
    assert cached("adapter_model.safetensors", "you/lora") == b"x" * 1500
    assert not [*no_hub.rglob("*.parts*")], "nothing half-done stays"
    assert all(map(download.is_cached, wanted))


@pytest.mark.usefixtures("small_parts")
def test_a_connection_that_is_cut_is_taken_up_where_it_broke(hub):
    hub.repositories[MODEL] = MISTRAL | {"consolidated.safetensors": WEIGHTS[:1000]}
    hub.cuts = [10**9, 10**9, 300, 0, 450]  # the two small files first
    fetched(FETCH)
    assert cached("consolidated.safetensors") == WEIGHTS[:1000]
    assert len(spans_of(hub, "consolidated.safetensors")) == 4


@pytest.mark.usefixtures("small_parts")
def test_what_had_arrived_before_a_failure_is_not_fetched_again(hub):
    hub.repositories[MODEL] = MISTRAL
    broken = [f"/{MODEL}/resolve/{COMMIT}/consolidated.safetensors", (503, "", "")]
    reply_to, wanted = hub.reply_to, []

    def until_five(path):
        wanted.append(path)
        full = len([each for each in wanted if each == broken[0]]) > 6  # one asks for the headers
        return (broken[1][0], b"", {}) if full and path == broken[0] else reply_to(path)

    hub.reply_to = until_five
    assert "answers 503" in refused(FETCH)
    assert not download.is_cached(FETCH)
    assert parts.Parts(hub_cache.folder_of(MODEL) / "blobs" / etag_of(WEIGHTS), len(WEIGHTS)).done == 5000
    hub.reply_to = reply_to
    hub.asked.clear()
    hub.spans.clear()
    job = fetched(FETCH)
    assert cached("consolidated.safetensors") == WEIGHTS
    assert len(spans_of(hub, "consolidated.safetensors")) == 11 - 5, "eleven parts, of which five were here"
    assert job.done == job.total


@pytest.mark.usefixtures("small_parts")
def test_a_token_is_for_the_hub_and_not_for_where_it_sends_us(hub):
    hub.repositories[MODEL] = MISTRAL
    with ScriptedHub() as elsewhere:
        elsewhere.repositories[MODEL] = MISTRAL
        hub.elsewhere = elsewhere.url
        fetched(FETCH)
        assert cached("consolidated.safetensors") == WEIGHTS
        assert len(spans_of(elsewhere, "consolidated.safetensors")) == 11
        assert set(elsewhere.tokens) == {None}


@pytest.mark.usefixtures("small_parts")
def test_a_server_without_ranges_gives_whole_files(hub, capsys):
    hub.repositories[MODEL] = MISTRAL
    hub.ranges = False
    fetched(FETCH)
    assert cached("consolidated.safetensors") == WEIGHTS
    assert "sends no parts of files, so consolidated.safetensors is fetched as a whole" in capsys.readouterr().out


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("left", "marks"), [(20_000, 7), (0, 11), (4_000, 11)])  # others' parts, or deleted ones
def test_what_another_make_of_parts_left_is_not_built_upon(hub, no_hub, left, marks):
    hub.repositories[MODEL] = MISTRAL
    etag = etag_of(WEIGHTS)
    blobs = no_hub / f"models--{MODEL.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag}.parts").write_bytes(b"?" * left)
    (blobs / f"{etag}.parts.1000").write_bytes(b"\1" * marks)
    fetched(FETCH)
    assert cached("consolidated.safetensors") == WEIGHTS


# What is counted


@pytest.fixture
def said(monkeypatch):
    """All that the process would say, which here looks a hundred times a second."""
    said = []
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10**7)  # the process changes it
    monkeypatch.setattr(sys, "argv", ["download", str(FETCH)])
    monkeypatch.setattr(download, "_TICK_SECONDS", 0.01)
    monkeypatch.setattr(download, "say", said.append)
    return said


@pytest.mark.usefixtures("said")
def test_a_part_is_counted_in_small_pieces_as_it_arrives(hub, monkeypatch):
    hub.repositories[MODEL] = MISTRAL | {"consolidated.safetensors": bytes(2**20)}
    monkeypatch.setattr(parts, "PART", 2**19)
    sizes, write = [], parts._Part.write
    monkeypatch.setattr(parts._Part, "write", lambda part, data: sizes.append(len(data)) or write(part, data))
    download.main()
    assert sum(sizes) == 2**20
    assert max(sizes) <= 2**17


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("ranges", [True, False])
def test_what_comes_as_a_whole_is_not_counted(hub, monkeypatch, ranges):
    hub.repositories[MODEL] = MISTRAL
    hub.ranges = ranges
    job, seen = Download([FETCH]), []
    for owner, name in (
        (huggingface_hub, "snapshot_download"),
        (parts.Parts, "fetch"),
        (huggingface_hub, "hf_hub_download"),
    ):
        call = getattr(owner, name)

        def watched(*args, call=call, name=name, **how):
            seen.append((name, job.counts))
            return call(*args, **how)

        monkeypatch.setattr(owner, name, watched)
    job.run()
    assert seen == [("snapshot_download", False), ("fetch", True), ("hf_hub_download", False)]


@pytest.mark.parametrize(("counts", "rates"), [(True, {0.0}), (False, {None})])
def test_what_is_not_counted_has_no_rate_and_is_never_stalled(said, monkeypatch, counts, rates):
    silent = SimpleNamespace(counts=counts, total=10**9, done=10**8, run=lambda: time.sleep(0.1))
    monkeypatch.setattr(download, "Download", lambda _: silent)
    monkeypatch.setattr(download, "_STALLED_SECONDS", 0.0)
    download.main()
    assert {step.rate for step in said if isinstance(step, Progress)} == rates


# What goes wrong


def test_a_gated_repository_is_told_before_anything_is_fetched(hub):
    hub.repositories[MODEL] = MISTRAL
    hub.refusals[f"/{MODEL}/resolve"] = (401, "GatedRepo", "Access is restricted.")
    with pytest.raises(errors.UnknownModel, match="is gated: accept its terms"):
        download.missing_bytes(FETCH)
    assert "is gated: accept its terms" in refused(FETCH)


@pytest.mark.usefixtures("small_parts")
def test_terms_that_were_withdrawn_in_the_middle(hub):
    hub.repositories[MODEL] = MISTRAL
    hub.refusals[f"/{MODEL}/resolve/{COMMIT}/consolidated"] = (403, "GatedRepo", "")
    assert "is gated: accept its terms" in refused(FETCH)


def test_offline_only_what_lies_whole_in_the_cache_will_do(hub, no_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it" in refused(FETCH)
    put_into_cache(no_hub, MODEL, MISTRAL)
    assert fetched(FETCH).total == 0
    assert hub.asked == []


@pytest.mark.usefixtures("no_hub")
def test_without_a_network_it_says_so():
    assert "cannot be reached" in refused(FETCH)


@pytest.mark.usefixtures("small_parts")
def test_a_hub_that_goes_away_in_the_middle(hub, monkeypatch):
    hub.repositories[MODEL] = MISTRAL | {"consolidated.safetensors": WEIGHTS[:1000]}
    monkeypatch.setattr(parts, "_PAUSES", ())
    hub.cuts = [10**9, 10**9] + [0] * 50
    assert "run the same line again, which goes on where it stopped" in refused(FETCH)


@pytest.mark.usefixtures("small_parts")
def test_a_full_disk(hub, monkeypatch, no_hub):
    def full(*_):
        raise OSError(28, "No space left on device")

    hub.repositories[MODEL] = MISTRAL
    monkeypatch.setattr(os, "pwrite", full)
    why = refused(FETCH)
    assert why.startswith(f"{no_hub} cannot be written to (No space left on device): free some of that disk")


@pytest.mark.usefixtures("small_parts")
def test_an_error_that_nobody_foresaw_is_called_by_its_name(hub, monkeypatch):
    def changed(*_):
        raise TypeError("http_get() takes no headers\nany more")

    hub.repositories[MODEL] = MISTRAL
    monkeypatch.setattr(parts.Parts, "fetch", changed)
    assert refused(FETCH) == "TypeError: http_get() takes no headers: the lines above it in the log say where."


def test_a_repository_that_is_none(hub):
    assert "The hub has no repository" in refused(FETCH)


# As a process


def start(hub, home, *words, part=parts.PART):
    """The download as the supervisor runs it, but for the size of its parts and how often it says something."""
    patch = f"parts.PART, download._TICK_SECONDS = {part}, 0.2"
    code = f"from magistral_nb.serving import download, parts; {patch}; download.main()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=environment | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def content_of(home):
    (found,) = (home / "hub").glob("models--*/snapshots/*/consolidated.safetensors")
    return found.read_bytes()


@pytest.mark.engine
def test_killed_in_the_middle_it_goes_on_where_it_stopped(tmp_path):
    part, weights = 2**18, random.Random(2).randbytes(40 * 2**18 + 17)
    with ScriptedHub() as hub:
        hub.repositories[MODEL] = MISTRAL | {"consolidated.safetensors": weights}
        hub.pause = 0.05
        first = start(hub, tmp_path, str(FETCH), part=part)
        deadline = time.monotonic() + 30
        while len(spans_of(hub, "consolidated.safetensors")) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        time.sleep(0.5)  # what its threads had asked for is answered still
        before = len(spans_of(hub, "consolidated.safetensors"))
        assert 20 <= before < 41
        hub.pause = 0
        second = start(hub, tmp_path, str(FETCH), part=part)
        said, _ = second.communicate(timeout=30)
        again = spans_of(hub, "consolidated.safetensors")[before:]
    assert second.returncode == 0, said
    assert content_of(tmp_path) == weights
    assert len(again) <= 41 - (before - 8), "what was whole is not asked for again"
    assert said.splitlines()[-1].startswith("Downloaded ")


@pytest.mark.engine
def test_it_says_how_far_it_is_and_at_the_end_why_it_failed(tmp_path):
    with ScriptedHub() as hub:
        hub.repositories[MODEL] = MISTRAL | {"consolidated.safetensors": bytes(8 * 2**20)}
        hub.pause = 0.05
        said, _ = start(hub, tmp_path, str(FETCH), part=2**20).communicate(timeout=30)
        steps = [step for line in said.splitlines() if (step := Progress.read(line))]
        assert len(steps) >= 3
        assert [step.done for step in steps] == sorted(step.done for step in steps)
        assert steps[-1].rate
        hub.refusals["/api/models/you/gone"] = (404, "RepoNotFound", "")
        failed = start(hub, tmp_path, "tokenizer:you/gone")
        said, _ = failed.communicate(timeout=30)
    assert failed.returncode == 1
    assert "The hub has no repository you/gone" in download.failure_in(said.splitlines())
