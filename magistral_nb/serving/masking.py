"""Keeping secrets out of what is shown."""

from __future__ import annotations

import re

# What stands before a secret is kept: the first group.
_SECRETS = re.compile(
    r"(\b)(?:hf_[A-Za-z0-9]{10,}|sk-[\w-]{8,})"
    r"|(\b(?:bearer|authorization[\"']?\s*[:=]\s*[\"']?basic)\s+)[^\s'\",}\]]+"
    # several of them in brackets
    r"|(api[-_]?key[\"']?\s*[:=]\s*\[)(?!None\b)[^\]]+"
    # api_key='…', "access_token": "…", HF_TOKEN=…, 'api_key': ['…'], --api-key …
    r"|((?:api[-_]?key|(?:hf|hub|access|auth)[-_]token|password|secret)\b[\"']?(?:\s*[:=]\s*|(?<=-key)\s+|"
    r"(?<=-token)\s+)\[?[\"']?)(?!None\b|null\b)[^\s\"',;&}\])]+"
    r"|(\w://[^\s/:@]*:)[^\s/@]+(?=@)"
    # the signature of a link that is good for an hour
    r"|([?&](?:X-Amz-[\w-]+|Signature|sig|token)=)[^\s&'\"]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """The text without its secrets: tokens of the hub, keys of APIs, passwords in addresses.

    Example:
        >>> masked("Authorization: Bearer abc123, HF_TOKEN=hf_0123456789abcdef")
        'Authorization: Bearer ***, HF_TOKEN=***'
    """
    return _SECRETS.sub(lambda match: "".join(part for part in match.groups() if part) + "***", text)
