"""What lies with a model's weights: its system prompt, and how much of it has still to be fetched."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.asking.system_prompt import own_wording

if TYPE_CHECKING:
    from magistral_nb.asking.system_prompt import Marks
    from magistral_nb.serving.catalogue import Profile

SYSTEM_PROMPT = "SYSTEM_PROMPT.txt"

_HUB_SECONDS = 5.0
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def system_prompt(profile: Profile) -> tuple[str | None, str]:
    """The release's own system prompt, from beside its weights, and a word on where it comes from.

    Without it Magistral Small 1.2 often does not think at all, so where the hub does not give it, the same
    instruction goes out in our own words.
    """
    if profile.is_local:
        found = in_folder(profile.source)
        return found, f"{SYSTEM_PROMPT} beside the weights" if found else f"the folder has no {SYSTEM_PROMPT}"
    return of_repository(profile.source, profile.marks)


def in_folder(folder: str) -> str | None:
    """The system prompt in a folder of this machine."""
    try:
        return (Path(folder) / SYSTEM_PROMPT).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def of_repository(repository: str, marks: Marks) -> tuple[str, str]:
    """The system prompt of a repository, from the hub's cache or the hub, else in our own words."""
    if _REPOSITORY.fullmatch(repository) and (text := _cached(repository) or _fetched(repository)):
        return text, f"{SYSTEM_PROMPT} of {repository}"
    return own_wording(marks), f"in our words, as {repository}'s own {SYSTEM_PROMPT} cannot be had"


def _cached(repository: str) -> str | None:
    import huggingface_hub

    with contextlib.suppress(OSError, ValueError):  # also a name that no repository can have
        found = huggingface_hub.try_to_load_from_cache(repository, SYSTEM_PROMPT)
        return Path(found).read_text(encoding="utf-8") if isinstance(found, str) else None
    return None


def _fetched(repository: str) -> str | None:
    """One request: without a network hf_hub_download tries for 23 seconds, and says so at every try."""
    from huggingface_hub import constants, get_session, get_token

    token = get_token()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{constants.ENDPOINT}/{repository}/resolve/main/{SYSTEM_PROMPT}"
    try:
        reply = get_session().get(url, headers=headers, timeout=_HUB_SECONDS)
        reply.raise_for_status()
        return bytes(reply.content).decode()
    except Exception:  # noqa: BLE001 - whichever HTTP library the hub's client stands on; our own words do as well
        return None


def pending_download(profile: Profile) -> float:
    """Bytes that a boot will fetch from the hub; 0 where the weights are in its cache or in a folder."""
    if profile.is_local:
        return 0
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(profile.source, "params.json")
    if isinstance(found, str) and list(Path(found).parent.glob("consolidated*.safetensors")):
        return 0
    return profile.download
