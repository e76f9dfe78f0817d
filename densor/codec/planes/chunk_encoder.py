"""The coding side of the planar codec: one chunk to its payload, by a plan that is settled."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.levels import Level
from densor.codec.planes.analyse import Plan
from densor.codec.planes.classes import Coding, RunClasses
from densor.codec.planes.kernels import group_runs
from densor.codec.planes.layout import Bytes, to_differences
from densor.codec.planes.params import C, Classes, map_bits
from densor.codec.zstd import zstd_compress
from densor.entropy.huffman.code import SLACK, STREAMS
from densor.entropy.huffman.encode import capacity, encode, encode_tables
from densor.runtime.buffers import POOL, ThreadBuffers

_SECTION = struct.Struct("<BI")
BUFFERS = ThreadBuffers()


class PlaneEncoder(ABC, Generic[C]):
    """Encodes the chunks of one batch. Safe to use from several threads at once.

    `codings`: of each plane. Subclasses say how a plane is coded by classes.
    """

    mode: int  # of a plane that is coded by classes

    def __init__(self, plan: Plan, codings: Sequence[Coding[C] | None], level: Level) -> None:
        self._plan = plan
        self._codings = codings
        self._level = level

    @abstractmethod
    def _capacity(self, n: int) -> int:
        """Room that coding `n` symbols of a plane needs, but for the class map."""

    @abstractmethod
    def _classes(
        self, p: int, classes: C, plane: Bytes, runs: RunClasses | None, out: Bytes, at: int
    ) -> int:
        """Stores plane `p` by classes at `at`, after the class map; returns the end.

        `runs`: uint8[runs], the class of each; None where there is but one.
        """

    def encode(self, chunk: Bytes, first_run: int) -> Bytes:
        """The payload of `chunk`, whose first run is number `first_run` of the batch; pooled."""
        plan = self._plan
        layout = plan.layout
        if plan.delta:
            chunk = to_differences(chunk, layout)
        n = chunk.size // layout.size
        planes = BUFFERS.take("planes", chunk.size)
        layout.split(chunk, planes)
        out = BUFFERS.take("out", layout.size * self._room(n))
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
        return _SECTION.size + n + runs + self._capacity(n)

    def _plane(self, p: int, plane: Bytes, first_run: int, out: Bytes, at: int) -> tuple[int, int]:
        """Stores one plane at `at` in the cheapest way; returns the mode and the end."""
        coding = self._codings[p]
        best = (registry.PLANE_RAW, at + plane.size)
        if coding is not None or self._plan.plane_zstd[p]:
            first = plane[0]
            if plane[-1] == first and (plane == first).all():
                out[at] = first
                return registry.PLANE_CONSTANT, at + 1
        if coding is not None:
            end = self._coded(p, coding, plane, first_run, out, at)
            if end < best[1]:
                best = (self.mode, end)
        if self._plan.plane_zstd[p]:
            packed = zstd_compress(plane, self._level.zstd)
            if at + len(packed) < best[1]:
                best = (registry.PLANE_ZSTD, at + len(packed))
                out[at : best[1]] = np.frombuffer(packed, np.uint8)
        if best[0] == registry.PLANE_RAW:
            out[at : best[1]] = plane
        return best

    def _coded(
        self, p: int, coding: Coding[C], plane: Bytes, first_run: int, out: Bytes, at: int
    ) -> int:
        """Stores one plane as class map and symbols at `at`; returns the end."""
        runs = None
        if coding.runs is not None:
            runs = coding.runs[first_run : first_run + -(-plane.size // self._plan.run)]
            packed = _pack_map(runs, map_bits(len(coding.classes)))
            out[at : at + packed.size] = packed
            at += packed.size
        return self._classes(p, coding.classes, plane, runs, out, at)


class PlanarEncoder(PlaneEncoder[Classes]):
    """Encodes planes with Huffman codes."""

    mode = registry.PLANE_CLASSES

    def __init__(self, plan: Plan, codings: Sequence[Coding[Classes] | None], level: Level) -> None:
        super().__init__(plan, codings, level)
        self._tables = [
            None if coding is None else encode_tables(coding.classes.lengths) for coding in codings
        ]

    def _capacity(self, n: int) -> int:
        return 4 * STREAMS + capacity(n) + SLACK

    def _classes(
        self, p: int, classes: Classes, plane: Bytes, runs: RunClasses | None, out: Bytes, at: int
    ) -> int:
        grouped = plane
        counts = np.array([plane.size])
        if runs is not None:
            run = self._plan.run
            counts = np.bincount(runs, minlength=len(classes)) * run
            counts[runs[-1]] -= runs.size * run - plane.size
            grouped = BUFFERS.take("grouped", plane.size)
            group_runs(plane, runs, run, np.cumsum(counts) - counts, grouped)
        return self._data(p, classes, grouped, counts, out, at)

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
