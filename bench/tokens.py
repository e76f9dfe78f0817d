"""Bytes and speed on tokenised texts, beside general compressors.

    python -m bench.tokens FILE... [--dtype u16] [--levels 3,6,9] [--peers zstd,xz]

Every file holds tokens of one type, as trainers keep them. It is packed with `tokens=True` and by
the peers, restored and compared, one after the other. MB/s is of processor time, in one thread;
compilation does not count. Prints a table.
"""

from __future__ import annotations

import argparse
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

import densor

Packer = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]
_WARM_UP = 1 << 14  # bytes that are packed first, so that kernels are compiled


def own(level: int, dtype: str) -> Packer:
    """Densor, in one thread."""

    def pack(data: bytes) -> bytes:
        return densor.compress(data, level, 1, dtype=dtype, tokens=True)

    return pack, lambda packed: bytes(densor.decompress(packed, 1))


PEERS: dict[str, Packer] = {
    "zstd": (
        lambda data: zstandard.ZstdCompressor(level=19).compress(data),
        lambda packed: zstandard.ZstdDecompressor().decompress(packed),
    ),
    "xz": (lambda data: lzma.compress(data, preset=9), lzma.decompress),
}
_NAMES = {"zstd": "zstd -19", "xz": "xz -9"}


def row(name: str, packer: Packer, data: bytes) -> str:
    """A line of the table; AssertionError where something else comes back."""
    pack, unpack = packer
    unpack(pack(data[:_WARM_UP]))
    times = [time.process_time()]
    packed = pack(data)
    times.append(time.process_time())
    restored = unpack(packed)
    times.append(time.process_time())
    assert restored == data
    speeds = [len(data) / 1e6 / max(t, 1e-9) for t in np.diff(times)]
    share = len(packed) / max(len(data), 1)
    return f"| {name} | {len(packed):,} | {share:.4f} | {speeds[0]:.1f} | {speeds[1]:.1f} |"


def main() -> None:
    """Runs all codecs on all files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--dtype", default="u16")
    parser.add_argument("--levels", default="3,9")
    parser.add_argument("--peers", default="zstd,xz")
    args = parser.parse_args()
    for path in args.files:
        data = path.read_bytes()
        print(f"\n{path.name}, {len(data):,} bytes\n\n| | bytes | ratio | packs | restores |")
        print("|---|---|---|---|---|")
        for level in filter(None, args.levels.split(",")):
            packer = own(int(level), args.dtype)
            print(row(f"densor -{level} --tokens", packer, data), flush=True)
        for peer in filter(None, args.peers.split(",")):
            print(row(_NAMES[peer], PEERS[peer], data), flush=True)


if __name__ == "__main__":
    main()
