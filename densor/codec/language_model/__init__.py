"""Codec 10: text by the tokens of a causal language model, mixed with `byte_cm`."""
