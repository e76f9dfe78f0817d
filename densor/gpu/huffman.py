"""Planar chunks (codec 2) made ready for the kernels: validated, and with entry points.

All that the kernels rely on is checked here: what is read beyond this are stored bits, which they
take within bounds.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planar.decode import MAX_RUNS, SECTIONS
from densor.codec.planar.model import Classes, Model, map_bits
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.huffman.code import MAX_BITS, SLACK, STREAMS, canonical_codes
from densor.entropy.huffman.decode import DecodeTables, decode_tables
from densor.errors import FormatError, LimitError
from densor.gpu.counting import find_entries

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
UNIT = 256  # symbols that one thread decodes
RAW, CONSTANT, HUFFMAN = registry.CLASS_RAW, registry.CLASS_CONSTANT, registry.CLASS_HUFFMAN
_LAYOUTS = {
    registry.LAYOUT_BYTE: "byte",
    registry.LAYOUT_BF16: "bf16",
    registry.LAYOUT_WORD16: "word16",
    registry.LAYOUT_FP32: "fp32",
}


class Segment(NamedTuple):
    """Consecutive symbols of a class: those of one stream, or all of a class without streams.

    `begin`, `end`: symbols, counted from the first of the class. `run`: the class's first run in
    the order of classes. `raw`: byte of the class's first symbol in the section. `entries`: bit
    position of each unit, `stop`: of the end.
    """

    kind: int
    table: int  # class whose code it has, or the symbol of a constant class
    begin: int
    end: int
    run: int
    raw: int = 0
    entries: Words = np.empty(0, np.uint32)
    stop: int = 0

    @property
    def units(self) -> int:
        """Pieces between multiples of `UNIT` symbols of the class."""
        return -(-self.end // UNIT) - self.begin // UNIT


@dataclass(frozen=True, eq=False)
class CodedPlane:
    """A plane coded by classes. `runs`: numbers of the chunk's runs, class by class."""

    section: Bytes
    run: int
    runs: Words
    segments: list[Segment]


class PlanarModel:
    """A model of planar chunks with its tables. `kernel`: None where there is none for it."""

    def __init__(self, model: Model[Classes]) -> None:
        self.model = model
        self.size = model.layout.size
        self.kernel = _LAYOUTS.get(model.layout.number) if not model.delta else None
        self._tables: list[DecodeTables | None] = [None] * len(model.planes)

    def table(self, plane: int, code: int) -> Words:
        """The look-up table that the kernel wants for a class of a plane."""
        classes = self.model.planes[plane]
        assert classes is not None
        return pair_table(classes.lengths[code])

    def _counting_tables(self, plane: int) -> DecodeTables:
        """Look-up tables to count with."""
        tables = self._tables[plane]
        if tables is None:
            classes = self.model.planes[plane]
            assert classes is not None
            tables = self._tables[plane] = decode_tables(classes.lengths)
        return tables

    def parse(self, payload: Bytes, elements: int) -> list[Bytes | int | CodedPlane]:
        """The planes of a chunk: bytes, the value of a constant one, or coded by classes.

        FormatError unless everything adds up, to the last bit of the streams.
        """
        header = SECTIONS[self.model.layout.size]
        if payload.size < header.size:
            raise FormatError("planar chunk is too short")
        fields = header.unpack_from(payload)
        planes: list[Bytes | int | CodedPlane] = []
        at = header.size
        for p, (mode, size) in enumerate(zip(fields[::2], fields[1::2], strict=True)):
            if size > payload.size - at:
                raise FormatError("plane reaches beyond its chunk")
            planes.append(self._plane(p, mode, payload[at : at + size], elements))
            at += size
        if at != payload.size:
            raise FormatError("planar chunk is too long")
        return planes

    def _plane(self, p: int, mode: int, section: Bytes, n: int) -> Bytes | int | CodedPlane:
        if mode == registry.PLANE_CLASSES:
            return self._coded(p, section, n)
        if mode == registry.PLANE_ZSTD:
            plane = np.empty(n, np.uint8)
            zstd_decompress_into(section, plane)
            return plane
        if mode not in (registry.PLANE_RAW, registry.PLANE_CONSTANT):
            raise FormatError("plane has an unknown mode")
        if section.size != (n if mode == registry.PLANE_RAW else 1):
            raise FormatError("plane has the wrong length")
        return section if mode == registry.PLANE_RAW else int(section[0])

    def _coded(self, p: int, section: Bytes, n: int) -> CodedPlane:
        classes = self.model.planes[p]
        if classes is None:
            raise FormatError("plane is coded by classes, but its model has none")
        run = self.model.run if len(classes) > 1 else n
        of_run, at = _class_map(section, len(classes), n, run)
        sizes = np.full(of_run.size, run, np.int64)
        sizes[-1:] = n - (of_run.size - 1) * run
        counts = np.zeros(len(classes), np.int64)
        np.add.at(counts, of_run, sizes)
        coded = (classes.kinds == HUFFMAN) & (counts > 0)
        raw_at = at + 4 * STREAMS * bool(coded.any())
        raw = int(counts[classes.kinds == RAW].sum())
        if raw_at + raw + SLACK > section.size:
            raise FormatError("class section is too short")
        entries, stops = np.empty(0, np.uint32), np.zeros(STREAMS * len(classes), np.uint32)
        if coded.any():
            entries = self._entries(p, section, at, raw_at + raw, counts, coded, stops)
        elif raw_at + raw + SLACK != section.size:
            raise FormatError("class section has the wrong length")
        if section[-SLACK:].any():
            raise FormatError("class section does not end with zeros")
        segments = _segments(classes, counts, of_run, raw_at, entries, stops)
        runs = np.argsort(of_run, kind="stable").astype(np.uint32)
        return CodedPlane(section, run, runs, segments)

    def _entries(
        self,
        p: int,
        section: Bytes,
        at: int,
        begin: int,
        counts: npt.NDArray[np.int64],
        coded: npt.NDArray[np.bool_],
        stops: Words,
    ) -> Words:
        """The counting pass: entry points of all units, and where streams of a class end."""
        sizes = section[at : at + 4 * STREAMS].view("<u4").astype(np.int64)
        ends = begin + np.cumsum(sizes)
        if ends[-1] != section.size - SLACK:
            raise FormatError("Huffman streams do not fit their section")
        classes = self.model.planes[p]
        assert classes is not None
        tables = self._counting_tables(p)
        positions = (8 * (ends - sizes)).astype(np.uint64)
        entries = np.empty(int(counts.sum()) // UNIT + 8 * len(classes) + 8, np.uint32)
        made = find_entries(
            section,
            positions,
            counts,
            coded.astype(np.int64),
            tables.entries,
            tables.bits,
            classes.lengths,
            UNIT,
            entries,
            stops,
        )
        if made < 0 or ((positions + np.uint64(7)) >> np.uint64(3) != ends.astype(np.uint64)).any():
            raise FormatError("Huffman stream does not end with its last symbol")
        return entries[:made]


def _class_map(section: Bytes, classes: int, n: int, run: int) -> tuple[npt.NDArray[Any], int]:
    """The class of each run, and the size of the map."""
    runs = -(-n // run)
    if classes == 1:
        return np.zeros(runs, np.uint8), 0
    if runs > MAX_RUNS:
        raise LimitError(f"chunk has more than {MAX_RUNS} runs")
    bits = map_bits(classes)
    size = -(-runs * bits // 8)
    if size > section.size:
        raise FormatError("class map is too short")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found = ((section[:size, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)
    if (found[:runs] >= classes).any() or found[runs:].any():
        raise FormatError("class map names a class that the model does not have, or has bits left")
    return found[:runs], size


def _segments(
    classes: Classes,
    counts: npt.NDArray[np.int64],
    of_run: npt.NDArray[Any],
    raw_at: int,
    entries: Words,
    stops: Words,
) -> list[Segment]:
    first_runs = np.searchsorted(np.sort(of_run), np.arange(len(classes))).tolist()
    segments: list[Segment] = []
    taken = 0
    for c, (kind, count) in enumerate(zip(classes.kinds.tolist(), counts.tolist(), strict=True)):
        if not count:
            continue
        if kind == RAW:
            segments.append(Segment(RAW, 0, 0, count, first_runs[c], raw_at))
            raw_at += count
        elif kind == CONSTANT:
            segments.append(Segment(CONSTANT, int(classes.symbols[c]), 0, count, first_runs[c]))
        else:
            quarter = -(-count // STREAMS)
            for j in range(STREAMS):
                begin, end = min(j * quarter, count), min((j + 1) * quarter, count)
                if begin == end:
                    continue
                segment = Segment(HUFFMAN, c, begin, end, first_runs[c])
                mine = entries[taken : taken + segment.units]
                taken += segment.units
                segments.append(segment._replace(entries=mine, stop=int(stops[4 * c + j])))
    if taken != entries.size:
        raise AssertionError("entry points do not go with the segments")
    return segments


def pair_table(lengths: npt.NDArray[np.uint8]) -> Words:
    """The kernel's look-up table of a complete code, uint32[4096]; see huffman.cu."""
    codes = canonical_codes(lengths)
    symbol = np.zeros(1 << MAX_BITS, np.uint32)
    bits = np.zeros(1 << MAX_BITS, np.uint32)
    for s in np.flatnonzero(codes).tolist():
        length = int(codes[s] >> 16)
        symbol[int(codes[s]) & 0xFFFF :: 1 << length] = s
        bits[int(codes[s]) & 0xFFFF :: 1 << length] = length
    rest = np.arange(1 << MAX_BITS, dtype=np.uint32) >> bits
    both = bits + bits[rest]
    fits = both <= MAX_BITS
    pair = both | symbol << 8 | symbol[rest] << 16
    alone = bits | symbol << 8 | np.uint32(1 << 31)
    table: Words = np.where(fits, pair, alone) | bits << 24
    return table
