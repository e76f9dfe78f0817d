"""The decoding side: streams back to planes, planes back to elements."""

import numpy as np

from densor.codec import registry
from densor.codec.codec import ChunkDecoder
from densor.codec.planes.decoder import BUFFERS, SECTIONS
from densor.codec.planes.layout import Bytes, from_differences
from densor.codec.planes.params import Model, map_bits
from densor.codec.planes.rans_kernels import spread, unpack_map
from densor.codec.planes.rans_params import parse
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.rans.decode import Table, decode, decode_table
from densor.entropy.rans.tables import Freqs
from densor.errors import FormatError


class PlanesDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, model: Model[Freqs]) -> None:
        self.model = model
        self._tables: list[Table | None] = [None] * len(model.planes)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        layout = self.model.layout
        n, rest = divmod(out.size, layout.size)
        head = SECTIONS[layout.size]
        if rest or payload.size < head.size:
            raise FormatError("chunk of planes has an impossible length")
        fields = head.unpack_from(payload)
        scratch = BUFFERS.take("scratch", out.size)
        where = np.arange(layout.size, dtype=np.int64).reshape(-1, 1) * n
        stored = np.zeros(layout.size, np.uint8)
        at = head.size
        for p, (mode, size) in enumerate(zip(fields[::2], fields[1::2], strict=True)):
            section = payload[at : at + size]
            if section.size != size:
                raise FormatError("plane reaches beyond its chunk")
            if mode == registry.PLANE_RAW:
                if size != n:
                    raise FormatError("raw plane has the wrong length")
                where[p], stored[p] = at, 1
            else:
                self._plane(p, mode, section, scratch[p * n : (p + 1) * n])
            at += size
        if at != payload.size:
            raise FormatError("chunk of planes is too long")
        if n:
            layout.merge(payload, scratch, where, stored, n, out)
        if self.model.delta:
            from_differences(out, layout)

    def _plane(self, p: int, mode: int, section: Bytes, plane: Bytes) -> None:
        """Decodes a section, of any mode but raw, into all of `plane`."""
        if mode == registry.PLANE_RANS:
            self._coded(p, section, plane)
        elif mode == registry.PLANE_ZSTD:
            zstd_decompress_into(section, plane)
        elif mode != registry.PLANE_CONSTANT:
            raise FormatError("plane has an unknown mode")
        elif section.size == 1:
            plane[:] = section[0]
        else:
            raise FormatError("constant plane has the wrong length")

    def _coded(self, p: int, section: Bytes, plane: Bytes) -> None:
        """Decodes class map and stream."""
        freqs = self.model.planes[p]
        if freqs is None:
            raise FormatError("plane is coded by classes, but its model has none")
        table = self._tables[p]
        if table is None:
            table = self._tables[p] = decode_table(freqs)
        contexts = BUFFERS.take("contexts", plane.size)
        bits = map_bits(len(freqs))
        runs = np.zeros(-(-plane.size // self.model.run) if bits else 1, np.uint8)
        size = (runs.size * bits + 7) // 8
        if bits:
            class_map = section[:size]
            if class_map.size != size:
                raise FormatError("class map is too short")
            if not unpack_map(class_map, bits, len(freqs), runs):
                raise FormatError(
                    "class map names a class that its model does not have, or has bits left over"
                )
        spread(runs, self.model.run if bits else plane.size, contexts)
        decode(table, section[size:], contexts, plane)


def open_decoder(payload: bytes, _: object = None) -> PlanesDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return PlanesDecoder(parse(payload))
