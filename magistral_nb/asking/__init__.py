"""Talking to any OpenAI-compatible endpoint. Knows nothing of notebooks, processes or displays."""
