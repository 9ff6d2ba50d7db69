"""What lies with a model's weights: its system prompt, and how much of it has still to be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.asking.system_prompt import own_wording
from magistral_nb.serving import folder as folders, hub

if TYPE_CHECKING:
    from magistral_nb.asking.system_prompt import Marks
    from magistral_nb.serving.profile import Profile

SYSTEM_PROMPT = folders.SYSTEM_PROMPT


def system_prompt(profile: Profile) -> tuple[str | None, str]:
    """The release's own system prompt, from beside its weights, and a word on where it comes from.

    Without it Magistral Small 1.2 often does not think at all, so where the hub does not give it, the same
    instruction goes out in our own words. Whoever re-uploads or trains a model may leave it behind, so a model that is
    served with its base's tokenizer takes its base's prompt. A model that does not think is asked for nothing.
    """
    if profile.is_local and (found := in_folder(profile.source)) is not None:
        return found, f"{SYSTEM_PROMPT} beside the weights"
    home = profile.tokenizer or profile.source
    if Path(home).is_absolute():
        why = f"the folder has no {SYSTEM_PROMPT}"
        return (own_wording(profile.marks), f"in our words, as {why}") if profile.thinks else (None, why)
    if profile.thinks:
        return of_repository(home, profile.marks)
    text = hub.text(home, SYSTEM_PROMPT)
    return text, f"{SYSTEM_PROMPT} of {home}" if text else f"{home} has no {SYSTEM_PROMPT}"


def in_folder(folder: str) -> str | None:
    """The system prompt in a folder of this machine."""
    try:
        return (Path(folder) / SYSTEM_PROMPT).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def of_repository(repository: str, marks: Marks) -> tuple[str, str]:
    """The system prompt of a repository, from the hub's cache or the hub, else in our own words."""
    if hub.REPOSITORY.fullmatch(repository) and (text := hub.text(repository, SYSTEM_PROMPT)):
        return text, f"{SYSTEM_PROMPT} of {repository}"
    return own_wording(marks), f"in our words, as {repository}'s own {SYSTEM_PROMPT} cannot be had"
