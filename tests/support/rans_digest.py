"""Prints a hash of what the rANS coder makes of a fixed input, for one kind of processor."""

import hashlib

import numpy as np

from densor.entropy.rans.decode import decode, decode_table
from densor.entropy.rans.encode import encode


def digest() -> str:
    """Hash of streams and symbols."""
    rng = np.random.default_rng(5)
    freqs = np.zeros((4, 256), np.uint16)
    freqs[0] = 16
    freqs[1, 3:6] = (4000, 1, 95)
    freqs[2, 77] = 4096
    found = hashlib.sha256()
    for n in (50, 10_007):
        contexts = rng.integers(0, 4, n, np.uint8)
        likely = (rng.integers(0, 256, n), rng.integers(3, 6, n), np.full(n, 77), np.zeros(n))
        symbols = np.choose(contexts, likely).astype(np.uint8)
        stream = encode(symbols, contexts, freqs)
        found.update(stream)
        out = np.empty_like(symbols)
        decode(decode_table(freqs), stream, contexts, out)
        found.update(out)
        assert out.tobytes() == symbols.tobytes()
    return found.hexdigest()


if __name__ == "__main__":
    print(digest())
