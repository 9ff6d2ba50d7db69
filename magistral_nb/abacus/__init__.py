"""abacus, the embedded arithmetic model: weights, tokenizer, system prompt and model card."""
