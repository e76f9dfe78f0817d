"""The decoding side of the planar codec: validates a payload, then lets the kernels loose."""

import struct
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planar.kernels import SECTION_ERRORS, decode_classes, plan_runs
from densor.codec.planar.layout import Bytes, from_differences
from densor.codec.planar.model import Model, PlaneClass, map_bits
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.huffman.code import STREAMS
from densor.entropy.huffman.decode import DecodeTables, decode_tables
from densor.errors import FormatError

_SECTIONS = {size: struct.Struct("<" + "BI" * size) for size in (1, 2, 4, 8)}
_local = threading.local()


def _scratch(size: int) -> Bytes:
    """A buffer of this thread, at least `size` bytes long."""
    buffer: Bytes | None = getattr(_local, "scratch", None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, np.uint8)
        _local.scratch = buffer
    return buffer


class _PlaneDecoder:
    """The classes of one plane, their tables built when first needed."""

    def __init__(self, classes: tuple[PlaneClass, ...]) -> None:
        self.classes = classes
        self.map_bits = map_bits(len(classes)) if classes else 0
        self._kinds = np.array([one.kind for one in classes], np.uint8)
        self._symbols = np.array([one.symbol for one in classes], np.uint8)
        self._lengths = np.zeros((len(classes), 256), np.uint8)
        for c, one in enumerate(classes):
            if one.lengths is not None:
                self._lengths[c] = one.lengths
        self._tables: DecodeTables | None = None

    def decode(
        self,
        section: Bytes,
        n: int,
        run: int,
        first: int,
        area: Bytes,
        where: npt.NDArray[np.int64],
    ) -> None:
        """Decodes a class section into `area`, `n` bytes, which begins at `first` in the scratch.

        `where`, int64[runs], receives the offset of each run in the scratch.
        """
        if not self.classes:
            raise FormatError("plane is coded by classes, but its model has none")
        counts = np.empty(len(self.classes), np.int64)
        at = 0
        if self.map_bits:
            at = (where.size * self.map_bits + 7) // 8
            if at > section.size:
                raise FormatError("class map is too short")
            if not plan_runs(section[:at], self.map_bits, n, run, first, where, counts):
                raise FormatError("class map names a class that the model does not have")
        else:
            counts[0] = n
        if self._tables is None:
            self._tables = decode_tables(self._lengths)
        work = np.empty(STREAMS, np.uint64), np.empty(STREAMS, np.int64)
        error = decode_classes(
            section,
            at,
            self._kinds,
            self._symbols,
            self._lengths,
            *self._tables,
            counts,
            area,
            *work,
        )
        if error:
            raise FormatError(SECTION_ERRORS[error])


@dataclass
class _Chunk:
    """A chunk while it is decoded: where the runs of each plane lie."""

    payload: Bytes
    scratch: Bytes
    n: int
    where: npt.NDArray[np.int64]  # int64[planes, runs]
    stored: npt.NDArray[np.uint8]  # uint8[planes]: in the payload, or in the scratch


class PlanarDecoder:
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._planes = [_PlaneDecoder(classes) for classes in model.planes]
        self._steps = np.zeros(0, np.int64)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        layout = self.model.layout
        n, rest = divmod(out.size, layout.size)
        if rest:
            raise FormatError("chunk does not hold whole elements")
        header = _SECTIONS[layout.size]
        if payload.size < header.size:
            raise FormatError("planar chunk is too short")
        fields = header.unpack_from(payload)
        # Without a class map the whole chunk is one run.
        mapped = any(
            mode == registry.PLANE_CLASSES and plane.map_bits
            for mode, plane in zip(fields[::2], self._planes, strict=True)
        )
        run = self.model.run if mapped else n
        chunk = _Chunk(
            payload,
            _scratch(out.size),
            n,
            np.empty((layout.size, -(-n // run)), np.int64),
            np.zeros(layout.size, np.uint8),
        )
        at = header.size
        for p in range(layout.size):
            end = at + fields[2 * p + 1]
            if end > payload.size:
                raise FormatError("plane reaches beyond its chunk")
            self._plane(p, fields[2 * p], chunk, at, end, run)
            at = end
        if at != payload.size:
            raise FormatError("planar chunk is too long")
        layout.merge(payload, chunk.scratch, chunk.where, chunk.stored, run, out)
        if self.model.delta:
            from_differences(out, layout)

    def _plane(self, p: int, mode: int, chunk: _Chunk, begin: int, end: int, run: int) -> None:
        """Decodes one section to its place in the scratch, unless it can stay where it is."""
        section = chunk.payload[begin:end]
        first = p * chunk.n
        area = chunk.scratch[first : first + chunk.n]
        where = chunk.where[p]
        if mode == registry.PLANE_CLASSES:
            plane = self._planes[p]
            plane.decode(section, chunk.n, run, first, area, where)
            if plane.map_bits:
                return
        elif mode == registry.PLANE_RAW:
            if section.size != chunk.n:
                raise FormatError("raw plane has the wrong length")
            chunk.stored[p] = 1
            first = begin
        elif mode == registry.PLANE_CONSTANT:
            if section.size != 1:
                raise FormatError("constant plane has the wrong length")
            area[:] = section[0]
        elif mode == registry.PLANE_ZSTD:
            zstd_decompress_into(section, area)
        else:
            raise FormatError(f"plane has the unknown mode {mode}")
        if where.size == 1:
            where[0] = first
        else:
            np.add(self._run_steps(where.size), first, out=where)

    def _run_steps(self, runs: int) -> npt.NDArray[np.int64]:
        steps = self._steps
        if steps.size < runs:
            steps = np.arange(runs, dtype=np.int64) * self.model.run
            self._steps = steps
        return steps[:runs]
