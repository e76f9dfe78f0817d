"""Text under a language model, mixed with the contexts of the text codec. See spec.md."""
