"""Text under a language model."""
