"""The short form of tiny archives: the same frames, without what a frame costs by itself.

Readers turn it back into the ordinary form in memory, and go on from there. The writer makes both
and keeps the shorter one. See docs/format/container.md, section 14.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from densor.codec import registry
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import ChecksumError, DensorError, FormatError, LimitError, TruncatedError
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import ARRAY, DIR, FILE, KINDS, TENSOR, EntryMeta, parse_entry
from densor.formats.io.sources import MemoryRandomSource, RandomSource
from densor.formats.tensors import element_bytes
from densor.runtime.varint import append_varint

MOST = 1 << 16  # bytes of the ordinary form that a writer keeps for a short one
MAX_DESCRIPTION = 1 << 18  # bytes that the description unpacks to
DTYPES = (
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "BF16", "F32", "F64", "C64", "C128", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
)
PACKED, WITH_INDEX = 1, 2  # flags of the body
JSON, SHA256, UNSIZED, LISTED = 8, 16, 32, 64  # flags of an entry, above its kind
MODE, MTIME, FORMAT = 1, 2, 4  # what is known of a file
F_ORDER, TORCH = 1, 2  # of an array
_DIGEST_SIZES = {1: 16, 2: 32}  # by kind of hash
_TIME = struct.Struct("<q")
_ZSTD_LEVEL = 19
_MIN_PACKED = 64  # bytes of description from which Zstandard is tried


class HeldFrame(NamedTuple):
    """A frame that is to be written."""

    kind: int
    payload: bytes
    original: int
    model: int


class _Writer:
    """A string of numbers and bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """Seven bits per byte, the lowest first; the highest bit says that another follows."""
        append_varint(self.data, value)

    def text(self, value: bytes) -> None:
        """Bytes behind their number."""
        self.number(len(value))
        self.data += value


class _Reader:
    """Undoes `_Writer`; FormatError where the bytes are not those of one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise FormatError("short archive ends early")
        self.at += count
        return self._data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise FormatError("short archive has too long a number")

    def text(self) -> bytes:
        return self.take(self.number())


# Writing


def shortened(pieces: Sequence[HeldFrame], features: int, listed: Sequence[str]) -> bytes:
    """The short form of an archive of these frames, INDEX and END included; b"" if it has none.

    `listed`: per entry, what the index lists of its tensors: JSON without braces.
    """
    out, payloads = _Writer(), bytearray()
    frames = [piece for piece in pieces if piece.kind not in (wire.INDEX, wire.END)]
    flags = WITH_INDEX if len(frames) + 1 < len(pieces) else 0
    at = 0
    for lists in listed:
        end = at
        while frames[end].kind != wire.ENTRY_END:
            end += 1
        if frames[at].kind != wire.ENTRY:
            return b""
        payloads += _put_entry(out, frames[at : end + 1], lists)
        at = end + 1
    if at < len(frames):
        return b""  # frames that are of no entry
    description, head = bytes(out.data), _Writer()
    if len(description) >= _MIN_PACKED:
        packed = zstd_compress(description, _ZSTD_LEVEL)
        if len(packed) + 2 < len(description):
            flags |= PACKED
    head.data.append(flags)
    head.number(len(description))
    head.text(packed) if flags & PACKED else head.data.extend(description)
    body = bytes(head.data) + bytes(payloads)
    if len(body) > wire.MAX_SHORT or len(description) > MAX_DESCRIPTION:
        return b""
    return wire.pack_short_header(features, body) + body


def _put_entry(out: _Writer, frames: Sequence[HeldFrame], lists: str) -> bytes:
    """Describes an entry; returns what its frames hold."""
    first, *inner, last = frames
    end = wire.parse_entry_end(last.payload)
    meta = parse_entry(first.payload)
    flags = KINDS.index(meta.kind) | (SHA256 if end.hash_kind == 2 else 0)
    flags |= (LISTED if lists else 0) | (UNSIZED if meta.size is None else 0)
    brief = _brief(meta, first.payload, flags)
    out.data.append(flags | (JSON if brief is None else 0))
    out.text(first.payload) if brief is None else out.data.extend(brief)
    if meta.size is None:
        out.number(end.size)
    if lists:
        out.text(strictjson.encoded(f"{{{lists}}}"))
    out.number(len(inner))
    for piece in inner:
        _put_frame(out, piece)
    return b"".join(p.payload for p in inner if p.kind != wire.REF) + end.digest


def _brief(meta: EntryMeta, payload: bytes, flags: int) -> bytes | None:
    """The description of an entry in few bytes; None where it would not give `payload` again."""
    out = _Writer()
    out.text(meta.name.encode())
    if meta.kind in (TENSOR, ARRAY):
        if meta.dtype not in DTYPES or meta.shape is None:
            return None
        out.data.append(DTYPES.index(meta.dtype))
        if meta.kind == ARRAY:
            out.data.append(F_ORDER * (meta.order == "F") | TORCH * (meta.host == "torch"))
        out.number(len(meta.shape))
        for size in meta.shape:
            out.number(size)
    elif meta.size is not None:
        out.number(meta.size)
    if meta.kind in (FILE, DIR):
        _put_file(out, meta)
    again = _meta_of(_Reader(bytes(out.data)), flags)
    return bytes(out.data) if strictjson.dumps(again.to_json()) == payload else None


def _put_file(out: _Writer, meta: EntryMeta) -> None:
    known = MODE * (meta.mode is not None) | MTIME * (meta.mtime_ns is not None)
    out.data.append(known | FORMAT * (meta.format is not None))
    if meta.mode is not None:
        out.number(meta.mode)
    if meta.mtime_ns is not None:
        out.data += _TIME.pack(meta.mtime_ns)
    if meta.format is not None:
        out.text(meta.format.encode())


def _put_frame(out: _Writer, piece: HeldFrame) -> None:
    out.data.append(piece.kind)
    if piece.kind == wire.REF:
        ref = wire.parse_ref(piece.payload)
        for number in (*ref, piece.original):
            out.number(number)
        return
    if piece.kind == wire.CHUNK:
        out.number(piece.model)
        out.number(piece.original)
        if piece.model == registry.MODEL_RAW:
            return
    out.number(len(piece.payload))


# Reading


def in_ordinary_form(source: RandomSource, lenient: bool = False) -> RandomSource:
    """An archive, or what it stands for if it is in the short form.

    `lenient`: damage is passed over where the rest can be read all the same; the hashes of the
    entries tell what is right.
    """
    head = source.read_at(0, min(wire.HEADER_SIZE, source.size)).tobytes()
    header: wire.Header | None
    try:
        header = wire.parse_header(head)
    except ChecksumError:
        header = wire.damaged_header(head) if lenient else None
    except DensorError:
        return source  # whoever reads it says what is wrong
    if header is None or not header.features & wire.SHORT:
        return source
    most = min(source.size - wire.HEADER_SIZE, wire.MAX_SHORT + 1)
    body = source.read_at(wire.HEADER_SIZE, most).tobytes()
    if lenient:
        header = header._replace(check=None)
        body = body[: header.body]
    return MemoryRandomSource(lengthened(header, body))


def lengthened(header: wire.Header, body: bytes) -> bytes:
    """The ordinary form of a short archive; `body`: all that stands behind its header."""
    if len(body) < header.body:
        raise TruncatedError("short archive ends early")
    if len(body) > header.body:
        raise FormatError("data after the end of the archive")
    if header.check is not None and wire.short_check(body) != header.check:
        raise ChecksumError("short archive is damaged")
    reader = _Reader(body)
    flags = reader.byte()
    if flags & ~(PACKED | WITH_INDEX):
        raise FormatError("short archive has impossible flags")
    size = reader.number()
    if size > MAX_DESCRIPTION:
        raise LimitError("short archive has too long a description")
    described = zstd_decompress(reader.text(), size) if flags & PACKED else reader.take(size)
    out = _Frames(header.features & ~wire.SHORT)
    description = _Reader(described)
    while description.left:
        _lengthen_entry(description, reader, out)
    if reader.left:
        raise FormatError("short archive goes on after its last entry")
    return out.finished(bool(flags & WITH_INDEX))


class _Frames:
    """An archive in the ordinary form that is being made."""

    def __init__(self, features: int) -> None:
        self.data = bytearray(wire.pack_header(features))
        self.columns: tuple[list[int], ...] = ([], [], [], [])
        self.entries: list[dict[str, Any]] = []

    def add(self, kind: int, payload: bytes, original: int = 0, model: int = 0) -> None:
        if original >> 32 or model >> 32:
            raise FormatError("short archive has an impossible frame")
        self.data += wire.pack_frame(kind, payload, original, model)
        self.data += payload
        for column, value in zip(self.columns, (kind, model, len(payload), original), strict=True):
            column.append(value)

    def finished(self, with_index: bool) -> bytes:
        """All of it, with INDEX and END."""
        index_at = 0
        if with_index:
            index_at = len(self.data)
            columns = dict(zip(wire.COLUMNS, self.columns, strict=True))
            text = strictjson.dumps({"entries": self.entries, **columns})
            self.add(wire.INDEX, zstd_compress(text, 1), len(text))
        return bytes(self.data) + wire.pack_end(index_at, len(self.columns[0]))


def _lengthen_entry(description: _Reader, payloads: _Reader, out: _Frames) -> None:
    """Adds the frames of the next entry."""
    flags = description.byte()
    if flags > 127 or flags & 7 >= len(KINDS):
        raise FormatError("short archive has an impossible entry")
    first = len(out.columns[0])
    if flags & JSON:
        payload = description.text()
        meta = parse_entry(payload)
        if KINDS.index(meta.kind) != flags & 7 or (meta.size is None) != bool(flags & UNSIZED):
            raise FormatError("short archive contradicts itself")
    else:
        meta = _meta_of(description, flags)
        payload = strictjson.dumps(meta.to_json())
    size = description.number() if meta.size is None else meta.size
    found = meta.to_json() | {"size": size}
    lists = strictjson.loads(description.text(), "list of tensors") if flags & LISTED else {}
    out.add(wire.ENTRY, payload)
    for _ in range(description.number()):
        _lengthen_frame(description, payloads, out)
    kind = registry.HASH_SHA256 if flags & SHA256 else registry.HASH_XXH3_128
    digest = payloads.take(_DIGEST_SIZES[kind])
    out.add(wire.ENTRY_END, wire.ENTRY_END_PAYLOAD.pack(size, kind) + digest)
    found |= {key: lists[key] for key in ("tensors", "others") if key in lists}
    found |= {"frames": [first, len(out.columns[0]) - first], "digest": [kind, digest.hex()]}
    out.entries.append(found)


def _meta_of(reader: _Reader, flags: int) -> EntryMeta:
    """What `_brief` describes."""
    kind = KINDS[flags & 7]
    try:
        meta = EntryMeta(reader.text().decode(), kind)
        if flags & SHA256:
            meta.hash = "sha256"
        if kind in (TENSOR, ARRAY):
            _get_tensor(reader, meta)
        elif not flags & UNSIZED:
            meta.size = reader.number()
        if kind in (FILE, DIR):
            known = reader.byte()
            meta.mode = reader.number() if known & MODE else None
            meta.mtime_ns = _TIME.unpack(reader.take(_TIME.size))[0] if known & MTIME else None
            meta.format = reader.text().decode() if known & FORMAT else None
            if known & ~(MODE | MTIME | FORMAT):
                raise FormatError("short archive has an impossible entry")
    except UnicodeDecodeError:
        raise FormatError("short archive has a name that is not UTF-8") from None
    return meta


def _get_tensor(reader: _Reader, meta: EntryMeta) -> None:
    number = reader.byte()
    if number >= len(DTYPES):
        raise FormatError("short archive has an unknown type of elements")
    meta.dtype = DTYPES[number]
    if meta.kind == ARRAY:
        memory = reader.byte()
        if memory & ~(F_ORDER | TORCH):
            raise FormatError("short archive has an impossible array")
        meta.order = "F" if memory & F_ORDER else "C"
        meta.host = "torch" if memory & TORCH else "numpy"
    dimensions = reader.number()
    if dimensions > 64:
        raise FormatError("short archive has too many dimensions")
    meta.shape = tuple(reader.number() for _ in range(dimensions))
    meta.size = element_bytes(meta.dtype, meta.shape)
    if meta.size >> 63:
        raise FormatError("short archive has an impossible shape")


def _lengthen_frame(description: _Reader, payloads: _Reader, out: _Frames) -> None:
    kind = description.byte()
    if kind == wire.REF:
        entry, offset, original = (description.number() for _ in range(3))
        if entry >> 32:
            raise FormatError("short archive has an impossible repetition")
        out.add(kind, wire.REF_PAYLOAD.pack(entry, offset), original)
        return
    if kind != wire.MODEL and kind != wire.CHUNK and kind < wire.FIRST_SKIPPABLE:
        raise FormatError(f"short archive has a frame of kind {kind}")
    model = original = 0
    if kind == wire.CHUNK:
        model, original = description.number(), description.number()
    raw = kind == wire.CHUNK and model == registry.MODEL_RAW
    payload = payloads.take(original if raw else description.number())
    out.add(kind, payload, original, model)
