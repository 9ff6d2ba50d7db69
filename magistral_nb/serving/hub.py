"""Repositories on the hub: read from its cache on this machine, or with few requests that hold nobody up.

huggingface_hub's own downloads try for 23 seconds without a network, and say so at every try.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from magistral_nb.errors import UnknownModel
from magistral_nb.serving.folder import CONFIGS, Files
from magistral_nb.serving.masking import masked

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name, and no path
_SECONDS = 5.0  # of silence, for each request


def snapshot(repository: str) -> Path | None:
    """The folder of the hub's cache in which a model's files lie, perhaps not all of them."""
    found = filter(None, (cached(repository, name) for name in CONFIGS))
    return next((path.parent for path in found), None)


def text(repository: str, name: str) -> str | None:
    """A small text of a repository, from the cache or the hub; None if it cannot be had."""
    with contextlib.suppress(OSError, ValueError):
        if path := cached(repository, name):
            return path.read_text(encoding="utf-8")
    with contextlib.suppress(UnknownModel, ValueError):
        return _get(repository, f"{repository}/resolve/main/{name}").decode()
    return None


def files(repository: str) -> Files:
    """What the hub says a repository holds.

    Raises:
        UnknownModel: there is none, it may not be read, or the hub is out of reach.
    """

    def read(name: str, last: int | None) -> bytes:
        headers = {"Range": f"bytes=-{last}"} if last else {}
        return _get(repository, f"{repository}/resolve/main/{name}", headers)

    try:
        told: dict[str, Any] = json.loads(_get(repository, f"api/models/{repository}?blobs=true"))
        listed = {each["rfilename"]: each.get("size") or 0 for each in told["siblings"]}
        bases = (told.get("cardData") or {}).get("base_model") or []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownModel(
            f"What answers for {repository} is no hub ({type(error).__name__}): check HF_ENDPOINT, or whether your "
            "network wants a login."
        ) from error
    named = (bases,) if isinstance(bases, str) else tuple(map(str, bases))
    sizes = {name: size for name, size in listed.items() if "/" not in name}  # vLLM loads nothing from folders in it
    return Files(repository, sizes, read, bases=named)


def cached(repository: str, name: str) -> Path | None:
    """A file of a repository in the hub's cache; nobody is asked."""
    import huggingface_hub

    with contextlib.suppress(OSError, ValueError):  # also a name that no repository can have
        found = huggingface_hub.try_to_load_from_cache(repository, name)
        return Path(found) if isinstance(found, str) else None
    return None


def folder_of(repository: str) -> Path:
    """Where the hub's cache keeps a repository, there yet or not."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _get(repository: str, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    from huggingface_hub import constants, get_session, get_token

    if constants.HF_HUB_OFFLINE:
        raise UnknownModel(
            f"{repository} does not lie whole in the hub's cache, and HF_HUB_OFFLINE is set: unset it and restart the "
            "kernel, or name a folder that holds the model."
        )
    try:
        token = get_token()
        login = {} if token is None else {"Authorization": f"Bearer {token}"}
        reply = get_session().get(f"{constants.ENDPOINT}/{path}", headers={**login, **headers}, timeout=_SECONDS)
        status, content, told = int(reply.status_code), bytes(reply.content), reply.headers
    except Exception as error:  # whichever HTTP library the hub's client stands on
        raise UnknownModel(
            f"{repository} does not lie whole in the hub's cache, and {masked(constants.ENDPOINT)} cannot be "
            f"reached ({type(error).__name__}): check the network, or name a folder that holds the model."
        ) from error
    if status >= 400:  # noqa: PLR2004 - from there on HTTP's statuses are refusals
        raise UnknownModel(refusal(repository, status, told.get("X-Error-Code"), told.get("X-Error-Message")))
    return content


def refusal(repository: str, status: int, code: str | None, message: str | None) -> str:
    """What to say where the hub answers with an error; code and message are its X-Error headers.

    Without a login the hub answers 401 for what is missing, too.

    Example:
        >>> refusal("you/model", 401, "RepoNotFound", "Invalid username or password.")
        'The hub has no repository you/model, or a private one: check the name, or log in with: hf auth login.'
    """
    if code == "GatedRepo" or status == 403:  # noqa: PLR2004 - HTTP's "forbidden"
        return f"{repository} is gated: accept its terms on its page, log in with: hf auth login, and try again."
    if status == 401 and "credentials" in (message or ""):  # noqa: PLR2004 - HTTP's "unauthorized"
        return f"The hub refuses your token for {repository}: check HF_TOKEN, or log in with: hf auth login."
    if status in {401, 404}:
        return (
            f"The hub has no repository {repository}, or a private one: check the name, or log in with: hf auth login."
        )
    return f"The hub answers {status} for {repository}: try again later, or name a folder that holds the model."
