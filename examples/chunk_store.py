"""A store that keeps files as chunks under their hashes, each coded by itself.

python examples/chunk_store.py [FILE]
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

from densor import chunk

SIZE = 1 << 16


class Store:
    """Chunks by the hash of their content."""

    def __init__(self) -> None:
        self._chunks: dict[str, bytes] = {}

    def put(self, content: bytes) -> list[str]:
        """Keeps the chunks of a file that are not there yet; returns their names."""
        names = []
        for begin in range(0, len(content), SIZE):
            piece = content[begin : begin + SIZE]
            name = hashlib.sha256(piece).hexdigest()
            if name not in self._chunks:
                self._chunks[name] = chunk.compress(piece)
            names.append(name)
        return names

    def get(self, names: list[str]) -> bytes:
        """A file again."""
        return b"".join(chunk.decompress(self._chunks[name]) for name in names)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(map(len, self._chunks.values()))


def main(content: bytes) -> None:
    """Puts a file, and the same with one byte changed."""
    store = Store()
    names = store.put(content)
    print(f"{len(content)} bytes as {store.size} in {len(names)} chunks")
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    again = store.put(bytes(changed))
    print(f"{store.size} bytes with a second file, of which one byte differs")
    assert store.get(names) == content and store.get(again) == changed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).read_bytes())
    else:
        drawn = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(np.float32)
        main(drawn.view(np.uint16)[1::2].tobytes())
