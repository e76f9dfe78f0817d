"""How a packed state is laid out: head, table, pieces, checksum. See docs/optimizer-format.md."""

import struct
from typing import Any

import numpy as np
import xxhash

from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError
from densor.formats.container import strictjson
from densor.torch.adam import replay
from densor.torch.adam.groups import Group
from densor.torch.adam.replay import Step

MAGIC = b"\x89DADAM\r\n"
VERSION = 1
REPLAY, CHANGES, ALONE, RELATIVE = "replay", "changes", "alone", "relative"  # ways
PIECES = {REPLAY: 3, CHANGES: 2, ALONE: 2, RELATIVE: 3}
HEAD = struct.Struct("<8sHHII")  # magic, version, reserved, lengths of the table
DIGEST = 16
MOST_COLUMNS = 1 << 20  # of a matrix whose v is relative to scales
_MAX_TABLE = 1 << 26


def put_together(table: dict[str, Any], parts: list[bytes]) -> bytes:
    """A packed state of its table and all that follows."""
    text = strictjson.dumps(table)
    packed = zstd_compress(text, 9)
    head = HEAD.pack(MAGIC, VERSION, 0, len(packed), len(text))
    body = b"".join((head, packed, *parts))
    return body + xxhash.xxh3_128(body).digest()


def table_of(data: bytes) -> dict[str, Any]:
    """The table of a packed state: its groups, and how each is coded."""
    return opened(data)[1]


def opened(data: bytes) -> tuple[memoryview, dict[str, Any], int]:
    """All but the checksum, which is right; the table, and where it ends."""
    view = memoryview(data)
    if len(view) < HEAD.size + DIGEST:
        raise TruncatedError("optimizer state is too short")
    magic, version, reserved, stored, size = HEAD.unpack_from(view)
    if magic != MAGIC:
        raise FormatError("is no packed optimizer state")
    if xxhash.xxh3_128(view[:-DIGEST]).digest() != bytes(view[-DIGEST:]):
        raise ChecksumError("optimizer state was damaged")
    if version != VERSION:
        raise UnsupportedError(f"optimizer state has version {version}; a newer densor may read it")
    body, at = view[:-DIGEST], HEAD.size + stored
    if reserved or at > len(body) or size > _MAX_TABLE:
        raise FormatError("optimizer state has an impossible table")
    table = strictjson.loads(zstd_decompress(body[HEAD.size : at], size), "table")
    return body, table, at


def parse_entry(entry: Any) -> tuple[Group, str, list[int]]:
    """The group that an entry of the table is for, its way, and the lengths of its pieces."""
    if not isinstance(entry, dict):
        raise FormatError("table of an optimizer state is malformed")
    keys, shapes, way = entry.get("keys"), entry.get("shapes"), entry.get("way")
    lengths = entry.get("lengths")
    if not isinstance(keys, list) or not isinstance(shapes, list) or len(keys) != len(shapes):
        raise FormatError("group of an optimizer state is malformed")
    if not keys or any(type(key) not in (int, str) for key in keys):
        raise FormatError("group of an optimizer state has impossible keys")
    if not isinstance(way, str) or way not in PIECES:
        raise UnsupportedError("group is coded in an unknown way; a newer densor may read it")
    if not isinstance(lengths, list) or len(lengths) != PIECES[way]:
        raise FormatError("group of an optimizer state has impossible lengths")
    found = tuple(strictjson.shape(shape, "shape") for shape in shapes)
    group = Group(tuple(keys), found, (0.0, 0.0))
    if group.size > 1 << 40:
        raise FormatError("group of an optimizer state has an impossible shape")
    if way == RELATIVE and not is_matrix(group):
        raise FormatError("group of an optimizer state is no matrix")
    return group, way, [strictjson.integer(length, "length") for length in lengths]


def is_matrix(group: Group) -> bool:
    """Whether v has rows and columns, whose scales it may be relative to.

    Rows are worked on whole, in ten times their memory, so that they must not be longer than that.
    """
    if len(group.shapes) != 1 or len(group.shape) < 2 or not group.size:
        return False
    return group.size // group.shape[0] <= MOST_COLUMNS


def parse_step(numbers: Any) -> Step:
    """The step of an entry."""
    if not isinstance(numbers, list) or len(numbers) != 6:
        raise FormatError("step of an optimizer state is malformed")
    limits = (*[0xFFFFFFFF] * 4, replay.M_FORMS - 1, replay.V_FORMS - 1)
    for number, most in zip(numbers, limits, strict=True):
        strictjson.integer(number, "number of a step", most)
    w, b2, a, factor = (np.uint32(number).view(np.float32) for number in numbers[:4])
    return Step(w, b2, a, factor, numbers[4], numbers[5])
