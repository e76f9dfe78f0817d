"""Reference decoder of the Densor container, format version 1.

Slow and readable.  It was written from ``docs/format.md`` alone, shares no code with the library,
and serves the tests as a second opinion.  The numbers in the docstrings are the sections of that
document.  Codecs other than the planar one have a ``spec.md`` of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import change_reference
import mixing_reference
import numpy as np
import rans_reference
import scales_reference
import text_reference
import xxhash
import zstandard
from numpy.typing import NDArray

Bytes8 = NDArray[np.uint8]
Elements = NDArray[Any]  # unsigned integers as wide as the element

MAGIC = bytes.fromhex("89444E53520D0A1A")
VERSION = 1
BACKREFS, BASE = 1, 2
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
MAX_WINDOW = 1 << 26
MAX_RUNS = 1048576
MAX_LIVE_MODELS = 256
MAX_NAME = 4096
MAX_DIMENSIONS = 64
MAX_CHAIN = 64

MODEL_RAW, MODEL_ZSTD, FIRST_MODEL = 0, 1, 16
CODEC_PLANAR, CODEC_SCALES, CODEC_FIELDS, CODEC_SPARSE = 2, 3, 5, 6
CODEC_CHANGE, CODEC_PLANES = 7, 8
CODEC_MIXING, CODEC_TEXT = 4, 9
DELTA = 1
MAX_FIELDS = 8
ORDER_BLOCKS, ORDER_COLUMNS, ORDER_FIELD, ORDER_RATIO = range(4)
MAX_SORTED = 1048576
PART_RAW, PART_ZSTD, PART_MODEL = range(3)
PLANE_RAW, PLANE_CONSTANT, PLANE_ZSTD, PLANE_CLASSES, PLANE_RANS = range(5)
CLASS_RAW, CLASS_CONSTANT, CLASS_HUFFMAN = range(3)
MAX_CLASSES = 16
MAX_CODE_LENGTH = 12
STREAMS = 4
CLASS_PADDING = 8

HASH_XXH3_128, HASH_SHA256 = 1, 2

ENTRY_KINDS = ("file", "dir", "tensor", "array", "bytes")
ENTRY_KEYS = (
    *("name", "kind", "size", "dtype", "shape", "order"),
    *("host", "descr", "hash", "format", "mode", "mtime_ns", "base"),
)
HASH_NAMES = {"xxh3-128": 1, "sha256": 2}  # `hash` of an entry -> hash kind of its ENTRY_END
ELEMENT_SIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "VOID"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
    "C128": 16,
}


class Refused(Exception):
    """The input is not a valid archive; ``reason`` is an error name of section 10."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass
class Entry:
    """A decoded entry (5); ``hash`` is (hash kind, digest) of its original bytes."""

    name: str
    kind: str
    meta: dict[str, Any]
    data: bytes
    hash: tuple[int, bytes]


def decode(archive: bytes, base: bytes | None = None) -> list[Entry]:
    """Read an archive from front to back and return its entries.

    ``base``: the bytes that entries refer to whose base is not in the archive.
    """
    header = read_header(archive)
    reader = Reader(header, base)
    for frame in read_frames(archive, header):
        reader.accept(frame)
    return reader.entries


def read_index(archive: bytes) -> dict[str, Any]:
    """Find the INDEX through the last 44 bytes (9) and verify it against the frames.

    An archive without INDEX gives an empty dict.  The frames are walked first, so that a damaged
    archive is refused for the same reason as by ``decode``.
    """
    header = read_header(archive)
    frames = list(read_frames(archive, header))
    end = read_frame(archive, len(archive) - END_SIZE, header)
    if end.kind != END:
        fail("the last 44 bytes are not an END frame")
    offset, count = end_payload(end)
    if count != len(frames) - 1:
        fail("END counts another number of frames")
    if offset == 0:
        return {}
    number = next((i for i, frame in enumerate(frames) if frame.offset == offset), None)
    if number is None or frames[number].kind != INDEX:
        fail("END does not point to an INDEX frame")
    index = index_payload(read_frame(archive, offset, header))
    verify_index(index, frames[:number])
    return index


def fail(detail: str) -> NoReturn:
    """Refuse for the reason "format" (10)."""
    raise Refused("format", detail)


# 3. Header


@dataclass(frozen=True)
class Header:
    """What the 32 bytes of the header tell (3)."""

    features: int
    chunk_limit: int


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
    if features & ~(BACKREFS | BASE):
        raise Refused("unsupported", f"features {features:#x}")
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
    verify_frame_limits(kind, stored, original, header)
    if kind == INDEX and original > INDEX_BASE + INDEX_PER_BYTE * offset:
        raise Refused("limit", "an INDEX larger than the archive can need")
    verify_frame_fields(kind, stored, original, model)
    start = offset + FRAME_HEADER_SIZE
    payload = archive[start : start + stored]
    if len(payload) < stored:
        raise Refused("truncated", "the input ends inside a payload")
    if payload_hash != xxhash.xxh3_64_intdigest(payload):
        raise Refused("checksum", "a payload hash does not match")
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
        max_stored = MAX_STORED.get(kind, stored)  # the others: verify_frame_fields
    if stored > max_stored:
        raise Refused("limit", f"stored length of a frame of kind {kind}")
    if original > (MAX_INDEX if kind == INDEX else header.chunk_limit):
        raise Refused("limit", f"original length of a frame of kind {kind}")


def verify_frame_fields(kind: int, stored: int, original: int, model: int) -> None:
    """Verify the fields that the kind of the frame prescribes (4)."""
    if kind != CHUNK and model != 0:
        fail("a model number in a frame other than CHUNK")
    if kind in (CHUNK, REF):
        if original == 0:
            fail("a CHUNK or REF of no bytes")
    elif kind != INDEX and original != 0:
        fail("an original length in a frame that has none")
    if stored < MIN_STORED.get(kind, 0):
        fail(f"stored length of a frame of kind {kind}")


def end_payload(frame: Frame) -> tuple[int, int]:
    """END: file offset of the INDEX frame or 0, number of frames before END (4)."""
    offset, count = struct.unpack("<QQ", frame.payload)
    return offset, count


# 2. Structure


@dataclass
class OpenEntry:
    """The entry that is being read: its bytes so far, and which of them come from REF frames."""

    meta: dict[str, Any]
    data: bytearray = field(default_factory=bytearray)
    repeated: list[tuple[int, int]] = field(default_factory=list)

    def repeat(self, offset: int, length: int) -> bytes:
        """The bytes that a REF names; all must come from CHUNK frames (6)."""
        stop = offset + length
        if stop > len(self.data):
            fail("a REF beyond the bytes decoded so far")
        if any(first < stop and offset < last for first, last in self.repeated):
            fail("a REF to bytes that come from a REF")
        return bytes(self.data[offset:stop])


BETWEEN_ENTRIES = (ENTRY, INDEX, END)
INSIDE_ENTRY = (MODEL, CHUNK, REF, ENTRY_END)
AFTER_INDEX = (END,)


class Reader:
    """Takes the frames in order, follows the grammar (2) and collects the entries."""

    def __init__(self, header: Header, base: bytes | None) -> None:
        self.header = header
        self.given_base = base
        self.base: bytes | None = None  # of the entry that is being read
        self.chains: list[int] = []  # per entry, the number of bases that it needs
        self.entries: list[Entry] = []
        self.frames: list[Frame] = []
        self.contents: list[OpenEntry] = []  # all entries begun so far, for REF
        self.names: set[str] = set()
        self.models: list[AnyModel] = []
        self.index_offset = 0
        self.allowed: tuple[int, ...] = BETWEEN_ENTRIES

    def accept(self, frame: Frame) -> None:
        """Interpret the next frame."""
        if frame.kind < FIRST_SKIPPABLE:
            if frame.kind not in self.allowed:
                fail(f"a frame of kind {frame.kind} where none may stand")
            if frame.kind == ENTRY:
                self.begin_entry(frame)
            elif frame.kind == MODEL:
                self.models.append(parse_model(frame.payload))
            elif frame.kind == CHUNK:
                self.contents[-1].data += self.decode_chunk(frame)
            elif frame.kind == REF:
                self.repeat(frame)
            elif frame.kind == ENTRY_END:
                self.end_entry(frame)
            elif frame.kind == INDEX:
                self.accept_index(frame)
            else:
                self.accept_end(frame)
        self.frames.append(frame)

    def begin_entry(self, frame: Frame) -> None:
        """ENTRY (5)."""
        meta = parse_entry(frame.payload)
        if meta["name"] in self.names:
            fail("a name occurs twice")
        self.names.add(meta["name"])
        self.base, chain = self.find_base(meta)
        self.chains.append(chain)
        self.contents.append(OpenEntry(meta))
        self.allowed = INSIDE_ENTRY

    def decode_chunk(self, frame: Frame) -> bytes:
        """CHUNK: decode with the model that the frame header names (6)."""
        if frame.model == MODEL_RAW:
            if len(frame.payload) != frame.original:
                fail("the lengths of a raw CHUNK differ")
            return frame.payload
        if frame.model == MODEL_ZSTD:
            return decode_zstd(frame.payload, frame.original)
        if frame.model < FIRST_MODEL:
            raise Refused("unsupported", f"model {frame.model}")
        number = frame.model - FIRST_MODEL
        if not max(0, len(self.models) - MAX_LIVE_MODELS) <= number < len(self.models):
            fail(f"CHUNK names the MODEL frame {number}")
        model = self.models[number]
        if isinstance(model, change_reference.Model):
            return decode_changes(model, frame, self.base)
        return decode_by_model(model, frame.payload, frame.original)

    def find_base(self, meta: dict[str, Any]) -> tuple[bytes | None, int]:
        """The bytes that chunks of the entry refer to, and the length of the chain (5)."""
        base = meta.get("base")
        if base is None:
            return None, 0
        if not self.header.features & BASE:
            fail("a base without the feature BASE")
        hash_kind, digest = base["digest"]
        wanted = (base["size"], hash_kind, bytes.fromhex(digest))
        number = base.get("entry")
        if number is None:
            data = self.given_base
            if data is None or (len(data), hash_kind, original_hash(hash_kind, data)) != wanted:
                raise Refused("base", "the base is missing, or another one")
            return data, 1
        if number >= len(self.entries):
            fail("a base that does not come before")
        entry = self.entries[number]
        if (len(entry.data), *entry.hash) != wanted:
            fail("a base of another size or hash")
        if self.chains[number] >= MAX_CHAIN:
            raise Refused("limit", "too long a chain of bases")
        return entry.data, self.chains[number] + 1

    def repeat(self, frame: Frame) -> None:
        """REF: repeat earlier bytes of this or another entry (6)."""
        if not self.header.features & BACKREFS:
            fail("a REF without the feature BACKREFS")
        number, offset = struct.unpack("<IQ", frame.payload)
        if number >= len(self.contents):
            fail("a REF to an entry that has not begun")
        repeated = self.contents[number].repeat(offset, frame.original)
        entry = self.contents[-1]
        entry.repeated.append((len(entry.data), len(entry.data) + len(repeated)))
        entry.data += repeated

    def end_entry(self, frame: Frame) -> None:
        """ENTRY_END: size, then hash of the original bytes (5)."""
        size, hash_kind, digest = entry_end_payload(frame)
        meta, data = self.contents[-1].meta, bytes(self.contents[-1].data)
        if size != len(data):
            fail("ENTRY_END has another size than the bytes decoded")
        verify_size(meta, size)
        if hash_kind != HASH_NAMES[meta.get("hash", "xxh3-128")]:
            fail("ENTRY_END has another kind of hash than ENTRY")
        if digest != original_hash(hash_kind, data):
            raise Refused("checksum", "the hash of the original bytes does not match")
        self.entries.append(Entry(meta["name"], meta["kind"], meta, data, (hash_kind, digest)))
        self.allowed = BETWEEN_ENTRIES

    def accept_index(self, frame: Frame) -> None:
        """INDEX: optional, but it has to be right where it stands (9)."""
        verify_index(index_payload(frame), self.frames)
        self.index_offset = frame.offset
        self.allowed = AFTER_INDEX

    def accept_end(self, frame: Frame) -> None:
        """END: offset of the INDEX frame or 0, number of frames before END (4)."""
        if end_payload(frame) != (self.index_offset, len(self.frames)):
            fail("END has another INDEX offset or number of frames")


# 1. JSON


def parse_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object as section 1 restricts it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            fail("a duplicate JSON key")
        return dict(pairs)

    def refuse_number(token: str) -> NoReturn:
        fail(f"the JSON number {token[:40]}")

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise Refused("format", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        fail("the JSON value is not an object")
    return value


def is_integer(value: object) -> bool:
    """A JSON integer that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_integer_list(value: object) -> bool:
    """A JSON list of integers that are not negative."""
    return isinstance(value, list) and all(is_integer(item) for item in value)


# 5. Entries


def parse_entry(payload: bytes) -> dict[str, Any]:
    """ENTRY payload: the keys of the table, with their types (5)."""
    meta = parse_json(payload)
    kind = meta.get("kind")
    if not isinstance(kind, str) or kind not in ENTRY_KINDS:
        fail("kind of an entry")
    verify_name(meta.get("name"), kind)
    if not (meta.get("size") is None or is_integer(meta["size"])):
        fail("size of an entry")
    verify_optional(meta, "hash", isinstance(meta.get("hash"), str))
    if meta.get("hash", "xxh3-128") not in HASH_NAMES:
        raise Refused("unsupported", f"hash {meta['hash'][:40]}")
    if kind in ("tensor", "array"):
        if not isinstance(meta.get("dtype"), str) or meta["dtype"] not in ELEMENT_SIZE:
            fail("dtype of an entry")
        if kind == "tensor" and meta["dtype"] == "VOID":
            fail("a tensor of type VOID")
        if meta["dtype"] == "VOID" and "descr" not in meta:
            fail("an array of type VOID without description")
        if meta.get("size") is None:
            fail("a tensor or array without size")
        if not is_integer_list(meta.get("shape")) or len(meta["shape"]) > MAX_DIMENSIONS:
            fail("shape of an entry")
    if kind == "array":
        verify_optional(meta, "order", meta.get("order") in ("C", "F"))
        verify_optional(meta, "host", meta.get("host") in ("numpy", "torch"))
        verify_optional(meta, "descr", isinstance(meta.get("descr"), (str, list)))
    for key in ("dtype", "order", "host", "format"):
        verify_optional(meta, key, isinstance(meta.get(key), str))
    verify_optional(meta, "base", kind != "dir" and is_base(meta.get("base")))
    if "base" in meta and meta["base"]["digest"][0] not in (HASH_XXH3_128, HASH_SHA256):
        raise Refused("unsupported", "hash kind of a base")
    verify_optional(meta, "mode", is_integer(meta.get("mode")) and meta["mode"] <= 511)
    mtime = meta.get("mtime_ns")  # negative before 1970
    verify_optional(meta, "mtime_ns", isinstance(mtime, int) and not isinstance(mtime, bool))
    return meta


def is_base(base: object) -> bool:
    """The value of the key base (5)."""
    if not isinstance(base, dict) or not is_integer(base.get("size")):
        return False
    digest = base.get("digest")
    if not isinstance(digest, list) or len(digest) != 2 or not is_integer(digest[0]):
        return False
    if not isinstance(digest[1], str):
        return False
    try:
        bytes.fromhex(digest[1])
    except ValueError:
        return False
    if "name" in base:
        verify_name(base["name"], "bytes")
    return "entry" not in base or is_integer(base["entry"])


def verify_optional(meta: dict[str, Any], key: str, valid: bool) -> None:
    """A key that may be absent has to be valid where it is present (5)."""
    if key in meta and not valid:
        fail(f"{key} of an entry")


def verify_name(name: object, kind: str) -> None:
    """The rules for names (5)."""
    if not isinstance(name, str):
        fail("name of an entry")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError as error:  # a lone surrogate, written as a JSON escape
        raise Refused("format", "a name is not Unicode text") from error
    if size > MAX_NAME:
        fail("a name is too long")
    if "\0" in name:
        fail("a name holds NUL")
    if kind == "tensor" and not name:
        fail("a tensor has no name")
    if kind in ("file", "dir"):
        components = name.split("/")
        if any(component in ("", ".", "..") for component in components):
            fail("a component of a path is empty, . or ..")
        if any(character < " " or character in "\\:\x7f" for character in name):
            fail("a character that no path may hold")


def verify_size(meta: dict[str, Any], size: int) -> None:
    """The size of an entry against its ENTRY frame (5)."""
    if meta.get("size") not in (None, size):
        fail("ENTRY_END has another size than ENTRY")
    if meta["kind"] == "dir" and size != 0:
        fail("a dir that holds bytes")
    if meta["kind"] in ("tensor", "array"):
        elements = math.prod(meta["shape"])
        if meta["dtype"] == "VOID" and elements:
            # How many bytes an element has is told by descr alone, which is not interpreted here.
            if size % elements:
                fail("the elements of an array have no whole size")
        elif size != elements * ELEMENT_SIZE[meta["dtype"]]:
            fail("shape and dtype give another size")


def entry_end_payload(frame: Frame) -> tuple[int, int, bytes]:
    """ENTRY_END payload: size, hash kind, digest (5)."""
    size, hash_kind = struct.unpack_from("<QB", frame.payload)
    digest = frame.payload[9:]
    if hash_kind not in (HASH_XXH3_128, HASH_SHA256):
        raise Refused("unsupported", f"hash kind {hash_kind}")
    if len(digest) != (16 if hash_kind == HASH_XXH3_128 else 32):
        fail("length of a digest")
    return size, hash_kind, digest


def original_hash(hash_kind: int, data: bytes) -> bytes:
    """XXH3-128 in canonical byte order, or SHA-256 (1, 5)."""
    if hash_kind == HASH_XXH3_128:
        return xxhash.xxh3_128_digest(data)
    return hashlib.sha256(data).digest()


# 6. Zstandard


def decode_zstd(payload: bytes, size: int) -> bytes:
    """One Zstandard frame without dictionary and large window that gives just size bytes (6)."""
    if payload[:4] != b"\x28\xb5\x2f\xfd":
        fail("not a Zstandard frame")
    try:
        parameters = zstandard.get_frame_parameters(payload)
        if parameters.dict_id != 0:
            fail("a Zstandard frame that needs a dictionary")
        if parameters.window_size > max(MAX_WINDOW, size):
            raise Refused("limit", "the window of a Zstandard frame is too large")
        if parameters.content_size != size:
            fail("a Zstandard frame of another size")
        data = zstandard.ZstdDecompressor().decompress(
            payload, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Refused("format", f"Zstandard: {error}") from error
    if len(data) != size:
        fail("a Zstandard frame of another size")
    return data


# 7. MODEL


class Cursor:
    """Reads fields from bytes; to go beyond their end is a "format" error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next count bytes."""
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            fail("a field goes beyond the end of its payload")
        self.position += count
        return taken

    def u8(self) -> int:
        """The next u8."""
        return self.take(1)[0]

    def u16(self) -> int:
        """The next u16."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """The next u32."""
        return int.from_bytes(self.take(4), "little")

    def finish(self) -> None:
        """Nothing may be left."""
        if self.position != len(self.data):
            fail("bytes are left at the end of a payload")


@dataclass(frozen=True)
class PlaneClass:
    """A class of a plane (7): ``symbol`` of a constant, ``table`` of a Huffman code."""

    kind: int
    symbol: int = 0
    table: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Frequencies:
    """The classes of a plane of the planes codec (densor/codec/planes/rans_spec.md)."""

    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Model:
    """A MODEL frame of the planar codec (7), or of the planes codec."""

    layout: int
    delta: bool
    run_length: int
    planes: tuple[tuple[PlaneClass, ...] | Frequencies, ...]


LAYOUT_SIZE = {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 8, 7: 8}  # as many planes as bytes
LAYOUT_BF16, LAYOUT_FP32, LAYOUT_FP64 = 2, 4, 6
WORD_LAYOUTS = (1, 3, 5, 7)


@dataclass(frozen=True)
class FieldModel:
    """A field of the fields codec: bytes per block, order of the items, model."""

    size: int
    order: int
    width: int
    columns: int
    model: AnyModel | None


@dataclass(frozen=True)
class FieldsModel:
    """A MODEL frame of the fields codec."""

    fields: tuple[FieldModel, ...]


@dataclass(frozen=True)
class SparseModel:
    """A MODEL frame of the sparse codec."""

    size: int
    bitmap: AnyModel | None
    values: AnyModel | None


@dataclass(frozen=True)
class MixingModel:
    """A MODEL frame of the mixing codec."""

    payload: bytes


@dataclass(frozen=True)
class TextModel:
    """A MODEL frame of the text codec."""

    payload: bytes


AnyModel = (
    Model
    | FieldsModel
    | SparseModel
    | MixingModel
    | TextModel
    | scales_reference.Model
    | change_reference.Model
)


def parse_changes(payload: bytes) -> change_reference.Model:
    """MODEL of changes: see change_reference."""
    try:
        return change_reference.parse_model(payload, decode_zstd)
    except change_reference.Unsupported as error:
        raise Refused("unsupported", f"MODEL: {error}") from error
    except ValueError as error:
        raise Refused("format", f"MODEL: {error}") from error


def decode_changes(model: change_reference.Model, frame: Frame, base: bytes | None) -> bytes:
    """CHUNK of changes."""
    if base is None:
        fail("changes in an entry without a base")
    try:
        return change_reference.decode(model, frame.payload, frame.original, base)
    except change_reference.TooLong as error:
        raise Refused("limit", "a CHUNK of changes is too long") from error
    except ValueError as error:
        raise Refused("format", f"CHUNK: {error}") from error


def parse_mixing(payload: bytes) -> MixingModel:
    """The model of the mixing codec (densor/codec/float_cm/spec.md)."""
    if len(payload) > 1 and payload[1] not in mixing_reference.FORMATS:
        raise Refused("unsupported", f"format {payload[1]}")
    if not mixing_reference.is_model(payload):
        fail("a MODEL of the mixing codec")
    return MixingModel(payload)


def decode_mixing(model: MixingModel, payload: bytes, original: int) -> bytes:
    """CHUNK payload of the mixing codec."""
    try:
        return mixing_reference.decode(model.payload, payload, original)
    except mixing_reference.Fault as fault:
        fail(str(fault))


def parse_text(payload: bytes) -> TextModel:
    """The model of the text codec (densor/codec/byte_cm/spec.md)."""
    if not text_reference.is_model(payload):
        fail("a MODEL of the text codec")
    if text_reference.is_too_large(payload):
        raise Refused("limit", "the table of a MODEL of the text codec")
    return TextModel(payload)


def decode_text(model: TextModel, payload: bytes, original: int) -> bytes:
    """CHUNK payload of the text codec."""
    if original > text_reference.MAX_SEGMENT:
        raise Refused("limit", "a CHUNK of the text codec is too long")
    try:
        return text_reference.decode(model.payload, payload, original)
    except text_reference.Fault as fault:
        fail(str(fault))


def parse_model(payload: bytes, inner: bool = False) -> AnyModel:
    """MODEL payload (7), or that of a part, which may not have parts itself."""
    cursor = Cursor(payload)
    codec = cursor.u8()
    if codec in (CODEC_FIELDS, CODEC_SPARSE, CODEC_CHANGE):
        if inner:
            fail("models are nested too deep")
        if codec == CODEC_CHANGE:
            return parse_changes(payload)
        return parse_fields(cursor) if codec == CODEC_FIELDS else parse_sparse(cursor)
    if codec == CODEC_SCALES:
        return parse_scales(payload)
    if codec == CODEC_MIXING:
        return parse_mixing(payload)
    if codec == CODEC_TEXT:
        return parse_text(payload)
    if codec not in (CODEC_PLANAR, CODEC_PLANES):
        raise Refused("unsupported", f"codec {codec}")
    return parse_planar(cursor, codec)


def parse_scales(payload: bytes) -> scales_reference.Model:
    """The model of the codec with scale contexts (densor/codec/scale_context/spec.md)."""
    if payload[1:2] and payload[1] not in scales_reference.FORMS:
        raise Refused("unsupported", f"form {payload[1]}")
    try:
        return scales_reference.parse_model(payload, parse_low_halves)
    except ValueError as error:
        fail(str(error))


def parse_low_halves(payload: bytes) -> scales_reference.Nested:
    """The decoder of the inner model of low halves (densor/codec/scale_context/spec.md)."""
    if payload[0] not in (CODEC_PLANAR, CODEC_PLANES):
        fail("codec of low halves")
    model = parse_model(payload)
    if not isinstance(model, Model) or LAYOUT_SIZE[model.layout] != 2:
        fail("layout of low halves")
    return partial(decode_planar, model)


def parse_fields(cursor: Cursor) -> FieldsModel:
    """The model of the fields codec (densor/codec/blocks/spec.md)."""
    count = cursor.u8()
    if not 1 <= count <= MAX_FIELDS:
        fail("number of fields")
    fields: list[FieldModel] = []
    for _ in range(count):
        size, order, width, columns = cursor.u16(), cursor.u8(), cursor.u8(), cursor.u32()
        verify_order(order, size, width, columns, [field.size for field in fields])
        fields.append(FieldModel(size, order, width, columns, parse_part(cursor)))
    cursor.finish()
    return FieldsModel(tuple(fields))


def verify_order(order: int, size: int, width: int, columns: int, before: list[int]) -> None:
    """Refuse an order that the field and those before it do not allow."""
    if size == 0:
        fail("an empty field")
    if order > ORDER_RATIO:
        raise Refused("unsupported", f"order {order}")
    if order == ORDER_COLUMNS:
        if width not in (1, 2, 4, 8) or size % width != 0 or columns == 0:
            fail("width or columns of a field")
    elif width != 0 or columns != 0:
        fail("width or columns of a field that has none")
    if order == ORDER_FIELD and before[-1:] != [2]:
        fail("an order by a field that is not there")
    if order == ORDER_RATIO and before[-2:] != [2, 2]:
        fail("an order by fields that are not there")


def parse_sparse(cursor: Cursor) -> SparseModel:
    """The model of the sparse codec (densor/codec/sparse/spec.md)."""
    size = cursor.u8()
    if size not in (1, 2, 4, 8):
        fail("bytes per element of a sparse model")
    bitmap, values = parse_part(cursor), parse_part(cursor)
    cursor.finish()
    return SparseModel(size, bitmap, values)


def parse_part(cursor: Cursor) -> AnyModel | None:
    """Length and model of a part; length 0 means that there is none."""
    payload = cursor.take(cursor.u32())
    return parse_model(payload, inner=True) if payload else None


def parse_planar(cursor: Cursor, codec: int) -> Model:
    """The model of the planar codec (7), or of the planes codec."""
    layout = cursor.u8()
    if layout not in LAYOUT_SIZE:
        raise Refused("unsupported", f"layout {layout}")
    flags = cursor.u8()
    if flags & ~DELTA:
        fail("reserved flags of a MODEL")
    if flags & DELTA and layout not in WORD_LAYOUTS:
        fail("DELTA with a layout that has none")
    if cursor.u8() != LAYOUT_SIZE[layout]:
        fail("number of planes of a MODEL")
    run_length = cursor.u32()
    if run_length == 0:
        fail("a run length of 0")
    parse = parse_class_list if codec == CODEC_PLANAR else parse_frequencies
    planes = tuple(parse(cursor) for _ in range(LAYOUT_SIZE[layout]))
    cursor.finish()
    return Model(layout, bool(flags & DELTA), run_length, planes)


def parse_class_list(cursor: Cursor) -> tuple[PlaneClass, ...]:
    """Class list of a plane (7)."""
    count = cursor.u8()
    if count > MAX_CLASSES:
        fail("more than 16 classes")
    return tuple(parse_class(cursor) for _ in range(count))


def parse_frequencies(cursor: Cursor) -> Frequencies:
    """Classes of a plane: packed frequencies (densor/codec/planes/rans_spec.md)."""
    count = cursor.u8()
    if count > MAX_CLASSES:
        fail("more than 16 classes")
    try:
        rows, size = rans_reference.unpack(cursor.data[cursor.position :], count)
    except rans_reference.Malformed as error:
        fail(str(error))
    cursor.take(size)
    return Frequencies(tuple(tuple(row) for row in rows))


def parse_class(cursor: Cursor) -> PlaneClass:
    """One class: raw, constant or Huffman (7)."""
    kind = cursor.u8()
    if kind == CLASS_RAW:
        return PlaneClass(kind)
    if kind == CLASS_CONSTANT:
        return PlaneClass(kind, symbol=cursor.u8())
    if kind == CLASS_HUFFMAN:
        return PlaneClass(kind, table=huffman_table(parse_code_lengths(cursor)))
    fail(f"class kind {kind}")


def parse_code_lengths(cursor: Cursor) -> dict[int, int]:
    """Symbol -> code length, for the symbols that occur (7)."""
    first, last = cursor.u8(), cursor.u8()
    if first >= last:
        fail("first and last symbol of a Huffman class")
    count = last - first + 1
    halves = [half for byte in cursor.take((count + 1) // 2) for half in (byte & 15, byte >> 4)]
    if any(halves[count:]):
        fail("an unused half byte is not 0")
    lengths = {first + i: length for i, length in enumerate(halves[:count]) if length}
    if any(length > MAX_CODE_LENGTH for length in lengths.values()):
        fail("a code length above 12")
    if len(lengths) < 2:
        fail("a Huffman class with fewer than two symbols")
    if sum(1 << (MAX_CODE_LENGTH - length) for length in lengths.values()) != 1 << MAX_CODE_LENGTH:
        fail("the sum of a Huffman code is not 1")
    return lengths


def huffman_table(lengths: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """Canonical code as a table: the next 12 bits of a stream -> (symbol, code length) (7).

    A code begins with its most significant bit and the first of the 12 bits is the lowest one, so
    the reversed code fills the low bits; the bits above it belong to the codes that follow.
    """
    table = [(0, 0)] * (1 << MAX_CODE_LENGTH)
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code <<= length - previous
        step = 1 << length
        table[reverse_bits(code, length) :: step] = [(symbol, length)] * (len(table) // step)
        code, previous = code + 1, length
    return tuple(table)


def reverse_bits(value: int, count: int) -> int:
    """The lowest ``count`` bits of ``value`` in the opposite order."""
    return int(f"{value:0{count}b}"[::-1], 2)


# Payload of a CHUNK that has parts (densor/codec/blocks/spec.md, densor/codec/sparse/spec.md)


def decode_by_model(model: AnyModel, payload: bytes, original: int) -> bytes:
    """The payload of a CHUNK with a model of its own."""
    if isinstance(model, FieldsModel):
        return decode_fields(model, payload, original)
    if isinstance(model, SparseModel):
        return decode_sparse(model, payload, original)
    if isinstance(model, MixingModel):
        return decode_mixing(model, payload, original)
    if isinstance(model, TextModel):
        return decode_text(model, payload, original)
    if isinstance(model, scales_reference.Model):
        return decode_scales(model, payload, original)
    assert isinstance(model, Model)  # changes cannot be parts
    return decode_planar(model, payload, original)


def decode_fields(model: FieldsModel, payload: bytes, original: int) -> bytes:
    """Parts -> blocks."""
    block = sum(field.size for field in model.fields)
    if original % block:
        fail("a CHUNK that holds no whole number of blocks")
    blocks = original // block
    wanted = [(field.model, blocks * field.size) for field in model.fields]
    fields: list[Bytes8] = []
    for one, part in zip(model.fields, decode_parts(Cursor(payload), wanted), strict=True):
        found = np.frombuffer(part, np.uint8)
        fields.append(in_order_of_blocks(one, found, fields).reshape(blocks, one.size))
    return np.concatenate(fields, axis=1).tobytes()


def in_order_of_blocks(model: FieldModel, part: Bytes8, before: list[Bytes8]) -> Bytes8:
    """The bytes of a part, block after block."""
    if model.order == ORDER_BLOCKS:
        return part
    if model.order == ORDER_COLUMNS:
        if part.size % (model.width * model.columns):
            fail("a CHUNK that holds no whole number of rows")
        rows = part.reshape(model.columns, -1, model.width).swapaxes(0, 1)
        return np.ascontiguousarray(rows)
    if part.size > MAX_SORTED * model.size:
        raise Refused("limit", "more blocks to sort than a chunk may have")
    u = [low + 256 * high for low, high in before[-1].tolist()]
    if model.order == ORDER_FIELD:
        keys = [number // 256 for number in u]
    else:
        t = [low + 256 * high for low, high in before[-2].tolist()]
        logs = [b % 2**15 - a % 2**15 for a, b in zip(t, u, strict=True)]
        keys = [min(max(difference // 64 + 128, 0), 255) for difference in logs]
    found = np.empty((len(keys), model.size), np.uint8)
    order = sorted(range(len(keys)), key=lambda block: (keys[block], block))
    found[order] = part.reshape(-1, model.size)
    return found


def decode_sparse(model: SparseModel, payload: bytes, original: int) -> bytes:
    """Bitmap and values -> elements."""
    if original % model.size:
        fail("a CHUNK that holds no whole number of elements")
    n = original // model.size
    cursor = Cursor(payload)
    count = cursor.u32()
    if count > n:
        fail("more values than elements")
    wanted = [(model.bitmap, -(-n // 8)), (model.values, count * model.size)]
    bitmap, values = decode_parts(cursor, wanted)
    bits = [byte >> k & 1 for byte in bitmap for k in range(8)]
    if sum(bits) != count or any(bits[n:]):
        fail("the bitmap does not fit the values")
    elements = np.zeros((n, model.size), np.uint8)
    present = np.flatnonzero(bits[:n])
    elements[present] = np.frombuffer(values, np.uint8).reshape(-1, model.size)
    return elements.tobytes()


def decode_scales(model: scales_reference.Model, payload: bytes, original: int) -> bytes:
    """The payload of a CHUNK with scale contexts (densor/codec/scale_context/spec.md)."""
    try:
        return scales_reference.decode(model, payload, original)
    except ValueError as error:
        fail(str(error))


def decode_parts(cursor: Cursor, wanted: list[tuple[AnyModel | None, int]]) -> list[bytes]:
    """The parts that fill the rest of a payload, each with its model and original length."""
    heads = [(cursor.u8(), cursor.u32()) for _ in wanted]
    parts = []
    for (mode, length), (model, original) in zip(heads, wanted, strict=True):
        stored = cursor.take(length)
        if mode > PART_MODEL:
            raise Refused("unsupported", f"part mode {mode}")
        if original == 0 and mode != PART_RAW:
            fail("an empty part that is not raw")
        if mode == PART_ZSTD:
            stored = decode_zstd(stored, original)
        elif mode == PART_MODEL:
            if model is None:
                fail("a part without model")
            stored = decode_by_model(model, stored, original)
        if len(stored) != original:
            fail("length of a part")
        parts.append(stored)
    cursor.finish()
    return parts


# 7. Payload of a planar CHUNK


def decode_planar(model: Model, payload: bytes, original: int) -> bytes:
    """Planes -> elements -> bytes (7)."""
    size = LAYOUT_SIZE[model.layout]
    if original % size:
        fail("a CHUNK that holds no whole number of elements")
    n = original // size
    cursor = Cursor(payload)
    heads = [(cursor.u8(), cursor.u32()) for _ in model.planes]
    planes = [
        decode_plane(mode, cursor.take(length), n, classes, model.run_length)
        for (mode, length), classes in zip(heads, model.planes, strict=True)
    ]
    cursor.finish()
    elements = merge_planes(model.layout, planes)
    if model.delta:
        elements = undo_delta(elements)
    return elements.tobytes()


def decode_plane(
    mode: int,
    section: bytes,
    n: int,
    classes: tuple[PlaneClass, ...] | Frequencies,
    run_length: int,
) -> Bytes8:
    """The section of a plane, by its mode (7)."""
    if mode == PLANE_RAW:
        if len(section) != n:
            fail("length of a raw plane")
        return np.frombuffer(section, np.uint8)
    if mode == PLANE_CONSTANT:
        if len(section) != 1:
            fail("length of a constant plane")
        return np.full(n, section[0], np.uint8)
    if mode == PLANE_ZSTD:
        return np.frombuffer(decode_zstd(section, n), np.uint8)
    if mode == PLANE_CLASSES and not isinstance(classes, Frequencies):
        if not classes:
            fail("a plane coded by classes whose model has none")
        return decode_classes(section, n, classes, run_length)
    if mode == PLANE_RANS and isinstance(classes, Frequencies):
        if not classes.rows:
            fail("a plane coded by classes whose model has none")
        return decode_rans(section, n, classes, run_length)
    fail(f"plane mode {mode}")


def decode_classes(
    section: bytes, n: int, classes: tuple[PlaneClass, ...], run_length: int
) -> Bytes8:
    """Class map, stream lengths, raw classes, streams, eight bytes 0 (7)."""
    cursor = Cursor(section)
    runs = -(-n // run_length)
    if len(classes) > 1 and runs > MAX_RUNS:
        raise Refused("limit", "more runs than a chunk may have")
    class_of_run = read_class_map(cursor, runs, len(classes))
    elements_of_run = np.full(runs, run_length, np.int64)
    elements_of_run[-1] = n - (runs - 1) * run_length
    class_of_element = np.repeat(class_of_run, elements_of_run)
    used = sorted(set(class_of_run.tolist()))
    coded = [number for number in used if classes[number].kind == CLASS_HUFFMAN]

    lengths = [cursor.u32() for _ in range(STREAMS)] if coded else []
    plane = np.zeros(n, np.uint8)
    for number in used:
        members = class_of_element == number
        if classes[number].kind == CLASS_RAW:
            plane[members] = np.frombuffer(cursor.take(int(np.count_nonzero(members))), np.uint8)
        elif classes[number].kind == CLASS_CONSTANT:
            plane[members] = classes[number].symbol
    streams = [Stream(cursor.take(length)) for length in lengths]
    for number in coded:
        members = class_of_element == number
        m = int(np.count_nonzero(members))
        q = -(-m // STREAMS)
        table = classes[number].table
        symbols = [
            stream.read(min((j + 1) * q, m) - min(j * q, m), table)
            for j, stream in enumerate(streams)
        ]
        plane[members] = np.frombuffer(b"".join(symbols), np.uint8)
    for stream in streams:
        stream.finish()
    if any(cursor.take(CLASS_PADDING)):
        fail("the padding of a class section is not 0")
    cursor.finish()
    return plane


def decode_rans(section: bytes, n: int, classes: Frequencies, run_length: int) -> Bytes8:
    """Class map and rANS stream (densor/codec/planes/rans_spec.md)."""
    cursor = Cursor(section)
    class_of_run = read_class_map(cursor, -(-n // run_length), len(classes.rows))
    contexts = [int(class_of_run[i // run_length]) for i in range(n)]
    try:
        plane = rans_reference.decode(section[cursor.position :], classes.rows, contexts)
    except rans_reference.Malformed as error:
        fail(str(error))
    return np.frombuffer(plane, np.uint8)


def read_class_map(cursor: Cursor, runs: int, class_count: int) -> Bytes8:
    """Class map: b bits per run, the first run in the lowest bits (7)."""
    bits = 0 if class_count == 1 else 1 if class_count == 2 else 2 if class_count <= 4 else 4
    if bits == 0:
        return np.zeros(runs, np.uint8)
    packed = np.frombuffer(cursor.take((runs * bits + 7) // 8), np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    mask = np.uint8((1 << bits) - 1)
    numbers: Bytes8 = ((packed[:, np.newaxis] >> shifts) & mask).reshape(-1)
    if numbers[runs:].any():
        fail("an unused bit of a class map is not 0")
    if int(numbers.max()) >= class_count:
        fail("a class number that the model does not have")
    return numbers[:runs]


class Stream:
    """A Huffman stream, bit k being bit k mod 8 of byte k div 8 (7)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.padded = data + bytes(2)  # the look ahead of 12 bits may pass the end of the stream
        self.window = self.available = self.position = self.used = 0

    def read(self, count: int, table: tuple[tuple[int, int], ...]) -> bytearray:
        """The next count symbols, by the code of table."""
        padded, window, available = self.padded, self.window, self.available
        position, used, size = self.position, self.used, 8 * len(self.data)
        symbols = bytearray(count)
        for i in range(count):
            while available < MAX_CODE_LENGTH and position < len(padded):
                window |= padded[position] << available
                position += 1
                available += 8
            symbol, length = table[window & 0xFFF]
            symbols[i] = symbol
            window >>= length
            available -= length
            used += length
            if used > size:
                fail("a Huffman stream is too short")
        self.window, self.available = window, available
        self.position, self.used = position, used
        return symbols

    def finish(self) -> None:
        """Nothing but unused bits of the last byte, which are 0, may be left."""
        if len(self.data) != (self.used + 7) // 8:
            fail("a Huffman stream is too long")
        if self.used % 8 and self.data[-1] >> self.used % 8:
            fail("an unused bit of a Huffman stream is not 0")


def merge_planes(layout: int, planes: list[Bytes8]) -> Elements:
    """Undo the split of the table of layouts (7), in unsigned integers of the element's size."""
    p: list[Elements] = [plane.astype(f"<u{LAYOUT_SIZE[layout]}") for plane in planes]
    if layout == LAYOUT_BF16:
        return (p[1] & 128) << 8 | p[0] << 7 | (p[1] & 127)
    if layout == LAYOUT_FP32:
        return (p[1] & 128) << 24 | p[0] << 23 | (p[1] & 127) << 16 | p[2] << 8 | p[3]
    if layout == LAYOUT_FP64:
        e = p[2] >> 5 << 8 | p[0]
        exponent = (e + 896) & 2047
        high = (p[1] & 128) << 56 | exponent << 52 | (p[1] & 127) << 45 | (p[2] & 31) << 40
        return high | merge_word(p[3:])
    return merge_word(p)


def merge_word(planes: list[Elements]) -> Elements:
    """The most significant byte comes first."""
    word = planes[0]
    for plane in planes[1:]:
        word = word << 8 | plane
    return word


def undo_delta(z: Elements) -> Elements:
    """Undo DELTA: z -> d -> running sum, all modulo 2^w by the width of the type (7)."""
    negative = (z & 1).astype(bool)
    d = np.where(negative, ~(z >> 1), z >> 1)  # 2^w - (z + 1) / 2 is the complement of z >> 1
    total: Elements = np.cumsum(d, dtype=z.dtype)
    return total


# 9. INDEX


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
        if (key in item) != (key in meta or key == "size") or not same_json(item.get(key), value):
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
