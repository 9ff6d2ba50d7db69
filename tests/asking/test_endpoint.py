"""The request that an endpoint and a question make together."""

from __future__ import annotations

from hypothesis import given, strategies as st

from magistral_nb.asking.endpoint import (
    VLLM,
    Endpoint,
    Question,
    Sampling,
    chat_request,
    fit_max_tokens,
    messages,
    system_content,
)

ENDPOINT = Endpoint(
    "http://h:1/v1", "m", api_key="secret-key", system_prompt="Think.", sampling=Sampling(0.7, 0.95), can=VLLM
)


def test_model_s_own_prompt_and_sampling_are_sent():
    body = chat_request(ENDPOINT, Question(text="2+2?"), None)
    assert body["messages"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}]
    assert (body["temperature"], body["top_p"]) == (0.7, 0.95)
    assert "max_tokens" not in body
    assert body["return_token_ids"]


def test_question_overrides_the_model():
    question = Question(text="2+2?", system="Be brief.", temperature=0.0, seed=3)
    body = chat_request(ENDPOINT, question, 100)
    assert body["messages"][0]["content"] == "Be brief."
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (0.0, 0.95, 3, 100)


def test_empty_system_prompt_sends_none():
    assert [m["role"] for m in messages(ENDPOINT, Question(text="x", system=""))] == ["user"]


def test_others_than_vllm_get_no_field_of_its_own():
    assert "return_token_ids" not in chat_request(Endpoint("http://h/v1", "m"), Question(text="x"), None)


def test_control_tokens_travel_as_a_thinking_chunk():
    assert system_content("A[THINK]b[/THINK]C") == [
        {"type": "text", "text": "A"},
        {"type": "thinking", "thinking": "b", "closed": True},
        {"type": "text", "text": "C"},
    ]
    assert system_content("[THINK]b[/THINK]")[0]["type"] == "thinking"
    assert system_content("plain") == "plain"


def test_key_is_in_no_repr():
    assert "secret-key" not in repr(ENDPOINT)


def test_root_url():
    assert ENDPOINT.root_url == "http://h:1"


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_fitted_tokens_never_pass_the_context(wished, context, prompt):
    fitted = fit_max_tokens(wished, context=context, prompt_tokens=prompt)
    assert fitted <= wished
    assert fitted + prompt <= context or fitted <= 0
