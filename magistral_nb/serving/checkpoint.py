"""What lies with a model's weights: its system prompt, and how much of it has still to be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magistral_nb.serving.catalogue import Profile

SYSTEM_PROMPT = "SYSTEM_PROMPT.txt"


def system_prompt(profile: Profile) -> str | None:
    """The release's own system prompt, from beside its weights; None where there is none to be had.

    Without it Magistral Small 1.2 often does not think at all.
    """
    if profile.is_local:
        path = Path(profile.source) / SYSTEM_PROMPT
        return path.read_text(encoding="utf-8") if path.is_file() else None
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(profile.source, SYSTEM_PROMPT)).read_text(encoding="utf-8")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
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
