"""What an endpoint is and has, found out by asking it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from magistral_nb.asking.endpoint import Endpoint
from magistral_nb.asking.exchange import explain, new_client
from magistral_nb.errors import Rejected

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe saw.

    Attributes:
        models: name of each model served, with its context length in tokens where that is told.
        is_vllm: whether it is a vLLM.
    """

    models: dict[str, int | None]
    is_vllm: bool


def probe(base_url: str, api_key: str | None) -> Found:
    """Ask an endpoint for its models and its version; at most 10 seconds for each.

    Raises:
        Unreachable: nothing answers there.
        Unauthorized: the key was refused.
        Rejected: it answers, but not as an OpenAI-compatible server does.
    """
    import openai

    with new_client(Endpoint(base_url, "", api_key=api_key)) as client:
        hasty = client.with_options(timeout=_SECONDS, max_retries=0)
        try:
            listed: Any = hasty.get("/models", cast_to=object)
        except openai.OpenAIError as error:
            raise explain(error, base_url) from error
        try:
            version: Any = hasty.get(f"{base_url.removesuffix('/v1')}/version", cast_to=object)
        except openai.OpenAIError:
            version = None
    try:
        models = {entry["id"]: entry.get("max_model_len") for entry in listed["data"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise Rejected(f"{base_url}/models lists no models: is this an OpenAI-compatible server?") from error
    # Ollama and llama.cpp answer there too; only vLLM lists max_model_len as well.
    is_vllm = isinstance(version, dict) and "version" in version and any(models.values())
    return Found(models, is_vllm)
