"""Messages between publisher and subscribers: bytes and back. See docs/sync-format.md."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from densor import dtypes
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError
from densor.formats.container import strictjson
from densor.sync.weights import Described, Table

MAGIC = b"\x89DSYNC\r\n"
VERSION = 1
FULL, CHANGE = 1, 2  # kinds
NAMES = {FULL: "full", CHANGE: "change"}
NOTHING = bytes(16)  # the state before a full message
_HEAD = struct.Struct("<8sHHIQQ16s16s")
_DIGEST = 16
OVERHEAD = _HEAD.size + _DIGEST
_PIECE = struct.Struct("<IIBxxxI")
_MAX_NUMBER = 1 << 53
_TABLE = struct.Struct("<II")
_TABLE_LEVEL = 9
_MAX_TABLE = 1 << 26  # bytes
_MAX_TENSOR = 1 << 48  # bytes


@dataclass(frozen=True)
class Message:
    """A full copy of all weights, or how they differ from those of the message before.

    `number`: of the state it leads to; a change leads from number - 1. `step`: of the training.
    `before`, `after`: digests of all weights.
    """

    kind: int
    number: int
    step: int
    before: bytes
    after: bytes
    body: bytes | memoryview

    @property
    def name(self) -> str:
        """What it is called in a store."""
        return name_of(self.kind, self.number)


def name_of(kind: int, number: int) -> str:
    """What a message is called in a store."""
    return f"{NAMES[kind]}-{number:012d}"


def number_of(name: str, kind: int) -> int | None:
    """The number of a message of this kind, from its name; None for another name."""
    word, dash, digits = name.partition("-")
    if word != NAMES[kind] or not dash or not digits.isascii() or not digits.isdigit():
        return None
    number = int(digits[:20])
    return number if name == name_of(kind, number) and number < _MAX_NUMBER else None


def numbers(names: Iterable[str], kind: int) -> list[int]:
    """Of the messages of a kind, among the names in a store."""
    found = (number_of(name, kind) for name in names)
    return [number for number in found if number is not None]


def latest(names: Sequence[str]) -> int:
    """The highest number of the messages in a store; -1 if there are none."""
    return max((-1, *numbers(names, FULL), *numbers(names, CHANGE)))


def pack(message: Message) -> bytes:
    """The bytes of a message."""
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        message.kind,
        0,
        message.number,
        message.step,
        message.before,
        message.after,
    )
    hasher = xxhash.xxh3_128(head)
    hasher.update(message.body)
    return b"".join((head, message.body, hasher.digest()))


def parse(data: bytes) -> Message:
    """A message whose checksum matches; a DensorError for anything else."""
    if len(data) < OVERHEAD:
        raise TruncatedError("message is too short")
    magic, version, kind, reserved, number, step, before, after = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("is no message of weights")
    view = memoryview(data)
    if xxhash.xxh3_128(view[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ChecksumError("message was damaged on its way")
    if version != VERSION:
        raise UnsupportedError(f"message has version {version}; a newer densor may read it")
    if kind not in NAMES or reserved or number >= _MAX_NUMBER:
        raise FormatError("message has impossible fields")
    if kind == FULL and before != NOTHING:
        raise FormatError("full message is based on another one")
    return Message(kind, number, step, before, after, view[_HEAD.size : -_DIGEST])


def pack_table(tensors: Sequence[Described], aliases: Mapping[str, str]) -> bytes:
    """What a full message begins with: the tensors that it has."""
    listed = [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in tensors]
    text = strictjson.dumps({"tensors": listed, "aliases": dict(aliases)})
    packed = zstd_compress(text, _TABLE_LEVEL)
    return _TABLE.pack(len(packed), len(text)) + packed


def parse_table(body: bytes | memoryview) -> tuple[Table, memoryview]:
    """The tensors of a full message, and what follows; a DensorError for bad ones."""
    view = memoryview(body)
    if len(view) < _TABLE.size:
        raise FormatError("message ends within its table")
    stored, size = _TABLE.unpack_from(view)
    end = _TABLE.size + stored
    if end > len(view) or size > _MAX_TABLE:
        raise FormatError("message has an impossible table")
    found = strictjson.loads(zstd_decompress(view[_TABLE.size : end], size), "table")
    if not isinstance(found, dict) or not isinstance(found.get("tensors"), list):
        raise FormatError("table of a message is malformed")
    tensors = tuple(_parse_tensor(item) for item in found["tensors"])
    names = {tensor.name for tensor in tensors}
    aliases = found.get("aliases")
    if len(names) < len(tensors) or not isinstance(aliases, dict):
        raise FormatError("table of a message is malformed")
    for alias, name in aliases.items():
        if alias in names or not isinstance(name, str) or name not in names:
            raise FormatError("table of a message has an alias for nothing")
    return Table(tensors, aliases), view[end:]


def _parse_tensor(item: Any) -> Described:
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str):
        raise FormatError("table of a message is malformed")
    name, dtype, shape = item
    if not isinstance(dtype, str) or dtype not in dtypes.SIZES or dtype == "VOID":
        raise FormatError(f"{name!r:.200}: message has an unknown dtype")
    described = Described(name, dtype, strictjson.shape(shape, "shape"))
    if described.size > _MAX_TENSOR:
        raise FormatError(f"{name!r:.200}: message has an impossible shape")
    return described


@dataclass(frozen=True)
class Piece:
    """How `count` tensors of one dtype from number `first` on have changed."""

    first: int
    count: int
    coding: int
    payload: bytes | memoryview


def pack_pieces(pieces: list[Piece]) -> bytes:
    """The body of a change."""
    parts: list[bytes | memoryview] = []
    for piece in pieces:
        parts.append(_PIECE.pack(piece.first, piece.count, piece.coding, len(piece.payload)))
        parts.append(piece.payload)
    return b"".join(parts)


def parse_pieces(body: bytes | memoryview, tensors: int) -> list[Piece]:
    """The pieces of a change of so many tensors, in rising order; FormatError for bad ones."""
    view = memoryview(body)
    pieces, at, least = [], 0, 0
    while at < len(view):
        if len(view) - at < _PIECE.size:
            raise FormatError("message ends within a piece")
        first, count, coding, length = _PIECE.unpack_from(view, at)
        at += _PIECE.size
        if length > len(view) - at:
            raise FormatError("message ends within a piece")
        if first < least or not count or first + count > tensors:
            raise FormatError("message changes tensors that are not there")
        least = first + count
        pieces.append(Piece(first, count, coding, view[at : at + length]))
        at += length
    return pieces
