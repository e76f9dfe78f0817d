"""Snapshots, after docs/format/snapshot.md and nothing else; not those of version 0.7.0."""

import re
import struct
from collections import OrderedDict
from typing import Any

import xxhash

from reference import container
from reference.container import Entry
from reference.entries import parse_json
from reference.reading import Cursor, Refused, decode_zstd, fail

KINDS = {"list": list, "tuple": tuple, "dict": dict, "ordered": OrderedDict}


def decode(data: bytes) -> tuple[Any, int]:
    """State and step; a tensor is the entry of its archive."""
    if len(data) < 36 or xxhash.xxh3_128_digest(data[:-16]) != data[-16:]:
        raise Refused("checksum", "a snapshot")
    cursor = Cursor(data[:-16])
    if cursor.take(8) != b"\x89DSNAP\r\n":
        fail("no snapshot")
    version, reserved, stored, size = cursor.fields("<HHII")
    if version != 1 or reserved or size > 1 << 26:
        fail("the head of a snapshot")
    table = parse_json(decode_zstd(cursor.take(stored), size))
    if set(table) != {"step", "state"} or not is_long(table["step"]):
        fail("the table of a snapshot")
    state = value(table["state"], cursor, 0)
    cursor.finish()
    return state, table["step"]


def is_long(number: object) -> bool:
    """An integer of 64 bits."""
    return type(number) is int and -(2**63) <= number < 2**63


def value(node: Any, cursor: Cursor, inside: int) -> Any:
    """The value of a node; `inside`: how many containers it is in."""
    if node is None or isinstance(node, bool | str) or is_long(node):
        return node
    if not isinstance(node, dict) or len(node) != 1:
        fail("a node")
    ((name, content),) = node.items()
    if name == "int":
        if not isinstance(content, str) or not re.fullmatch("-?[1-9a-f][0-9a-f]{0,1023}", content):
            fail("an integer")
        return int(content, 16)
    if name == "float":
        return real(content)
    if name == "complex":
        if not isinstance(content, list) or len(content) != 2:
            fail("a complex number")
        return complex(real(content[0]), real(content[1]))
    if name in ("bytes", "tensor"):
        return piece(name, content, cursor)
    if name not in KINDS or not isinstance(content, list) or inside > 99:
        fail("a container")
    if name in ("list", "tuple"):
        return KINDS[name](value(one, cursor, inside + 1) for one in content)
    return mapping(KINDS[name](), content, cursor, inside + 1)


def mapping(found: Any, pairs: list[Any], cursor: Cursor, inside: int) -> Any:
    """A dict."""
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            fail("a pair of a dict")
        key = value(pair[0], cursor, inside)
        if no_key(key) or key in found:
            fail("a key that cannot be one, or is there twice")
        found[key] = value(pair[1], cursor, inside)
    return found


def no_key(key: Any) -> bool:
    """Whether this cannot be a key."""
    if isinstance(key, tuple):
        return any(map(no_key, key))
    return isinstance(key, Entry | list | dict)


def real(digits: Any) -> float:
    """A binary64 number."""
    if not isinstance(digits, str) or not re.fullmatch("[0-9a-f]{16}", digits):
        fail("a number")
    number: float = struct.unpack(">d", bytes.fromhex(digits))[0]
    return number


def piece(name: str, length: Any, cursor: Cursor) -> Any:
    """What is in the next piece."""
    if not is_long(length) or length < 0:
        fail("the length of a piece")
    entries = container.decode(cursor.take(length))
    if len(entries) != 1:
        fail("a piece of several objects")
    (entry,) = entries
    if name == "bytes":
        if entry.kind != "bytes":
            fail("a piece that holds no bytes")
        return entry.data
    if entry.kind != "array" or entry.meta.get("host") != "torch":
        fail("a piece that holds no tensor")
    return entry
