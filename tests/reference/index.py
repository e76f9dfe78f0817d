"""The INDEX of a container (docs/format/container.md, section 9), verified against its frames."""

import json
import math
from typing import Any

from reference.entries import (
    ELEMENT_SIZE,
    entry_end_payload,
    is_integer,
    is_integer_list,
    parse_entry,
    parse_json,
    verify_name,
)
from reference.frames import ENTRY, ENTRY_END, Frame
from reference.reading import decode_zstd, fail

ENTRY_KEYS = (
    *("name", "kind", "size", "dtype", "shape", "order"),
    *("host", "descr", "hash", "format", "mode", "mtime_ns", "owner", "escaped", "lossy", "base"),
)


def index_payload(frame: Frame) -> dict[str, Any]:
    """The JSON object of an INDEX frame (4, 9)."""
    return parse_json(decode_zstd(frame.payload, frame.original))


def verify_index(index: dict[str, Any], frames: list[Frame]) -> None:
    """Compare the INDEX with the frames before it (9)."""
    expected = {
        "kinds": [frame.kind for frame in frames],
        "models": [frame.model for frame in frames],
        "stored": [len(frame.payload) for frame in frames],
        "original": [frame.original for frame in frames],
    }
    for key, values in expected.items():
        if not is_integer_list(index.get(key)) or index[key] != values:
            fail(f"INDEX: {key} contradicts the frames")
    first = [i for i, frame in enumerate(frames) if frame.kind == ENTRY]
    last = [i for i, frame in enumerate(frames) if frame.kind == ENTRY_END]
    entries = index.get("entries")
    if not isinstance(entries, list) or not len(entries) == len(first) == len(last):
        fail("INDEX: number of entries")
    for item, i, j in zip(entries, first, last, strict=True):
        if not isinstance(item, dict):
            fail("INDEX: an entry is not an object")
        verify_index_entry(item, parse_entry(frames[i].payload), entry_end_payload(frames[j]))
        if not is_integer_list(item.get("frames")) or item["frames"] != [i, j - i + 1]:
            fail("INDEX: frames of an entry")


def verify_index_entry(
    item: dict[str, Any], meta: dict[str, Any], end: tuple[int, int, bytes]
) -> None:
    """Compare an entry of the INDEX with its ENTRY and ENTRY_END frames (9)."""
    size, hash_kind, digest = end
    for key in ENTRY_KEYS:
        value = size if key == "size" else meta.get(key)
        if not same_json(item.get(key), value):  # null counts as absent
            fail(f"INDEX: {key} contradicts the ENTRY frame")
    stated = item.get("digest")
    if not isinstance(stated, list) or len(stated) != 2 or not is_integer(stated[0]):
        fail("INDEX: digest of an entry")
    if stated[0] != hash_kind or not isinstance(stated[1], str) or stated[1] != digest.hex():
        fail("INDEX: digest of an entry contradicts its ENTRY_END frame")
    if meta["kind"] == "file" and "tensors" in item:
        verify_tensors(item["tensors"], size)


def same_json(one: object, other: object) -> bool:
    """Equality of JSON values; unlike in Python, true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def verify_tensors(tensors: object, size: int) -> None:
    """Tensors of a file: unique names, inside the entry, bytes as shape and dtype tell (9)."""
    if not isinstance(tensors, list):
        fail("INDEX: tensors is not a list")
    names = set()
    for tensor in tensors:
        if not isinstance(tensor, list) or len(tensor) != 5:
            fail("INDEX: a tensor is not a list of five")
        name, dtype, shape, offset, count = tensor
        verify_name(name, "tensor")
        if name in names:
            fail("INDEX: a tensor name occurs twice")
        names.add(name)
        if not isinstance(dtype, str) or not is_integer_list(shape):
            fail("INDEX: dtype or shape of a tensor")
        if dtype not in ELEMENT_SIZE or dtype == "VOID":
            fail("INDEX: dtype or shape of a tensor")
        if not is_integer(offset) or not is_integer(count) or offset + count > size:
            fail("INDEX: a tensor lies outside its entry")
        if count != math.prod(shape) * ELEMENT_SIZE[dtype]:
            fail("INDEX: bytes of a tensor")
