"""The question that ends a boot: one that only asks /health looks fine even where every question fails."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magistral_nb.asking.endpoint import Endpoint, Question, messages
from magistral_nb.asking.engine_api import OK
from magistral_nb.asking.wire import error_text

if TYPE_CHECKING:
    from magistral_nb.asking.engine_api import EngineApi

_TEXT = "What is 2 + 2?"
_TOKENS = 12  # enough to see the whole path work; cut by length counts
_SECONDS = 300.0  # a first request may compile kernels


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered to its first question.

    Attributes:
        status: of HTTP.
        error: what it said of why it did not answer; None where it did.
        context: in tokens, as the server itself says; None where it does not.
    """

    status: int
    error: str | None = None
    context: int | None = None


def ask(api: EngineApi, model: str, system_prompt: str | None) -> Reply:
    """Ask it.

    Args:
        api: of the server, which is told its key.
        model: the name that requests carry.
        system_prompt: the model's own.

    Raises:
        OSError, http.client.HTTPException: there was no reply.
        ValueError, KeyError, IndexError: what came is none of vLLM's.
    """
    endpoint = Endpoint("", model, system_prompt=system_prompt)
    body = {"model": model, "messages": messages(endpoint, Question(text=_TEXT)), "max_tokens": _TOKENS}
    status, text = api.request("POST", "/v1/chat/completions", body, _SECONDS)
    reply = _json(text)
    if status != OK or not reply.get("choices"):
        return Reply(status, error_text(reply))
    _, text = api.request("GET", "/v1/models", None, _SECONDS)
    return Reply(status, context=_json(text)["data"][0].get("max_model_len"))


def _json(text: str) -> dict[str, Any]:
    """A reply's object; what is none is an error's text."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"error": value}
