"""Archives at the bounds of what the container allows: candidates for `make_archives.py`."""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import xxhash
import zstandard
from archive_cases import ArchiveCase
from helpers import (
    CHUNK,
    END,
    ENTRY,
    ENTRY_END,
    INDEX,
    MAGIC,
    MODEL,
    Frame,
    header,
    put_together,
    varint,
)
from reference import derived, step
from reference.derived import BLOCKS
from reference.reading import Refused

Made = Iterator[ArchiveCase]
REF = 4
LIMIT = 1 << 26


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(data)


def entry_end(data: bytes, kind: int = 1) -> Frame:
    digest = xxhash.xxh3_128_digest(data) if kind == 1 else hashlib.sha256(data).digest()
    return Frame(ENTRY_END, struct.pack("<QB", len(data), kind) + digest)


def entry(meta: dict[str, Any], data: bytes, inner: Sequence[Frame] | None = None) -> list[Frame]:
    """The frames of an entry."""
    if inner is None:
        inner = [Frame(CHUNK, data, len(data))] if data else []
    kind = 2 if meta.get("hash") == "sha256" else 1
    return [Frame(ENTRY, json.dumps(meta).encode()), *inner, entry_end(data, kind)]


def archive(frames: Sequence[Frame], features: int = 3, limit: int = LIMIT) -> bytes:
    return put_together([*frames, Frame(END, bytes(16))], header(features, limit))


def simple(name: str, data: bytes) -> list[Frame]:
    return entry({"name": name, "kind": "bytes", "size": len(data)}, data)


def with_index(frames: list[Frame]) -> list[Frame]:
    """Frames of entries, and of an INDEX."""
    first = [i for i, one in enumerate(frames) if one.kind == ENTRY]
    last = [i for i, one in enumerate(frames) if one.kind == ENTRY_END]
    items = []
    for i, j in zip(first, last, strict=True):
        end = frames[j].payload
        item = json.loads(frames[i].payload) | {"size": int.from_bytes(end[:8], "little")}
        items.append(item | {"digest": [end[8], end[9:].hex()], "frames": [i, j - i + 1]})
    columns = {
        "kinds": [one.kind for one in frames],
        "models": [one.model for one in frames],
        "stored": [len(one.payload) for one in frames],
        "original": [one.original for one in frames],
    }
    text = json.dumps({"entries": items, **columns}).encode()
    return [*frames, Frame(INDEX, zstd(text), len(text))]


def as_base(base: bytes) -> list[Frame]:
    """Frames that decode to all of a base."""
    if len(base) < 9:
        return [Frame(CHUNK, base, len(base))] if base else []
    model = struct.pack("<10BH", 7, 1, 0, 1, 0, 4, 3, 0, 0, 0, 0)
    return [Frame(MODEL, model), Frame(CHUNK, struct.pack("<QB", 0, 0), len(base), 16)]


# Header


def sealed(fields: bytes) -> bytes:
    return fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields))


def heads(rng: Random) -> Made:
    """Fields of the header at their bounds, magic and length."""
    good = archive(simple("a", b"data"))
    rest = good[32:]
    for version in (0, 1, 2, 3, 65535):
        for reserved in (0, 1):
            for features in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1 << 31):
                fields = MAGIC + struct.pack("<HHIII", version, reserved, features, LIMIT, 0)
                yield ArchiveCase(f"{version}-{reserved}-{features}", sealed(fields) + rest)
    for limit in (0, 3, 4, 5, LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT, (1 << 32) - 1):
        for last in (0, 1):
            fields = MAGIC + struct.pack("<HHIII", 1, 0, 3, limit, last)
            yield ArchiveCase(f"limit-{limit}-{last}", sealed(fields) + rest)
    for length in (*range(34), 59, 60, 61, len(good) - 1):
        yield ArchiveCase(f"cut-{length}", good[:length])
    for place in range(32):
        for length in (8, 31, 32, len(good)):
            wrong = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
            yield ArchiveCase(f"flip-{place}-{length}", wrong[:length])
    for more in (1, 2, 44):
        yield ArchiveCase(f"behind-{more}", good + bytes(more))


# Frames


def raw_frame(
    kind: int, stored: int, original: int, model: int, payload: bytes, reserved: int = 0
) -> bytes:
    digest = xxhash.xxh3_64_intdigest(payload)
    fields = struct.pack(
        "<BBHIIIQ", kind, reserved & 255, reserved >> 8, stored, original, model, digest
    )
    return fields + struct.pack("<I", xxhash.xxh3_64_intdigest(fields) & 0xFFFFFFFF) + payload


def frame_heads(rng: Random) -> Made:
    """Every field of a frame's header at the bounds of every kind."""
    begun = archive(entry({"name": "a", "kind": "bytes", "size": None}, b"data"))[:-44]
    end_of_entry = 28 + 25
    inside = begun[:-end_of_entry]  # in the entry, behind its chunk
    for kind in (0, 1, 2, 3, 4, 5, 6, 7, 8, 127, 128, 129, 255):
        for before in (header(3), header(3, 100), inside, begun):
            at = len(before)
            for stored in (0, 1, 8, 9, 10, 11, 12, 13, 15, 16, 17, 25, 40, 41, 42, 72, 73, 74):
                payload = bytes(stored)
                for original in (0, 4):
                    whole = raw_frame(kind, stored, original, 0, payload)
                    yield ArchiveCase(f"{kind}-{stored}", before + whole)
                    yield ArchiveCase(f"{kind}-{stored}", before + whole[:28])
            for bound in (1 << 16, 1 << 20, 1 << 25, 1 << 26, 1 << 27, 1 << 30):
                for stored in (bound - 1, bound, bound + 1):
                    for original in (0, 101, bound - 1024, bound - 1, bound, bound + 1):
                        changed = before + raw_frame(kind, stored, original, 0, b"")
                        yield ArchiveCase(f"{kind}-{stored}-{original}", changed)
            for original in (0, 1, 2, 99, 100, 101, 102, 1 << 31):
                for stored in (0, 1, 4, original + 1024, original + 1023, original + 1025, 1 << 20):
                    changed = before + raw_frame(kind, stored & 0xFFFFFFFF, original, 0, b"")
                    yield ArchiveCase(f"{kind}-{stored}-{original}", changed)
            for original in ((1 << 20) + 64 * at + more for more in (-65, -64, -1, 0, 1, 64, 65)):
                yield ArchiveCase(
                    f"{kind}-{original}", before + raw_frame(kind, 30, original, 0, b"")
                )
            for model in (0, 1, 2, 15, 16, 1 << 31):
                for original, payload in ((0, b""), (4, b"abcd"), (4, zstd(b"abcd"))):
                    changed = before + raw_frame(kind, len(payload), original, model, payload)
                    yield ArchiveCase(f"{kind}-model-{model}-{original}", changed)
            for reserved in (1, 128, 256, 1 << 15, 1 << 23):
                changed = before + raw_frame(kind, 0, 0, 0, b"", reserved)
                yield ArchiveCase(f"{kind}-reserved-{reserved}", changed)
    good = archive(simple("a", b"data"))
    for place in range(32, len(good)):
        yield ArchiveCase(
            f"flip-{place}", good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        )
    for place in range(32, len(good), 3):
        yield ArchiveCase(f"cut-{place}", good[:place])


def ends(rng: Random) -> Made:
    """Payloads of ENTRY_END and END."""
    meta = Frame(ENTRY, b'{"name": "a", "kind": "bytes", "size": null}')
    named = Frame(ENTRY, b'{"name": "a", "kind": "bytes", "size": null, "hash": "sha256"}')
    other = Frame(ENTRY, b'{"name": "a", "kind": "bytes", "size": null, "hash": "xxh3-128"}')
    chunk = Frame(CHUNK, b"data", 4)
    for first in (meta, named, other):
        for size in (0, 3, 4, 5, 1 << 63):
            for kind in (0, 1, 2, 3, 255):
                digests = {1: xxhash.xxh3_128_digest(b"data"), 2: hashlib.sha256(b"data").digest()}
                for digest in digests.values():
                    for cut in (0, 1, 2, 9):
                        payload = struct.pack("<QB", size, kind) + digest[: len(digest) - cut]
                        yield ArchiveCase(
                            f"{size}-{kind}", archive([first, chunk, Frame(ENTRY_END, payload)])
                        )
                    wrong = digest[:-1] + bytes([digest[-1] ^ 1])
                    payload = struct.pack("<QB", size, kind) + wrong
                    yield ArchiveCase(
                        f"{size}-{kind}-wrong", archive([first, chunk, Frame(ENTRY_END, payload)])
                    )
        more = struct.pack("<QB", 4, 1) + xxhash.xxh3_128_digest(b"data") + b"\0"
        yield ArchiveCase("longer", archive([first, chunk, Frame(ENTRY_END, more)]))
    good = archive(simple("a", b"data"))[:-44]
    for at in (0, 1, 31, 32, 33, len(good), 1 << 63):
        for count in (0, 2, 3, 4, 5):
            yield ArchiveCase(
                f"end-{at}-{count}", good + raw_frame(END, 16, 0, 0, struct.pack("<QQ", at, count))
            )


def grammar(rng: Random) -> Made:
    """Frames where none may stand, names twice, models of all numbers."""
    begin, chunk = simple("a", b"data")[:2]
    end = simple("a", b"data")[2]
    second = simple("b", b"data")
    index = Frame(INDEX, zstd(b"{}"), 2)
    skippable = Frame(200, b"skip")
    model = Frame(MODEL, b"\x02")
    pieces = {"entry": begin, "chunk": chunk, "end": end, "index": index, "skip": skippable}
    pieces |= {"model": model, "END": Frame(END, bytes(16)), "ref": Frame(REF, bytes(12), 4)}
    for one in pieces:
        yield ArchiveCase(one, archive([pieces[one]]))
        for other in pieces:
            yield ArchiveCase(f"{one}-{other}", archive([pieces[one], pieces[other]]))
            for third in pieces:
                yield ArchiveCase(
                    f"{one}-{other}-{third}", archive([pieces[k] for k in (one, other, third)])
                )
        yield ArchiveCase(f"{one}-behind", archive([begin, chunk, end, pieces[one]]))
        yield ArchiveCase(f"{one}-between", archive([begin, chunk, end, pieces[one], *second]))
        yield ArchiveCase(f"{one}-within", archive([begin, pieces[one], chunk, end]))
    yield ArchiveCase("nothing", archive([]))
    yield ArchiveCase("two", archive([begin, chunk, end, *second]))
    yield ArchiveCase("same", archive([begin, chunk, end, begin, chunk, end]))
    yield ArchiveCase("skipped", archive([skippable, begin, skippable, chunk, end, skippable]))
    tiny = Frame(MODEL, bytes([2, 0, 0, 0, 0, 0, 0, 0, 0]))  # bytes, each plane by itself
    for models in ([tiny], [tiny] * 2):
        for number in (0, 1, 2, 3, 14, 15, 16, 17, 18, 19, (1 << 32) - 1):
            coded = [
                Frame(CHUNK, b"data", 4, number),
                Frame(CHUNK, b"\0\4\0\0\0data", 9, number),
                Frame(CHUNK, b"\1\1\0\0\0d", 9, number),
            ]
            for one in coded:
                yield ArchiveCase(
                    f"model-{number}", archive([begin, *models, one, entry_end(b"data")])
                )
                data = b"d" * 9
                yield ArchiveCase(
                    f"model-{number}-9",
                    archive(
                        [
                            Frame(ENTRY, b'{"name": "a", "kind": "bytes"}'),
                            *models,
                            one,
                            entry_end(data),
                        ]
                    ),
                )
    constant = Frame(CHUNK, b"\1\1\0\0\0d", 9, 16)
    for count, number in ((256, 16), (257, 16), (257, 17), (258, 17), (258, 16), (258, 18)):
        frames = [Frame(ENTRY, b'{"name": "a", "kind": "bytes"}'), *[tiny] * count]
        frames += [replace(constant, model=number), entry_end(b"d" * 9)]
        yield ArchiveCase(f"live-{count}-{number}", archive(frames))
    for size in (0, 1, 3, 4, 5):
        yield ArchiveCase(
            f"raw-{size}", archive([begin, Frame(CHUNK, b"data", size), entry_end(b"data")])
        )


def repeats(rng: Random) -> Made:
    """References to bytes before, at all bounds."""
    begin = Frame(ENTRY, b'{"name": "b", "kind": "bytes"}')
    before = simple("a", b"0123456789")
    own = Frame(CHUNK, b"abcdef", 6)

    def case(name: str, refs: list[tuple[int, int, int]], features: int = 1) -> ArchiveCase:
        contents = [bytearray(b"0123456789"), bytearray(b"abcdef")]
        frames = []
        for number, offset, length in refs:
            frames.append(Frame(REF, struct.pack("<IQ", number, offset), length))
            if number < 2:
                contents[1] += contents[number][offset : offset + length]
        data = bytes(contents[1])
        return ArchiveCase(name, archive([*before, begin, own, *frames, entry_end(data)], features))

    for features in (0, 1, 2, 3):
        yield case(f"features-{features}", [(0, 1, 3)], features)
    for number in (0, 1, 2, 3):
        for offset in (0, 1, 2, 5, 6, 9, 10, 11):
            for length in (1, 2, 5, 6, 9, 10, 11):
                yield case(f"{number}-{offset}-{length}", [(number, offset, length)])
    for offset in range(5, 14):
        for length in (1, 2, 3, 4):
            yield case(f"again-{offset}-{length}", [(0, 2, 3), (0, 4, 2), (1, offset, length)])
            chunk = Frame(CHUNK, b"xyz", 3)
            ref, own_ref = (
                Frame(REF, struct.pack("<IQ", 0, 2), 3),
                Frame(REF, struct.pack("<IQ", 1, offset), length),
            )
            data = b"abcdef234xyz"
            data += data[offset : offset + length]
            frames = [*before, begin, own, ref, chunk, own_ref, entry_end(data)]
            yield ArchiveCase(f"behind-{offset}-{length}", archive(frames, 1))


# Entries

_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 4, 5, 15, 16, 17, "", "a", "C", "F", "torch", "numpy"),
    *([], [0], [1], [4], [2, 2], {}, "sha256", "xxh3-128", "sha512", 1 << 63, (1 << 64) - 1),
    *(1 << 64, "\ud800", "ä", "a\0b", 1.5, [True], ["a"], [1.0], [-1], [[1]], "x" * 50),
)
_NAMES = (
    *("a/b", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "../a", "...", "a/...", ".a", "a\\b"),
    *("a:b", "a\x1fb", "a b", "a\x7fb", "a\x80b", "a\x1eb", "é/ü", "\t", " ", "~", "\x7e", "a;b"),
    *("x" * 4095, "x" * 4096, "x" * 4097, "é" * 2048, "é" * 2048 + "x", "[", "]", "a]b", "a[b"),
)
_TYPES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "VOID"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
    "C128": 16,
}
_METAS: dict[str, dict[str, Any]] = {
    "file": {"name": "f", "kind": "file", "size": 4, "mode": 420, "mtime_ns": -5, "format": "npy"},
    "dir": {"name": "d", "kind": "dir", "size": 0},
    "tensor": {"name": "t", "kind": "tensor", "size": 4, "dtype": "U8", "shape": [4]},
    "array": {"name": "", "kind": "array", "size": 4, "dtype": "U8", "shape": [2, 2], "order": "F"},
    "bytes": {"name": "", "kind": "bytes", "size": 4, "hash": "sha256"},
}
_KEYS = (
    *("name", "kind", "size", "dtype", "shape", "order", "host", "descr", "hash", "format", "mode"),
    *("mtime_ns", "owner", "escaped", "lossy", "base", "other"),
)


def entries(rng: Random) -> Made:
    """All keys of ENTRY with all sorts of values, for each kind."""
    for kind, meta in _METAS.items():
        data = b"" if kind == "dir" else b"data"
        yield ArchiveCase(kind, archive(entry(meta, data)))
        for key in _KEYS:
            less = {k: v for k, v in meta.items() if k != key}
            yield ArchiveCase(f"{kind}-less-{key}", archive(entry(less, data)))
            for value in _VALUES:
                text = {**meta, key: value}
                yield ArchiveCase(f"{kind}-{key}", archive(entry(text, data)))
        for name in _NAMES:
            yield ArchiveCase(f"{kind}-name", archive(entry({**meta, "name": name}, data)))
        for size in range(8):
            yield ArchiveCase(f"{kind}-size", archive(entry({**meta, "size": size}, data)))
            other = bytes(size)
            yield ArchiveCase(f"{kind}-holds", archive(entry({**meta, "size": None}, other)))
            yield ArchiveCase(f"{kind}-both", archive(entry({**meta, "size": size}, other)))
        for mode in (510, 511, 512, 513, -1, 0):
            yield ArchiveCase(f"{kind}-mode", archive(entry({**meta, "mode": mode}, data)))
        for user in (0, 1, (1 << 32) - 3, (1 << 32) - 2, (1 << 32) - 1, 1 << 32, (1 << 33) - 1):
            for owner in ([user, 0], [0, user], [user], [user, 1, 2], [user, True]):
                yield ArchiveCase(f"{kind}-owner", archive(entry({**meta, "owner": owner}, data)))
    for kind in ("tensor", "array"):
        for dtype, width in _TYPES.items():
            for shape, count in (([], 1), ([0], 0), ([3], 3), ([2, 3], 6), ([3, 0], 0)):
                for size in {count * width, count * width + 1, max(0, count * width - 1), width}:
                    meta = {**_METAS[kind], "dtype": dtype, "shape": shape, "size": size}
                    yield ArchiveCase(f"{kind}-{dtype}", archive(entry(meta, bytes(size))))
                    meta["descr"] = "|V1" if dtype == "VOID" else "<u1"
                    yield ArchiveCase(f"{kind}-{dtype}-descr", archive(entry(meta, bytes(size))))
        for count in (63, 64, 65):
            meta = {**_METAS[kind], "shape": [1] * (count - 1) + [4]}
            yield ArchiveCase(f"{kind}-{count}", archive(entry(meta, b"data")))
    for text in (
        *(
            b"",
            b"{",
            b"[]",
            b"1",
            b"null",
            b"\xff",
            b'{"name": "a", "kind": "bytes"} ',
            b"\xef\xbb\xbf{}",
        ),
        *(
            b'{"name": "a", "name": "a", "kind": "bytes"}',
            b'{"name": "a", "kind": "bytes", "x": NaN}',
        ),
        *(b'{"name": "a", "kind": "bytes", "x": 1e3}', b'{"name": "a", "kind": "bytes", "x": -0}'),
        b'{"name": "a", "kind": "bytes", "x": {"y": 1, "y": 2}}',
        b'{"name": "a", "kind": "bytes", "x": Infinity}',
        b'{"name": "a", "kind": "bytes", "size": -0}',
        b'{"name": "a", "kind": "bytes", "x": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"name": "a", "kind": "bytes", "x": ' + b"9" * 200 + b"}",
    ):
        yield ArchiveCase("json", archive([Frame(ENTRY, text), entry_end(b"")]))


def bases(rng: Random) -> Made:
    """Bases in the archive and outside, of all fields, and chains of them."""
    data = b"0123456789abcdef" * 3
    digest = xxhash.xxh3_128_hexdigest(data)
    sha = hashlib.sha256(data).hexdigest()
    sound: dict[str, Any] = {"size": len(data), "digest": [1, digest]}

    def case(
        name: str, base: Any, given: bytes | None = None, features: int = 3, inside: str = "bytes"
    ) -> ArchiveCase:
        first = {"name": "a", "kind": inside, "size": len(data)}
        meta = {"name": "b", "kind": "bytes", "size": 4, "base": base}
        frames = [*entry(first, data), *entry(meta, b"data")]
        return ArchiveCase(name, archive(frames, features), given)

    for features in (0, 1, 2, 3):
        for number in (None, 0):
            stated = sound if number is None else {**sound, "entry": number}
            yield case(f"features-{features}", stated, data, features)
    for given in (None, b"", data[:-1], data[:-1] + b"x", data + b"x", data):
        for stated in (sound, {**sound, "digest": [2, sha]}):
            yield case("given", stated, given)
    for digests in (
        *(
            [1, digest],
            [2, sha],
            [1, sha],
            [2, digest],
            [0, digest],
            [3, digest],
            [1],
            [1, digest, 1],
        ),
        *([True, digest], ["1", digest], [1, 1], [1, digest.upper()], [1, digest[:-1]], [1, ""]),
        *([1, digest[:-2]], [1, digest + "00"], [1, "g" + digest[1:]], [-1, digest], "1", {}, None),
    ):
        for number in (None, 0):
            stated = {**sound, "digest": digests}
            yield case("digest", stated if number is None else {**stated, "entry": number}, data)
    for key in ("size", "entry", "step", "name", "other"):
        for value in _VALUES:
            yield case(key, {**sound, key: value}, data)
            yield case(f"{key}-inside", {**sound, "entry": 0, key: value}, data)
    for size in (0, len(data) - 1, len(data) + 1):
        yield case("size", {**sound, "size": size}, data)
        yield case("size-inside", {**sound, "entry": 0, "size": size}, data)
    for key in ("size", "digest"):
        yield case("less", {k: v for k, v in sound.items() if k != key}, data)
    for count in (62, 63, 64, 65):
        for given in (None, b"given"):
            frames, last = [], None
            if given is not None:
                last = {"size": 5, "digest": [1, xxhash.xxh3_128_hexdigest(given)]}
            for number in range(count + 1):
                meta: dict[str, Any] = {"name": str(number), "kind": "bytes"}
                if last is not None:
                    meta["base"] = last
                frames += entry(meta, b"")
                last = {"size": 0, "digest": [1, xxhash.xxh3_128_hexdigest(b"")], "entry": number}
            yield ArchiveCase(f"chain-{count}", archive(frames), given)


def limits(rng: Random) -> Made:
    """What stands right at a limit, of groups of which others are chosen by what they reach."""
    right = r"(behind|again)-(5-1|9-[123])|live-257-1[67]"
    every = (*repeats(rng), *grammar(rng))
    yield from (one for one in every if re.fullmatch(right, one.name))


def indices(rng: Random) -> Made:
    """Every value of an INDEX another one."""
    tensors = [["t", "U8", [4], 0, 4], ["u", "U16", [1, 3], 4, 6], ["v", "F32", [0], 10, 0]]
    data = b"0123456789"
    metas = [
        {"name": "f", "kind": "file", "size": 10, "mode": 420, "mtime_ns": 3, "format": "npy"},
        {"name": "a", "kind": "array", "size": 10, "dtype": "U16", "shape": [5], "order": "C"},
    ]
    frames = [f for meta in metas for f in entry(meta, data)]
    items = []
    for i, meta in enumerate(metas):
        end = [1, xxhash.xxh3_128_hexdigest(data)]
        items.append({**meta, "digest": end, "frames": [3 * i, 3]})
    items[0]["tensors"] = tensors
    columns = {
        "kinds": [f.kind for f in frames],
        "models": [f.model for f in frames],
        "stored": [len(f.payload) for f in frames],
        "original": [f.original for f in frames],
    }
    good: dict[str, Any] = {"entries": items, **columns}

    def case(name: str, index: Any) -> ArchiveCase:
        text = index if isinstance(index, bytes) else json.dumps(index).encode()
        return ArchiveCase(
            name, archive([*frames, Frame(INDEX, zstd(text), len(text))]), lenient=True
        )

    yield replace(case("good", good), lenient=False)
    for text in (b"{}", b"[]", b"", b"{", b'{"a": 1, "a": 1}'):
        yield case("text", text)
    some = (None, True, -1, 0, 1, 2, "", "x", [], [0], {}, [[]], "U8", [1, "00"], [2, "00" * 32])
    for path in [*_paths(good, ())]:
        if path:
            yield case("less", _less(good, path))
        old = _at(good, path)
        near = [old + 1, old - 1] if isinstance(old, int) else []
        if isinstance(old, list):
            near += [old[:-1], [*old, 0], [*old, *old[-1:]], old[::-1]]
        if isinstance(old, dict):
            near += [{**old, key: 0} for key in _KEYS]
        for value in (*some, *near):
            if path:
                yield case("-".join(map(str, path)), _changed(good, path, value))
    for dtype, width in _TYPES.items():
        for shape, count in (([], 1), ([1], 1), ([2, 2], 4), ([0], 0)):
            for offset in (0, 1, 9, 10, 11):
                for size in {count * width, width, count * width + 1}:
                    listed = [["t", dtype, shape, offset, size]]
                    yield case(dtype, _changed(good, ("entries", 0, "tensors"), listed))
    for name in _NAMES:
        listed = [[name, "U8", [4], 0, 4]]
        yield case("name", _changed(good, ("entries", 0, "tensors"), listed))
    plain = archive(frames)[:-44]
    text = json.dumps(good).encode()
    index = Frame(INDEX, zstd(text), len(text)).pack()
    for at in (0, len(plain) - 1, len(plain), len(plain) + 1, 32, 28):
        for count in (6, 7, 8):
            end = Frame(END, struct.pack("<QQ", at, count)).pack()
            yield ArchiveCase(f"end-{at}-{count}", plain + index + end)
    yield ArchiveCase("twice", archive([*frames, *[Frame(INDEX, zstd(text), len(text))] * 2]))
    yield ArchiveCase("size", archive([*frames, Frame(INDEX, zstd(text), len(text) + 1)]))
    skipped = Frame(200, b"skip")
    yield ArchiveCase("skipped", archive([*frames, Frame(INDEX, zstd(text), len(text)), skipped]))


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    keys: Any = (
        value
        if isinstance(value, dict)
        else range(len(value) * isinstance(value, list))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield from _paths(value[key], (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    _at(copy, path[:-1])[path[-1]] = new
    return copy


def _less(value: Any, path: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(value))
    del _at(copy, path[:-1])[path[-1]]
    return copy


# Zstandard


def windows(rng: Random) -> Made:
    """Frames of Zstandard with a window at the limit, and beyond it: 300 equal bytes."""
    data = b"x" * 300
    for bits, eighths in ((26, 0), (26, 1), (27, 0)):
        head = b"\x28\xb5\x2f\xfd\x40" + bytes([(bits - 10) << 3 | eighths])
        one = head + (300 - 256).to_bytes(2, "little") + (300 << 3 | 3).to_bytes(3, "little") + b"x"
        chunk = Frame(CHUNK, one, len(data), 1)
        meta = {"name": "a", "kind": "bytes", "size": len(data)}
        yield ArchiveCase(f"window-{bits}-{eighths}", archive(entry(meta, data, [chunk])))


def zstd_frames(rng: Random) -> Made:
    """Chunks of Zstandard: windows, sizes, dictionaries, frames behind."""
    meta = Frame(ENTRY, b'{"name": "a", "kind": "bytes"}')
    data = b"abcabcabcabc" * 9
    compressed = zstd(data)
    without = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    found = {"plain": compressed, "no-size": without, "checked": checked, "twice": compressed * 2}
    found |= {
        "cut": compressed[:-1],
        "behind": compressed + b"\0",
        "empty": b"",
        "magic": compressed[:4],
    }
    found["skippable"] = struct.pack("<II", 0x184D2A50, 4) + b"skip" + compressed
    for place in range(len(compressed)):
        for value in (1, 2, 4, 16, 32, 128):
            wrong = bytearray(compressed)
            wrong[place] ^= value
            found[f"flip-{place}-{value}"] = bytes(wrong)
    for exponent in range(13, 20):
        for mantissa in (0, 1, 7):  # a raw block under a descriptor of the window
            head = b"\x28\xb5\x2f\xfd" + bytes([0x80, exponent << 3 | mantissa])
            head += struct.pack("<I", len(data))
            block = (len(data) << 3 | 1).to_bytes(3, "little") + data
            found[f"window-{exponent}-{mantissa}"] = head + block
    for name, payload in found.items():
        for size in {len(data), len(data) - 1, len(data) + 1, max(len(payload), 1)}:
            yield ArchiveCase(
                f"{name}-{size}", archive([meta, Frame(CHUNK, payload, size, 1), entry_end(data)])
            )


# The short form


def short(body: bytes, features: int = 4, length: int | None = None, reserved: int = 0) -> bytes:
    fields = MAGIC + struct.pack(
        "<HHIII", 1, reserved, features, len(body) if length is None else length,
        xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF,
    )  # fmt: skip
    return sealed(fields) + body


def text(data: bytes) -> bytes:
    return varint(len(data)) + data


_DATA = b"data"
_DIGEST = xxhash.xxh3_128_digest(_DATA)
_STORED = _DATA + _DIGEST
_CHUNK = bytes([CHUNK, 0]) + varint(4)
_PLAIN = bytes([4]) + text(b"n") + varint(4) + varint(1) + _CHUNK  # an entry of `_DATA`


def _body(description: bytes, contents: bytes, flags: int = 0) -> bytes:
    packed = text(zstd(description)) if flags & 1 else description
    return bytes([flags]) + varint(len(description)) + packed + contents


def _short_case(name: str, description: bytes, contents: bytes, flags: int = 0) -> ArchiveCase:
    return ArchiveCase(name, short(_body(description, contents, flags)))


def shorts(rng: Random) -> Made:
    """Short archives: all fields of descriptions and bodies at their bounds."""
    for part in (
        short_heads,
        short_sizes,
        short_kinds,
        short_types_and_shapes,
        short_details,
        short_frames,
    ):
        yield from part()


def short_heads() -> Made:
    """The fields before a body, and every byte of one."""
    for flags in range(8):
        yield _short_case(f"flags-{flags}", _PLAIN, _STORED, flags)
    for features in range(16):
        yield ArchiveCase(f"features-{features}", short(_body(_PLAIN, _STORED), features))
    good = _body(_PLAIN, _STORED)
    for length in (0, 1, len(good) - 1, len(good) + 1, 131071, 131072, 131073, 131074):
        yield ArchiveCase(f"length-{length}", short(good, 4, length))
    for length in (131071, 131072, 131073):
        yield ArchiveCase(f"reserved-{length}", short(good, 4, length, 1))
    yield ArchiveCase("reserved", short(good, 4, None, 1))
    yield ArchiveCase("check", short(good)[:20] + bytes(4) + short(good)[24:])
    fields = bytearray(short(good)[:24])
    fields[20] ^= 1
    yield ArchiveCase("body-check", sealed(bytes(fields)) + good)
    for length in range(len(good)):
        yield ArchiveCase(f"cut-{length}", short(good[:length]))
        for value in {*range(9), 127, 128, 255, good[length] ^ 8, good[length] + 1 & 255}:
            wrong = good[:length] + bytes([value]) + good[length + 1 :]
            yield ArchiveCase(f"byte-{length}-{value}", short(wrong))
    yield ArchiveCase("more", short(good + b"\0"))
    yield ArchiveCase(
        "two",
        short(
            _body(_PLAIN + bytes([4]) + text(b"m") + varint(4) + varint(1) + _CHUNK, _STORED * 2)
        ),
    )


def short_sizes() -> Made:
    """Descriptions of lengths at their bounds."""
    for size in (262143, 262144, 262145, 1 << 62):
        yield ArchiveCase(f"description-{size}", short(bytes([0]) + varint(size) + _PLAIN))
        packed = zstd(_PLAIN)
        yield ArchiveCase(f"packed-{size}", short(bytes([1]) + varint(size) + text(packed)))


def short_kinds() -> Made:
    """Every first byte of a description."""
    for head in range(256):
        kind = head % 8
        inner = varint(1) + _CHUNK
        contents = _DATA + (hashlib.sha256(_DATA).digest() if head & 16 else _DIGEST)
        size = varint(4)
        brief = text(b"n")
        if kind in (2, 3):
            brief += bytes([1]) + (b"\1" if kind == 3 else b"") + varint(1) + varint(4)
        elif not head & 32:
            brief += size
        if kind in (0, 1):
            brief += b"\0"
        names = ("file", "dir", "tensor", "array", "bytes", "step", "update", "x")
        meta: dict[str, Any] = {"name": "n", "kind": names[kind]}
        if not head & 32:
            meta["size"] = 4
        if kind in (2, 3):
            meta |= {"dtype": "U8", "shape": [4], "size": 4}
        if head & 16:
            meta["hash"] = "sha256"
        one = text(json.dumps(meta).encode()) if head & 8 else brief
        one += (size if head & 32 else b"") + (text(b"{}") if head & 64 else b"")
        for flags in (0, 2):
            yield _short_case(f"head-{head}", bytes([head]) + one + inner, contents, flags)
        if kind == 1:
            empty = bytes([head]) + one.replace(size, varint(0)) + varint(0)
            yield _short_case(f"empty-{head}", empty, xxhash.xxh3_128_digest(b""))


def short_types_and_shapes() -> Made:
    """All types and memory orders, and shapes at their bounds."""
    for code in range(20):
        width = list(_short_types().values())[code] if code < 18 else 1
        content = bytes(2 * width)
        for kind, memories in ((2, (0,)), (3, (0, 1, 2, 3, 4, 5))):
            for memory in memories:
                head = bytes([kind]) + text(b"n") + bytes([code])
                head += bytes([memory]) if kind == 3 else b""
                head += varint(1) + varint(2) + varint(1) + bytes([CHUNK, 0]) + varint(2 * width)
                contents = content + xxhash.xxh3_128_digest(content)
                yield _short_case(f"type-{code}-{memory}", head, contents, 2)
    for shape in (
        [],
        [2, 2],
        [0],
        [4, 0],
        [1 << 62],
        [1 << 61, 4],
        [1 << 31, 1 << 31, 2],
        [1 << 62, 2],
        [1 << 63],
        [(1 << 63) - 1],
        [(1 << 62) - 1, 2],
    ):
        size = int(np.prod([int(x) for x in shape], dtype=object)) if shape else 1
        for frames, content in (
            ([_CHUNK], _DATA),
            ([], b""),
            ([bytes([CHUNK, 0]) + varint(1)], b"d"),
        ):
            head = bytes([2]) + text(b"n") + bytes([1]) + varint(len(shape))
            head += b"".join(map(varint, shape)) + varint(len(frames)) + b"".join(frames)
            yield _short_case(f"shape-{size}", head, content + xxhash.xxh3_128_digest(content))
    for count in (63, 64, 65):
        head = bytes([2]) + text(b"n") + bytes([1]) + varint(count) + varint(1) * (count - 1)
        head += varint(4) + varint(1) + _CHUNK
        yield _short_case(f"dimensions-{count}", head, _STORED)


def short_details() -> Made:
    """What is known of files, and numbers of too many bytes."""
    for known in range(16):
        for mode in (0, 420, 511, 512):
            for mtime in (-1, 1 << 62, -(1 << 63), 1 - (1 << 63)):
                more = varint(mode) if known & 1 else b""
                more += struct.pack("<q", mtime) if known & 2 else b""
                more += text(b"npy") if known & 4 else b""
                head = bytes([0]) + text(b"n") + varint(4) + bytes([known]) + more
                for flags in (0, 2):
                    yield _short_case(f"known-{known}", head + varint(1) + _CHUNK, _STORED, flags)
    numbers = (
        b"\x80" * 8 + b"\1",
        b"\x80" * 8 + b"\0",
        b"\x80" * 9 + b"\1",
        b"\xff" * 9,
        b"\x84\0",
        b"\x84" + b"\x80" * 7 + b"\0",
        b"\xff" * 8 + b"\x7f",
    )
    for long in numbers:
        yield _short_case("number", bytes([4]) + text(b"n") + long + varint(1) + _CHUNK, _STORED)
        yield _short_case("count", bytes([4]) + text(b"n") + varint(4) + long + _CHUNK, _STORED)
    yield _short_case("utf8", bytes([4]) + text(b"\xff") + varint(4) + varint(1) + _CHUNK, _STORED)


def short_frames() -> Made:
    """Frames of all kinds, their numbers at their bounds, and lists of tensors."""
    model = bytes([2, 0, 0, 0, 0, 0, 0, 0, 0])
    refs = bytes([REF]) + varint(0) + varint(1) + varint(2)
    for kind in (0, 1, 2, 3, 4, 5, 6, 7, 8, 127, 128, 129, 255):
        inner = varint(2) + _CHUNK + bytes([kind]) + varint(9)
        contents = _DATA + model + _DIGEST
        yield _short_case(f"inner-{kind}", bytes([4]) + text(b"n") + varint(4) + inner, contents)
        yield _short_case(
            f"inner-{kind}-index", bytes([4]) + text(b"n") + varint(4) + inner, contents, 2
        )
    with_ref = _DATA + b"at"
    head = bytes([4]) + text(b"n") + varint(6) + varint(2) + _CHUNK + refs
    for features in (4, 5):
        for flags in (0, 2):
            contents = _DATA + xxhash.xxh3_128_digest(with_ref)
            yield ArchiveCase(f"ref-{features}", short(_body(head, contents, flags), features))
    big = (0, 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 40)
    for target in big:
        for length in big:
            head = bytes([4]) + text(b"n") + varint(6) + varint(2) + _CHUNK
            head += bytes([REF]) + varint(target) + varint(1) + varint(length)
            yield ArchiveCase("ref", short(_body(head, _STORED), 5))
            head = bytes([4]) + text(b"n") + varint(4) + varint(1)
            head += bytes([CHUNK]) + varint(target) + varint(length) + varint(0)
            yield ArchiveCase("chunk", short(_body(head, _STORED), 5))
    compressed = zstd(b"data" * 9)
    coded = bytes([MODEL]) + varint(9) + bytes([CHUNK]) + varint(16) + varint(9) + varint(6)
    for flags in (0, 2):
        head = bytes([4]) + text(b"n") + varint(36) + varint(1)
        head += bytes([CHUNK, 1]) + varint(36) + varint(len(compressed))
        contents = compressed + xxhash.xxh3_128_digest(b"data" * 9)
        yield _short_case("zstd", head, contents, flags)
        head = bytes([4]) + text(b"n") + varint(9) + varint(2) + coded
        contents = model + b"\1\1\0\0\0d" + xxhash.xxh3_128_digest(b"d" * 9)
        yield _short_case("coded", head, contents, flags)
    tensors = [["t", "U8", [4], 0, 4]]
    for lists in ({"tensors": tensors}, {"others": []}, {"x": 1}, [], {"tensors": 0}):
        head = bytes([64]) + text(b"n") + varint(4) + b"\0" + text(json.dumps(lists).encode())
        for flags in (0, 2):
            yield _short_case("lists", head + varint(1) + _CHUNK, _STORED, flags)


def _short_types() -> dict[str, int]:
    names = (
        *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
        *("F16", "BF16", "F32", "F64", "C64", "C128", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
    )
    return {name: _TYPES[name] for name in names}


# Steps


def steps(rng: Random) -> Made:
    """Entries of steps: fields of their tables at the bounds, all forms of both moments."""
    base = struct.pack("<4f", 0.5, -0.25, 0.125, 1e-3) + struct.pack("<4f", 0.25, 1e-6, 0.0, 2.0)
    one = struct.unpack("<4I", struct.pack("<4f", 0.1, 0.999, 0.001, 1.0))
    halves = struct.pack("<4H", 0x3F80, 0xBF00, 0x0000, 0x4049)

    def case(
        name: str, moments: Any, gradients: bytes = halves, more: dict[str, Any] | None = None,
        length: int | None = None, extra: dict[str, Any] | None = None, table: bytes | None = None,
    ) -> ArchiveCase:  # fmt: skip
        text = json.dumps({"moments": moments}).encode() if table is None else table
        content = struct.pack("<I", len(text) if length is None else length) + text + gradients
        digest = xxhash.xxh3_128_hexdigest(base)
        frames = simple("a", base)
        frames += entry(
            {"name": "s", "kind": "step", "size": len(content), **(extra or {})}, content
        )
        stated = {"size": len(base), "digest": [1, digest], "entry": 0, "step": 1, **(more or {})}
        try:
            after = step.stepped(base, content)
        except Refused:
            after = base
        frames += entry({"name": "b", "kind": "bytes", "base": stated}, after, as_base(after))
        return ArchiveCase(name, archive(frames))

    good = [0, 16, 4, *one, 0, 0]
    yield case("good", [good])
    yield case("none", [], b"")
    yield case("none-but-gradients", [])
    yield case("two", [[0, 16, 2, *one, 0, 0], [8, 24, 2, *one, 1, 3]])
    for form in range(8):
        for other in (0, 1):
            yield case("form", [[0, 16, 4, *one, other, form]])
    for place in range(9):
        for value in (
            *(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 17, 20, 1 << 32, (1 << 32) - 1, 1 << 40),
            *((1 << 40) + 1, 1 << 62, (1 << 62) + 1, True, "1", None, 1 << 63),
        ):
            yield case(f"{place}", [[*good[:place], value, *good[place + 1 :]]])
            yield case(
                f"{place}-of-1",
                [[0, 16, 1, *one, 0, 0], [*good[:place], value, *good[place + 1 :]]],
            )
    for moments in (None, {}, "x", [None], [{}], [good[:-1]], [[*good, 0]], [good, good], [[]]):
        yield case("moments", moments)
    for cut in range(len(halves)):
        yield case("cut", [good], halves[:cut])
    yield case("behind", [good], halves + b"\0")
    yield case("behind", [good], halves + b"\0\0")
    for length in (0, 1, 3, 1 << 24, (1 << 24) - 1, (1 << 24) + 1, 1 << 25, 1 << 31):
        yield case(f"length-{length}", [good], length=length)
    for table in (b"", b"[]", b"{", b"{}", b'{"moments": [], "moments": []}'):
        yield case("table", [good], table=table)
        yield case("table", [good], b"", table=table)
    for number in (0, 1, 2, 3, -1, None, True):
        yield case("step", [good], more={"step": number})
    outside = {
        "base": {"size": len(base), "digest": [1, xxhash.xxh3_128_hexdigest(base)], "entry": 0}
    }
    yield case("step-with-base", [good], extra=outside)
    yield case("step-of-type", [good], extra={"dtype": "F32", "format": "x"})
    for pair in ((0, 12), (0, 15), (0, 16), (16, 0), (4, 16), (17, 0), (0, 17), (20, 0), (12, 0)):
        yield case(f"overlap-{pair}", [[*pair, 4, *one, 0, 0]])
        yield case(f"overlap-{pair}", [[*pair, 3, *one, 0, 0]], halves[:6])
    yield case("few-1", [[0, 16, 1, *one, 0, 0]], halves[:2])
    for nothing in ([0, 16, 0, *one, 0, 0], [32, 32, 0, *one, 0, 0]):
        yield case("few-0", [nothing], b"")
        yield case("few-0", [good, nothing])
    for form in ((2, 0), (0, 8), (1, 7)):
        yield case(f"few-form-{form}", [[0, 16, 1, *one, *form]], halves[:2])
    too_long = struct.pack("<I", (1 << 24) + 1)
    for content in (*(bytes(size) for size in range(4)), too_long):
        frames = [*simple("a", base), *entry({"name": "s", "kind": "step"}, content)]
        stated = {"size": 32, "digest": [1, xxhash.xxh3_128_hexdigest(base)], "entry": 0, "step": 1}
        frames += entry({"name": "b", "kind": "bytes", "base": stated}, b"xy")
        yield ArchiveCase("short", archive(frames))


def steps_of_weights(rng: Random) -> Made:
    """Weights that move with their moments: fields of their list at the bounds."""
    floats = [0.5, -0.25, 1e-3, 0.25, 1e-6, 2.0, *(rng.uniform(-1, 1) for _ in range(6))]
    base = struct.pack("<12f", *floats)  # three elements: m, v, the first weights, others
    digest = xxhash.xxh3_128_hexdigest(base)
    one = struct.unpack("<4I", struct.pack("<4f", 0.1, 0.999, 0.001, 1.0))
    how = struct.unpack("<4I", struct.pack("<4f", 1e-3, 0.9, 0.8, 1e-8))
    moments = [[0, 12, 3, *one, 0, 0]]
    good: list[Any] = [24, *how, 0]

    def case(name: str, weights: Any, moments: Any = moments, gradients: int = 3) -> ArchiveCase:
        text = json.dumps({"moments": moments, "weights": weights}).encode()
        content = struct.pack("<I", len(text)) + text + struct.pack("<H", 0x3D80) * gradients
        frames = simple("a", base)
        frames += entry({"name": "s", "kind": "update", "size": len(content)}, content)
        stated = {"size": len(base), "digest": [1, digest], "entry": 0, "step": 1}
        try:
            after = step.stepped(base, content, True)
        except Refused:
            after = base
        frames += entry({"name": "b", "kind": "bytes", "base": stated}, after, as_base(after))
        return ArchiveCase(f"weights-{name}", archive(frames))

    for flag in (0, 1, 2):
        for place in (24, 28, 36, 37, 20, 23):
            yield case(f"{flag}-at-{place}", [[place, *how, flag]])
    for place in range(6):
        for value in (-1, 0, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 62) + 1, True, None, "1"):
            yield case(f"{place}", [[*good[:place], value, *good[place + 1 :]]])
    for listed in (None, {}, [], [None], [good, good], [good[:-1]], [[*good, 0]], ["x"], [[]]):
        yield case("list", listed)
    two = [[0, 12, 1, *one, 0, 0], [4, 16, 2, *one, 1, 3]]
    for pair in ([good, None], [None, good], [good, [28, *how, 1]], [good, [24, *how, 1]]):
        yield case("two", pair, two)


# Files that follow from others


def derived_files(rng: Random) -> Made:
    """Recipes with all fields at their bounds; a file made of weights without changes."""
    state = np.random.default_rng(5)
    words = (state.standard_normal(64).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    yield from derived_fields(words)
    yield from derived_weights(state)
    yield from told_weights()


def _derived(
    name: str, files: Any, made: bytes | None = None, *,
    weights: bytes, text: bytes | None = None, given: bytes | None = None,
) -> ArchiveCase:  # fmt: skip
    content = json.dumps({"files": files}).encode() if text is None else text
    frames = [*entry({"name": "w", "kind": "bytes"}, weights), *simple("densor.derived", content)]
    data = made if made is not None else b""
    stated = {"size": len(data), "digest": [1, xxhash.xxh3_128_hexdigest(data)]}
    frames += entry({"name": "b", "kind": "file", "base": stated}, data, as_base(data))
    return ArchiveCase(name, archive(with_index(frames)), given)


def _recipe(tensors: list[Any], size: int, weights: bytes) -> tuple[dict[str, Any], bytes]:
    """What is said of a file, and the file, or other bytes where that makes none."""
    found: dict[str, Any] = {"size": size, "tensors": tensors}
    try:
        made = derived.part(found, {"w": weights}, 0, size)
    except Exception:
        made = bytes(min(size, 100))
    found["digest"] = [1, xxhash.xxh3_128_hexdigest(made)]
    return found, made


def derived_fields(words: bytes) -> Made:
    """All fields of a recipe, of weights in BF16."""
    case, recipe = partial(_derived, weights=words), partial(_recipe, weights=words)
    good = [3, "F16", 2, 32, "w", 0, "BF16", 0]
    found, made = recipe([good], 140)
    yield case("good", [found], made)
    yield case("given", [found], made, given=made)
    for key in ("size", "digest", "tensors"):
        yield case("less", [{k: v for k, v in found.items() if k != key}], made)
        for value in (*_VALUES, [1, "00"], [1, "g"], [1, "0"], [True, ""], [1], [1, "", 1], [1, 1]):
            yield case(f"{key}", [{**found, key: value}], made)
    for files in ([], {}, None, [None], [[]], [found, found], [{**found, "size": 3}, found]):
        yield case("files", files, made)
    for size in (1 << 63, (1 << 63) - 1):
        yield case("groups-unasked", [found, {**found, "size": size}], made)
    for text in (b"", b"[]", b"{", b"{}"):
        yield case("text", [], made, text=text)
    for place in range(8):
        for value in (
            *(-1, 0, 1, 2, 3, 4, 11, 12, 13, 31, 32, 33, 64, 128, 1 << 40, 1 << 62, 1 << 63, True),
            *("w", "x", "F32", "F16", "BF16", "Q8_0", "Q6_K", "F64", "I8"),
            *(None, [], 1 << 27, 1 << 28),
        ):
            changed, made = recipe([[*good[:place], value, *good[place + 1 :]]], 140)
            yield case(f"tensor-{place}", [changed], made)
            other = [0, "F32", 1, 32, "w", 0, "BF16", 0]
            changed, made = recipe([[*other[:place], value, *other[place + 1 :]]], 128)
            yield case(f"other-{place}", [changed], made)
    for tensors in ([good[:-1]], [[*good, 0]], [None], [{}], ["12345678"]):
        yield case("list", [{**found, "tensors": tensors}], made)
    for size in (130, 131, 132):
        changed, made = recipe([good], size)
        yield case("end", [changed], made)
    for second in (65, 66, 67, 68, 0):
        tensors = [[3, "F16", 1, 32, "w", 0, "BF16", 0], [second, "F16", 1, 32, "w", 64, "BF16", 0]]
        changed, made = recipe(tensors, 140)
        yield case(f"overlap-{second}", [changed], made)
    for begin in (62, 63, 64, 65, 66, 126, 128):
        for rows in (1, 2):
            changed, made = recipe([[0, "F32", rows, 32, "w", begin, "BF16", 0]], 256)
            yield case(f"begin-{begin}", [changed], made)
    for rows, heads_ in (
        (2, 1),
        (4, 2),
        (4, 1),
        (8, 2),
        (8, 4),
        (6, 3),
        (6, 2),
        (6, 1),
        (4, 4),
        (4, 3),
        (8, 1),
    ):
        changed, made = recipe([[0, "F16", rows, 8, "w", 0, "BF16", heads_]], 200)
        yield case(f"heads-{rows}-{heads_}", [changed], made)
    for rows, columns in (
        (1, 1 << 27),
        (1, (1 << 27) + 32),
        (1 << 20, 1 << 20),
        (1 << 20, (1 << 20) + 1),
        (1 << 21, 1 << 20),
    ):
        for heads_ in (0, 1, 1 << 19):
            changed, made = recipe([[0, "F16", rows, columns, "w", 0, "BF16", heads_]], 1 << 62)
            yield case(f"shape-{rows}", [changed], made)


def derived_weights(state: np.random.Generator) -> Made:
    """All forms, of weights of many sorts."""
    for dtype, packed in (("F32", "<f4"), ("F16", "<f2")):
        numbers = state.standard_normal(64).astype(packed).tobytes()
        for form in ("F32", "F16", "BF16", "Q8_0", "Q4_1"):
            changed, made = _recipe([[0, form, 2, 32, "w", 0, dtype, 0]], 300, numbers)
            yield _derived(f"{dtype}-{form}", [changed], made, weights=numbers)
    odd = np.array(
        [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 1, 0x80000000, 0x33800001],
        "<u4",
    )
    for form in ("F16", "BF16", "F32"):
        changed, made = _recipe([[0, form, 1, 8, "w", 0, "F32", 0]], 32, odd.tobytes())
        yield _derived(f"odd-{form}", [changed], made, weights=odd.tobytes())
    for form, (columns, size) in BLOCKS.items():
        for number, numbers in enumerate(some_weights(columns, state)):
            weights = numbers.astype("<f4").tobytes()
            rows = len(numbers) // columns
            changed, made = _recipe(
                [[0, form, rows, columns, "w", 0, "F32", 0]], size * rows, weights
            )
            yield _derived(f"{form}-{number}", [changed], made, weights=weights)
    for number, numbers in enumerate(some_groups(state)):
        weights = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        for form, (columns, size) in BLOCKS.items():
            if columns == numbers.size:
                changed, made = _recipe([[0, form, 1, columns, "w", 0, "BF16", 0]], size, weights)
                yield _derived(f"groups-{form}-{number}", [changed], made, weights=weights)
    for form, seed in (
        *(("Q2_K", 3), ("Q2_K", 8), ("Q2_K", 44), ("Q4_K", 67), ("Q4_K", 110), ("Q5_K", 49)),
        *(("Q6_K", 0), ("Q6_K", 2), ("Q6_K", 23)),
    ):  # in which the first or the last scale that is tried counts, or ties do
        numbers = np.random.default_rng(seed).standard_normal(256) ** (3 if seed % 2 else 1)
        weights = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        changed, made = _recipe([[0, form, 1, 256, "w", 0, "BF16", 0]], BLOCKS[form][1], weights)
        yield _derived(f"groups-tries-{form}-{seed}", [changed], made, weights=weights)
    weights = bytes(512) + weights
    changed, made = _recipe([[0, "Q6_K", 1, 512, "w", 0, "BF16", 0]], 420, weights)
    yield _derived("groups-empty-before", [changed], made, weights=weights)
    unlike = np.array([1, 2, 3, np.inf], "<f4").tobytes()
    changed, made = _recipe([[0, "F16", 2, 2, "w", 0, "F32", 0]], 8, unlike)
    yield _derived("groups-infinite", [changed], made, weights=unlike)


# Of the weights that `told_weights` makes, those that some mutant of the reference is told by.
TOLD = {
    "Q8_0": (0,),
    "Q4_0": (13,),
    "Q4_1": (12,),
    "Q5_0": (9,),
    "Q5_1": (0,),
    "Q2_K": (2, 16, 25, 32),
    "Q3_K": (6, 7, 11, 15, 17, 21, 25, 30, 31, 32),
    "Q4_K": (0, 3, 7, 9, 15, 20),
    "Q5_K": (19, 26, 31),
    "Q6_K": (1, 5, 6, 14, 17, 19, 22, 24, 31),
}


def told_weights() -> Made:
    """A block of each, twice where it is short; rows of heads, and the largest that may be."""
    state = np.random.default_rng(1)
    for form, (columns, size) in BLOCKS.items():
        every = [*some_weights(columns, state)]
        every += some_groups(state) if columns == 256 else ()
        for number in TOLD.get(form, ()):
            weights, dtype = every[number].astype("<f4").tobytes(), "F32"
            if columns == 256 and number != 14:
                weights, dtype = b"".join(weights[i : i + 2] for i in range(2, 1024, 4)), "BF16"
            rows = 1 if columns == 256 else 2
            weights *= rows
            changed, made = _recipe(
                [[0, form, rows, columns, "w", 0, dtype, 0]], rows * size, weights
            )
            yield _derived(f"groups-told-{form}-{number}", [changed], made, weights=weights)
    words = bytes(range(192))
    for rows, heads_ in ((12, 1), (12, 2), (12, 3), (8, 1)):
        changed, made = _recipe([[0, "F16", rows, 8, "w", 0, "BF16", heads_]], 16 * rows, words)
        yield _derived(f"groups-heads-{rows}-{heads_}", [changed], made, weights=words)
    two = [[at, "F16", 1, 8, "w", at, "BF16", 0] for at in (4, 20, 40)]
    changed, made = _recipe(two, 60, words)
    yield _derived("groups-two", [changed], made, weights=words)
    for columns in (1 << 26, (1 << 26) + 32):
        for form in ("F16", "Q8_0"):
            changed, made = _recipe([[0, form, 1, columns, "w", 0, "F32", 0]], 1 << 40, words)
            yield _derived(f"groups-most-{form}-{columns}", [changed], made, weights=words)


def some_groups(state: np.random.Generator) -> Iterator[np.ndarray]:
    """256 weights each, whose groups of 16 or 32 differ: empty, tiny beside others, huge, alike."""
    for _ in range(4):
        groups = []
        for sort in state.permutation(16):
            x = state.standard_normal(16)
            if sort in (0, 1):
                x[:] = 0
            elif sort in (2, 3):
                x[:] = -abs(x[0])
            elif sort in (4, 5):
                x = state.integers(-4, 5, 16) * 0.5
            elif sort in (6, 7):
                x = np.round(x * 3) / 4
            elif sort == 8:
                x *= 1e-4
            elif sort == 9:
                x *= 1e-17
            elif sort == 10:
                x = abs(x) + 0.3
            elif sort == 11:
                x = -abs(x)
            elif sort == 12:
                x **= 3
            groups.append(x)
        yield np.concatenate(groups)
    yield np.zeros(256)
    for _ in range(2):
        x = state.standard_normal(256)
        yield np.repeat(10.0 ** state.uniform(-3, 1, 16), 16) * x
    x = state.standard_normal(256) * 2e19  # whose squares are infinite
    x[::16] = 1e38
    yield x
    yield state.standard_normal(256) * 1e-7


def some_weights(columns: int, state: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks of many sorts: near 0, of one sign, with one large, of few values, on ties."""
    for kind in range(24):
        x = state.standard_normal(columns)
        if kind == 1:
            x = abs(x)
        elif kind == 2:
            x = -abs(x)
        elif kind == 3:
            x[::3] = 0
        elif kind == 4:
            x = np.round(x * 4) / 4
        elif kind == 5:
            x = np.sign(x)
        elif kind == 6:
            x[7] = 1000
        elif kind == 7:
            x[:] = 0.25
        elif kind == 8:
            x[:] = 0
            x[5] = -3
        elif kind == 9:
            x *= 1e-15
        elif kind == 10:
            x[: columns // 2] *= 1e-16
        elif kind == 11:
            x = x**5
        elif kind == 12:
            x = state.integers(-7, 8, columns) / 8
        elif kind == 13:
            x = np.where(state.random(columns) < 0.1, x, 0)
        elif kind == 14:
            x[:] = 1e-15
        elif kind == 15:
            x *= 1e-40
        elif kind == 16:
            x *= 1e5
        elif kind == 17:
            x = state.integers(-32, 33, columns) * 0.5
        elif kind == 18:
            x = np.repeat(state.standard_normal(-(-columns // 16)), 16)[:columns] * np.tile(
                [1, -1], columns // 2
            )
        elif kind == 19:
            x *= np.repeat(10.0 ** state.uniform(-3, 1, -(-columns // 16)), 16)[:columns]
        elif kind == 20:
            x[state.integers(0, columns, 3)] = 0
            x = abs(x) + 1
        elif kind == 21:
            x = -abs(x) - 1
        elif kind > 21:
            x = state.standard_cauchy(columns)
        yield x


def refusals(rng: Random) -> Made:
    """Paths that no file can have, and weights that are not there for a file made of them."""
    for name in ("a%00b", "a/..", "%2E%2E/a", "a//b", "a/%2e/b", "%2Fa", "a%FF", "a%2"):
        for escaped in (True, False, 1):
            meta = {"name": name, "kind": "file", "escaped": escaped}
            yield ArchiveCase(f"escaped-{name}-{escaped}", archive(entry(meta, b"data")))
    weights, made = bytes(128), bytes(100)
    digest = [1, xxhash.xxh3_128_hexdigest(made)]
    for source, begin, rows in (("w", 0, 2), ("x", 0, 2), ("w", 66, 2), ("w", 64, 2), ("b", 0, 2)):
        found = {"size": 100, "digest": digest, "tensors": [[0, "F16", rows, 16, source, begin]]}
        found["tensors"][0] += ["BF16", 0]
        yield _derived(f"gone-{source}-{begin}", [found], made, weights=weights)


Group = tuple[Callable[[Random], Made], int]
GROUPS: dict[str, Group] = {  # and how many of a sort are kept
    "heads": (heads, 4),
    "ends": (ends, 3),
    "repeats": (repeats, 6),
    "bases": (bases, 2),
    "steps": (steps, 3),
    "steps_of_weights": (steps_of_weights, 3),
    "shorts": (shorts, 3),
    "grammar": (grammar, 2),
    "entries": (entries, 3),
    "zstd_frames": (zstd_frames, 1),
    "windows": (windows, 3),
    "indices": (indices, 1),
    "derived_files": (derived_files, 2),
    "frame_heads": (frame_heads, 4),
    "limits": (limits, 0),
    "refusals": (refusals, 3),
}

# Of these, cases are kept whatever they reach: names, bytes of the longest, how many at most.
ALWAYS: dict[str, tuple[str, int, int]] = {
    "heads": ("", 300, 300),
    "ends": ("^end-|wrong", 300, 100),
    "repeats": ("^[0-3]-", 500, 150),
    "steps": ("^[0-8]$|form|length|overlap|short|few", 1200, 200),
    "steps_of_weights": ("", 1200, 100),
    "shorts": ("dimensions|^length|description|number|type|shape|^ref|^chunk|known", 400, 300),
    "entries": ("^file-(name|mode|owner)|^tensor-(63|64|65|U16|C128)|VOID|both", 4600, 260),
    "bases": ("chain|given|size", 9000, 60),
    "frame_heads": ("^[1-7]-[0-9]+(-[0-9]+)?$", 100, 500),
    "derived_files": ("^groups", 2300, 100),
    "limits": ("", 12000, 20),
    "refusals": ("", 2000, 40),
}
