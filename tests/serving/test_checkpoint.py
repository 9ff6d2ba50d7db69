"""What lies with the weights: the system prompt."""

from __future__ import annotations

import pytest
from checkpoints import TEXT, WHOLE, write

from magistral_nb.serving.catalogue import QUANTISED, RELEASES, find_profile
from magistral_nb.serving.checkpoint import system_prompt

pytestmark = pytest.mark.usefixtures("no_hub")


def found(name):
    return find_profile(str(name))


# System prompts


@pytest.mark.parametrize("release", RELEASES)
def test_without_the_hub_the_same_instruction_goes_out_in_our_words(release):
    text, source = system_prompt(RELEASES[release])
    assert ("<think>" in text) == (release == "2506"), "1.0 thinks between tags, the later ones between control tokens"
    assert ("[THINK]" in text) == (release != "2506")
    assert "in our words" in source


def test_a_re_upload_takes_the_original_s_system_prompt(hub, tmp_path):
    hub.repositories["mistralai/Magistral-Small-2509"] = {"SYSTEM_PROMPT.txt": b"First think."}
    prompt = ("First think.", "SYSTEM_PROMPT.txt of mistralai/Magistral-Small-2509")
    assert system_prompt(QUANTISED["2509-fp8"]) == prompt
    merged = {"config.json": TEXT | {"_name_or_path": "mistralai/Magistral-Small-2509"}, "model.safetensors": 10}
    assert system_prompt(found(write(tmp_path / "merged", merged))) == prompt
    own = write(tmp_path / "merged", {"SYSTEM_PROMPT.txt": b"Mine."})
    assert system_prompt(found(own))[0] == "Mine."


def test_a_model_that_does_not_think_is_not_asked_to(hub, tmp_path):
    hub.repositories["you/plain"] = WHOLE | {"tekken.json": b'{"special_tokens": []}'}
    assert system_prompt(found("you/plain")) == (None, "you/plain has no SYSTEM_PROMPT.txt")
    local = write(tmp_path / "plain", {"config.json": TEXT, "model.safetensors": 10})
    assert system_prompt(found(local)) == (None, "the folder has no SYSTEM_PROMPT.txt")
