"""What densor writes is what container.md says: read by the reference decoder, table by table."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import numpy as np
import pytest
import zstandard
from helpers import (
    CHUNK,
    END,
    ENTRY,
    INDEX,
    MODEL,
    REF,
    Frame,
    header,
    model_file,
    one_object,
    put_together,
    random_state,
    take_apart,
    weights,
)
from paths import DOCS
from reference import container
from reference import planes as reference_planes
from reference.reading import Refused

import densor
from densor import dtypes
from densor.codec import registry
from densor.codec.kind import BYTES, kind_of
from densor.codec.planes import params as planar_model
from densor.codec.planes import payload as planes_payload
from densor.codec.planes.layout import LAYOUTS
from densor.formats.container import hashing, wire

DOCUMENT = (DOCS / "format" / "container.md").read_text()


def kinds_of(archive: bytes) -> list[int]:
    return [frame.kind for frame in take_apart(archive)]


def check(archive: bytes, expected: dict[str, bytes], *, index: bool = True) -> None:
    """The reference decoder and densor both give `expected`; the index stands or stands not."""
    entries = container.decode(archive)
    assert {entry.name: entry.data for entry in entries} == expected
    assert len(entries) == len(expected)
    found = container.read_index(archive)
    assert bool(found) == index
    densor_entries = densor.verify_file(io.BytesIO(archive), threads=1)
    assert [entry.meta.name for entry in densor_entries] == list(expected)
    if index:
        with densor.open(archive, threads=1) as file:
            stored = {name: file._archive.entry(name) for name in expected}
            for name, data in expected.items():
                assert file._archive.read(stored[name], 0, len(data)).tobytes() == data


@pytest.mark.parametrize("name", archives.MAKERS)
def test_the_reference_decoder_reads_what_densor_writes(name: str) -> None:
    sample = archives.sample(name)
    without = {"text", "noise", "bf16", "fp8", "fp32", "record", "steps", "sparse", "blocks"}
    with_index = name not in without and not name.startswith("scales")
    check(sample.archive, sample.entries, index=with_index)


@pytest.mark.parametrize("level", [1, 2, 5, 9])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_level_and_thread_count(level: int, threads: int) -> None:
    file = io.BytesIO()
    data = model_file()
    source = io.BytesIO(data)
    densor.compress_file(source, file, level, threads, name="m", verify=True)
    check(file.getvalue(), {"m": data})


@pytest.mark.parametrize("dtype", sorted(dtypes.SIZES))
def test_every_dtype_of_a_file(dtype: str) -> None:
    if dtype == "VOID":
        return
    data = weights("fp32", 8, 256).tobytes()
    file = io.BytesIO()
    densor.compress_file(io.BytesIO(data), file, name="raw", dtype=dtype, hash="sha256")
    check(file.getvalue(), {"raw": data})


def test_hashes_by_name() -> None:
    for name, number in (("sha256", 2), ("xxh3-128", 1), (None, 1)):
        archive = archives.written({"x": (b"abc" * 100, BYTES)}, hash=name)
        (entry,) = container.decode(archive)
        assert entry.hash[0] == number
        assert entry.meta.get("hash") == name
    with pytest.raises(densor.DensorError):
        archives.written({"x": (b"abc", BYTES)}, hash="md5")


def test_repeated_batches_are_references(tiny_batches: Callable[[int], None]) -> None:
    tiny_batches(1 << 12)
    part = weights("bf16", 8, 1024).tobytes()
    entries = {"a": (part + part, kind_of("BF16", (16, 1024))), "b": (part, BYTES)}
    archive = archives.written(entries)
    assert REF in kinds_of(archive)
    check(archive, {name: data for name, (data, _) in entries.items()})
    plain = archives.written(entries, repeats=False)
    assert REF not in kinds_of(plain)
    assert int.from_bytes(plain[12:16], "little") == 0
    check(plain, {name: data for name, (data, _) in entries.items()})


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64", "I32", "U8", "F8_E4M3"])
@pytest.mark.parametrize("threads", [1, 2])
def test_many_batches_with_a_model_each(
    dtype: str, threads: int, tiny_batches: Callable[[int], None]
) -> None:
    tiny_batches(1 << 13)
    kind = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}.get(dtype, "fp8")
    data = weights(kind, 40, 512).tobytes()
    if dtype == "I32":
        data = np.cumsum(random_state("I32").integers(-90, 90, 20_000)).astype("<i4").tobytes()
    entries = {"x": (data, kind_of(dtype, (10, 512)))}
    archive = archives.written(entries, threads=threads)
    assert kinds_of(archive).count(MODEL) > 1
    check(archive, {"x": data})


def test_more_models_than_a_chunk_may_reach_back(tiny_batches: Callable[[int], None]) -> None:
    tiny_batches(1 << 13)
    data = weights("bf16", 300, 4096).tobytes()
    archive = archives.written({"x": (data, kind_of("BF16", (300, 4096)))}, level=1)
    assert kinds_of(archive).count(MODEL) > 256
    check(archive, {"x": data})


@pytest.mark.parametrize("between", [0, 1, 255, 256, 300])
def test_how_far_back_a_chunk_may_reach(between: int) -> None:
    model = Frame(MODEL, bytes([2, 1, 0, 1, 1, 0, 0, 0, 0]))
    chunk = Frame(CHUNK, b"\1\1\0\0\0\7", 100, 16)
    # The first model is used all the time, so that a reader has every reason to keep it.
    inner = [model, chunk, *[model, chunk] * between]
    archive = object_with(inner, b"\7" * 100 * (between + 1))
    if between < registry.MODEL_WINDOW:
        check(archive, {"x": b"\7" * 100 * (between + 1)}, index=False)
    else:
        refused(archive, "format")


def test_an_index_that_contradicts_the_frames() -> None:
    data = random_state("index").integers(0, 256, 300, np.uint8).tobytes()
    frames = [Frame(CHUNK, data[:100], 100), Frame(CHUNK, data[100:], 200)]
    sound = take_apart(one_object({"name": "x", "kind": "file", "size": 300}, frames, data))

    def with_index(**changes: list[int]) -> bytes:
        columns = {
            "kinds": [frame.kind for frame in sound[:-1]],
            "models": [0] * 4,
            "stored": [len(frame.payload) for frame in sound[:-1]],
            "original": [frame.original for frame in sound[:-1]],
        }
        entry = {"name": "x", "kind": "file", "size": 300, "frames": [0, 4]}
        digest = [1, sound[3].payload[9:].hex()]
        text = json.dumps({"entries": [entry | {"digest": digest}]} | columns | changes).encode()
        index = Frame(INDEX, zstandard.ZstdCompressor().compress(text), len(text))
        return put_together([*sound[:-1], index, sound[-1]])

    check(with_index(), {"x": data})
    for changes in ({"original": [0, 200, 100, 0]}, {"models": [0, 1, 0, 0]}):
        with pytest.raises(Refused):
            container.read_index(with_index(**changes))
        with densor.open(with_index(**changes)) as file, pytest.raises(densor.FormatError):
            file.read_file("x")


@pytest.mark.parametrize("window_log", [26, 27])
def test_the_window_of_a_zstandard_frame_is_limited(window_log: int) -> None:
    data = b"window" * 5
    frame = b"\x28\xb5\x2f\xfd\x80" + bytes([(window_log - 10) << 3])
    frame += len(data).to_bytes(4, "little") + (len(data) << 3 | 1).to_bytes(3, "little") + data
    # As a plane, beside a constant one: a chunk of nothing else would be longer than its content.
    model = Frame(MODEL, bytes([2, 2, 0, 2, 1, 0, 0, 0, 0, 0]))
    plane = b"\2" + len(frame).to_bytes(4, "little") + b"\1\1\0\0\0" + frame + b"\0"
    chunks = [model, Frame(CHUNK, plane, 2 * len(data), 16)]
    merged = reference_planes.merge_planes(
        2, [np.frombuffer(data, np.uint8), np.zeros(len(data), np.uint8)]
    ).tobytes()
    if window_log == 26:
        check(object_with(chunks, merged), {"x": merged}, index=False)
    else:
        refused(object_with(chunks, merged), "limit")


def test_an_archive_on_a_pipe_has_neither_references_nor_the_feature() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    densor.compress_file(io.BytesIO(model_file()), pipe, name="m")
    assert REF not in kinds_of(pipe.data)
    check(pipe.data, {"m": model_file()})


def test_skippable_frames_are_passed_over() -> None:
    skip = Frame(200, b"anything")
    for name in ("bf16", "folder", "small file"):
        sample = archives.sample(name)
        frames = take_apart(sample.archive)
        wanted = [frame for frame in frames if frame.kind != INDEX]
        spread = [one for frame in wanted for one in (skip, Frame(255), frame)]
        archive = put_together(spread, sample.archive[:32])
        check(archive, sample.entries, index=False)
        behind_index = [*frames[:-1], skip, frames[-1]]
        archive = put_together(behind_index, sample.archive[:32])
        check(archive, sample.entries, index=INDEX in kinds_of(sample.archive))


def test_an_unknown_size_in_the_entry_is_read() -> None:
    data = b"some bytes"
    chunk = Frame(CHUNK, data, len(data))
    for meta in ({"name": "x", "kind": "file", "size": None}, {"name": "x", "kind": "file"}):
        archive = one_object(meta, [chunk], data)
        assert densor.decompress(archive) == data
        check(archive, {"x": data}, index=False)


def test_unknown_keys_are_ignored() -> None:
    meta = {"name": "x", "kind": "bytes", "size": 1, "colour": {"red": [1]}, "": None}
    archive = one_object(meta, [Frame(CHUNK, b"a", 1)], b"a")
    assert densor.decompress(archive) == b"a"
    check(archive, {"x": b"a"}, index=False)


# Versions, features, limits: what a reader has to refuse, and why


def refused(archive: bytes, reason: str) -> None:
    """Refused for the same reason by densor and by the reference decoder."""
    error = {
        "truncated": densor.TruncatedError,
        "checksum": densor.ChecksumError,
        "unsupported": densor.UnsupportedError,
        "limit": densor.LimitError,
        "format": densor.FormatError,
    }[reason]
    with pytest.raises(Refused) as theirs:
        container.decode(archive)
    assert theirs.value.reason == reason
    with pytest.raises(densor.DensorError) as ours:
        densor.verify_file(io.BytesIO(archive), threads=1)
    assert type(ours.value) is error, ours.value


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (header(version=2), "unsupported"),
        (header(version=0), "format"),
        (header(features=4), "unsupported"),
        (header(features=1 << 31), "unsupported"),
        (header(reserved=1), "format"),
        (header(limit=(1 << 26) + 1), "limit"),
        (header(limit=100), "limit"),
        (header()[:-1] + b"\0", "checksum"),
        (b"\x88" + header()[1:], "format"),
        (header().replace(b"\r\n", b"\n\n"), "format"),
    ],
)
def test_headers_that_are_refused(start: bytes, reason: str) -> None:
    refused(start + archives.sample("noise").archive[32:], reason)


def object_with(inner: list[Frame], data: bytes = b"abcd", **meta: Any) -> bytes:
    return one_object({"name": "x", "kind": "bytes", "size": len(data)} | meta, inner, data)


GOOD = Frame(CHUNK, b"abcd", 4)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (Frame(8), "unsupported"),
        (Frame(127), "unsupported"),
        (Frame(0), "unsupported"),
        (Frame(CHUNK, b"", 0), "format"),
        (Frame(CHUNK, b"abc", 2), "limit"),
        (Frame(CHUNK, b"abc", 4), "format"),
        (Frame(CHUNK, b"ab", 1 << 26 | 1), "limit"),
        (Frame(CHUNK, b"ab", 4, 2), "unsupported"),
        (Frame(CHUNK, b"ab", 4, 15), "unsupported"),
        (Frame(CHUNK, b"ab", 4, 16), "format"),
        (Frame(CHUNK, b"ab", 4, 1), "format"),
        (Frame(MODEL, b"\2\1\0\1\1\0\0\0\0", 4), "format"),
        (Frame(MODEL, b"\2\1\0\1\1\0\0\0\0", 0, 3), "format"),
        (Frame(MODEL, b"\1\1\0\1\1\0\0\0\0"), "unsupported"),
        (Frame(MODEL, b"\2\x09\0\1\1\0\0\0\0"), "unsupported"),
        (Frame(MODEL, bytes(65537)), "limit"),
        (Frame(ENTRY, b"{}"), "format"),
        (Frame(ENTRY, bytes(1 << 20 | 1)), "limit"),
        (Frame(END, bytes(16)), "format"),
        (Frame(INDEX, b"{}", 2), "format"),
        (Frame(REF, bytes(11), 4), "format"),
        (Frame(REF, bytes(13), 4), "limit"),
        (Frame(REF, bytes(12), 4), "format"),
        (Frame(200, bytes(1 << 26 | 1)), "limit"),
    ],
)
def test_frames_that_are_refused(frame: Frame, reason: str) -> None:
    refused(object_with([frame, GOOD]), reason)


def end_of_entry(payload: bytes) -> bytes:
    frames = take_apart(object_with([GOOD]))
    return put_together([*frames[:2], Frame(5, payload), frames[3]])


def test_ends_of_entries_that_are_refused() -> None:
    good = take_apart(object_with([GOOD]))[2].payload
    assert densor.verify_file(io.BytesIO(end_of_entry(good)))
    refused(end_of_entry(good[:8] + b"\x03" + good[9:]), "unsupported")  # kind of hash
    refused(end_of_entry(good[:8] + b"\x02" + good[9:] + bytes(16)), "format")  # not as declared
    refused(end_of_entry(good[:-1]), "format")
    refused(end_of_entry(good[:8]), "format")
    refused(end_of_entry(good + bytes(49)), "limit")
    refused(end_of_entry(b"\x05" + good[1:]), "format")  # another size
    refused(end_of_entry(good[:-1] + bytes([good[-1] ^ 1])), "checksum")
    refused(object_with([GOOD], hash="sha256"), "format")
    refused(object_with([GOOD], hash="blake4"), "unsupported")


@pytest.mark.parametrize(
    "meta",
    [
        {"kind": "link"},
        {"kind": None},
        {"name": 5},
        {"name": None},
        {"name": "x" * 4097},
        {"name": "\ud800"},
        {"size": 3},
        {"size": 5},
        {"size": -1},
        {"size": 4.0},
        {"size": "4"},
        {"size": True},
        {"kind": "tensor", "dtype": "U8"},
        {"kind": "tensor", "shape": [4]},
        {"kind": "tensor", "dtype": "U8", "shape": [5]},
        {"kind": "tensor", "dtype": "U7", "shape": [4]},
        {"kind": "tensor", "dtype": "U8", "shape": [-4]},
        {"kind": "tensor", "dtype": "U8", "shape": [4] + [1] * 64},
        {"kind": "tensor", "dtype": "U8", "shape": 4},
        {"kind": "tensor", "dtype": "U8", "shape": [4], "name": ""},
        {"kind": "tensor", "dtype": "U8", "shape": [4], "name": "a\0b"},
        {"kind": "array", "dtype": "U8", "shape": [4], "order": "K"},
        {"kind": "array", "dtype": "U8", "shape": [4], "host": "jax"},
        {"kind": "array", "dtype": "VOID", "shape": [3], "descr": "|V1"},
        {"kind": "dir"},
        {"kind": "file", "mode": 512},
        {"kind": "file", "mode": -1},
        {"kind": "file", "mode": "7"},
        {"kind": "file", "mtime_ns": 1.5},
        {"kind": "file", "name": ""},
        {"kind": "file", "name": "/x"},
        {"kind": "file", "name": "x/"},
        {"kind": "file", "name": "a//b"},
        {"kind": "file", "name": "."},
        {"kind": "file", "name": "a/../b"},
        {"kind": "file", "name": ".."},
        {"kind": "file", "name": "a\\b"},
        {"kind": "file", "name": "C:"},
        {"kind": "file", "name": "a/b:c"},
        {"kind": "file", "name": "a\nb"},
        {"kind": "file", "name": "a\x7fb"},
        {"kind": "file", "name": "a\0b"},
    ],
    ids=str,
)
def test_descriptions_that_are_refused(meta: dict[str, Any]) -> None:
    refused(object_with([GOOD], **meta), "format")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"{'name': 1}",
        b"\xef\xbb\xbf{}",
        b'{"name":"x","kind":"bytes","size":4,"size":4}',
        b'{"name":"x","kind":"bytes","size":4,"a":1e3}',
        b'{"name":"x","kind":"bytes","size":4,"a":1.0}',
        b'{"name":"x","kind":"bytes","size":4,"a":NaN}',
        b'{"name":"x","kind":"bytes","size":4,"a":-Infinity}',
        b'{"name":"\xff","kind":"bytes","size":4}',
        b'{"name":"x","kind":"bytes","size":4,"a":' + b"[" * 100_000,
        b'{"name":"x","kind":"bytes","size":' + b"9" * 5000 + b"}",
    ],
)
def test_texts_that_are_no_description(text: bytes) -> None:
    frames = take_apart(object_with([GOOD]))
    refused(put_together([Frame(ENTRY, text), *frames[1:]]), "format")


def test_archives_with_frames_in_the_wrong_place() -> None:
    entry, chunk, close, end = take_apart(object_with([GOOD]))
    for frames in (
        [chunk, end],
        [entry, entry, chunk, close, end],
        [entry, chunk, end],
        [entry, chunk, close, close, end],
        [entry, chunk, close, entry, chunk, close, end],  # the name occurs twice
        [entry, chunk, close, Frame(MODEL, b"\2\1\0\1\1\0\0\0\0"), end],
        [entry, chunk, close, end, end],
    ):
        refused(put_together(frames), "format")
    sound = put_together([entry, chunk, close, end])
    refused(sound + b"\0", "format")
    for payload in (bytes(15), b"\1" + bytes(15), bytes(8) + b"\4" + bytes(7)):
        raw = b"".join(frame.pack() for frame in (entry, chunk, close, Frame(END, payload)))
        refused(header() + raw, "format")


@pytest.mark.parametrize(
    ("number", "offset", "length"),
    [(0, 0, 5), (0, 4, 1), (1, 0, 1), (0, 2**64 - 1, 2), (2**32 - 1, 0, 1), (0, 3, 2)],
)
def test_references_that_are_refused(number: int, offset: int, length: int) -> None:
    ref = Frame(REF, number.to_bytes(4, "little") + offset.to_bytes(8, "little"), length)
    data = (b"abcd" * 3)[: 4 + length]
    refused(object_with([GOOD, ref], data), "format")


def test_a_reference_to_a_reference_is_refused() -> None:
    def ref(offset: int, length: int) -> Frame:
        return Frame(REF, bytes(4) + offset.to_bytes(8, "little"), length)

    assert densor.decompress(object_with([GOOD, ref(1, 2), GOOD, ref(0, 4)], b"abcdbcabcdabcd"))
    refused(object_with([GOOD, ref(0, 4), ref(4, 4)], b"abcd" * 3), "format")
    refused(object_with([GOOD, ref(0, 4), ref(3, 2)], b"abcdabcdda"), "format")
    plain = object_with([GOOD, ref(0, 4)], b"abcdabcd")
    refused(header(features=0) + plain[32:], "format")


def test_two_chunks_that_touch_are_repeated_as_one() -> None:
    ref = Frame(REF, bytes(4) + (2).to_bytes(8, "little"), 4)
    archive = object_with([GOOD, GOOD, ref], b"abcdabcdcdab")
    assert densor.decompress(archive) == b"abcdabcdcdab"
    check(archive, {"x": b"abcdabcdcdab"}, index=False)


# The tables of the document


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the first table below a line that begins with `heading`."""
    lines = DOCUMENT[DOCUMENT.index("\n" + heading) + 1 :].splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows[2:]


def test_kinds_of_frames_are_those_of_the_document() -> None:
    found = {name: int(number) for number, name, *_ in rows_below("| kind | name |")[:-1]}
    assert found == {name: getattr(wire, name) for name in found}
    assert set(found.values()) == {*range(1, 8), wire.RECOVERY, wire.PLACE, wire.POINTS}
    assert rows_below("| kind | name |")[-1][0] == f"{wire.POINTS + 1} to 255"


def test_the_header_is_that_of_the_document() -> None:
    rows = rows_below("## 3. Header")
    assert bytes.fromhex(rows[0][3].strip("`")) == wire.MAGIC
    assert int(rows[1][3]) == wire.VERSION
    assert re.search(r"at most (\d+)", rows[4][3])[1] == str(wire.CHUNK_LIMIT)
    sizes = {"8 bytes": 8, "u16": 2, "u32": 4, "u64": 8}
    at = 0
    for offset, size, *_ in rows:
        assert int(offset) == at
        at += sizes[size]
    assert at == wire.HEADER_SIZE == 32
    assert wire.BACKREFS == 1 and "bit 0 `BACKREFS`" in rows[3][3]


def test_the_frame_header_is_that_of_the_document() -> None:
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    at = 0
    for offset, size, _ in rows_below("## 4. Frames"):
        assert int(offset) == at
        at += sizes[size]
    assert at == wire.FRAME_SIZE == 28
    assert wire.END_SIZE == 44


def test_limits_are_those_of_the_document() -> None:
    limits = dict(rows_below("| what | limit |"))
    assert int(limits["stored length of ENTRY"]) == wire.MAX_ENTRY
    assert int(limits["stored length of MODEL"]) == wire.MAX_MODEL
    assert int(limits["original length of INDEX"]) == wire.MAX_INDEX
    relative = f"original length of INDEX less {wire.INDEX_PER_BYTE} × its file offset"
    assert int(limits[relative]) == wire.INDEX_BASE
    assert int(limits["stored length of a skippable frame"]) == wire.MAX_SKIPPABLE
    ends = limits["stored length of REF, ENTRY_END, END"]
    assert ends == f"{wire.REF_PAYLOAD.size}, {wire.ENTRY_END_PAYLOAD.size + 64}, 16"


def test_models_are_numbered_as_in_the_document() -> None:
    numbers = [row[0] for row in rows_below("| model | meaning")]
    first = registry.FIRST_MODEL
    assert numbers[:2] == [str(registry.MODEL_RAW), str(registry.MODEL_ZSTD)]
    assert numbers[2:] == [f"2 to {first - 1}", f"{first} + n"]
    assert f"latest {registry.MODEL_WINDOW} MODEL frames" in DOCUMENT
    assert f"codec: {registry.CODEC_PLANES_HUFFMAN} " in DOCUMENT


def test_layouts_are_those_of_the_document() -> None:
    rows = rows_below("| layout | name | size |")
    assert {int(number): (name, int(size)) for number, name, size, _ in rows} == {
        number: (layout.name, layout.size) for number, layout in LAYOUTS.items()
    }
    named = {
        name.removeprefix("LAYOUT_").lower(): value
        for name, value in vars(registry).items()
        if name.startswith("LAYOUT_")
    }
    assert named == {name: int(number) for number, name, *_ in rows}
    with_delta = re.search(r"`DELTA` \(layouts ([\d, ]+) only\)", DOCUMENT)[1]
    assert [int(n) for n in with_delta.split(",")] == [n for n in LAYOUTS if LAYOUTS[n].delta]


def test_modes_and_classes_are_those_of_the_document() -> None:
    rows = rows_below("| mode | section |")
    assert {name.split()[1]: int(name.split()[0]) for name, _ in rows} == {
        "raw": registry.PLANE_RAW,
        "constant": registry.PLANE_CONSTANT,
        "zstd": registry.PLANE_ZSTD,
        "classes": registry.PLANE_CLASSES,
    }
    kinds = re.search(r"kind: (\d) raw, (\d) constant, (\d) Huffman", DOCUMENT).groups()
    assert [int(kind) for kind in kinds] == [
        registry.CLASS_RAW,
        registry.CLASS_CONSTANT,
        registry.CLASS_HUFFMAN,
    ]
    assert f"number of classes C, 0 to {planar_model.MAX_CLASSES}" in DOCUMENT
    bits = [planes_payload.map_bits(classes) for classes in (1, 2, 3, 4, 5, 16)]
    assert bits == [0, 1, 2, 2, 4, 4]


def test_element_types_are_those_of_the_document() -> None:
    found = {}
    for left, size, _, right, size_2, _ in rows_below("## 8. Element types"):
        for names, number in ((left, size), (right, size_2)):
            for name in re.findall(r"`(\w+)`", names):
                if number.isdigit():
                    found[name] = int(number)
    assert found == {name: size for name, size in dtypes.SIZES.items() if name != "VOID"}


def test_hashes_are_those_of_the_document() -> None:
    assert "`hash kind` is 1 for XXH3-128 (16 bytes) or 2 for SHA-256 (32 bytes)" in DOCUMENT
    assert hashing.KINDS == {"xxh3-128": 1, "sha256": 2}


def test_an_index_that_lists_something_else_fails_the_test(tmp_path: Path) -> None:
    """`test_file` compares the index with what it read; every check of the index itself holds."""
    path = tmp_path / "a.densor"
    with densor.Writer(path) as writer:
        writer.add_tensor("first", np.arange(1000))
    assert densor.verify_file(path)
    archive = path.read_bytes()
    end = len(archive) - 44
    index_at = int.from_bytes(archive[end + 28 : end + 36], "little")
    original = int.from_bytes(archive[index_at + 8 : index_at + 12], "little")
    text = zstandard.decompress(archive[index_at + 28 : end]).replace(b"first", b"other")
    assert len(text) == original
    payload = zstandard.compress(text)
    frame = wire.pack_frame(wire.INDEX, payload, len(text)) + payload
    path.write_bytes(archive[:index_at] + frame + archive[end:])
    with pytest.raises(densor.FormatError, match="index"):
        densor.verify_file(path)
