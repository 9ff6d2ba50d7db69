"""Connecting: what a server is found to be, from scripted servers that pose as each kind (no engine)."""

from __future__ import annotations

import time

import pytest
from stand_in import (
    MODEL,
    Reply,
    StandIn,
    answer,
    content,
    delta,
    deltas,
    done,
    finish,
    hang,
    reasoning,
    refuse,
    silence,
    usage,
)

import magistral_nb
from magistral_nb import errors, paths
from magistral_nb.asking import trial
from magistral_nb.asking.endpoint import SHARED, Limits, Sampling
from magistral_nb.asking.system_prompt import own_wording
from magistral_nb.serving.connecting import normalised

GOOD = [reasoning("2 + 2 = 4."), content("4"), finish("stop"), usage(prompt=9, completion=5, reasoning=3), done()]


def found(server):
    return {what: value for what, value, _ in server.survey.rows}


def card(**fields):
    return answer({"object": "list", "data": [{"id": MODEL, "object": "model", **fields}]})


def untried(owned_by, **fields):
    """A server that answers test questions from its queue only."""
    scripted = StandIn(owned_by=owned_by, **fields)
    scripted.tries = False
    return scripted


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("localhost:11434", "http://localhost:11434/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://h/hub/proxy/8000/v1", "http://h/hub/proxy/8000/v1"),
        ("unix:/run/vllm.sock", "unix:/run/vllm.sock"),
        ("unix:///run/vllm.sock", "unix:/run/vllm.sock"),
    ],
)
def test_addresses_as_people_type_them(typed, url):
    assert normalised(typed) == url


@pytest.mark.parametrize(
    "typed", ["http://", "ftp://h", "http://h:99999", "http://u:p@h/v1", "http://ht!tp", "", "unix:", "unix:///"]
)
def test_what_is_no_address(typed):
    with pytest.raises(errors.InvalidOption) as caught:
        normalised(typed)
    assert ":p@" not in str(caught.value)


def test_a_vllm_can_do_everything(stand_in):
    server = magistral_nb.connect(stand_in.url)
    assert server.survey.title == f"vLLM 0.32.0 at {stand_in.url}"
    assert found(server) == {
        "model": MODEL,
        "context": "40,960 tokens",
        "thinking": "reasoning",
        "system prompt": "its own",
        "counting": "by token ids",
        "tokenize": "yes",
        "thinking budget": "yes",
    }
    assert not stand_in.requests, "test questions are no questions"


def test_what_an_ollama_can_do():
    with untried("library") as ollama:
        ollama.pages |= {
            "/api/version": answer({"version": "0.12.6"}),
            "/api/ps": answer({"models": [{"name": MODEL, "context_length": 4096}]}),
            "/v1/models": card(owned_by="library"),
        }
        ollama.enqueue(deltas([delta({"reasoning": "347"})] * 3, ending="hang"))
        server = magistral_nb.connect(ollama.url)
        body = ollama.requests[0].json
        assert ollama.requests[0].disconnected.wait(2), "the test question is cut"
    assert server.survey.title.startswith("Ollama 0.12.6 at")
    assert "return_token_ids" not in body
    facts = found(server)
    assert (facts["context"], facts["thinking"], facts["thinking budget"]) == ("4,096 tokens", "reasoning", "no")
    assert (facts["counting"], facts["tokenize"]) == ("in the end", "no")


def test_what_a_llama_cpp_can_do():
    with untried("llamacpp") as llama:
        llama.pages["/props"] = answer({"default_generation_settings": {"n_ctx": 8192}})
        llama.enqueue(deltas([delta({"reasoning_content": "347"})] * 3, ending="hang"))
        server = magistral_nb.connect(llama.url)
    assert server.survey.title.startswith("llama.cpp at")
    assert (found(server)["context"], found(server)["thinking"]) == ("8,192 tokens", "reasoning_content")


def test_what_an_lm_studio_can_do():
    with untried("organization_owner", max_model_len=None) as studio:
        loaded = {"id": MODEL, "loaded_context_length": 4096, "max_context_length": 131072}
        studio.pages["/api/v0/models"] = answer({"data": [loaded]})
        studio.enqueue(deltas([delta({"content": text}) for text in ("[THI", "NK]", "347")], ending="hang"))
        server = magistral_nb.connect(studio.url)
    assert server.survey.title.startswith("LM Studio at")
    assert (found(server)["context"], found(server)["thinking"]) == ("4,096 tokens", "[THINK] in the text")


def test_mistral_s_api_is_asked_for_effort(monkeypatch):
    """It has capabilities, refuses unknown fields, and sends thinking as chunks of a list."""
    thought = delta({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "347"}]}]})
    with untried("mistralai") as api:
        api.pages["/v1/models"] = card(capabilities={"completion_chat": True}, max_context_length=262144)
        api.enqueue(refuse(422, "extra_forbidden: stream_options"), deltas([thought] * 3, ending="hang"))
        server = magistral_nb.connect(api.url)
        api.enqueue(deltas([thought, content("4"), finish("stop"), done()]))
        result = magistral_nb.reason("2+2?")
        bodies = [request.json for request in api.requests]
    assert [body["reasoning_effort"] for body in bodies] == ["high"] * 3
    assert ["stream_options" in body for body in bodies] == [True, False, False]
    facts = found(server)
    assert (facts["thinking"], facts["reasoning effort"]) == ("thinking chunks", "high")
    assert (facts["context"], facts["thinking budget"]) == ("262,144 tokens", "0 only")
    assert (result.thinking, result.text) == ("347", "4")


def test_a_model_that_knows_no_effort_is_asked_without():
    with untried("x", max_model_len=None) as api:
        api.pages["/v1/models"] = card(capabilities={"completion_chat": True})
        api.enqueue(refuse(400, "no reasoning_effort"), refuse(400, "no reasoning_effort"))
        api.enqueue(deltas([content("20126")] * 3, ending="hang"))
        server = magistral_nb.connect(api.url)
    assert server.endpoint.reasoning_effort is None
    assert (found(server)["thinking"], found(server)["context"]) == ("not seen", "not told")


def test_running_usage_counts_where_nothing_else_does():
    """An older vLLM: no token ids, but its counts with every chunk."""

    def counted(word, tokens):
        return delta({"reasoning": word}, usage={"completion_tokens": tokens})

    with untried("vllm", version="0.9.2") as old:
        old.enqueue(deltas([counted("347", 1), counted("8", 2)], ending="hang"))
        old.enqueue(refuse(400, "continue"), refuse(400, "no budget"))
        server = magistral_nb.connect(old.url)
        assert (found(server)["counting"], found(server)["thinking budget"]) == ("by running usage", "no")
        ends = [content("4"), finish("stop"), usage(9, 12), done()]
        old.enqueue(deltas([counted("one", 3), counted(" two", 8), *ends]))
        result = magistral_nb.reason("2+2?")
        assert old.requests[-1].json["stream_options"]["continuous_usage_stats"] is True
        old.enqueue(deltas(ends, delay=0.2), deltas(ends, delay=0.2))
        magistral_nb.reason("2+2?", samples=2)
        asked = [request.json["stream_options"].get("continuous_usage_stats") for request in old.requests[-2:]]
        assert sorted(asked, key=bool) == [None, True], "it costs the server too much for many"
    assert (result.usage.thinking_tokens, result.usage.completion_tokens) == (8, 12)


def test_a_budget_of_the_server_s_own_is_tried_out():
    with untried("vllm") as server_with_one:
        thinks_on = {"message": {"content": None, "reasoning": "347 again"}}
        kept = {"message": {"content": "20126", "reasoning": "347"}}
        counts = {"completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 8}}
        server_with_one.enqueue(deltas([reasoning("347", [1])] * 3, ending="hang"))
        server_with_one.enqueue(answer({"choices": [thinks_on]}), answer({"choices": [kept], "usage": counts}))
        server = magistral_nb.connect(server_with_one.url)
        assert server_with_one.requests[-1].json["thinking_token_budget"] == 8
    assert not server.endpoint.can.continuation
    assert server.endpoint.can.budget_field == "thinking_token_budget"


@pytest.mark.parametrize(("reply", "says"), [(hang(), "within 0"), (refuse(404, "no such model"), "404: no such")])
def test_a_test_question_without_an_answer_is_told_and_no_hindrance(monkeypatch, reply, says):
    monkeypatch.setattr(trial, "_SECONDS", 0.3)
    with untried("x") as slow:
        slow.enqueue(reply)
        began = time.monotonic()
        server = magistral_nb.connect(slow.url)
        assert time.monotonic() - began < 2
        (row,) = [row for row in server.survey.rows if row[0] == "thinking"]
        assert row[1] == "not known"
        assert says in row[2]
        slow.enqueue(deltas(GOOD))
        assert magistral_nb.reason("2+2?").text == "4"


def test_a_trickle_does_not_stretch_the_test_question(monkeypatch):
    monkeypatch.setattr(trial, "_SECONDS", 0.3)
    with untried("x") as slow:
        slow.enqueue(deltas([b": keep-alive\n\n"] * 50, delay=0.1))
        began = time.monotonic()
        magistral_nb.connect(slow.url)
        assert time.monotonic() - began < 2


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("magistral_nb.asking.probe._SECONDS", 0.2)
    with StandIn() as mute:
        mute.pages["/v1/models"] = silence()
        with pytest.raises(errors.Unreachable, match="did not answer in time"):
            magistral_nb.connect(mute.url)


def test_a_unix_socket(tmp_path):
    with StandIn(unix=str(tmp_path / "v.sock")) as scripted:
        server = magistral_nb.connect(f"unix:{tmp_path}/v.sock")
        assert server.survey.title == f"vLLM 0.32.0 at unix:{tmp_path}/v.sock"
        scripted.enqueue(deltas(GOOD))
        assert magistral_nb.reason("2+2?").text == "4"
        assert found(server)["tokenize"] == "yes"
    with pytest.raises(errors.Unreachable, match="unix:"):
        magistral_nb.connect(f"unix:{tmp_path}/none.sock")


def test_the_key_of_a_host_goes_to_that_host_only(stand_in, monkeypatch):
    monkeypatch.setenv("MISTRAL_API_KEY", "mistral-secret")
    assert magistral_nb.connect(stand_in.url).api_key is None
    monkeypatch.setenv("MAGISTRAL_NB_API_KEY", "ours")
    assert magistral_nb.connect(stand_in.url).api_key == "ours"


def test_a_key_that_goes_readable_over_the_network_is_told(stand_in):
    elsewhere = stand_in.url.replace("127.0.0.1", "127.1")  # another name of this machine, which looks like another one
    assert found(magistral_nb.connect(elsewhere, api_key="k"))["secrecy"] == "not encrypted"
    assert "secrecy" not in found(magistral_nb.connect(elsewhere))
    assert "secrecy" not in found(magistral_nb.connect(stand_in.url, api_key="k"))


def test_a_price_makes_costs(stand_in):
    magistral_nb.connect(stand_in.url, price_per_hour=3600)
    stand_in.enqueue(deltas(GOOD))
    result = magistral_nb.reason("2+2?")
    assert result.cost == pytest.approx(result.seconds)
    with pytest.raises(errors.InvalidOption, match="price_per_hour"):
        magistral_nb.connect(stand_in.url, price_per_hour=0)


# System prompts


def test_the_folder_s_own_system_prompt(stand_in, tmp_path):
    (tmp_path / "SYSTEM_PROMPT.txt").write_text("Think[THINK]so[/THINK]then say.")
    stand_in.pages["/v1/models"] = card(owned_by="vllm", root=str(tmp_path), max_model_len=100)
    assert magistral_nb.connect(stand_in.url).endpoint.system_prompt == "Think[THINK]so[/THINK]then say."


def test_a_tokenizer_with_control_tokens_gets_our_own_wording(stand_in):
    stand_in.pages["/detokenize"] = answer({"prompt": "[THINK][/THINK]"})
    server = magistral_nb.connect(stand_in.url)
    assert server.endpoint.system_prompt == own_wording("tokens")
    stand_in.enqueue(deltas(GOOD))
    magistral_nb.reason("2+2?")
    parts = stand_in.requests[0].json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "thinking", "text"]


def test_a_release_is_known_by_its_repository(stand_in, monkeypatch):
    """Also where somebody quantised it, and served it under another name."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.root)
    stand_in.pages["/v1/models"] = card(owned_by="vllm", root="RedHatAI/Magistral-Small-2506-FP8", max_model_len=9)
    server = magistral_nb.connect(stand_in.url)
    assert server.endpoint.system_prompt == own_wording("tags"), "the hub has none"
    assert server.endpoint.sampling.temperature == 0.7


@pytest.mark.parametrize("root", ["mistralai/Magistral-Small-2509", "unsloth/Magistral-Small-2509-FP8-Dynamic"])
def test_the_hub_s_own_system_prompt(stand_in, monkeypatch, root):
    """The release's, from its own repository, also where somebody quantised it."""
    page = Reply(chunks=("Its own, 347 × 58.".encode(),))
    stand_in.pages["/mistralai/Magistral-Small-2509/resolve/main/SYSTEM_PROMPT.txt"] = page
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.root)
    stand_in.pages["/v1/models"] = card(owned_by="vllm", root=root, max_model_len=9)
    assert magistral_nb.connect(stand_in.url).endpoint.system_prompt == "Its own, 347 × 58."


def test_the_hub_s_cache_comes_before_the_hub(stand_in, monkeypatch, tmp_path):
    repository = tmp_path / "models--mistralai--Magistral-Small-2509"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "SYSTEM_PROMPT.txt").write_text("From the cache.")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    stand_in.pages["/v1/models"] = card(owned_by="vllm", root="mistralai/Magistral-Small-2509", max_model_len=9)
    assert magistral_nb.connect(stand_in.url).endpoint.system_prompt == "From the cache."


def test_a_template_of_its_own_gets_none():
    with StandIn(owned_by="library", model="magistral") as ollama:
        assert magistral_nb.connect(ollama.url).endpoint.system_prompt is None


@pytest.mark.parametrize(("system", "noted"), [("Be brief.", 1), ("", 1), ("Use [THINK]x[/THINK].", 0), (None, 0)])
def test_a_system_prompt_that_switches_thinking_off_is_noted(stand_in, system, noted):
    stand_in.pages["/detokenize"] = answer({"prompt": "[THINK][/THINK]"})
    magistral_nb.connect(stand_in.url)
    stand_in.enqueue(deltas(GOOD))
    assert len(magistral_nb.reason("2+2?", system=system).notes) == noted


def test_a_class_s_server_tells_what_it_is_and_is_not_tried():
    with StandIn(owned_by="magistral_nb") as shared:
        sampling = {"temperature": 0.7, "top_p": 0.95}
        shared.pages["/state"] = answer({"system_prompt": "Think first.", "sampling": sampling, "status": "ready"})
        server = magistral_nb.connect(shared.url)
        assert server.survey.title == f"magistral_nb at {shared.url}"
        endpoint = server.endpoint
        assert (endpoint.system_prompt, endpoint.can) == ("Think first.", SHARED)
        assert endpoint.sampling == Sampling(0.7, 0.95)
        assert (found(server)["thinking budget"], found(server)["tokenize"]) == ("yes", "no")
        shared.pages["/state"] = answer({"system_prompt": 5, "sampling": "hot"})
        assert magistral_nb.connect(shared.url).endpoint.system_prompt is None
        assert not shared.requests


def test_limits_reach_the_endpoint(stand_in):
    server = magistral_nb.connect(stand_in.url, limits=Limits(connect=1, first_token=2, silence=3))
    assert server.endpoint.limits == Limits(1, 2, 3)


def test_seen_needs_no_more_than_it_must():
    seen = trial.Seen()
    for chunk in ({"choices": []}, {"choices": [{"delta": {"role": "assistant", "content": ""}}]}):
        seen = seen.with_chunk(chunk)
    assert not seen.is_enough
    seen = seen.with_chunk({"choices": [{"delta": {"content": "<thi"}}]})
    assert seen.trace is None
    assert not seen.is_enough
    seen = seen.with_chunk({"choices": [{"delta": {"content": "nk>347"}}], "usage": {"completion_tokens": 3}})
    assert (seen.trace, seen.running_usage, seen.is_enough) == ("<think> in the text", True, True)


def test_without_a_home_for_servers_one_elsewhere_can_be_connected_to_and_asked(stand_in, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(errors.MagistralError, match="cannot be used"):
        paths.servers()
    stand_in.enqueue(deltas(GOOD))
    magistral_nb.connect(stand_in.url)
    stand_in.enqueue(deltas(GOOD))
    assert magistral_nb.reason("2+2?").text == "4"
    assert [each.name for each in magistral_nb.servers()] == ["default"]
