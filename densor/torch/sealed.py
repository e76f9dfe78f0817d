"""A table, pieces behind it and a checksum in one string of bytes: what is packed for training.

Of optimizer states (docs/optimizer-format.md) and snapshots (docs/format/snapshot.md).
"""

import struct
from typing import Any, NamedTuple

import torch
import xxhash

import densor
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import (
    ArgumentError,
    ChecksumError,
    FormatError,
    LimitError,
    TruncatedError,
    UnsupportedError,
)
from densor.formats.container import strictjson

HEAD = struct.Struct("<8sHHII")  # magic, version, reserved, lengths of the table
DIGEST = 16
_MAX_TABLE = 1 << 26


class Kind(NamedTuple):
    """Which bytes these are; `name`: for messages."""

    magic: bytes
    version: int
    name: str


def sealed(kind: Kind, table: dict[str, Any], parts: list[bytes]) -> bytes:
    """Head, table, all that follows, checksum."""
    text = strictjson.dumps(table)
    if len(text) > _MAX_TABLE:
        raise ArgumentError(f"{kind.name} has too much beside its tensors")
    packed = zstd_compress(text, 9)
    head = HEAD.pack(kind.magic, kind.version, 0, len(packed), len(text))
    body = b"".join((head, packed, *parts))
    return body + xxhash.xxh3_128(body).digest()


def opened(
    kind: Kind, data: bytes, most: int | None = None
) -> tuple[memoryview, dict[str, Any], int]:
    """All but the checksum, which is right; the table, and where it ends.

    LimitError where the table has more than `most` bytes.
    """
    view = memoryview(data)
    if len(view) < HEAD.size + DIGEST:
        raise TruncatedError(f"{kind.name} is too short")
    magic, version, reserved, stored, size = HEAD.unpack_from(view)
    if magic != kind.magic:
        raise FormatError(f"is no packed {kind.name}")
    if xxhash.xxh3_128(view[:-DIGEST]).digest() != bytes(view[-DIGEST:]):
        raise ChecksumError(f"{kind.name} was damaged")
    if version != kind.version:
        raise UnsupportedError(f"{kind.name} has version {version}; a newer densor may read it")
    body, at = view[:-DIGEST], HEAD.size + stored
    if reserved or at > len(body) or size > _MAX_TABLE:
        raise FormatError(f"{kind.name} has an impossible table")
    if most is not None and size > most:
        raise LimitError(f"{kind.name} has a table of more than {most} bytes")
    table = strictjson.loads(zstd_decompress(body[HEAD.size : at], size), "table")
    return body, table, at


class Room:
    """How many bytes may still be decoded; None: any number."""

    def __init__(self, left: int | None) -> None:
        self._left = left

    def decoded(self, piece: Any, threads: int) -> Any:
        """What a piece holds; LimitError where there is no room for it."""
        try:
            found = densor.decompress(piece, threads, max_output_size=self._left)
        except ArgumentError as error:  # of the data
            raise FormatError(str(error)) from error
        if self._left is not None:
            self._left -= found.nbytes if isinstance(found, torch.Tensor) else len(found)
        return found
