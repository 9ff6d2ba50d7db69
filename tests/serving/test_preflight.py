"""What would stop a boot: files that cannot be had, a disk that is too small, a port that is taken."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoints import PARAMS, TEXT, THINKING, dump
from hypothesis import given, strategies as st
from scripted_hub import put_into_cache
from serving.test_plan import H100, VLLM

from magistral_nb import errors
from magistral_nb.processes import Process
from magistral_nb.serving import preflight, registry
from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.download import Fetch
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

MODEL = "mistralai/Magistral-Small-2612"
FETCH = Fetch("mistral", MODEL)
MISTRAL = {"params.json": dump(PARAMS), "tekken.json": THINKING, "consolidated.safetensors": 48_000_000_000}
SMALL = len(MISTRAL["params.json"]) + len(THINKING)


def refused(*wanted, kind=errors.PlanRefused):
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        preflight.check_files(wanted)
    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def roomy(monkeypatch):
    """Make the disk seem to have so many bytes free."""
    return lambda free: monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=int(free)))


# Files


def test_what_has_to_come_is_counted_and_may_come(hub, roomy):
    roomy(60e9)
    hub.repositories[MODEL] = MISTRAL | {"model.safetensors": 48_000_000_000}
    assert preflight.check_files([FETCH]) == 48_000_000_000 + SMALL
    assert hub.asked == [f"/api/models/{MODEL}?blobs=true", f"/{MODEL}/resolve/main/params.json"]
    assert hub.sent[-1] == 1, "the smallest file's last byte shows whether files may be read"


def test_what_lies_in_the_cache_asks_nobody(hub, no_hub):
    put_into_cache(no_hub, MODEL, MISTRAL | {"consolidated.safetensors": b"x" * 1000})
    assert preflight.check_files([FETCH]) == 0
    assert preflight.check_files([]) == 0
    assert hub.asked == []


def test_of_what_lies_there_in_part_only_the_rest_counts(hub, no_hub, roomy):
    roomy(60e9)
    hub.repositories[MODEL] = MISTRAL
    snapshot = put_into_cache(no_hub, MODEL, {"tekken.json": THINKING})
    assert preflight.check_files([FETCH]) == 48_000_000_000 + SMALL - len(THINKING)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    with (blobs / "abc.parts").open("wb") as file:
        file.write(os.urandom(2**20))
        file.truncate(2**30)
    begun = preflight.check_files([FETCH])
    assert begun == pytest.approx(48_000_000_000 + SMALL - len(THINKING) - 2**20, abs=2**16)


def test_a_gated_repository(hub):
    hub.repositories[MODEL] = MISTRAL
    hub.refusals[f"/{MODEL}/resolve"] = (401, "GatedRepo", "Access is restricted.")
    assert "is gated: accept its terms on its page, log in with: hf auth login" in refused(
        FETCH, kind=errors.UnknownModel
    )


def test_a_repository_that_is_none_or_holds_no_such_thing(hub):
    assert "no repository" in refused(FETCH, kind=errors.UnknownModel)
    hub.repositories["you/base"] = {"config.json": dump(TEXT)}
    assert "you/base has no tekken.json" in refused(Fetch("tokenizer", "you/base"), kind=errors.NotACheckpoint)


def test_offline_without_the_files(hub, no_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it" in refused(FETCH, kind=errors.UnknownModel)
    put_into_cache(no_hub, MODEL, MISTRAL | {"consolidated.safetensors": b"x" * 1000})
    assert preflight.check_files([FETCH]) == 0
    assert hub.asked == []


@pytest.mark.usefixtures("no_hub")
def test_without_a_network():
    assert "cannot be reached" in refused(FETCH, kind=errors.UnknownModel)


# Disk


def test_a_disk_that_is_too_small(hub, no_hub, roomy):
    hub.repositories[MODEL] = MISTRAL
    roomy(12e9)
    text = refused(FETCH)
    assert text.startswith(f"The model's files still take 48.0 GB and {no_hub.parent} has 12.0 GB free: free 38.0 GB")
    assert "HF_HOME" in text


@given(st.integers(1, 10**13), st.integers(0, 10**13))
def test_a_disk_that_passes_has_room(missing, free):
    if free >= missing + 2 * 10**9:
        preflight.check_disk(missing, free, Path("/data"))
        return
    with pytest.raises(errors.PlanRefused, match=r"^The model's files still take [^\n]* start this kernel again\.$"):
        preflight.check_disk(missing, free, Path("/data"))


def test_a_cache_that_may_not_be_written():
    with pytest.raises(errors.PlanRefused, match="where this user may not write: set HF_HOME"):
        preflight.check_disk(1, 10**12, Path("/shared/hub"), writable=False)


# Port


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_and_by_whom(taken):
    with pytest.raises(
        errors.PlanRefused, match=rf"Port {taken} is taken by .* \(process {os.getpid()}\): leave --port"
    ):
        preflight.check_port(taken)


def test_a_port_that_a_server_of_ours_has(taken):
    state = registry.ServerState(
        name="second",
        status="ready",
        plan=make_plan(H100, RELEASES["2506"], Wishes(), VLLM),
        api_key="k",
        log_path="/tmp/x.log",
        base_url=f"http://127.0.0.1:{taken}/v1",
        engine=Process.of(os.getpid()),
    )
    registry.save(registry.path_of("second"), state)
    with pytest.raises(errors.PlanRefused, match=f"Port {taken} is taken by server 'second': leave"):
        preflight.check_port(taken)


def test_a_port_that_is_free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    preflight.check_port(port)


def test_a_port_whose_owner_is_another_user_s(taken, monkeypatch):
    import psutil

    def denied(*_):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    with pytest.raises(errors.PlanRefused, match=f"Port {taken} is taken: leave --port away"):
        preflight.check_port(taken)
