"""The model of a planar chunk: layout, run length and the classes of each plane."""

import struct
from dataclasses import dataclass

import numpy as np

from densor.codec import registry
from densor.codec.planar.layout import Layout, layout_numbered
from densor.entropy.huffman.code import Lengths, check_lengths
from densor.errors import FormatError, UnsupportedError

MAX_CLASSES = 16
_HEAD = struct.Struct("<BBBBI")
_DELTA = 1


@dataclass(frozen=True, eq=False)
class PlaneClass:
    """How the runs of one class are stored: raw, as a constant, or with a Huffman code."""

    kind: int
    symbol: int = 0  # of a constant
    lengths: Lengths | None = None  # uint8[256], of a Huffman code


@dataclass(frozen=True, eq=False)
class Model:
    """All that a chunk's payload needs to be decoded."""

    layout: Layout
    run: int  # elements per run, the unit that has a class
    planes: tuple[tuple[PlaneClass, ...], ...]  # per plane its classes, none if not coded so
    delta: bool = False


def map_bits(classes: int) -> int:
    """Bits per run of a class map, a divisor of 8, or 0 if there is but one class."""
    return 0 if classes == 1 else 1 if classes == 2 else 2 if classes <= 4 else 4


def pack(model: Model) -> bytes:
    """The payload of a MODEL frame."""
    parts = [
        _HEAD.pack(
            registry.CODEC_PLANAR,
            model.layout.number,
            _DELTA * model.delta,
            len(model.planes),
            model.run,
        )
    ]
    for classes in model.planes:
        parts.append(bytes([len(classes)]))
        parts += [_pack_class(one) for one in classes]
    return b"".join(parts)


def _pack_class(one: PlaneClass) -> bytes:
    if one.kind == registry.CLASS_CONSTANT:
        return bytes([one.kind, one.symbol])
    if one.lengths is None:
        return bytes([one.kind])
    used = np.flatnonzero(one.lengths)
    first, last = int(used[0]), int(used[-1])
    nibbles = one.lengths[first : last + 1]
    if nibbles.size & 1:
        nibbles = np.append(nibbles, np.uint8(0))
    return bytes([one.kind, first, last]) + (nibbles[::2] | nibbles[1::2] << 4).tobytes()


class _Fields:
    """Reads a payload from front to back; FormatError where it is too short."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._payload[self._at : self._at + count]
        if len(piece) != count:
            raise FormatError("model is too short")
        self._at += count
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def end(self) -> None:
        if self._at != len(self._payload):
            raise FormatError("model is too long")


def parse(payload: bytes) -> Model:
    """The model in a MODEL frame; FormatError or UnsupportedError for a bad one."""
    fields = _Fields(payload)
    codec = fields.byte()
    if codec != registry.CODEC_PLANAR:
        raise UnsupportedError(f"unknown codec {codec}; a newer densor may read this")
    number, flags, planes, run = struct.unpack("<BBBI", fields.take(_HEAD.size - 1))
    layout = layout_numbered(number)
    if flags & ~_DELTA or (flags & _DELTA and not layout.delta):
        raise FormatError("model has flags that its layout does not allow")
    if planes != layout.size or run < 1:
        raise FormatError("model does not fit its layout")
    classes = tuple(_parse_classes(fields) for _ in range(planes))
    fields.end()
    return Model(layout, run, classes, bool(flags & _DELTA))


def _parse_classes(fields: _Fields) -> tuple[PlaneClass, ...]:
    count = fields.byte()
    if count > MAX_CLASSES:
        raise FormatError(f"plane has {count} classes, more than {MAX_CLASSES}")
    return tuple(_parse_class(fields) for _ in range(count))


def _parse_class(fields: _Fields) -> PlaneClass:
    kind = fields.byte()
    if kind == registry.CLASS_RAW:
        return PlaneClass(kind)
    if kind == registry.CLASS_CONSTANT:
        return PlaneClass(kind, symbol=fields.byte())
    if kind != registry.CLASS_HUFFMAN:
        raise FormatError(f"unknown kind of class {kind}")
    first, last = fields.byte(), fields.byte()
    if first >= last:
        raise FormatError("Huffman code has an empty range of symbols")
    packed = np.frombuffer(fields.take((last - first + 2) // 2), np.uint8)
    nibbles = np.empty(2 * packed.size, np.uint8)
    nibbles[::2] = packed & 15
    nibbles[1::2] = packed >> 4
    if nibbles[last - first + 1 :].any():
        raise FormatError("Huffman code has lengths beyond its range of symbols")
    lengths = np.zeros(256, np.uint8)
    lengths[first : last + 1] = nibbles[: last - first + 1]
    check_lengths(lengths)
    return PlaneClass(kind, lengths=lengths)
