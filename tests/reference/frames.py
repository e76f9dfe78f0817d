"""Header and frames of a container (docs/format/container.md, sections 2 to 4)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from reference.reading import Refused, fail

MAGIC = bytes.fromhex("89444E53520D0A1A")
VERSION = 1
BACKREFS, BASE, SHORT = 1, 2, 4
MAX_BODY = 131072
HEADER_SIZE = 32
FRAME_HEADER_SIZE = 28
END_SIZE = FRAME_HEADER_SIZE + 16

ENTRY, MODEL, CHUNK, REF, ENTRY_END, INDEX, END = range(1, 8)
FIRST_SKIPPABLE = 128

MAX_CHUNK_LIMIT = 1 << 26
MAX_STORED = {ENTRY: 1 << 20, MODEL: 1 << 16, REF: 12, ENTRY_END: 73, END: 16}
MIN_STORED = {REF: 12, ENTRY_END: 9, END: 16}
MAX_STORED_SKIPPABLE = 1 << 26
MAX_INDEX = 1 << 30
INDEX_BASE, INDEX_PER_BYTE = 1048576, 64


# 3. Header


@dataclass(frozen=True)
class Header:
    """What the 32 bytes of the header tell (3)."""

    features: int
    chunk_limit: int
    body: int = 0  # length and check of the body of a short archive (14)
    body_check: int = 0


def read_header(archive: bytes) -> Header:
    """Verify the header: magic, check, version, features, reserved fields, chunk limit (3)."""
    if not MAGIC.startswith(archive[:8]):
        fail("wrong magic")
    if len(archive) < HEADER_SIZE:
        raise Refused("truncated", "the input ends inside the header")
    fields = struct.unpack_from("<HHIIIQ", archive, 8)
    version, reserved_1, features, chunk_limit, reserved_2, check = fields
    if check != xxhash.xxh3_64_intdigest(archive[:24]):
        raise Refused("checksum", "the header check does not match")
    if version > VERSION:
        raise Refused("unsupported", f"format version {version}")
    if version != VERSION:
        fail(f"format version {version}")
    if features & ~(BACKREFS | BASE | SHORT):
        raise Refused("unsupported", f"features {features:#x}")
    if features & SHORT:
        if reserved_1:
            fail("reserved field of the header")
        if chunk_limit > MAX_BODY:
            raise Refused("unsupported", f"a short archive of {chunk_limit} bytes")
        return Header(features, MAX_CHUNK_LIMIT, chunk_limit, reserved_2)
    if reserved_1 or reserved_2:
        fail("reserved field of the header")
    if chunk_limit > MAX_CHUNK_LIMIT:
        raise Refused("limit", "the chunk limit is too large")
    return Header(features, chunk_limit)


# 4. Frames


@dataclass(frozen=True)
class Frame:
    """A frame whose two checks match (4); ``offset`` is where its header begins in the file."""

    offset: int
    kind: int
    model: int
    original: int
    payload: bytes

    @property
    def after(self) -> int:
        """The file offset of the first byte behind the frame."""
        return self.offset + FRAME_HEADER_SIZE + len(self.payload)


def read_frames(archive: bytes, header: Header) -> Iterator[Frame]:
    """Yield all frames from byte 32 to END, behind which nothing may follow (2)."""
    offset = HEADER_SIZE
    while True:
        frame = read_frame(archive, offset, header)
        yield frame
        offset = frame.after
        if frame.kind == END:
            break
    if offset != len(archive):
        fail("bytes after END")


def read_frame(archive: bytes, offset: int, header: Header) -> Frame:
    """Read one frame: header check, kind, reserved fields, limits, payload, payload hash (4)."""
    head = archive[offset : offset + FRAME_HEADER_SIZE]
    if len(head) < FRAME_HEADER_SIZE:
        raise Refused("truncated", "the input ends inside a frame header")
    fields = struct.unpack("<BBHIIIQI", head)
    kind, reserved_1, reserved_2, stored, original, model, payload_hash, check = fields
    if check != xxhash.xxh3_64_intdigest(head[:24]) & 0xFFFFFFFF:
        raise Refused("checksum", "a header check does not match")
    if not (ENTRY <= kind <= END or kind >= FIRST_SKIPPABLE):
        raise Refused("unsupported", f"frame kind {kind}")
    if reserved_1 or reserved_2:
        fail("reserved field of a frame header")
    verify_frame_fields(kind, original, model)
    verify_frame_limits(kind, stored, original, header)
    if kind == INDEX and original > INDEX_BASE + INDEX_PER_BYTE * offset:
        raise Refused("limit", "an INDEX larger than the archive can need")
    start = offset + FRAME_HEADER_SIZE
    payload = archive[start : start + stored]
    if len(payload) < stored:
        raise Refused("truncated", "the input ends inside a payload")
    if payload_hash != xxhash.xxh3_64_intdigest(payload):
        raise Refused("checksum", "a payload hash does not match")
    if stored < MIN_STORED.get(kind, 0):
        fail(f"stored length of a frame of kind {kind}")
    return Frame(offset, kind, model, original, payload)


def verify_frame_limits(kind: int, stored: int, original: int, header: Header) -> None:
    """Enforce the chunk limit (3) and the table of limits (4)."""
    if kind == CHUNK:
        max_stored = original
    elif kind == INDEX:
        max_stored = original + 1024
    elif kind >= FIRST_SKIPPABLE:
        max_stored = MAX_STORED_SKIPPABLE
    else:
        max_stored = MAX_STORED[kind]
    if stored > max_stored:
        raise Refused("limit", f"stored length of a frame of kind {kind}")
    if original > (MAX_INDEX if kind == INDEX else header.chunk_limit):
        raise Refused("limit", f"original length of a frame of kind {kind}")


def verify_frame_fields(kind: int, original: int, model: int) -> None:
    """Verify the fields that the kind of the frame prescribes (4)."""
    if kind != CHUNK and model != 0:
        fail("a model number in a frame other than CHUNK")
    if (original != 0) != (kind in (CHUNK, REF, INDEX)):
        fail("an original length of nothing, or in a frame that has none")


def end_payload(frame: Frame) -> tuple[int, int]:
    """END: file offset of the INDEX frame or 0, number of frames before END (4)."""
    offset, count = struct.unpack("<QQ", frame.payload)
    return offset, count
