"""One chunk to its payload, by a plan that is settled."""

from collections.abc import Sequence
from typing import Generic

import numpy as np

from densor.codec import registry
from densor.codec.levels import Level
from densor.codec.planes import class_map
from densor.codec.planes.analyse import Plan, matches
from densor.codec.planes.classes import Coding
from densor.codec.planes.layout import to_differences
from densor.codec.planes.params import C
from densor.codec.planes.payload import SECTION
from densor.codec.planes.stages.stage import Stage
from densor.codec.zstd import zstd_smallest
from densor.runtime.buffers import POOL, ThreadBuffers
from densor.runtime.types import Bytes

_BUFFERS = ThreadBuffers()


class PlanesChunkEncoder(Generic[C]):
    """Encodes the chunks of one batch. Safe to use from several threads at once.

    `codings`: of each plane, None for one that is not coded by classes.
    """

    def __init__(
        self, stage: Stage[C], plan: Plan, codings: Sequence[Coding[C] | None], level: Level
    ) -> None:
        self._stage = stage
        self._plan = plan
        self._codings = codings
        self._level = level
        self._writers = [
            None if coding is None else stage.writer(coding.classes, plan.run) for coding in codings
        ]

    def encode(self, chunk: Bytes, first_run: int, quiet: bool = False) -> Bytes:
        """The payload of `chunk`, whose first run is number `first_run` of the batch; pooled.

        `quiet`: whether no elements repeat in it.
        """
        plan = self._plan
        layout = plan.layout
        zstd = plan.plane_zstd if plan.quiet_zstd is None or not quiet else plan.quiet_zstd
        if plan.delta:
            chunk = to_differences(chunk, layout)
        n = chunk.size // layout.size
        planes = _BUFFERS.take("planes", chunk.size)
        layout.split(chunk, planes)
        out = _BUFFERS.take("out", layout.size * self._room(n))
        at = SECTION.size * layout.size
        for p in range(layout.size):
            plane = planes[p * n : (p + 1) * n]
            mode, end = self._plane(p, plane, first_run, out, at, zstd[p])
            SECTION.pack_into(out, p * SECTION.size, mode, end - at)
            at = end
        payload = POOL.take(at)
        payload[:] = out[:at]
        return payload

    def _room(self, n: int) -> int:
        """Buffer that one plane may need while it is tried."""
        runs = -(-n // self._plan.run)
        return SECTION.size + n + runs + self._stage.capacity(n)

    def _plane(
        self, p: int, plane: Bytes, first_run: int, out: Bytes, at: int, zstd: bool
    ) -> tuple[int, int]:
        """Stores one plane at `at` in the cheapest way; returns the mode and the end."""
        coded = self._codings[p] is not None
        best = (registry.PLANE_RAW, at + plane.size)
        if coded or self._plan.plane_zstd[p]:
            first = plane[0]
            if plane[-1] == first and (plane == first).all():
                out[at] = first
                return registry.PLANE_CONSTANT, at + 1
        if coded:
            end = self._classes(p, plane, first_run, out, at)
            if end < best[1]:
                best = (self._stage.mode, end)
        if not (zstd or coded) and self._plan.plane_zstd[p]:
            zstd = matches(plane)  # such as zeros below numbers that were rounded
        if zstd:
            packed = zstd_smallest(plane, self._level.zstd)
            if at + len(packed) < best[1]:
                best = (registry.PLANE_ZSTD, at + len(packed))
                out[at : best[1]] = np.frombuffer(packed, np.uint8)
        if best[0] == registry.PLANE_RAW:
            out[at : best[1]] = plane
        return best

    def _classes(self, p: int, plane: Bytes, first_run: int, out: Bytes, at: int) -> int:
        """Stores one plane as class map and symbols at `at`; returns the end."""
        coding, write = self._codings[p], self._writers[p]
        assert coding is not None and write is not None
        runs = None
        if coding.runs is not None:
            runs = coding.runs[first_run : first_run + -(-plane.size // self._plan.run)]
            packed = class_map.pack(runs, len(coding.classes))
            out[at : at + packed.size] = packed
            at += packed.size
        return write(plane, runs, out, at)
