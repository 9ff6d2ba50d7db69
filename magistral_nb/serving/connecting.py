"""Connecting to a server that runs already: what it is, what it can, and how its model is made to think."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from magistral_nb.asking.endpoint import LOOPBACK, SHARED, UNIX, Endpoint, Limits, Sampling
from magistral_nb.errors import InvalidOption, NameTaken, UnknownModel
from magistral_nb.serving import catalogue, checkpoint, registry
from magistral_nb.serving.server import Server, adopt
from magistral_nb.serving.terms import check_price

if TYPE_CHECKING:
    from magistral_nb.asking.probe import Found, Model
    from magistral_nb.asking.trial import Trial

KEY_VARIABLE = "MAGISTRAL_NB_API_KEY"

_KEYS_BY_HOST = {"api.mistral.ai": "MISTRAL_API_KEY", "api.openai.com": "OPENAI_API_KEY"}  # sent to that host only
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+")  # a name, an address, or an IPv6 address out of its brackets
_SHOWN_MODELS = 5


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found out about a server that was connected to.

    Attributes:
        title: what it is and where.
        rows: (what, value, why or what it means) of each finding.
    """

    title: str
    rows: tuple[tuple[str, str, str], ...]


def connect(
    base_url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    name: str = "default",
    price_per_hour: float | None = None,
    limits: Limits | None = None,
) -> Server:
    """Connect to a server that runs already, here or elsewhere, and find out what it can.

    A test question is streamed, and cut as soon as it has shown enough: `Server.survey` says what was seen.

    Args:
        base_url: such as "http://localhost:11434/v1"; "/v1" is added where it is missing. "unix:/run/vllm.sock"
            reaches a server on a Unix socket.
        api_key: None takes it from the environment: MAGISTRAL_NB_API_KEY, or MISTRAL_API_KEY and OPENAI_API_KEY for
            these two hosts alone.
        model: one of the server's; None takes its first.
        name: under which it is known here.
        price_per_hour: of the machine, in any currency; answers then have a cost.
        limits: how many seconds to wait for a connection, a first token and the next one.

    Raises:
        InvalidOption: this is no address, or no price.
        NameTaken: a server of ours runs under this name.
        AskFailed: nothing answers there, the key was refused, or it is no OpenAI-compatible server.
        UnknownModel: the server has no such model.

    Example:
        >>> connect("http://localhost:11434/v1", model="magistral")  # doctest: +SKIP
        <Server 'default': connected, magistral at http://localhost:11434/v1>
    """
    from magistral_nb.asking.probe import probe
    from magistral_nb.asking.trial import Trial, try_out

    check_price(price_per_hour)
    ours = registry.load(registry.check_name(name))
    if ours is not None and not ours.seen().is_down:
        raise NameTaken(
            f"Server {name!r} runs on this machine ({ours.plan.title}): add --name OTHER, or end it with "
            f"%magistral_stop {name}."
        )
    url = normalised(base_url)
    endpoint = Endpoint(url, "", api_key=_key(url, api_key), server=name, limits=limits or Limits())
    found = probe(endpoint)
    chosen = _choose_model(url, found.models, model)
    release = _release(chosen)
    system_prompt, why_prompt = _system_prompt(endpoint, found, chosen, release)
    endpoint = replace(
        endpoint,
        model=chosen.name,
        context=chosen.context,
        system_prompt=system_prompt,
        sampling=found.sampling or (Sampling() if release is None else release.sampling),
        reasoning_effort="high" if found.kind == "Mistral's API" and not chosen.name.startswith("magistral") else None,
        price_per_hour=price_per_hour,
    )
    if found.kind == "magistral_nb":
        trial = Trial(can=SHARED, problem="not tried: a class that connects at once would queue for it")
    else:
        trial = try_out(endpoint, is_vllm=found.kind == "vLLM")
    endpoint = replace(endpoint, can=trial.can, reasoning_effort=trial.reasoning_effort)
    return adopt(endpoint, _survey(endpoint, found, trial, why_prompt))


def _key(url: str, given: str | None) -> str | None:
    variables = [KEY_VARIABLE]
    if named := _KEYS_BY_HOST.get(urlsplit(url).hostname or ""):
        variables.insert(0, named)
    key = (given or next(filter(None, map(os.environ.get, variables)), "")).strip() or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidOption(f"The key has characters that no HTTP header can carry: check {variables[0]}.")
    return key


def _choose_model(url: str, models: tuple[Model, ...], wished: str | None) -> Model:
    if not models:
        raise UnknownModel(f"{url} serves no model yet: load one there, then connect again.")
    if wished is None:
        return models[0]
    by_name = {model.name: model for model in models}
    if wished not in by_name:
        near = difflib.get_close_matches(wished, by_name, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(by_name)[:_SHOWN_MODELS])}."
        raise UnknownModel(f"{url} has no model {wished!r}: {hint}")
    return by_name[wished]


def _system_prompt(
    endpoint: Endpoint, found: Found, model: Model, release: catalogue.Profile | None
) -> tuple[str | None, str]:
    """The system prompt that makes this model think, and where it is from; only a bare vLLM needs one from us."""
    from magistral_nb.asking.trial import has_control_tokens

    if found.system_prompt is not None:
        return found.system_prompt, "as the server tells it"
    if found.kind != "vLLM":
        return None, "its own template brings what the model needs"
    sources = [source for source in (model.root, model.name) if source]
    for source in sources:
        if (text := checkpoint.in_folder(source)) is not None:
            return text, f"{checkpoint.SYSTEM_PROMPT} in {source}"
    if release is not None:
        return checkpoint.of_repository(release.source, release.marks)
    if has_control_tokens(replace(endpoint, model=model.name)):
        return checkpoint.of_repository(sources[0], "tokens")
    return None, "its own template brings what the model needs"


def _release(model: Model) -> catalogue.Profile | None:
    """The release that it is, as far as where it was loaded from or its name tell."""
    return catalogue.release_of(model.root or "") or catalogue.release_of(model.name)


def _survey(endpoint: Endpoint, found: Found, trial: Trial, why_prompt: str) -> Survey:
    can = trial.can
    names = [model.name for model in found.models]
    more = f", and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    context = "not told" if endpoint.context is None else f"{endpoint.context:,} tokens"
    thinking = trial.trace or ("not seen" if trial.problem is None else "not known")
    if can.token_ids:
        counting = "by token ids", "exact, while it streams"
    elif can.running_usage:
        counting = "by running usage", "while it streams, if nothing else runs"
    elif can.usage:
        counting = "in the end", "where it reports thinking tokens"
    else:
        counting = "no", "it takes no stream_options"
    if can.continuation:
        budget = "yes", "goes on from a closed thought: --budget and answer_now work"
    elif can.budget_field:
        budget = "yes", f"by its own {can.budget_field}; it alone counts"
    elif endpoint.reasoning_effort is not None:
        budget = "0 only", "by reasoning_effort none"
    else:
        budget = "no", "use --max-tokens"
    rows = [
        ("model", endpoint.model, ", ".join(name for name in names[:_SHOWN_MODELS] if name != endpoint.model) + more),
        ("context", context, "prompt and completion together" if endpoint.context else "max_tokens is not fitted"),
        ("thinking", thinking, trial.problem or ""),
        ("system prompt", "its own" if endpoint.system_prompt is None else "sent by us", why_prompt),
        ("counting", *counting),
        ("tokenize", "yes" if can.tokenize else "no", "long prompts are counted before" if can.tokenize else ""),
        ("thinking budget", *budget),
    ]
    if endpoint.reasoning_effort is not None:
        rows.insert(3, ("reasoning effort", endpoint.reasoning_effort, "without it this API does not think"))
    parts = urlsplit(endpoint.base_url)
    if endpoint.api_key is not None and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        rows.append(("secrecy", "not encrypted", "whoever listens on the network reads key and questions"))
    kind = found.kind if found.version is None else f"{found.kind} {found.version}"
    return Survey(f"{kind} at {endpoint.base_url}", tuple(rows))


def normalised(base_url: str) -> str:
    """An address as requests need it.

    Raises:
        InvalidOption: it is none.

    Example:
        >>> normalised("localhost:8000"), normalised("unix:///run/vllm.sock")
        ('http://localhost:8000/v1', 'unix:/run/vllm.sock')
    """
    text = base_url.strip()
    if text.startswith(UNIX):
        return f"{UNIX}{_socket(text)}"
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.username is not None:
            raise InvalidOption(f"An address with a password in it would be shown: put the key into {KEY_VARIABLE}.")
        valid = parts.scheme in {"http", "https"} and bool(_HOST.fullmatch(parts.hostname or "")) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidOption(f"{base_url!r} is no address: try %magistral_connect http://localhost:8000/v1.")
    url = parts.geturl().rstrip("/").removesuffix("/chat/completions")
    return url if parts.path.strip("/") else f"{url}/v1"


def _socket(text: str) -> str:
    path = text.removeprefix(UNIX)
    path = path[2:] if path.startswith("///") else path
    if not path.strip("/"):
        raise InvalidOption(f"{text!r} names no socket: try %magistral_connect unix:/run/vllm.sock.")
    return str(Path(path).expanduser().absolute())
