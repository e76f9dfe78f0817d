"""The short form of tiny archives (docs/format/container.md, section 14), made an ordinary one."""

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import xxhash
import zstandard

from reference.entries import ELEMENT_SIZE, parse_entry, parse_json
from reference.frames import (
    CHUNK,
    END,
    ENTRY,
    ENTRY_END,
    FIRST_SKIPPABLE,
    HEADER_SIZE,
    INDEX,
    MAGIC,
    MAX_CHUNK_LIMIT,
    MODEL,
    REF,
    SHORT,
    VERSION,
    read_header,
)
from reference.reading import Cursor, Refused, decode_zstd, fail

KINDS = ("file", "dir", "tensor", "array", "bytes", "step", "update")
TYPES = (
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "BF16", "F32", "F64", "C64", "C128", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
)
MAX_DESCRIPTION = 262144
Frame = tuple[int, bytes, int, int]  # kind, payload, original length, model number


def in_ordinary_form(archive: bytes) -> bytes:
    """The archive, or the one that it stands for."""
    header = read_header(archive)
    if not header.features & SHORT:
        return archive
    body = archive[HEADER_SIZE:]
    if len(body) < header.body:
        raise Refused("truncated", "a short archive ends early")
    if len(body) > header.body:
        fail("bytes behind a short archive")
    if xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF != header.body_check:
        raise Refused("checksum", "the body of a short archive")
    contents = Cursor(body)
    flags, size = contents.u8(), number(contents)
    if flags > 3:
        fail("flags of a short archive")
    if size > MAX_DESCRIPTION:
        raise Refused("limit", "the description of a short archive")
    description = Cursor(decode_zstd(text(contents), size) if flags & 1 else contents.take(size))
    frames: list[Frame] = []
    listed: list[dict[str, Any]] = []
    while description.position < size:
        first = len(frames)
        meta, lists = entry(description, contents, frames)
        end = frames[-1][1]
        meta |= {"size": int.from_bytes(end[:8], "little"), "digest": [end[8], end[9:].hex()]}
        listed.append(meta | lists | {"frames": [first, len(frames) - first]})
    contents.finish()
    return packed(frames, listed if flags & 2 else None, header.features - SHORT)


def number(cursor: Cursor) -> int:
    """Seven bits per byte."""
    value = 0
    for place in range(9):
        byte = cursor.u8()
        value += (byte % 128) << (7 * place)
        if byte < 128:
            return value
    fail("too long a number")


def text(cursor: Cursor) -> bytes:
    """A number and as many bytes."""
    return cursor.take(number(cursor))


def utf8(cursor: Cursor) -> str:
    """A text that is one."""
    try:
        return text(cursor).decode()
    except UnicodeDecodeError:
        fail("a text is not UTF-8")


def entry(
    cursor: Cursor, contents: Cursor, frames: list[Frame]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Adds the frames of an entry; returns the keys of its ENTRY frame, and its lists."""
    head = cursor.u8()
    if head > 127 or head % 8 >= len(KINDS):
        fail("an entry of a short archive")
    kind, sha256, sized = KINDS[head % 8], bool(head & 16), not head & 32
    if head & 8:
        payload = text(cursor)
        meta = parse_entry(payload)
        if meta["kind"] != kind or (meta.get("size") is not None) != sized:
            fail("an entry contradicts itself")
    else:
        meta = dict(brief(cursor, kind, sized))
        if sha256:
            meta["hash"] = "sha256"
        payload = json.dumps(meta).encode()
    size = meta.get("size")
    if size is None:
        size = number(cursor)
    lists = parse_json(text(cursor)) if head & 64 else {}
    frames.append((ENTRY, payload, 0, 0))
    for _ in range(number(cursor)):
        frames.append(inner(cursor, contents))
    end = struct.pack("<QB", size, 2 if sha256 else 1) + contents.take(32 if sha256 else 16)
    frames.append((ENTRY_END, end, 0, 0))
    return meta, {key: lists[key] for key in ("tensors", "others") if key in lists}


def brief(cursor: Cursor, kind: str, sized: bool) -> Iterator[tuple[str, Any]]:
    """The keys that a brief description stands for."""
    yield "name", utf8(cursor)
    yield "kind", kind
    if kind in ("tensor", "array"):
        code = cursor.u8()
        if code >= len(TYPES):
            fail("an unknown type")
        yield "dtype", TYPES[code]
        if kind == "array":
            memory = cursor.u8()
            if memory > 3:
                fail("memory of an array")
            yield "order", "CF"[memory % 2]
            yield "host", ("numpy", "torch")[memory // 2]
        dimensions = number(cursor)
        if dimensions > 64:
            fail("too many dimensions")
        shape = [number(cursor) for _ in range(dimensions)]
        size = math.prod(shape) * ELEMENT_SIZE[TYPES[code]]
        if size >= 1 << 63:
            fail("too large a shape")
        yield "shape", shape
        yield "size", size
    else:
        yield "size", number(cursor) if sized else None
    if kind in ("file", "dir"):
        known = cursor.u8()
        if known > 7:
            fail("what is known of a file")
        if known & 1:
            yield "mode", number(cursor)
        if known & 2:
            yield "mtime_ns", int.from_bytes(cursor.take(8), "little", signed=True)
        if known & 4:
            yield "format", utf8(cursor)


def inner(cursor: Cursor, contents: Cursor) -> Frame:
    """A frame between ENTRY and ENTRY_END."""
    kind, model, original = cursor.u8(), 0, 0
    if kind == REF:
        target, offset, original = number(cursor), number(cursor), number(cursor)
        if target >> 32 or original >> 32:
            fail("a number of a REF")
        return kind, struct.pack("<IQ", target, offset), original, 0
    if kind == CHUNK:
        model, original = number(cursor), number(cursor)
    elif kind != MODEL and kind < FIRST_SKIPPABLE:
        fail(f"a frame of kind {kind}")
    if model >> 32 or original >> 32:
        fail("a number of a CHUNK")
    stored = original if kind == CHUNK and model == 0 else number(cursor)
    return kind, contents.take(stored), original, model


def packed(frames: list[Frame], listed: list[dict[str, Any]] | None, features: int) -> bytes:
    """The archive in the ordinary form; `listed`: the entries of its INDEX."""
    head = MAGIC + struct.pack("<HHIII", VERSION, 0, features, MAX_CHUNK_LIMIT, 0)
    out = head + xxhash.xxh3_64_digest(head)[::-1] + b"".join(map(frame, frames))
    count, index_at = len(frames), 0
    if listed is not None:
        columns = {
            "kinds": [kind for kind, *_ in frames],
            "models": [model for *_, model in frames],
            "stored": [len(payload) for _, payload, *_ in frames],
            "original": [original for *_, original, _ in frames],
        }
        index = json.dumps({"entries": listed, **columns}).encode()
        count, index_at = count + 1, len(out)
        out += frame((INDEX, zstandard.ZstdCompressor().compress(index), len(index), 0))
    return out + frame((END, struct.pack("<QQ", index_at, count), 0, 0))


def frame(one: Frame) -> bytes:
    """A frame with its checks."""
    kind, payload, original, model = one
    digest = xxhash.xxh3_64_intdigest(payload)
    fields = struct.pack("<BBHIIIQ", kind, 0, 0, len(payload), original, model, digest)
    return fields + xxhash.xxh3_64_digest(fields)[:-5:-1] + payload
