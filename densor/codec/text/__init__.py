"""The text codec: bytes by integer context mixing. See spec.md."""
