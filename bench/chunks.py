"""Pieces of files, each coded by itself: `densor.chunk` beside LZ4, BG4-LZ4 and Zstandard.

    python -m bench.chunks FILE... [--size 65536] [--skip 13] [--out DIR]

A file is cut into pieces of `--size` bytes from byte `--skip` on, as if in the middle of an
element. BG4-LZ4 brings every fourth byte together before LZ4. All pieces are restored and
compared. MB/s is of processor time in one thread, the best of several rounds in which the codecs
take turns. Writes ``chunks.csv`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from densor import chunk

_ROUNDS = 5
_MOST = 32 << 20  # bytes of a file


class Codec(NamedTuple):
    """Codes a piece by itself; `unpack` is given its size as well."""

    name: str
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes, int], bytes]


def grouped(data: bytes) -> bytes:
    """Every fourth byte together."""
    return b"".join(np.frombuffer(data, np.uint8)[k::4].tobytes() for k in range(4))


def ungrouped(data: bytes) -> bytes:
    """The inverse of `grouped`."""
    found = np.frombuffer(data, np.uint8)
    out = np.empty(found.size, np.uint8)
    begin = 0
    for k in range(4):
        count = (found.size - k + 3) // 4
        out[k::4] = found[begin : begin + count]
        begin += count
    return out.tobytes()


def codecs() -> list[Codec]:
    """Densor's, and those of packages that are installed."""
    packer, unpacker = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    found = [
        Codec("densor.chunk", chunk.compress, lambda data, _: chunk.decompress(data)),
        Codec("zstd -3", packer.compress, lambda data, _: unpacker.decompress(data)),
        Codec("copy", lambda data: bytes(bytearray(data)), lambda data, _: bytes(bytearray(data))),
    ]
    try:
        from lz4 import block
    except ImportError:
        return found

    def pack(data: bytes) -> bytes:
        return bytes(block.compress(data, store_size=False))

    def unpack(data: bytes, size: int) -> bytes:
        return bytes(block.decompress(data, uncompressed_size=size))

    found.insert(1, Codec("LZ4", pack, unpack))
    found.insert(
        2,
        Codec("BG4-LZ4", lambda data: pack(grouped(data)), lambda d, n: ungrouped(unpack(d, n))),
    )
    return found


class Row(NamedTuple):
    """What a codec made of a file's pieces."""

    file: str
    codec: str
    ratio: float
    pack_speed: float
    unpack_speed: float


def measured(path: Path, size: int, skip: int) -> list[Row]:
    """All codecs on one file, in turns."""
    with open(path, "rb") as file:
        file.seek(skip)
        data = file.read(_MOST)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    all_codecs = codecs()
    packed: dict[str, list[bytes]] = {}
    times = {codec.name: [float("inf")] * 2 for codec in all_codecs}
    for _ in range(_ROUNDS):
        for codec in all_codecs:
            begin = time.process_time()
            packed[codec.name] = [codec.pack(piece) for piece in pieces]
            middle = time.process_time()
            back = [
                codec.unpack(coded, len(piece))
                for coded, piece in zip(packed[codec.name], pieces, strict=True)
            ]
            took = middle - begin, time.process_time() - middle
            if back != pieces:
                raise ValueError(f"{codec.name} does not restore {path}")
            times[codec.name] = [min(a, b) for a, b in zip(times[codec.name], took, strict=True)]
    return [
        Row(
            path.name,
            codec.name,
            sum(map(len, packed[codec.name])) / len(data),
            *(len(data) / 1e6 / took for took in times[codec.name]),
        )
        for codec in all_codecs
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per file and codec, and writes them."""
    parser = argparse.ArgumentParser(prog="python -m bench.chunks", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=1 << 16)
    parser.add_argument("--skip", type=int, default=13)
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    options = parser.parse_args(argv)
    rows = [row for path in options.files for row in measured(path, options.size, options.skip)]
    for row in rows:
        speeds = f"{row.pack_speed:6.0f} {row.unpack_speed:6.0f}"
        print(f"{row.file:30} {row.codec:13} {row.ratio:.4f} {speeds} MB/s")
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "chunks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
