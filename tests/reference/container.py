"""Reference decoder of the Densor container, format version 1.

Slow and readable.  It was written from ``container.md`` alone, shares no code with the library,
and serves the tests as a second opinion.  The numbers in the docstrings are the sections of that
document.  Each codec has a module of its own beside this one, written from its page in
``docs/format``.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

from reference import codecs, derived, step
from reference.entries import (
    HASH_NAMES,
    entry_end_payload,
    original_hash,
    parse_entry,
    verify_size,
)
from reference.frames import (
    BACKREFS,
    BASE,
    CHUNK,
    END,
    END_SIZE,
    ENTRY,
    ENTRY_END,
    FIRST_SKIPPABLE,
    INDEX,
    MODEL,
    REF,
    Frame,
    Header,
    end_payload,
    read_frame,
    read_frames,
    read_header,
)
from reference.index import index_payload, verify_index
from reference.reading import Refused, decode_zstd, fail
from reference.short_form import in_ordinary_form

MAX_LIVE_MODELS = 256
MAX_CHAIN = 64

MODEL_RAW, MODEL_ZSTD, FIRST_MODEL = 0, 1, 16


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
    archive = in_ordinary_form(archive)
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
    archive = in_ordinary_form(archive)
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
        self.models: list[codecs.Model] = []
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
                self.models.append(codecs.parse_model(frame.payload))
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
        if self.base is not None and meta["base"].get("step") is not None:
            self.base = self.after_step(self.base, meta["base"]["step"])
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
        return model.decode(frame.payload, frame.original, self.base)

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
            if data is None and derived.NAME in self.names:
                return self.derived(wanted), 1
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

    def after_step(self, base: bytes, number: int) -> bytes:
        """What becomes of a base (step.md)."""
        if number >= len(self.entries):
            fail("a step that does not come before")
        entry = self.entries[number]
        if entry.kind not in ("step", "update") or self.chains[number]:
            fail("a step in another kind of entry, or in one with a base")
        return step.stepped(base, entry.data, entry.kind == "update")

    def derived(self, wanted: tuple[int, int, bytes]) -> bytes:
        """A base that follows from entries (derived.md)."""
        chains = zip(self.entries, self.chains, strict=False)
        plain = {entry.name: entry.data for entry, chain in chains if not chain}
        return derived.base(plain[derived.NAME], plain, wanted)

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
