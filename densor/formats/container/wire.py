"""The fixed parts of the container: header, frames, numbers and limits. See container.md."""

import struct
from typing import Any, NamedTuple

import xxhash

from densor.codec import registry
from densor.errors import ChecksumError, FormatError, LimitError, TruncatedError, UnsupportedError

MAGIC = b"\x89DNSR\r\n\x1a"
VERSION = 1
BACKREFS = 1  # feature: REF frames may occur
BASE = 2  # feature: entries may be based on others, or on what is not in the archive
SHORT = 4  # feature: the short form, of what the features say besides
KNOWN_FEATURES = BACKREFS | BASE | SHORT
MAX_CHAIN = 64  # bases of bases of an entry in one archive
CHUNK_LIMIT = 1 << 26

ENTRY = 1
MODEL = 2
CHUNK = 3
REF = 4
ENTRY_END = 5
INDEX = 6
END = 7
FIRST_SKIPPABLE = 128
RECOVERY = 128  # recovery data
PLACE = 129  # what the frames that follow belong to
POINTS = 130  # entry points of the chunk before

MAX_ENTRY = 1 << 20
MAX_MODEL = registry.MODEL_BYTES
MAX_INDEX = 1 << 30
MAX_SKIPPABLE = 1 << 26
MAX_SHORT = 1 << 17  # bytes behind the header of a short archive
INDEX_BASE = 1 << 20  # what an index may unpack to: this, and so many bytes per byte before it
INDEX_PER_BYTE = 64

COLUMNS = ("kinds", "models", "stored", "original")  # of the frames in an INDEX

_HEADER = struct.Struct("<8sHHIII")
_CHECK64 = struct.Struct("<Q")
_FRAME = struct.Struct("<BBHIIIQ")
_CHECK32 = struct.Struct("<I")
_WHOLE = struct.Struct(_FRAME.format + "I")
REF_PAYLOAD = struct.Struct("<IQ")
ENTRY_END_PAYLOAD = struct.Struct("<QB")
END_PAYLOAD = struct.Struct("<QQ")
PLACE_PAYLOAD = struct.Struct("<IIQ")  # entry number, MODEL frames so far, offset in the entry
HEADER_SIZE = _HEADER.size + _CHECK64.size
FRAME_SIZE = registry.FRAME_SIZE
MIN_FRAME = FRAME_SIZE + 1  # bytes of a frame that stands for original bytes
END_SIZE = FRAME_SIZE + END_PAYLOAD.size
END_BEGINS = struct.pack("<BBHI", END, 0, 0, END_PAYLOAD.size)  # kind to stored length


class Header(NamedTuple):
    """What the first bytes of an archive tell.

    `body`, `check`: of the short form, bytes behind the header, and what `short_check` gives.
    """

    features: int
    limit: int  # most original bytes of a frame
    body: int = 0
    check: int | None = None


class End(NamedTuple):
    """The payload of the END frame."""

    index_at: int  # file offset of the INDEX, 0 if there is none
    frames: int  # before the END frame


class Ref(NamedTuple):
    """The payload of a REF frame: which bytes it repeats."""

    entry: int
    offset: int


class EntryEnd(NamedTuple):
    """The payload of an ENTRY_END frame."""

    size: int  # original bytes
    hash_kind: int
    digest: bytes


class FrameHeader(NamedTuple):
    """The fields of a frame header."""

    kind: int
    stored: int  # bytes of payload
    original: int  # bytes that the payload stands for
    model: int
    digest: int  # XXH3-64 of the payload


def pack_header(features: int) -> bytes:
    """The first bytes of an archive."""
    fields = _HEADER.pack(MAGIC, VERSION, 0, features, CHUNK_LIMIT, 0)
    return fields + _CHECK64.pack(xxhash.xxh3_64_intdigest(fields))


def pack_short_header(features: int, body: bytes) -> bytes:
    """The first bytes of an archive in the short form; `body`: what follows them."""
    numbers = features | SHORT, len(body), short_check(body)
    fields = _HEADER.pack(MAGIC, VERSION, 0, *numbers)
    return fields + _CHECK64.pack(xxhash.xxh3_64_intdigest(fields))


def short_check(body: bytes) -> int:
    """The check of all that follows the header of a short archive."""
    return xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF


def damaged_header(data: bytes) -> Header | None:
    """What a damaged header says if it may be one of the short form, else None."""
    if len(data) < HEADER_SIZE:
        return None
    _, _, _, features, body, _ = _HEADER.unpack(data[: _HEADER.size])
    return Header(features, CHUNK_LIMIT, body) if features & SHORT else None


def parse_header(data: bytes) -> Header:
    """Checks the first 32 bytes of an archive."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise FormatError("not a densor archive")
    if len(data) < HEADER_SIZE:
        raise TruncatedError("archive ends within its header")
    fields = data[: _HEADER.size]
    if _CHECK64.unpack(data[_HEADER.size : HEADER_SIZE])[0] != xxhash.xxh3_64_intdigest(fields):
        raise ChecksumError("header of the archive is damaged")
    _, version, reserved, features, limit, reserved2 = _HEADER.unpack(fields)
    if version > VERSION:
        raise UnsupportedError(
            f"written in format version {version}, this densor knows up to {VERSION}; upgrade it"
        )
    if version < 1:
        raise FormatError("archive of version 0, which does not exist")
    if features & ~KNOWN_FEATURES:
        raise UnsupportedError(
            f"needs features that this densor does not have ({features:#x}); upgrade densor"
        )
    if reserved or (reserved2 and not features & SHORT):
        raise FormatError("header of the archive has impossible values")
    if features & SHORT:
        if limit > MAX_SHORT:
            raise UnsupportedError(
                f"short archive of {limit} bytes, this densor knows up to {MAX_SHORT}; upgrade it"
            )
        return Header(features, CHUNK_LIMIT, limit, reserved2)
    if limit > CHUNK_LIMIT:
        raise LimitError("archive declares too large a chunk limit")
    return Header(features, limit)


def pack_frame(kind: int, payload: Any, original: int = 0, model: int = 0) -> bytes:
    """The header of a frame with this payload (any buffer)."""
    digest = xxhash.xxh3_64_intdigest(payload)
    fields = _FRAME.pack(kind, 0, 0, memoryview(payload).nbytes, original, model, digest)
    return fields + _CHECK32.pack(xxhash.xxh3_64_intdigest(fields) & 0xFFFFFFFF)


def parse_frame(data: bytes, limit: int = CHUNK_LIMIT) -> FrameHeader:
    """Checks a frame header; no frame but INDEX may have more than `limit` original bytes."""
    if len(data) < FRAME_SIZE:
        raise TruncatedError("archive ends within a frame header")
    kind, reserved, reserved2, stored, original, model, digest, check = _WHOLE.unpack_from(data)
    if check != xxhash.xxh3_64_intdigest(data[: _FRAME.size]) & 0xFFFFFFFF:
        raise ChecksumError("frame header is damaged")
    header = FrameHeader(kind, stored, original, model, digest)
    if not 1 <= kind <= END and kind < FIRST_SKIPPABLE:
        raise UnsupportedError(f"unknown kind of frame {kind}; a newer densor may read this")
    if reserved or reserved2:
        raise FormatError("frame header has impossible values")
    _check_limits(header, limit)
    return header


def _check_limits(header: FrameHeader, most: int) -> None:
    kind, stored, original, model, _ = header
    if kind == CHUNK and 0 < original <= most and stored <= original:
        return  # as most frames
    sized = kind in (CHUNK, REF, INDEX)
    if (original != 0) != sized or (model != 0 and kind != CHUNK):
        raise FormatError("frame header has impossible values")
    if original > (MAX_INDEX if kind == INDEX else most):
        raise LimitError("frame is larger than the format allows")
    limit = {
        ENTRY: MAX_ENTRY,
        MODEL: MAX_MODEL,
        CHUNK: original,
        REF: REF_PAYLOAD.size,
        ENTRY_END: ENTRY_END_PAYLOAD.size + 64,
        INDEX: original + 1024,
        END: END_PAYLOAD.size,
    }.get(kind, MAX_SKIPPABLE)
    if stored > limit:
        raise LimitError("frame stores more than the format allows")


def check_index(header: FrameHeader, offset: int) -> None:
    """LimitError if an INDEX frame at `offset` unpacks to more than it can need."""
    if header.original > INDEX_BASE + INDEX_PER_BYTE * offset:
        raise LimitError("index is larger than the archive can need")


def parse_end(payload: Any) -> End:
    """FormatError if the payload of an END frame is malformed."""
    return End(*_fields(END_PAYLOAD, payload, "END frame"))


def parse_ref(payload: Any) -> Ref:
    """FormatError if the payload of a REF frame is malformed."""
    return Ref(*_fields(REF_PAYLOAD, payload, "REF frame"))


def parse_place(payload: Any) -> tuple[int, ...]:
    """Entry, models and offset of a PLACE frame; FormatError if its payload is malformed."""
    return _fields(PLACE_PAYLOAD, payload, "PLACE frame")


def parse_entry_end(payload: Any) -> EntryEnd:
    """FormatError if the payload of an ENTRY_END frame is malformed; the digest is any bytes."""
    fixed = ENTRY_END_PAYLOAD.size
    size, kind = _fields(ENTRY_END_PAYLOAD, payload[:fixed], "end of an entry")
    return EntryEnd(size, kind, bytes(payload[fixed:]))


def _fields(layout: struct.Struct, payload: Any, what: str) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise FormatError(f"{what} is malformed")
    return layout.unpack(payload)


def pack_end(index_at: int, frames: int) -> bytes:
    """A whole END frame."""
    payload = END_PAYLOAD.pack(index_at, frames)
    return pack_frame(END, payload) + payload


def begins_archive(data: Any) -> bool:
    """Whether these first bytes are those of an archive."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def check_possible(size: int, stored: int) -> None:
    """LimitError where no archive of `stored` bytes can hold `size`; memory should wait for it."""
    if not is_possible(size, stored):
        raise LimitError(f"{stored} bytes cannot hold {size}")


def is_possible(size: int, stored: int) -> bool:
    """Whether an archive of `stored` bytes may hold `size`."""
    return size <= most_original(stored)


def most_original(stored: int) -> int:
    """Original bytes that an archive of so many bytes can hold at most."""
    return (stored // MIN_FRAME + 1) * CHUNK_LIMIT


def check_payload(header: FrameHeader, payload: Any) -> None:
    """Raises ChecksumError unless the payload is the one that was written."""
    if xxhash.xxh3_64_intdigest(payload) != header.digest:
        raise ChecksumError("data of a frame is damaged")
