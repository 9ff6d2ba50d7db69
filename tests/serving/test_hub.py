"""Repositories that are in no catalogue, read from a scripted hub and from huggingface_hub's cache."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
from checkpoints import PARAMS, TEXT, THINKING, WHOLE, WITH_IMAGES, dump
from hypothesis import given, strategies as st
from scripted_hub import NOBODY, put_into_cache

from magistral_nb import errors
from magistral_nb.serving.catalogue import find_profile
from magistral_nb.serving.hub import refusal

pytestmark = pytest.mark.usefixtures("no_hub")


def found(name):
    return find_profile(name)


def refused(name, kind=errors.UnknownModel):
    with pytest.raises(kind) as caught:
        found(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_repository_is_told_by_its_files_on_the_hub(hub):
    hub.repositories["you/tuned"] = WHOLE | {"checkpoint-100/model.safetensors": 7, "onnx/config.json": 7}
    profile = found("you/tuned")
    assert (profile.name, profile.source, profile.tokenizer) == ("tuned", "you/tuned", "you/tuned")
    assert (profile.thinks, profile.is_local, profile.download) == (True, False, 47_144_000_000)
    assert profile.shape.parameters == pytest.approx(23.57e9, rel=1e-3)
    assert hub.asked == [
        "/api/models/you/tuned?blobs=true",
        "/you/tuned/resolve/main/config.json",
        "/you/tuned/resolve/main/tekken.json",
    ]
    assert set(hub.tokens) == {"Bearer hf_mine"}


def test_mistral_s_own_layout_on_the_hub_downloads_one_format(hub):
    both = {"params.json": dump(PARAMS), "consolidated.safetensors": 47_144_000_000}
    hub.repositories["mistralai/Magistral-Small-2612"] = WHOLE | both
    profile = found("mistralai/Magistral-Small-2612")
    assert (profile.layout, profile.download, profile.tokenizer) == ("mistral", 47_144_000_000, None)


def test_a_re_upload_without_tekken_json_is_served_with_its_base_s(hub):
    bare = {"config.json": dump(WITH_IMAGES), "model.safetensors": 48_000_000_000}
    hub.repositories |= {"a/By-Card": bare, "GaleneAI/Magistral-Small-2509-FP8-Dynamic": bare, "a/unknown": bare}
    hub.cards["a/By-Card"] = {"base_model": ["mistralai/Ministral-3-8B-Reasoning-2512"]}
    assert found("a/By-Card").tokenizer == "mistralai/Ministral-3-8B-Reasoning-2512"
    by_name = found("GaleneAI/Magistral-Small-2509-FP8-Dynamic")
    assert (by_name.tokenizer, by_name.thinks) == ("mistralai/Magistral-Small-2509", True)
    assert (found("a/unknown").tokenizer, found("a/unknown").thinks) == (None, False)


def test_only_the_end_of_a_large_tokenizer_is_fetched(hub, monkeypatch):
    monkeypatch.setattr("magistral_nb.serving.folder._TAIL_BYTES", 300)
    hub.repositories["you/tuned"] = WHOLE | {"tekken.json": b'{"vocab": "' + b"x" * 9000 + b'",' + THINKING[1:]}
    assert found("you/tuned").thinks
    assert hub.asked[-1].endswith("tekken.json")
    assert hub.sent[-1] == 300


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, "RepoNotFound", "Invalid username or password."), "no repository you/model.*hf auth login"),
        ((404, "RepoNotFound", ""), "no repository you/model.*check the name"),
        ((401, "", "Invalid credentials in Authorization header"), "refuses your token.*HF_TOKEN"),
        ((403, "GatedRepo", ""), "is gated: accept its terms"),
        ((503, "", ""), "answers 503.*try again"),
    ],
)
def test_refusals_say_what_to_type(hub, answer, says):
    hub.refusals["/api/models/you/model"] = answer
    with pytest.raises(errors.UnknownModel, match=says):
        found("you/model")
    assert len(hub.asked) == 1, "asked once"


def test_a_gated_repository_shows_its_list_and_not_its_files(hub):
    hub.repositories["you/gated"] = WHOLE
    hub.refusals["/you/gated/resolve"] = (401, "GatedRepo", "Access to model you/gated is restricted.")
    assert "is gated" in refused("you/gated")


@given(st.integers(400, 599), st.none() | st.text(), st.none() | st.text())
def test_every_refusal_is_one_line_that_ends_with_a_remedy(status, code, message):
    text = refusal("you/model", status, code, message)
    assert "you/model" in text
    assert text.count("\n") == 0
    assert text.rpartition(": ")[2].endswith(".")


def test_without_a_network_it_says_so_at_once():
    began = time.monotonic()
    message = refused("you/model")
    assert time.monotonic() - began < 2
    assert f"{NOBODY} cannot be reached" in message


def test_a_silent_hub_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("magistral_nb.serving.hub._SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        began = time.monotonic()
        assert "cannot be reached" in refused("you/model")
        assert time.monotonic() - began < 2


def test_a_typo_in_a_repository_gets_a_suggestion(hub):
    assert refused("mistralai/Magistral-Smal-2506").endswith("Did you mean mistralai/Magistral-Small-2506?")


@pytest.mark.parametrize("page", [b"<html>Log in to the hotel's network</html>", b"[]", b"{}", b'{"siblings": [1]}'])
def test_a_login_page_is_no_hub(hub, monkeypatch, page):
    monkeypatch.setattr(hub, "reply_to", lambda _: (200, page, {}))
    assert "is no hub" in refused("you/model")


def test_a_repository_for_llama_cpp(hub):
    hub.repositories["unsloth/Magistral-Small-2509-GGUF"] = {"config.json": b"{}", "Q4_K_M.gguf": 14_000_000_000}
    assert "llama-server" in refused("unsloth/Magistral-Small-2509-GGUF", errors.NotACheckpoint)


# The hub's cache


def test_the_cache_comes_before_the_hub(hub, no_hub):
    put_into_cache(no_hub, "you/tuned", WHOLE | {"model.safetensors": b"x" * 1000})
    profile = found("you/tuned")
    assert (profile.source, profile.download, profile.is_local) == ("you/tuned", 1000, False)
    assert hub.asked == []


def test_what_lies_in_the_cache_in_part_is_asked_for(hub, no_hub):
    put_into_cache(no_hub, "you/tuned", {"config.json": dump(TEXT)})
    hub.repositories["you/tuned"] = WHOLE
    profile = found("you/tuned")
    assert profile.download == 47_144_000_000


def test_offline_only_the_cache_counts(hub, no_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    put_into_cache(no_hub, "you/tuned", WHOLE | {"model.safetensors": b"x"})
    assert found("you/tuned").thinks
    assert "HF_HUB_OFFLINE is set: unset it" in refused("you/other")
    assert hub.asked == []


def test_the_hub_is_where_the_environment_says(hub, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_TOKEN are huggingface_hub's own, read when it is imported."""
    hub.repositories["you/tuned"] = WHOLE
    put_into_cache(tmp_path / "hf" / "hub", "you/cached", WHOLE | {"model.safetensors": b"x"})
    script = "from magistral_nb.serving.catalogue import find_profile as f; print(*(f(n).name for n in "
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_other"}
    done = subprocess.run(
        [sys.executable, "-c", f"{script}['you/tuned', 'you/cached']))"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["tuned", "cached"]
    assert set(hub.tokens) == {"Bearer hf_other"}
    assert len(hub.asked) == 3
