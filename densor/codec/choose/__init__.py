"""Which codecs are candidates for a batch, and which one is taken; `candidates.py` is the head."""
