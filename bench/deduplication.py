"""What a store of content-defined chunks has to keep anew when a model changes a little.

    python -m bench.deduplication MODEL.safetensors [--out DIR]

A file is cut where a rolling hash says so (gear hash; W. Xia et al.: FastCDC, USENIX ATC 2016):
chunks of 8 to 128 KB, 64 KB in the mean, as hubs do. Printed is the share of bytes in chunks that
the file before the change does not have, for the plain file, for archives of some levels, and for
packed folders of transformers. Writes ``deduplication.csv`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import xxhash

import densor

_LEAST, _MOST = 8 << 10, 128 << 10
_MASK = np.uint64(0xFFFF << 48)  # 1 in 65536
_GEAR = np.random.default_rng(20).integers(0, 1 << 64, 256, np.uint64)
Bytes = npt.NDArray[np.uint8]


@numba.njit
def _ends(data: Bytes, gear: Any, ends: Any) -> int:
    count = begin = 0
    value = np.uint64(0)
    for i in range(data.size):
        value = (value << np.uint64(1)) + gear[data[i]]
        size = i + 1 - begin
        if (size >= _LEAST and value & _MASK == 0) or size == _MOST:
            ends[count] = begin = i + 1
            count += 1
            value = np.uint64(0)
    if begin < data.size:
        ends[count] = data.size
        count += 1
    return count


def chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a file, in order."""
    array = np.frombuffer(data, np.uint8)
    ends = np.empty(array.size // _LEAST + 2, np.int64)
    begin = 0
    for end in ends[: _ends(array, _GEAR, ends)].tolist():
        yield data[begin:end]
        begin = end


def new_share(before: bytes, after: bytes) -> float:
    """The share of bytes of `after` in chunks that `before` does not have."""
    known = {xxhash.xxh3_128_digest(chunk) for chunk in chunks(before)}
    new = sum(len(c) for c in chunks(after) if xxhash.xxh3_128_digest(c) not in known)
    return new / len(after)


def changes(plain: bytes) -> Iterator[tuple[str, bytes]]:
    """A safetensors file with one tensor, one row of it, or its metadata changed."""
    (size,) = struct.unpack("<Q", plain[:8])
    header = json.loads(plain[8 : 8 + size])
    tensors = {name: each for name, each in header.items() if name != "__metadata__"}
    middle = sorted(tensors, key=lambda name: tensors[name]["data_offsets"][0])
    matrices = [name for name in middle if len(tensors[name]["shape"]) == 2]
    chosen = tensors[matrices[len(matrices) // 2]]
    begin, end = chosen["data_offsets"]
    row = (end - begin) // chosen["shape"][0]
    for name, length in (("one tensor", end - begin), ("one row", row)):
        changed = bytearray(plain)
        at = 8 + size + begin
        words = np.frombuffer(changed, np.uint16, length // 2, at)
        words ^= 1
        yield name, bytes(changed)
    header.setdefault("__metadata__", {})["note"] = "another line of metadata"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield "metadata", struct.pack("<Q", len(text)) + text + plain[8 + size :]


def packers() -> dict[str, Callable[[bytes, Path], bytes]]:
    """Ways in which a model may lie in the store."""
    found: dict[str, Callable[[bytes, Path], bytes]] = {"plain": lambda data, _: data}
    for level in (1, 3, 6):
        found[f"densor -{level}"] = partial(_archive, level=level)
    found["packed folder"] = _packed
    return found


def _archive(data: bytes, folder: Path, level: int) -> bytes:
    source = folder / "model.safetensors"
    source.write_bytes(data)
    target = folder / "model.densor"
    densor.compress_file(source, target, level=level, overwrite=True)
    return target.read_bytes()


def _packed(data: bytes, folder: Path) -> bytes:
    from densor.files.model_folder import pack_model

    source, target = folder / "plain", folder / "packed"
    source.mkdir(exist_ok=True)
    (source / "model.safetensors").write_bytes(data)
    (source / "config.json").write_text('{"model_type": "bert"}')
    shutil.rmtree(target, ignore_errors=True)
    pack_model(source, target)
    return (target / "model.safetensors").read_bytes()


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per way and change, and writes them."""
    parser = argparse.ArgumentParser(prog="python -m bench.deduplication", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    options = parser.parse_args(argv)
    plain = options.model.read_bytes()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for way, pack in packers().items():
            before = pack(plain, Path(name))
            for change, changed in changes(plain):
                share = new_share(before, pack(changed, Path(name)))
                rows.append((way, change, f"{share:.5f}"))
                print(f"{way:14} {change:11} {share:8.3%} new")
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "deduplication.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("way", "change", "share"), *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
