"""The coding side of the planar codec: one chunk to its payload, by a plan that is settled."""

import struct
import threading

import numpy as np
import numpy.typing as npt

from densor.buffers import POOL
from densor.codec import registry
from densor.codec.levels import Level
from densor.codec.planar.analyse import Plan
from densor.codec.planar.classes import Coding, RunClasses
from densor.codec.planar.kernels import group_runs
from densor.codec.planar.layout import Bytes, to_differences
from densor.codec.planar.model import Classes, map_bits
from densor.codec.zstd import zstd_compress
from densor.entropy.huffman.code import SLACK, STREAMS
from densor.entropy.huffman.encode import capacity, encode, encode_tables

_SECTION = struct.Struct("<BI")
_local = threading.local()


def _buffer(name: str, size: int) -> Bytes:
    """A buffer of this thread, at least `size` bytes long."""
    buffer: Bytes | None = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, np.uint8)
        setattr(_local, name, buffer)
    return buffer


class PlanarEncoder:
    """Encodes the chunks of one batch. Safe to use from several threads at once."""

    def __init__(self, plan: Plan, level: Level) -> None:
        self._plan = plan
        self._level = level
        self._tables = [
            None if coding is None else encode_tables(coding.classes.lengths)
            for coding in plan.codings
        ]

    def encode(self, chunk: Bytes, first_run: int) -> Bytes:
        """The payload of `chunk`, whose first run is number `first_run` of the batch; pooled."""
        plan = self._plan
        layout = plan.layout
        if plan.delta:
            chunk = to_differences(chunk, layout)
        n = chunk.size // layout.size
        planes = _buffer("planes", chunk.size)[: chunk.size]
        layout.split(chunk, planes)
        out = _buffer("out", layout.size * self._room(n))
        at = _SECTION.size * layout.size
        for p in range(layout.size):
            plane = planes[p * n : (p + 1) * n]
            mode, end = self._plane(p, plane, first_run, out, at)
            _SECTION.pack_into(out, p * _SECTION.size, mode, end - at)
            at = end
        payload = POOL.take(at)
        payload[:] = out[:at]
        return payload

    def _room(self, n: int) -> int:
        """Buffer that one plane may need while it is tried."""
        runs = -(-n // self._plan.run)
        return _SECTION.size + n + runs + 4 * STREAMS + capacity(n) + SLACK

    def _plane(self, p: int, plane: Bytes, first_run: int, out: Bytes, at: int) -> tuple[int, int]:
        """Stores one plane at `at` in the cheapest way; returns the mode and the end."""
        coding = self._plan.codings[p]
        best = (registry.PLANE_RAW, at + plane.size)
        if coding is not None or self._plan.plane_zstd[p]:
            first = plane[0]
            if plane[-1] == first and (plane == first).all():
                out[at] = first
                return registry.PLANE_CONSTANT, at + 1
        if coding is not None:
            runs = None
            if coding.runs is not None:
                runs = coding.runs[first_run : first_run + -(-plane.size // self._plan.run)]
            end = self._classes(p, coding, plane, runs, out, at)
            if end < best[1]:
                best = (registry.PLANE_CLASSES, end)
        if self._plan.plane_zstd[p]:
            packed = zstd_compress(plane, self._level.zstd)
            if at + len(packed) < best[1]:
                best = (registry.PLANE_ZSTD, at + len(packed))
                out[at : best[1]] = np.frombuffer(packed, np.uint8)
        if best[0] == registry.PLANE_RAW:
            out[at : best[1]] = plane
        return best

    def _classes(
        self, p: int, coding: Coding, plane: Bytes, runs: RunClasses | None, out: Bytes, at: int
    ) -> int:
        """Stores one plane by classes at `at`; returns the end."""
        grouped = plane
        counts = np.array([plane.size])
        if runs is not None:
            classes = coding.classes.kinds.size
            run = self._plan.run
            counts = np.bincount(runs, minlength=classes) * run
            counts[runs[-1]] -= runs.size * run - plane.size
            grouped = _buffer("grouped", plane.size)[: plane.size]
            group_runs(plane, runs, run, np.cumsum(counts) - counts, grouped)
            packed = _pack_map(runs, map_bits(classes))
            out[at : at + packed.size] = packed
            at += packed.size
        return self._data(p, coding.classes, grouped, counts, out, at)

    def _data(
        self,
        p: int,
        classes: Classes,
        grouped: Bytes,
        counts: npt.NDArray[np.int64],
        out: Bytes,
        at: int,
    ) -> int:
        """Stream lengths, raw classes and streams; returns the end."""
        sizes_at = at
        coded = bool(counts[classes.kinds == registry.CLASS_HUFFMAN].any())
        at += 4 * STREAMS * coded
        for c in np.flatnonzero(classes.kinds == registry.CLASS_RAW).tolist():
            begin, count = int(counts[:c].sum()), int(counts[c])
            out[at : at + count] = grouped[begin : begin + count]
            at += count
        tables = self._tables[p]
        if coded and tables is not None:
            at, sizes = encode(grouped, counts, tables, out, at)
            out[sizes_at : sizes_at + 4 * STREAMS] = sizes.astype("<u4").view(np.uint8)
        out[at : at + SLACK] = 0
        return at + SLACK


def _pack_map(runs: RunClasses, bits: int) -> Bytes:
    """Class numbers packed to `bits` bits each, the first in the lowest bits."""
    per_byte = 8 // bits
    padded = np.zeros(-(-runs.size // per_byte) * per_byte, np.uint8)
    padded[: runs.size] = runs
    shifted = padded.reshape(-1, per_byte) << (np.arange(per_byte, dtype=np.uint8) * bits)
    packed: Bytes = np.bitwise_or.reduce(shifted, axis=1)
    return packed
