"""Many chunks per compiled call: decoding and encoding of spans of an archive. See decode.py."""
