"""Codec 10: text, or tokens, by the tokens of a causal language model, mixed with `byte_cm`."""
