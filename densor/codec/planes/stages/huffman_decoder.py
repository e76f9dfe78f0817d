"""Byte planes under Huffman codes: streams back to planes, those of a chunk in one call."""

import threading

import numpy as np

from densor.codec import registry
from densor.codec.planes.decoding import ERRORS, Codes, Work
from densor.codec.planes.layout import Placed
from densor.codec.planes.params import Classes, Parameters
from densor.codec.planes.payload import MAX_RUNS, SECTION, sections
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.deferred import deferred
from densor.entropy.huffman.code import STREAMS
from densor.entropy.huffman.decode import decode_tables
from densor.errors import FormatError, LimitError
from densor.runtime.types import Bytes

decode_planes = deferred("densor.codec.planes.kernels", "decode_planes")
_local = threading.local()


class HuffmanDecoder:
    """A `StageDecoder` of Huffman codes."""

    def __init__(self, model: Parameters[Classes]) -> None:
        self._model = model
        planes = [Classes.empty(0) if classes is None else classes for classes in model.planes]
        sizes = [len(classes) for classes in planes]
        self._mapped = [size > 1 for size in sizes]
        self._first = np.array([sum(sizes[:p]) for p in range(len(sizes) + 1)], np.int64)
        self._kinds = np.concatenate([classes.kinds for classes in planes])
        self._symbols = np.concatenate([classes.symbols for classes in planes])
        self._lengths = np.concatenate([classes.lengths for classes in planes])
        self._codes: Codes | None = None

    def place(self, payload: Bytes, n: int, scratch: Bytes) -> Placed:
        """See `StageDecoder`."""
        planes, run = self._model.layout.size, self._model.run
        modes = payload[: SECTION.size * planes : SECTION.size].tolist()
        if registry.PLANE_ZSTD in modes:
            for p, section in enumerate(sections(payload, planes)):
                if section.mode == registry.PLANE_ZSTD:
                    zstd_decompress_into(section.content, scratch[p * n : (p + 1) * n])
        # Without a class map the whole chunk is one run.
        if not any(
            mapped and mode == registry.PLANE_CLASSES
            for mapped, mode in zip(self._mapped, modes, strict=False)
        ):
            run = max(n, 1)
        if n > run * MAX_RUNS:
            raise LimitError(f"chunk has more than {MAX_RUNS} runs")
        where = np.empty((planes, -(-n // run)), np.int64)
        stored = np.empty(planes, np.uint8)
        planned = payload, n, run, self._model.run
        error = decode_planes(*planned, *self._ready_codes(), scratch, where, stored, *_work())
        if error:
            raise FormatError(ERRORS[error])
        return Placed(run, where, stored)

    def _ready_codes(self) -> Codes:
        codes = self._codes
        if codes is None:
            tables = decode_tables(self._lengths)
            codes = Codes(self._first, self._kinds, self._symbols, self._lengths, *tables)
            self._codes = codes
        return codes


def _work() -> Work:
    """Work space of this thread."""
    work: Work | None = getattr(_local, "work", None)
    if work is None:
        counts, positions = np.empty(16, np.int64), np.empty(STREAMS, np.uint64)
        work = _local.work = Work(counts, positions, np.empty(STREAMS, np.int64))
    return work
