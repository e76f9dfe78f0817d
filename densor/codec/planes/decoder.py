"""The decoding side of the planar codec: allocates, then lets the kernels loose."""

import struct
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.codec import ChunkDecoder
from densor.codec.planes.kernels import ERRORS, decode_planes
from densor.codec.planes.layout import Bytes, from_differences
from densor.codec.planes.params import Classes, Model, parse
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.huffman.code import STREAMS
from densor.entropy.huffman.decode import DecodeTables, decode_tables
from densor.errors import FormatError, LimitError
from densor.runtime.buffers import ThreadBuffers

MAX_RUNS = 1 << 20  # of a chunk
SECTIONS = {size: struct.Struct("<" + "BI" * size) for size in (1, 2, 4, 8)}
BUFFERS = ThreadBuffers()
_local = threading.local()


class PlanarDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, model: Model[Classes]) -> None:
        self.model = model
        planes = [Classes.empty(0) if classes is None else classes for classes in model.planes]
        sizes = [classes.kinds.size for classes in planes]
        self._mapped = [size > 1 for size in sizes]
        self._first = np.array([sum(sizes[:p]) for p in range(len(sizes) + 1)], np.int64)
        self._kinds = np.concatenate([classes.kinds for classes in planes])
        self._symbols = np.concatenate([classes.symbols for classes in planes])
        self._lengths = np.concatenate([classes.lengths for classes in planes])
        self._tables: DecodeTables | None = None

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        model = self.model
        layout = model.layout
        n, rest = divmod(out.size, layout.size)
        header = SECTIONS[layout.size]
        if rest or payload.size < header.size:
            raise FormatError("planar chunk has an impossible length")
        modes = header.unpack_from(payload)[::2]
        scratch = BUFFERS.take("scratch", out.size)
        if registry.PLANE_ZSTD in modes:
            self._unpack_zstd(payload, header, scratch, n)
        # Without a class map the whole chunk is one run.
        mapped = any(
            mapped and mode == registry.PLANE_CLASSES
            for mapped, mode in zip(self._mapped, modes, strict=True)
        )
        run = model.run if mapped else n
        if n > run * MAX_RUNS:
            raise LimitError(f"chunk has more than {MAX_RUNS} runs")
        where = np.empty((layout.size, -(-n // run)), np.int64)
        stored = np.empty(layout.size, np.uint8)
        error = decode_planes(
            payload,
            n,
            run,
            model.run,
            self._first,
            self._kinds,
            self._symbols,
            self._lengths,
            *self._ready_tables(),
            scratch,
            where,
            stored,
            *_work(),
        )
        if error:
            raise FormatError(ERRORS[error])
        layout.merge(payload, scratch, where, stored, run, out)
        if model.delta:
            from_differences(out, layout)

    def _ready_tables(self) -> DecodeTables:
        tables = self._tables
        if tables is None:
            tables = self._tables = decode_tables(self._lengths)
        return tables

    @staticmethod
    def _unpack_zstd(payload: Bytes, header: struct.Struct, scratch: Bytes, n: int) -> None:
        """Puts the planes that are stored with Zstandard into their places."""
        fields = header.unpack_from(payload)
        at = header.size
        for p, (mode, size) in enumerate(zip(fields[::2], fields[1::2], strict=True)):
            if mode == registry.PLANE_ZSTD:
                zstd_decompress_into(payload[at : at + size], scratch[p * n : (p + 1) * n])
            at += size


def open_decoder(payload: bytes, _: object = None) -> PlanarDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return PlanarDecoder(parse(payload))


def _work() -> tuple[npt.NDArray[Any], ...]:
    """Work space of this thread: counts, positions, ends."""
    work: tuple[npt.NDArray[Any], ...] | None = getattr(_local, "work", None)
    if work is None:
        work = (np.empty(16, np.int64), np.empty(STREAMS, np.uint64), np.empty(STREAMS, np.int64))
        _local.work = work
    return work
