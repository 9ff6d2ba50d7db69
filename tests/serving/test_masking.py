"""What must not be shown, and what must stay readable."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from magistral_nb.serving.masking import masked

SECRET = st.text(string.ascii_letters + string.digits, min_size=20, max_size=40)
PLACES = (
    "hf_{}", "sk-proj-{}", "Authorization: Bearer {}", "authorization: bearer {}", "Authorization: Basic {}",
    "--api-key {}", "--api-key={}", "--hf-token {}", "'api_key': ['{}'], 'port': 1",
    "'api_key': ['another', '{}'], 'port': 1", "api_key={}", '"access_token": "{}"', "HF_TOKEN={}",
    "HUGGING_FACE_HUB_TOKEN={}", "VLLM_API_KEY={} vllm serve", "password = {}", "https://me:{}@hub.test/m",
    "https://cdn.test/f?X-Amz-Signature={}&Expires=3600", "https://cdn.test/f?Expires=1&Signature={}",
)  # fmt: skip


@given(st.sampled_from(PLACES), SECRET)
def test_no_secret_stays(place, secret):
    text = f"before {place.format(secret)} after"
    assert secret not in masked(text)
    assert masked(text).startswith("before")
    assert masked(text).endswith("after")


@given(st.text())
def test_masking_twice_is_masking_once(text):
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "huggingface_hub.hf_hub_download(repo_id, hf_overrides={})",
        "max_tokens=40960, eos_token=2, pad_token='<pad>', 'api_key': None",
        "the API key is wrong, the token expired; task-1234567890",
        "ValueError: No available memory for the cache blocks.",
        "https://hub.test/mistralai/Magistral-Small-2509/resolve/main/params.json",
        "OfflineModeIsEnabled: Cannot reach https://hub.test: offline mode is enabled",
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text
