"""The model of a planar chunk: layout, run length and the classes of each plane."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planar.layout import Layout, layout_numbered
from densor.entropy.huffman.code import unpack_lengths
from densor.errors import FormatError, UnsupportedError

MAX_CLASSES = 16
_HEAD = struct.Struct("<BBBBI")
_DELTA = 1


@dataclass(frozen=True, eq=False)
class Classes:
    """How the runs of each class of a plane are stored."""

    kinds: npt.NDArray[np.uint8]  # uint8[classes]: raw, a constant, or with a Huffman code
    symbols: npt.NDArray[np.uint8]  # uint8[classes], of the constants
    lengths: npt.NDArray[np.uint8]  # uint8[classes, 256], of the Huffman codes, else 0

    @classmethod
    def empty(cls, count: int) -> "Classes":
        """Classes yet to be filled in."""
        zeros = np.zeros(count, np.uint8)
        return cls(zeros, zeros.copy(), np.zeros((count, 256), np.uint8))


@dataclass(frozen=True, eq=False)
class Model:
    """All that a chunk's payload needs to be decoded."""

    layout: Layout
    run: int  # elements per run, the unit that has a class
    planes: tuple[Classes | None, ...]  # per plane its classes, None if it is never coded so
    delta: bool = False


def map_bits(classes: int) -> int:
    """Bits per run of a class map, a divisor of 8, or 0 if there is but one class."""
    return 0 if classes < 2 else 1 if classes == 2 else 2 if classes <= 4 else 4


def pack(model: Model) -> bytes:
    """The payload of a MODEL frame."""
    number, flags = model.layout.number, _DELTA * model.delta
    head = _HEAD.pack(registry.CODEC_PLANAR, number, flags, len(model.planes), model.run)
    return head + b"".join(_pack_classes(classes) for classes in model.planes)


def _pack_classes(classes: Classes | None) -> bytes:
    if classes is None:
        return b"\0"
    packed = [bytes([classes.kinds.size])]
    for kind, symbol, lengths in zip(
        classes.kinds.tolist(), classes.symbols.tolist(), classes.lengths, strict=True
    ):
        packed.append(bytes([kind]))
        if kind == registry.CLASS_CONSTANT:
            packed.append(bytes([symbol]))
        elif kind == registry.CLASS_HUFFMAN:
            packed.append(_pack_lengths(lengths))
    return b"".join(packed)


def _pack_lengths(lengths: npt.NDArray[np.uint8]) -> bytes:
    used = np.flatnonzero(lengths)
    first, last = int(used[0]), int(used[-1])
    nibbles = np.zeros((last - first + 2) // 2 * 2, np.uint8)
    nibbles[: last - first + 1] = lengths[first : last + 1]
    return bytes([first, last]) + (nibbles[::2] | nibbles[1::2] << 4).tobytes()


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
    classes = tuple([_parse_classes(fields) for _ in range(planes)])
    fields.end()
    return Model(layout, run, classes, bool(flags & _DELTA))


def _parse_classes(fields: _Fields) -> Classes | None:
    count = fields.byte()
    if count == 0:
        return None
    if count > MAX_CLASSES:
        raise FormatError(f"plane has {count} classes, more than {MAX_CLASSES}")
    classes = Classes.empty(count)
    for c in range(count):
        kind = fields.byte()
        classes.kinds[c] = kind
        if kind == registry.CLASS_CONSTANT:
            classes.symbols[c] = fields.byte()
        elif kind == registry.CLASS_HUFFMAN:
            first, last = fields.take(2)
            if first >= last:
                raise FormatError("Huffman code has an empty range of symbols")
            packed = np.frombuffer(fields.take((last - first + 2) // 2), np.uint8)
            unpack_lengths(packed, classes.lengths[c, first : last + 1])
        elif kind != registry.CLASS_RAW:
            raise FormatError(f"unknown kind of class {kind}")
    return classes
