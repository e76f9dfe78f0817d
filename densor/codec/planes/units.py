"""Planar chunks taken apart into units, which can be decoded by themselves.

A unit is what lies between multiples of 256 symbols of a class within one stream; it begins at an
entry point, a bit of its section. All else that a decoder of units relies on is checked here.
"""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from densor.codec import registry
from densor.codec.planes import class_map
from densor.codec.planes.params import Classes, Parameters
from densor.codec.planes.params import parse as parse_model
from densor.codec.planes.payload import LENGTHS_SIZE, MAX_RUNS, Section, check_plain, sections
from densor.codec.zstd import zstd_compress, zstd_decompress_into
from densor.entropy.deferred import deferred
from densor.entropy.huffman.code import SLACK, STREAMS
from densor.entropy.huffman.decode import DecodeTables, decode_tables
from densor.errors import FormatError, LimitError
from densor.runtime.types import Bytes

find_entries = deferred("densor.codec.planes.counting", "find_entries")

Words = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]
UNIT = 256  # symbols
RAW, CONSTANT, HUFFMAN = registry.CLASS_RAW, registry.CLASS_CONSTANT, registry.CLASS_HUFFMAN
_HEAD = struct.Struct("<QII")  # hash of the chunk's payload, symbols per unit, number of units
_MAX_SEGMENTS = 4 * 16 * STREAMS  # of all planes of a chunk
_ZSTD = 9
LAYOUTS = (  # that are decoded by units
    registry.LAYOUT_BYTE,
    registry.LAYOUT_BF16,
    registry.LAYOUT_WORD16,
    registry.LAYOUT_FP32,
)


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
        return unit_count(self.begin, self.end)


@dataclass(frozen=True, eq=False)
class CodedPlane:
    """A plane coded by classes. `runs`: numbers of the chunk's runs, class by class."""

    section: Bytes
    run: int
    runs: Words
    segments: list[Segment]


class UnitParser:
    """Takes chunks of a model apart."""

    def __init__(self, model: Parameters[Classes]) -> None:
        self.model = model
        self._size = model.layout.size
        self._tables: list[DecodeTables | None] = [None] * len(model.planes)

    def _counting_tables(self, plane: int) -> DecodeTables:
        """Look-up tables to count with."""
        tables = self._tables[plane]
        if tables is None:
            classes = self.model.planes[plane]
            assert classes is not None
            tables = self._tables[plane] = decode_tables(classes.lengths)
        return tables

    def parse(
        self, payload: Bytes, elements: int, points: Bytes | None = None
    ) -> list[Bytes | int | CodedPlane]:
        """The planes of a chunk: bytes, the value of a constant one, or coded by classes.

        `points`: the entry points that stand beside the chunk, payload of their frame. They are
        not proven: what begins at one may end elsewhere than at the next, which decoding must find
        out. Without them a counting pass proves that every stream ends with its last symbol.
        FormatError unless everything else adds up.
        """
        given = None if points is None else _Given.parse(points, payload, elements * self._size)
        planes = [
            self._plane(p, section, elements, given)
            for p, section in enumerate(sections(payload, self._size))
        ]
        if given is not None and given.left:
            raise FormatError("chunk has fewer units than entry points")
        return planes

    def _plane(
        self, p: int, section: Section, n: int, given: "_Given | None"
    ) -> Bytes | int | CodedPlane:
        if section.mode == registry.PLANE_CLASSES:
            return self._coded(p, section.content, n, given)
        check_plain(section, n)
        if section.mode == registry.PLANE_ZSTD:
            plane = np.empty(n, np.uint8)
            zstd_decompress_into(section.content, plane)
            return plane
        return section.content if section.mode == registry.PLANE_RAW else int(section.content[0])

    def _coded(self, p: int, section: Bytes, n: int, given: "_Given | None") -> CodedPlane:
        classes = self.model.planes[p]
        if classes is None:
            raise FormatError("plane is coded by classes, but its model has none")
        run = self.model.run if len(classes) > 1 else n
        count = -(-n // run)
        if len(classes) > 1 and count > MAX_RUNS:
            raise LimitError(f"chunk has more than {MAX_RUNS} runs")
        of_run, at = class_map.unpack(section, len(classes), count)
        sizes = np.full(of_run.size, run, np.int64)
        sizes[-1:] = n - (of_run.size - 1) * run
        counts = np.zeros(len(classes), np.int64)
        np.add.at(counts, of_run, sizes)
        coded = (classes.kinds == HUFFMAN) & (counts > 0)
        raw_at = at + LENGTHS_SIZE * bool(coded.any())
        raw = int(counts[classes.kinds == RAW].sum())
        if raw_at + raw + SLACK > section.size:
            raise FormatError("class section is too short")
        entries, stops = np.empty(0, np.uint32), np.zeros(STREAMS * len(classes), np.uint32)
        if coded.any():
            begins, ends = _streams(section, at, raw_at + raw)
            of_coded = np.where(coded, counts, 0)
            entries = (
                self._count(p, section, begins, ends, of_coded, stops)
                if given is None
                else given.take(section, begins, ends, of_coded, stops)
            )
        elif raw_at + raw + SLACK != section.size:
            raise FormatError("class section has the wrong length")
        if section[-SLACK:].any():
            raise FormatError("class section does not end with zeros")
        segments = _segments(classes, counts, of_run, raw_at, entries, stops)
        runs = np.argsort(of_run, kind="stable").astype(np.uint32)
        return CodedPlane(section, run, runs, segments)

    def _count(
        self, p: int, section: Bytes, begins: Counts, ends: Counts, counts: Counts, stops: Words
    ) -> Words:
        """The counting pass: entry points of all units, and where streams of a class end."""
        classes = self.model.planes[p]
        assert classes is not None
        tables = self._counting_tables(p)
        positions = (8 * begins).astype(np.uint64)
        entries = np.empty(int(counts.sum()) // UNIT + 8 * len(classes) + 8, np.uint32)
        made = find_entries(
            section,
            positions,
            counts,
            tables.entries,
            tables.bits,
            classes.lengths,
            UNIT,
            entries,
            stops,
        )
        if made < 0:
            raise FormatError("Huffman stream does not end with its last symbol")
        _check_ends(section, positions.astype(np.int64), ends)
        return entries[:made]


class _Given:
    """Entry points that were stored, on their way to the planes of a chunk."""

    def __init__(self, bits: Counts) -> None:
        self._bits = bits
        self._at = 0

    @classmethod
    def parse(cls, points: Bytes, chunk: Bytes, size: int) -> "_Given | None":
        """From the payload of their frame; None where units are of another size."""
        if points.size < _HEAD.size:
            raise FormatError("entry points are too short")
        digest, unit, count = _HEAD.unpack(points[: _HEAD.size].tobytes())
        if digest != xxhash.xxh3_64_intdigest(chunk):
            raise FormatError("entry points are of another chunk")
        if unit != UNIT:
            return None
        if count > size // UNIT + _MAX_SEGMENTS:
            raise FormatError("chunk has fewer units than entry points")
        halves = np.empty(2 * count, np.uint8)
        zstd_decompress_into(points[_HEAD.size :], halves)
        low, high = halves.reshape(2, count).astype(np.int64)
        return cls(low | high << 8)

    @property
    def left(self) -> int:
        """Units that no plane has taken."""
        return self._bits.size - self._at

    def take(
        self, section: Bytes, begins: Counts, ends: Counts, counts: Counts, stops: Words
    ) -> Words:
        """Entry points of a plane, as `find_entries` gives them."""
        at = 8 * begins
        found: list[Counts] = []
        for c in np.flatnonzero(counts).tolist():
            for stream, (begin, end) in enumerate(shares(int(counts[c]))):
                units = unit_count(begin, end)
                if units > self.left:
                    raise FormatError("chunk has more units than entry points")
                bits = self._bits[self._at : self._at + units]
                self._at += units
                after = at[stream] + np.cumsum(bits)
                found.append(after - bits)
                at[stream] += bits.sum()
                stops[STREAMS * c + stream] = at[stream]
        if ((at + 7) >> 3 != ends).any():
            raise FormatError("entry points do not lead to the ends of the streams")
        _check_ends(section, at, ends)
        return np.concatenate(found).astype(np.uint32)


def entry_points(model: bytes, payload: Bytes, size: int) -> bytes | None:
    """What stands beside a chunk of `size` original bytes, to tell where its units begin.

    `model`: payload of the chunk's own model. None where there is nothing to tell: another codec, a
    layout that is not decoded by units, no streams.
    """
    if model[0] != registry.CODEC_PLANES_HUFFMAN:
        return None
    parsed = parse_model(model)
    if parsed.delta or parsed.layout.number not in LAYOUTS:
        return None
    found: list[Counts] = []
    for plane in UnitParser(parsed).parse(payload, size // parsed.layout.size):
        if isinstance(plane, CodedPlane):
            for segment in plane.segments:
                if segment.kind == HUFFMAN:
                    at = np.append(segment.entries, segment.stop).astype(np.int64)
                    found.append(np.diff(at))
    if not found:
        return None
    bits = np.concatenate(found)
    halves = np.concatenate([bits & 255, bits >> 8]).astype(np.uint8)
    head = _HEAD.pack(xxhash.xxh3_64_intdigest(payload), UNIT, bits.size)
    return head + zstd_compress(halves, _ZSTD)


def _check_ends(section: Bytes, bits: Counts, ends: Counts) -> None:
    """FormatError unless streams that end after so many bits end at these bytes, with bits 0."""
    if ((bits + 7) >> 3 != ends).any():
        raise FormatError("Huffman stream does not end with its last symbol")
    used = bits & 7
    if (section[ends[used > 0] - 1] >> used[used > 0]).any():
        raise FormatError("unused bits at the end of a Huffman stream are not 0")


def shares(count: int) -> list[tuple[int, int]]:
    """The symbols of a class that each stream holds, from and to."""
    quarter = -(-count // STREAMS)
    return [(min(j * quarter, count), min((j + 1) * quarter, count)) for j in range(STREAMS)]


def unit_count(begin: int, end: int) -> int:
    """Pieces of symbols `begin` to `end` between multiples of `UNIT`."""
    return -(-end // UNIT) - begin // UNIT if begin < end else 0


def _streams(section: Bytes, at: int, begin: int) -> tuple[Counts, Counts]:
    """Where the streams of a section begin and end, in bytes; `at`: their lengths stand there."""
    sizes = section[at : at + LENGTHS_SIZE].view("<u4").astype(np.int64)
    ends = begin + np.cumsum(sizes)
    if ends[-1] != section.size - SLACK:
        raise FormatError("Huffman streams do not fit their section")
    return ends - sizes, ends


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
            for j, (begin, end) in enumerate(shares(count)):
                if begin == end:
                    continue
                segment = Segment(HUFFMAN, c, begin, end, first_runs[c])
                mine = entries[taken : taken + segment.units]
                taken += segment.units
                segments.append(segment._replace(entries=mine, stop=int(stops[4 * c + j])))
    if taken != entries.size:
        raise AssertionError("entry points do not go with the segments")
    return segments
