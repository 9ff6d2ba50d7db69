"""What an endpoint is and which models it has, found out by asking it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magistral_nb.asking.client import beside, client_for, explain
from magistral_nb.asking.endpoint import Sampling
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magistral_nb.asking.endpoint import Endpoint

    Page = Callable[[str], dict[str, Any]]  # what stands at a path of the server's root; empty where nothing does

Kind = Literal["vLLM", "magistral_nb", "Mistral's API", "Ollama", "LM Studio", "llama.cpp", "OpenAI-compatible"]

_SECONDS = 10.0  # for the list of models
_ASIDE_SECONDS = 3.0  # for each page that tells more
_OWNERS: dict[str, Kind] = {
    "vllm": "vLLM",
    "magistral_nb": "magistral_nb",  # a class's proxy, see sharing/app.py
    "llamacpp": "llama.cpp",
    "organization_owner": "LM Studio",
    "library": "Ollama",
}
_VERSION_PAGE: dict[Kind, str] = {
    "vLLM": "/version",
    "Ollama": "/api/version",
    "OpenAI-compatible": "/api/version",  # it may be an Ollama all the same
}
_CONTEXT_FIELDS = ("max_model_len", "max_context_length", "context_length", "context_window")


@dataclass(frozen=True, slots=True)
class Model:
    """One model of an endpoint.

    Attributes:
        name: as requests name it.
        context: context length in tokens; None if not told.
        root: the folder or repository that it was loaded from; None if not told.
    """

    name: str
    context: int | None = None
    root: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe saw.

    Attributes:
        kind: of server.
        version: of the server; None if not told.
        models: in the server's order.
        system_prompt: the model's own, where the server tells it.
        sampling: likewise.
    """

    kind: Kind
    version: str | None
    models: tuple[Model, ...]
    system_prompt: str | None = None
    sampling: Sampling | None = None


def probe(endpoint: Endpoint) -> Found:
    """Ask an endpoint what it is and what it has; at most 10 seconds, and 3 for each page beside the list.

    Raises:
        Unreachable: nothing answers there.
        Unauthorized: the key was refused.
        Rejected: it answers, but not as an OpenAI-compatible server does.
    """
    import openai

    client = client_for(endpoint)
    hasty = client.with_options(timeout=_SECONDS)
    try:
        listed: Any = hasty.get("/models", cast_to=object)
    except openai.OpenAIError as error:
        raise explain(error, endpoint) from error
    try:
        entries = [dict(entry) for entry in listed["data"]]
        models = tuple(_model(entry) for entry in entries)
    except (KeyError, TypeError, ValueError) as error:
        raise Rejected(f"{endpoint.base_url}/models lists no models: is this an OpenAI-compatible server?") from error
    brief = client.with_options(timeout=_ASIDE_SECONDS)

    def page(path: str) -> dict[str, Any]:
        return beside(brief, f"{endpoint.root_url}{path}")

    kind = kind_of(entries)
    version = page(_VERSION_PAGE[kind]).get("version") if kind in _VERSION_PAGE else None
    if kind == "OpenAI-compatible" and version is not None:
        kind = "Ollama"  # whose own models are nobody's library
    if kind == "magistral_nb":
        return Found(kind, version, models, *_shared(page("/state")))
    return Found(kind, version, _with_contexts(models, kind, page))


def kind_of(entries: Sequence[dict[str, Any]]) -> Kind:
    """The kind of server, told by how it lists its models.

    Example:
        >>> kind_of([{"id": "magistral", "object": "model", "owned_by": "library"}])
        'Ollama'
    """
    for entry in entries:
        capabilities = entry.get("capabilities")
        if isinstance(capabilities, dict) and "completion_chat" in capabilities:
            return "Mistral's API"
        if kind := _OWNERS.get(str(entry.get("owned_by"))):
            return kind
    return "OpenAI-compatible"


def _model(entry: dict[str, Any]) -> Model:
    told = (entry.get(name) for name in _CONTEXT_FIELDS)
    context = next((value for value in told if isinstance(value, int) and value > 0), None)
    root = entry.get("root")
    return Model(str(entry["id"]), context, root if isinstance(root, str) else None)


def _shared(told: dict[str, Any]) -> tuple[str | None, Sampling | None]:
    """The model's own system prompt and sampling, as a class's proxy tells them."""
    prompt, sampling = told.get("system_prompt"), told.get("sampling")
    known = Sampling(sampling.get("temperature"), sampling.get("top_p")) if isinstance(sampling, dict) else None
    return prompt if isinstance(prompt, str) else None, known


def _with_contexts(models: tuple[Model, ...], kind: Kind, page: Page) -> tuple[Model, ...]:
    """The models with the context that the server runs them with, where another page tells that."""
    told: dict[str, Any] = {}
    if kind == "llama.cpp":
        settings = page("/props").get("default_generation_settings")
        if isinstance(settings, dict):
            told = {model.name: settings.get("n_ctx") for model in models}
    elif kind == "LM Studio":
        told = {
            str(entry.get("id")): entry.get("loaded_context_length") or entry.get("max_context_length")
            for entry in _entries(page("/api/v0/models"), "data")
        }
    elif kind == "Ollama":  # only what is loaded has a context
        told = {str(e.get("name")): e.get("context_length") for e in _entries(page("/api/ps"), "models")}
    return tuple(
        Model(model.name, told[model.name], model.root) if isinstance(told.get(model.name), int) else model
        for model in models
    )


def _entries(listed: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = listed.get(name)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
