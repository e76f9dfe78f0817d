"""The parameters of chunks of byte planes: layout, run length and the classes of each plane.

Classes are Huffman codes and other ways to store symbols (`Classes`), or frequencies of rANS
(`Freqs`), uint16[classes, 256].
"""

import struct
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.layout import Layout, layout_numbered
from densor.entropy.huffman.code import unpack_lengths
from densor.entropy.rans import tables
from densor.entropy.rans.tables import Freqs
from densor.errors import FormatError, UnsupportedError

MAX_CLASSES = 16
_HEAD = struct.Struct("<BBBBI")
_REST_OF_HEAD = struct.Struct("<BBBI")
_DELTA = 1
C = TypeVar("C", bound=Sized)  # the classes of a plane


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

    def __len__(self) -> int:
        return self.kinds.size


@dataclass(frozen=True, eq=False)
class Parameters(Generic[C]):
    """All that a chunk's payload needs to be decoded."""

    layout: Layout
    run: int  # elements per run, the unit that has a class
    planes: tuple[C | None, ...]  # per plane its classes, None if it is never coded so
    delta: bool = False
    codec: int = registry.CODEC_PLANES_HUFFMAN


def pack(model: Parameters[Any]) -> bytes:
    """The payload of a MODEL frame: the head, then of each plane the number of its classes and
    the classes themselves."""
    pack_classes = _CLASSES[model.codec].pack
    number, flags = model.layout.number, _DELTA * model.delta
    packed = [_HEAD.pack(model.codec, number, flags, len(model.planes), model.run)]
    for classes in model.planes:
        packed.append(bytes([0 if classes is None else len(classes)]))
        if classes is not None:
            packed.append(pack_classes(classes))
    return b"".join(packed)


def _pack_classes(classes: Classes) -> bytes:
    packed = bytearray()
    lengths = classes.lengths.tobytes()
    symbols = zip(classes.kinds.tolist(), classes.symbols.tolist(), strict=True)
    for at, (kind, symbol) in enumerate(symbols):
        packed.append(kind)
        if kind == registry.CLASS_CONSTANT:
            packed.append(symbol)
        elif kind == registry.CLASS_HUFFMAN:
            packed += _pack_lengths(lengths[256 * at : 256 * (at + 1)])
    return bytes(packed)


def _pack_lengths(row: bytes) -> bytes:
    """256 lengths, those of the symbols in use with 4 bits each."""
    used = row.lstrip(b"\0")
    first = len(row) - len(used)
    used = used.rstrip(b"\0")
    count = len(used)
    even = int.from_bytes(used[::2], "little")  # the low half of a byte comes first
    odd = int.from_bytes(used[1::2], "little")
    packed = (even | odd << 4).to_bytes(count + 1 >> 1, "little")
    return bytes((first, first + count - 1)) + packed


class Fields:
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
        if self._at == len(self._payload):
            raise FormatError("model is too short")
        self._at += 1
        return self._payload[self._at - 1]

    def left(self) -> bytes:
        """What was not taken yet; it stays."""
        return self._payload[self._at :]

    def end(self) -> None:
        if self._at != len(self._payload):
            raise FormatError("model is too long")


def parse(payload: bytes) -> Parameters[Any]:
    """The parameters in a MODEL frame; FormatError or UnsupportedError for bad ones.

    Of `Classes` for the codec with Huffman codes, of `Freqs` for that with rANS.
    """
    fields = Fields(payload)
    codec = fields.byte()
    if codec not in _CLASSES:
        raise UnsupportedError(f"unknown codec {codec}; a newer densor may read this")
    parse_classes = _CLASSES[codec].parse
    number, flags, planes, run = _REST_OF_HEAD.unpack(fields.take(_REST_OF_HEAD.size))
    layout = layout_numbered(number)
    if flags & ~_DELTA or (flags & _DELTA and not layout.delta):
        raise FormatError("model has flags that its layout does not allow")
    if planes != layout.size or run < 1:
        raise FormatError("model does not fit its layout")
    listed: list[Any] = []
    for _ in range(planes):
        count = fields.byte()
        if count > MAX_CLASSES:
            raise FormatError(f"plane has {count} classes, more than {MAX_CLASSES}")
        listed.append(parse_classes(fields, count) if count else None)
    fields.end()
    return Parameters(layout, run, tuple(listed), bool(flags & _DELTA), codec)


def _parse_classes(fields: Fields, count: int) -> Classes:
    classes = Classes.empty(count)
    kinds, lengths = classes.kinds, classes.lengths
    for c in range(count):
        kind = kinds[c] = fields.byte()
        if kind == registry.CLASS_HUFFMAN:
            first, last = fields.take(2)
            if first >= last:
                raise FormatError("Huffman code has an empty range of symbols")
            packed = np.frombuffer(fields.take((last - first + 2) // 2), np.uint8)
            unpack_lengths(packed, lengths[c, first : last + 1])
        elif kind == registry.CLASS_CONSTANT:
            classes.symbols[c] = fields.byte()
        elif kind != registry.CLASS_RAW:
            raise FormatError(f"unknown kind of class {kind}")
    return classes


def _parse_freqs(fields: Fields, count: int) -> Freqs:
    freqs, size = tables.unpack(np.frombuffer(fields.left(), np.uint8), count)
    fields.take(size)
    return freqs


class _ClassFormat(NamedTuple):
    """How the classes of a plane stand in a MODEL frame; `parse` takes 1 to 16 of them."""

    pack: Callable[[Any], bytes]
    parse: Callable[[Fields, int], Any]


_CLASSES = {
    registry.CODEC_PLANES_HUFFMAN: _ClassFormat(_pack_classes, _parse_classes),
    registry.CODEC_PLANES_RANS: _ClassFormat(tables.pack, _parse_freqs),
}
