"""The proxy before the real vLLM (CPU): what is reachable, what our own client sees, what a cut stops."""

from __future__ import annotations

import time
from dataclasses import replace

import httpx
import pytest
from classroom import ProxyProcess, Stream, until

import magistral_nb
from magistral_nb.serving import metrics, registry
from magistral_nb.serving.server import find_server
from magistral_nb.sharing import key_ring
from magistral_nb.sharing.share import Share, students_of
from magistral_nb.sharing.usage import Usage

pytestmark = pytest.mark.engine

QUESTION = "What is 347 × 58?"
COUNT = [{"role": "user", "content": "Count."}]
OURS = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/state"),
    ("GET", "/health"),
}
# What vLLM has and does not list, always or in some set-ups.
HIDDEN = """
    /docs /redoc /openapi.json /metrics /metrics/ /ping /invocations /is_sleeping /sleep /wake_up /collective_rpc /pause
    /resume /server_info /reset_prefix_cache /reset_mm_cache /start_profile /stop_profile /load_lora_adapter
    /v1/load_lora_adapter /v1/unload_lora_adapter /scale_elastic_ep /inference/v1/generate /abort_requests
"""


class Shared(ProxyProcess):
    """A server of the real vLLM that is shared: the supervisor's own state file stays as it is."""

    def __init__(self, folder, home, server, students="ada,ben", **share):
        self.path = folder / f"{server}.json"
        (its_file,) = (home / "data" / "servers").glob(f"*/{self.path.name}")  # in this machine's own folder
        own = registry.read(its_file)
        terms = replace(own.terms, share=Share(students=students_of(students), **share))
        self.state = own.with_(terms=terms)
        registry.save(self.path, self.state)
        self.keys = key_ring.add(key_ring.path_of(self.path), terms.share.students).keys

    def __enter__(self):
        return self.ready()

    def __exit__(self, *_):
        self.end()


@pytest.fixture(scope="module")
def room(abacus, shared_home, tmp_path_factory):
    with Shared(tmp_path_factory.mktemp("class"), shared_home, abacus) as room:
        yield room


def test_of_all_that_vllm_has_nothing_but_our_pages_is_reachable(room, abacus):
    direct = find_server(abacus).endpoint
    with httpx.Client(headers={"Authorization": f"Bearer {direct.api_key}"}, trust_env=False) as client:
        listed = client.get(f"{direct.root_url}/openapi.json").json()["paths"]
        assert client.post(f"{direct.root_url}/tokenize", json={"prompt": "x"}).status_code == 200, "it is there"
    paths = {path.replace("{", "").replace("}", "") for path in listed} | set(HIDDEN.split()) | {p for _, p in OURS}
    assert len(paths) > 20
    assert httpx.get(f"{direct.root_url}/metrics", trust_env=False).status_code == 200, "it is there"
    keys = {"none": {}, "wrong": {"X-API-Key": "wrong"}, "ada": {"X-API-Key": room.keys["ada"]}}
    with httpx.Client(base_url=room.root, trust_env=False) as client:
        for path in sorted(paths):
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
                ours = (method, path) in OURS
                for who, key in keys.items():
                    if ours and who == "wrong":
                        continue  # takes its time, see test_pages.py
                    reply = client.request(method, path, headers=key)
                    at_home = path in {each for _, each in OURS}
                    expected = {404} if not at_home else {405} if not ours else {200, 400} if who == "ada" else {401}
                    expected |= {200} if path == "/health" and method == "GET" else set()
                    assert reply.status_code in expected, (method, path, who, reply.text)
                    assert "vllm" not in reply.text.lower()
                    assert room.state.api_key not in reply.text


@pytest.mark.long
@pytest.mark.parametrize("budget", [None, 0, 40, 100_000])
def test_our_own_client_gets_the_same_as_without_the_proxy(room, abacus, budget):
    through = magistral_nb.connect(f"{room.root}/v1", api_key=room.keys["ada"], name="class")
    own, ours = find_server(abacus).endpoint, through.endpoint
    assert ours.system_prompt == own.system_prompt
    assert (ours.sampling, ours.context, ours.model) == (own.sampling, own.context, own.model)
    how = {"temperature": 0.0, "thinking_budget": budget}
    direct, shared = (magistral_nb.reason(QUESTION, server=server, **how) for server in (abacus, "class"))
    assert shared.finish_reason == direct.finish_reason
    if budget == 40:
        # A piece of several tokens is left out whole where it crosses the budget: a class's proxy does not detokenise.
        assert direct.thinking.startswith(shared.thinking)
        assert 30 < shared.usage.thinking_tokens <= budget
    else:
        assert (shared.thinking, shared.text, shared.usage) == (direct.thinking, direct.text, direct.usage)


@pytest.mark.long
def test_several_samples_at_once_through_the_proxy(room):
    magistral_nb.connect(f"{room.root}/v1", api_key=room.keys["ada"], name="class")
    answers = magistral_nb.reason("What is 12 + 7?", server="class", samples=5)
    assert [answer.finish_reason for answer in answers] == ["stop"] * 5


def test_a_key_is_asked_for_where_none_is_given(room):
    with pytest.raises(magistral_nb.MagistralError, match="refused the key, or wants one"):
        magistral_nb.connect(f"{room.root}/v1", name="class")


def test_what_the_proxy_counts_is_what_vllm_counts(room, abacus):
    def generated():
        return metrics.read(find_server(abacus).endpoint).generated_tokens

    until(lambda: metrics.read(find_server(abacus).endpoint).running == 0)
    before = generated()
    for fields in ({}, {"stream": False}, {"n": 2, "temperature": 0.7}, {"return_token_ids": True}):
        reply = room.ask("ben", messages=[{"role": "user", "content": "What is 5 + 6?"}], **fields)
        assert reply.status_code == 200, reply.text
    until(lambda: room.report.students.get("ben", Usage()).requests == 4 and not room.report.running)
    assert room.report.students["ben"].completion_tokens == generated() - before


@pytest.mark.long
def test_max_tokens_are_fitted_to_the_context_by_the_proxy(room, abacus):
    context = find_server(abacus).endpoint.context
    with room.client("ada") as client:
        words = "one " * (context // 3)
        reply = client.post("/v1/completions", json={"prompt": words, "max_tokens": 100_000, "temperature": 0})
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["total_tokens"] <= context


def test_who_goes_stops_vllm(endless, shared_home, tmp_path):
    with Shared(tmp_path, shared_home, endless) as room:
        endpoint = find_server(endless).endpoint
        for streams in (True, False):
            if streams:
                with Stream(room, "ada") as stream:
                    for _ in range(10):
                        stream.line()
                    assert metrics.read(endpoint).running == 1
            else:
                with room.client("ada") as client, pytest.raises(httpx.TimeoutException):
                    client.post("/v1/chat/completions", json={"messages": COUNT}, timeout=1)
            began = time.monotonic()
            until(lambda: metrics.read(endpoint).running == 0)
            assert time.monotonic() - began < 1
            until(lambda: not room.report.running)


def test_a_thought_without_end_is_ended_by_the_limit(endless, shared_home, tmp_path):
    with Shared(tmp_path, shared_home, endless, max_tokens=200) as room:
        magistral_nb.connect(f"{room.root}/v1", api_key=room.keys["ada"], name="class")
        answer = magistral_nb.reason("Count.", server="class", max_tokens=5000)
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 200)


def test_the_servers_own_key_is_no_students_key(room, abacus):
    own = find_server(abacus).endpoint
    with httpx.Client(base_url=room.root, trust_env=False) as client:
        assert client.get("/state", headers={"X-API-Key": own.api_key}).status_code == 401
    assert (
        httpx.get(f"{own.base_url}/models", headers={"X-API-Key": room.keys["ada"]}, trust_env=False).status_code == 401
    )
