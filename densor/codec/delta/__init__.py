"""Changes against a base."""
