"""abacus, the embedded arithmetic model: weights, tokenizer, system prompt, model card, and problems to ask it."""

from magistral_nb.abacus.generator import problems

__all__ = ["problems"]
