"""Byte planes by Huffman or by rANS: container.md, section 7, and planes_rans.md."""

from dataclasses import dataclass

import numpy as np

from reference import rans
from reference.huffman import Stream, Table, huffman_table, parse_code_lengths
from reference.reading import Bytes8, Cursor, Elements, Refused, decode_zstd, fail

CODEC_HUFFMAN, CODEC_RANS = 2, 8
DELTA = 1
MAX_RUNS = 1048576
PLANE_RAW, PLANE_CONSTANT, PLANE_ZSTD, PLANE_CLASSES, PLANE_RANS = range(5)
CLASS_RAW, CLASS_CONSTANT, CLASS_HUFFMAN = range(3)
MAX_CLASSES = 16
STREAMS = 4
CLASS_PADDING = 8
LAYOUT_SIZE = {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 8, 7: 8}  # as many planes as bytes
LAYOUT_BF16, LAYOUT_FP32, LAYOUT_FP64 = 2, 4, 6
WORD_LAYOUTS = (1, 3, 5, 7)


@dataclass(frozen=True)
class PlaneClass:
    """A class of a plane (7): ``symbol`` of a constant, ``table`` of a Huffman code."""

    kind: int
    symbol: int = 0
    table: Table = ()


@dataclass(frozen=True)
class Frequencies:
    """The classes of a plane of the planes codec (docs/format/planes_rans.md)."""

    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Model:
    """A MODEL frame of either codec."""

    layout: int
    delta: bool
    run_length: int
    planes: tuple[tuple[PlaneClass, ...] | Frequencies, ...]

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Planes -> elements -> bytes (7)."""
        size = LAYOUT_SIZE[self.layout]
        if original % size:
            fail("a CHUNK that holds no whole number of elements")
        n = original // size
        cursor = Cursor(payload)
        heads = [(cursor.u8(), cursor.u32()) for _ in self.planes]
        planes = [
            decode_plane(mode, cursor.take(length), n, classes, self.run_length)
            for (mode, length), classes in zip(heads, self.planes, strict=True)
        ]
        cursor.finish()
        elements = merge_planes(self.layout, planes)
        if self.delta:
            elements = undo_delta(elements)
        return elements.tobytes()


# MODEL


def parse_model(payload: bytes) -> Model:
    """The model of either codec."""
    cursor = Cursor(payload)
    codec = cursor.u8()
    layout = cursor.u8()
    if layout not in LAYOUT_SIZE:
        raise Refused("unsupported", f"layout {layout}")
    flags = cursor.u8()
    if flags & ~DELTA:
        fail("reserved flags of a MODEL")
    if flags & DELTA and layout not in WORD_LAYOUTS:
        fail("DELTA with a layout that has none")
    if cursor.u8() != LAYOUT_SIZE[layout]:
        fail("number of planes of a MODEL")
    run_length = cursor.u32()
    if run_length == 0:
        fail("a run length of 0")
    parse = parse_class_list if codec == CODEC_HUFFMAN else parse_frequencies
    planes = tuple(parse(cursor) for _ in range(LAYOUT_SIZE[layout]))
    cursor.finish()
    return Model(layout, bool(flags & DELTA), run_length, planes)


def parse_low(payload: bytes) -> Model:
    """The inner model of low halves (docs/format/scale_context.md)."""
    if payload[0] not in (CODEC_HUFFMAN, CODEC_RANS):
        fail("codec of low halves")
    model = parse_model(payload)
    if LAYOUT_SIZE[model.layout] != 2:
        fail("layout of low halves")
    return model


def parse_class_list(cursor: Cursor) -> tuple[PlaneClass, ...]:
    """Class list of a plane (7)."""
    count = cursor.u8()
    if count > MAX_CLASSES:
        fail("more than 16 classes")
    return tuple(parse_class(cursor) for _ in range(count))


def parse_frequencies(cursor: Cursor) -> Frequencies:
    """Classes of a plane: packed frequencies (docs/format/planes_rans.md)."""
    count = cursor.u8()
    if count > MAX_CLASSES:
        fail("more than 16 classes")
    rows, size = rans.unpack(cursor.data[cursor.position :], count)
    cursor.take(size)
    return Frequencies(tuple(tuple(row) for row in rows))


def parse_class(cursor: Cursor) -> PlaneClass:
    """One class: raw, constant or Huffman (7)."""
    kind = cursor.u8()
    if kind == CLASS_RAW:
        return PlaneClass(kind)
    if kind == CLASS_CONSTANT:
        return PlaneClass(kind, symbol=cursor.u8())
    if kind == CLASS_HUFFMAN:
        return PlaneClass(kind, table=huffman_table(parse_code_lengths(cursor)))
    fail(f"class kind {kind}")


# CHUNK


def decode_plane(
    mode: int,
    section: bytes,
    n: int,
    classes: tuple[PlaneClass, ...] | Frequencies,
    run_length: int,
) -> Bytes8:
    """The section of a plane, by its mode (7)."""
    if mode == PLANE_RAW:
        if len(section) != n:
            fail("length of a raw plane")
        return np.frombuffer(section, np.uint8)
    if mode == PLANE_CONSTANT:
        if len(section) != 1:
            fail("length of a constant plane")
        return np.full(n, section[0], np.uint8)
    if mode == PLANE_ZSTD:
        return np.frombuffer(decode_zstd(section, n), np.uint8)
    if mode == PLANE_CLASSES and not isinstance(classes, Frequencies):
        if not classes:
            fail("a plane coded by classes whose model has none")
        return decode_classes(section, n, classes, run_length)
    if mode == PLANE_RANS and isinstance(classes, Frequencies):
        if not classes.rows:
            fail("a plane coded by classes whose model has none")
        return decode_rans(section, n, classes, run_length)
    fail(f"plane mode {mode}")


def decode_classes(
    section: bytes, n: int, classes: tuple[PlaneClass, ...], run_length: int
) -> Bytes8:
    """Class map, stream lengths, raw classes, streams, eight bytes 0 (7)."""
    cursor = Cursor(section)
    runs = -(-n // run_length)
    if len(classes) > 1 and runs > MAX_RUNS:
        raise Refused("limit", "more runs than a chunk may have")
    class_of_run = read_class_map(cursor, runs, len(classes))
    elements_of_run = np.full(runs, run_length, np.int64)
    elements_of_run[-1] = n - (runs - 1) * run_length
    class_of_element = np.repeat(class_of_run, elements_of_run)
    used = sorted(set(class_of_run.tolist()))
    coded = [number for number in used if classes[number].kind == CLASS_HUFFMAN]

    lengths = [cursor.u32() for _ in range(STREAMS)] if coded else []
    plane = np.zeros(n, np.uint8)
    for number in used:
        members = class_of_element == number
        if classes[number].kind == CLASS_RAW:
            plane[members] = np.frombuffer(cursor.take(int(np.count_nonzero(members))), np.uint8)
        elif classes[number].kind == CLASS_CONSTANT:
            plane[members] = classes[number].symbol
    streams = [Stream(cursor.take(length)) for length in lengths]
    for number in coded:
        members = class_of_element == number
        m = int(np.count_nonzero(members))
        q = -(-m // STREAMS)
        table = classes[number].table
        symbols = [
            stream.read(min((j + 1) * q, m) - min(j * q, m), table)
            for j, stream in enumerate(streams)
        ]
        plane[members] = np.frombuffer(b"".join(symbols), np.uint8)
    for stream in streams:
        stream.finish()
    if any(cursor.take(CLASS_PADDING)):
        fail("the padding of a class section is not 0")
    cursor.finish()
    return plane


def decode_rans(section: bytes, n: int, classes: Frequencies, run_length: int) -> Bytes8:
    """Class map and rANS stream (docs/format/planes_rans.md)."""
    cursor = Cursor(section)
    class_of_run = read_class_map(cursor, -(-n // run_length), len(classes.rows))
    contexts = [int(class_of_run[i // run_length]) for i in range(n)]
    plane = rans.decode(section[cursor.position :], classes.rows, contexts)
    return np.frombuffer(plane, np.uint8)


def read_class_map(cursor: Cursor, runs: int, class_count: int) -> Bytes8:
    """Class map: b bits per run, the first run in the lowest bits (7)."""
    bits = 0 if class_count == 1 else 1 if class_count == 2 else 2 if class_count <= 4 else 4
    if bits == 0:
        return np.zeros(runs, np.uint8)
    packed = np.frombuffer(cursor.take((runs * bits + 7) // 8), np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    mask = np.uint8((1 << bits) - 1)
    numbers: Bytes8 = ((packed[:, np.newaxis] >> shifts) & mask).reshape(-1)
    if numbers[runs:].any():
        fail("an unused bit of a class map is not 0")
    if int(numbers.max()) >= class_count:
        fail("a class number that the model does not have")
    return numbers[:runs]


def merge_planes(layout: int, planes: list[Bytes8]) -> Elements:
    """Undo the split of the table of layouts (7), in unsigned integers of the element's size."""
    p: list[Elements] = [plane.astype(f"<u{LAYOUT_SIZE[layout]}") for plane in planes]
    if layout == LAYOUT_BF16:
        return (p[1] & 128) << 8 | p[0] << 7 | (p[1] & 127)
    if layout == LAYOUT_FP32:
        return (p[1] & 128) << 24 | p[0] << 23 | (p[1] & 127) << 16 | p[2] << 8 | p[3]
    if layout == LAYOUT_FP64:
        e = p[2] >> 5 << 8 | p[0]
        exponent = (e + 896) & 2047
        high = (p[1] & 128) << 56 | exponent << 52 | (p[1] & 127) << 45 | (p[2] & 31) << 40
        return high | merge_word(p[3:])
    return merge_word(p)


def merge_word(planes: list[Elements]) -> Elements:
    """The most significant byte comes first."""
    word = planes[0]
    for plane in planes[1:]:
        word = word << 8 | plane
    return word


def undo_delta(z: Elements) -> Elements:
    """Undo DELTA: z -> d -> running sum, all modulo 2^w by the width of the type (7)."""
    negative = (z & 1).astype(bool)
    d = np.where(negative, ~(z >> 1), z >> 1)  # 2^w - (z + 1) / 2 is the complement of z >> 1
    total: Elements = np.cumsum(d, dtype=z.dtype)
    return total
