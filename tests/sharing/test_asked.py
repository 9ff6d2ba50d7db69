"""What passes of a student's request, and what does not."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, strategies as st

from magistral_nb.asking.endpoint import SHARED, Endpoint, Question, answer_request, chat_request
from magistral_nb.sharing.asked import IMAGE_TOKENS, read_asked
from magistral_nb.sharing.refused import Refused

CHAT = "/chat/completions"
USER = {"role": "user", "content": "2+2?"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def asked(page=CHAT, *, most_samples=2, **fields):
    body = ({"messages": [USER]} if page == CHAT else {"prompt": "2+2="}) | fields
    return read_asked(page, json.dumps(body).encode(), model="m", most_samples=most_samples)


def said(parts):
    return {"messages": [{"role": "user", "content": parts}]}


def refusal(page=CHAT, **fields):
    with pytest.raises(Refused) as caught:
        asked(page, **fields)
    assert "\n" not in caught.value.message
    return caught.value


def test_what_our_own_client_sends_passes_unchanged():
    endpoint = Endpoint("http://x/v1", "m", system_prompt="First[THINK]here[/THINK]then.", can=SHARED)
    question = Question(text="What is 347 × 58?", temperature=0.7, top_p=0.95, seed=3, max_tokens=50)
    for body in (chat_request(endpoint, question, 50), answer_request(endpoint, question, "347*58=", 50)):
        read = read_asked(CHAT, json.dumps(body).encode(), model="m", most_samples=1)
        assert read.body("m", 50) == body | {"n": 1}


def test_a_stream_is_always_counted_and_nothing_else_is_added():
    assert asked(stream=True).body("m", 8) == {
        "model": "m",
        "messages": [USER],
        "max_tokens": 8,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    assert asked().body("m", 8) == {"model": "m", "messages": [USER], "max_tokens": 8, "n": 1}
    assert asked("/completions").body("m", 8) == {"model": "m", "prompt": "2+2=", "max_tokens": 8, "n": 1}


def test_the_lower_of_two_limits_counts():
    assert asked(max_tokens=9, max_completion_tokens=5).max_tokens == 5
    assert asked().max_tokens is None


@pytest.mark.parametrize(
    "field",
    [
        {"cache_salt": "x"},
        {"kv_transfer_params": {"do_remote_decode": True}},
        {"ec_transfer_params": {}},
        {"vllm_xargs": {"a": 1}},
        {"chat_template": "{{ x }}"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"mm_processor_kwargs": {}},
        {"media_io_kwargs": {}},
        {"priority": -5},
        {"prompt_logprobs": 20},
        {"logits_processors": ["os.system"]},
        {"logit_bias": {"1": 100}},
        {"use_beam_search": True},
        {"best_of": 100},
        {"min_tokens": 8000},
        {"ignore_eos": True},
        {"structured_outputs": {"regex": "(a+)+"}},
        {"guided_regex": "(a+)+"},
        {"request_id": "mine"},
        {"session_id": "mine"},
        {"documents": []},
        {"echo": True},
        {"truncate_prompt_tokens": 1},
        {"add_special_tokens": True},
        {"bad_words": ["a"]},
        {"stop_token_ids": [1]},
        {"allowed_token_ids": [1]},
        {"return_prompt_text": True},
        {"repetition_detection": {}},
        {"stream_options": {"include_usage": True, "made_up": 1}},
        {"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
        {"tools": [{"type": "function", "function": {"name": "f", "defer_loading": True}}]},
        {"messages": [USER | {"tools": []}]},
        {"a" * 10_000: 1},
    ],
    ids=lambda field: next(iter(field))[:30],
)
def test_what_reaches_further_than_a_question_does_not_pass(field):
    assert refusal(**field).status == 400


@pytest.mark.parametrize("field", [{"prompt_embeds": "x"}, {"suffix": "x"}, {"echo": True}, {"messages": [USER]}])
def test_of_a_plain_completion_even_less_passes(field):
    assert refusal("/completions", **field).status == 400


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:text/html;base64,PGI+"}},
        {"type": "image_url", "image_url": {"url": PIXEL, "uuid": "x"}},
        {"type": "image_url", "image_url": PIXEL},
        {"type": "image_url", "image_url": {"url": PIXEL}, "uuid": "x"},
        {"type": "audio_url", "audio_url": {"url": "http://x/a.wav"}},
        {"type": "video_url", "video_url": {"url": "http://x/a.mp4"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "image_embeds", "image_embeds": "gASV"},
        {"type": "prompt_embeds", "data": "gASV"},
        {"type": "image_pil", "image_pil": None},
        {"image_url": "http://x/"},
        {"type": "text", "text": "x", "image_url": "http://x/"},
        {"type": "text", "text": "x", "uuid": "u"},
        {"type": ["text"], "text": "x"},
        {"type": "text", "text": 5},
        "plain",
        None,
    ],
)
def test_parts_of_a_message_that_do_not_pass(part):
    assert refusal(**said([part])).status == 400


def test_parts_that_pass():
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}},
        {"type": "thinking", "thinking": "Hm.", "closed": True},
    ]
    read = asked(**said(parts))
    assert read.fields["messages"][0]["content"] == parts
    assert IMAGE_TOKENS < read.size < IMAGE_TOKENS + 400, "an image counts as one, however many bytes it has"


def test_tools_and_schemas_pass():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    fields = {
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
    }
    assert asked(**fields).fields.items() >= fields.items()
    called = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}
    assert asked(messages=[USER, called, {"role": "tool", "tool_call_id": "1", "content": "4"}])


def nested(depth):
    """A schema of so many values one in another."""
    schema = {"type": "integer"}
    for _ in range((depth - 2) // 2):
        schema = {"properties": {"x": schema}}
    return schema


def format_of(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


def test_a_schema_is_neither_deep_nor_large_and_holds_no_expression_to_be_matched():
    assert asked(**format_of(nested(16)))
    assert "16 deep" in refusal(**format_of(nested(18))).message
    assert "16 deep" in refusal(**format_of(nested(900))).message
    assert asked(**format_of({"enum": [*range(490)]}))
    assert "at most 500 values" in refusal(**format_of({"enum": [*range(500)]})).message
    assert asked(**format_of({"properties": {"pattern": {"type": "string"}}})), "a name like any other"
    for schema in ({"pattern": "(a+)+"}, {"anyOf": [{"pattern": "a"}]}, {"patternProperties": {"a": {}}}):
        assert "has a pattern" in refusal(**format_of(schema)).message
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        assert "has a pattern" in refusal(tools=[tool]).message


@pytest.mark.parametrize(
    "field",
    [
        {"n": 0},
        {"n": True},
        {"n": "2"},
        {"n": 3},
        {"temperature": "hot"},
        {"temperature": [1]},
        {"seed": 2**64},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"stream": "yes"},
        {"stop": ["x"] * 17},
        {"stop": "x" * 201},
        {"stop": ""},
        {"stop": [1]},
        {"top_logprobs": 20},
        {"tools": [{"type": "function", "function": {"name": "f"}}] * 65},
        {"tool_choice": "all"},
        {"tool_choice": {"type": "function", "function": {"name": 1}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"d": "x" * 40_000}}}},
        {"response_format": "json"},
        {"messages": []} | {"messages": "hello"},
        {"messages": [{"role": "root", "content": "x"}]},
        {"messages": [{"role": "user", "content": {"type": "text"}}]},
        {"messages": [USER] * 10_001},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"model": "other"},
    ],
    ids=lambda field: next(iter(field)),
)
def test_values_that_make_no_sense_are_told(field):
    assert refusal(**field).status in {400, 404}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"messages": [], "temperature": NaN}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"{}",
    ],
    ids=["nothing", "list", "null", "no text", "deep", "NaN", "long number", "no messages"],
)
def test_what_is_no_request_is_told(data):
    with pytest.raises(Refused, match=r"no JSON object|'messages' is missing"):
        read_asked(CHAT, data, model="m", most_samples=1)


def test_fields_that_change_no_answer_are_left_out_without_a_word():
    harmless = {"user": "me", "store": False, "metadata": {}, "service_tier": "auto", "stop": None, "tools": None}
    assert asked(**harmless).fields == {"messages": [USER]}


def test_running_counts_are_not_asked_for_since_they_cost_the_length_of_the_answer():
    read = asked(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert read.wants_usage
    assert read.body("m", 8)["stream_options"] == {"include_usage": True}


def test_a_prompt_is_counted_without_its_request():
    read = asked(tools=[{"type": "function", "function": {"name": "f"}}], temperature=0, continue_final_message=True)
    assert set(read.prompt("m")) == {"model", "messages", "tools", "continue_final_message"}
    assert asked("/completions").prompt("m") == {"model": "m", "prompt": "2+2="}


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_prompt_has_no_more_bytes_than_its_size(text):
    assert asked(messages=[{"role": "user", "content": text}]).size >= len(text.encode())


VALUES = st.sampled_from([None, True, 0, 1, -1, 2**70, 0.5, "", "text", "function", [], ["x"], {}, {"type": "text"}])
NAMES = st.sampled_from(["messages", "stream", "n", "stop", "tools", "tool_choice", "response_format", "max_tokens"])
INNER = st.sampled_from(["role", "content", "type", "text", "image_url", "function", "name"])
LIKE_MESSAGES = st.lists(
    st.dictionaries(INNER, VALUES | st.lists(st.dictionaries(INNER, VALUES), max_size=2)), max_size=2
)


@given(body=st.dictionaries(NAMES, VALUES | LIKE_MESSAGES))
def test_whatever_is_sent_is_read_or_refused(body):
    with contextlib.suppress(Refused):
        assert json.dumps(read_asked(CHAT, json.dumps(body).encode(), model="m", most_samples=2).body("m", 8))
