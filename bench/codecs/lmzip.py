"""lmzip: planes of each chunk, rANS coded. Its import name is lmz."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmz
import numpy as np
from lmz import DEFAULT_CHUNK_SIZE, DEFAULT_LEVEL
from lmz.codec import decode_chunk, encode_chunk
from lmz.planner import KIND_BF16, KIND_BYTES

from bench.tensors import ITEMSIZE
from densor.compare.codec import FILE, Codec, Item, PerItem

INDEX_ENTRY_BYTES = 32
"""What the archive's index spends on a chunk."""


class Lmzip(PerItem):
    """The chunk coder of the archive, in memory, with its defaults; one thread.

    The public interface works on files only. Chunks never span tensors here, which gives a better
    ratio than the archive's merged chunks do.
    """

    package = "lmzip"
    dtypes = ITEMSIZE

    def native(self, tensor: Item) -> Any:
        kind = KIND_BF16 if tensor.dtype == "BF16" else KIND_BYTES
        view = tensor.data.data
        chunks = [view[i : i + DEFAULT_CHUNK_SIZE] for i in range(0, len(view), DEFAULT_CHUNK_SIZE)]
        return chunks, ITEMSIZE[tensor.dtype], kind

    def encode(self, item: Any, threads: int) -> Any:
        chunks, itemsize, kind = item
        blobs = []
        for chunk in chunks:
            parts, codec, flags, crc = encode_chunk(chunk, itemsize, DEFAULT_LEVEL, kind=kind)
            blobs.append((b"".join(parts), codec, itemsize, flags, len(chunk), crc))
        return blobs

    def decode(self, blob: Any, threads: int) -> Any:
        return [decode_chunk(*chunk) for chunk in blob]

    def compressed_size(self, state: Any) -> int:
        return sum(len(chunk[0]) + INDEX_ENTRY_BYTES for blob in state for chunk in blob)


class LmzipFiles(Codec):
    """The public interface, from file to file; one worker."""

    package = "lmzip"
    dtypes = {FILE: None}  # noqa: RUF012

    def prepare(self, items: Sequence[Item]) -> Any:
        return items

    def compress(self, prepared: Any, threads: int) -> Any:
        return [self._packed(item) for item in prepared]

    def _packed(self, item: Item) -> tuple[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / item.name, Path(folder) / "packed"
            item.data.tofile(source)
            lmz.compress(str(source), str(target), workers=1)
            return item.name, target.read_bytes()

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        return [self._restored(blob) for _, blob in state]

    def _restored(self, blob: bytes) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            packed, target = Path(folder) / "packed", Path(folder) / "restored"
            packed.write_bytes(blob)
            lmz.decompress(str(packed), str(target), overwrite=True)
            if target.is_dir():
                (target,) = target.iterdir()
            return np.fromfile(target, np.uint8)

    def compressed_size(self, state: Any) -> int:
        return sum(len(blob) for _, blob in state)
