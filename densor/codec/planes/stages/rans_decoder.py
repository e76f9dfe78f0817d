"""Byte planes under rANS: streams back to planes."""

import numpy as np

from densor.codec import registry
from densor.codec.planes import class_map
from densor.codec.planes.layout import Placed
from densor.codec.planes.params import Parameters
from densor.codec.planes.payload import Section, check_plain, sections
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.deferred import deferred
from densor.entropy.rans.decode import Table, decode, decode_table
from densor.entropy.rans.tables import Freqs
from densor.errors import FormatError
from densor.runtime.buffers import ThreadBuffers
from densor.runtime.types import Bytes

spread = deferred("densor.codec.planes.kernels", "spread")
_BUFFERS = ThreadBuffers()


class RansDecoder:
    """A `StageDecoder` of rANS."""

    def __init__(self, model: Parameters[Freqs]) -> None:
        self._model = model
        self._tables: list[Table | None] = [None] * len(model.planes)

    def place(self, payload: Bytes, n: int, scratch: Bytes) -> Placed:
        """See `StageDecoder`."""
        planes = self._model.layout.size
        where = np.arange(planes, dtype=np.int64).reshape(-1, 1) * n
        stored = np.zeros(planes, np.uint8)
        for p, section in enumerate(sections(payload, planes)):
            plane = scratch[p * n : (p + 1) * n]
            if section.mode == registry.PLANE_RANS:
                self._coded(p, section, plane)
                continue
            check_plain(section, n)
            if section.mode == registry.PLANE_RAW:
                where[p], stored[p] = section.begin, 1
            elif section.mode == registry.PLANE_ZSTD:
                zstd_decompress_into(section.content, plane)
            else:
                plane[:] = section.content[0]
        return Placed(n, where, stored)

    def _coded(self, p: int, section: Section, plane: Bytes) -> None:
        """Decodes class map and stream."""
        freqs = self._model.planes[p]
        if freqs is None:
            raise FormatError("plane is coded by classes, but its model has none")
        table = self._tables[p]
        if table is None:
            table = self._tables[p] = decode_table(freqs)
        contexts = _BUFFERS.take("contexts", plane.size)
        size = 0
        if len(freqs) == 1:
            contexts[:] = 0
        else:
            run = self._model.run
            runs, size = class_map.unpack(section.content, len(freqs), -(-plane.size // run))
            spread(runs, run, contexts)
        decode(table, section.content[size:], contexts, plane)
