"""Tokens of texts and of sound codecs: candidates of three orders, and digits of what is new."""
