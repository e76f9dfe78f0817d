"""lmzip: planes of each chunk, rANS coded. Its import name is lmz."""

from __future__ import annotations

from typing import Any

from lmz import DEFAULT_CHUNK_SIZE, DEFAULT_LEVEL
from lmz.codec import decode_chunk, encode_chunk
from lmz.planner import KIND_BF16, KIND_BYTES

from bench.codecs.base import PerTensor
from bench.tensors import ITEMSIZE, Tensor

INDEX_ENTRY_BYTES = 32
"""What the archive's index spends on a chunk."""


class Lmzip(PerTensor):
    """The chunk coder of the archive, in memory, with its defaults; one thread.

    The public interface works on files only. Chunks never span tensors here, which gives a better
    ratio than the archive's merged chunks do.
    """

    package = "lmzip"
    dtypes = ITEMSIZE

    def native(self, tensor: Tensor) -> Any:
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
