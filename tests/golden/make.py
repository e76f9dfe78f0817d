"""Makes the golden archives of format version 1: those of a group that are not there yet.

    python tests/golden/make.py

A group is made once, by the version that its title names, and never again; what stands here says
how it was made then. A golden archive is what some densor has written, or what it must never
accept. Later versions read the same bytes out of it; if they do not, they are wrong, not the
archive. `expected.json` has the SHA-256 of every entry, and of bad archives the error class.
"""

import hashlib
import io
import json
import os
import pickle
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]

import archives  # noqa: E402
import numpy as np  # noqa: E402
import parquet_files  # noqa: E402
import quantised as quantised_files  # noqa: E402
import stepped  # noqa: E402
import zstandard  # noqa: E402
from arrow_files import file, flights, stream, table_in  # noqa: E402
from helpers import (  # noqa: E402
    CHUNK,
    END,
    ENTRY,
    ENTRY_END,
    INDEX,
    MODEL,
    REF,
    Frame,
    bytes_archive,
    header,
    one_object,
    put_together,
    random_state,
    safetensors_bytes,
    take_apart,
    weights,
)
from notations import VARINTS, onnx_model, onnx_tensor, written  # noqa: E402
from pytest import MonkeyPatch  # noqa: E402
from record_arrays import layout_of_records, npy, records  # noqa: E402
from reference import container  # noqa: E402
from reference import planes as reference_planes  # noqa: E402
from reference import planes_writer as reference  # noqa: E402
from reference.planes_writer import Class  # noqa: E402
from tables import RECORDS, blocks, broken, fixed_width, json_lines, table  # noqa: E402

import densor  # noqa: E402
import densor.archives  # noqa: E402
from densor.codec import registry  # noqa: E402
from densor.codec.batch import Batch, Coding  # noqa: E402
from densor.codec.choose import candidates, forms, signals, sizes  # noqa: E402
from densor.codec.choose import texts as choose_texts  # noqa: E402
from densor.codec.codecs import CODECS  # noqa: E402
from densor.codec.deflate.encoder import DeflateCoder  # noqa: E402
from densor.codec.deflate.stream import PNG, RAW, ZLIB, Stream  # noqa: E402
from densor.codec.image.encoder import MixingCoder  # noqa: E402
from densor.codec.image.layout import Layout  # noqa: E402
from densor.codec.kind import BYTES, kind_of, kind_of_table  # noqa: E402
from densor.codec.levels import Level, level_settings  # noqa: E402
from densor.codec.planes import analyse  # noqa: E402
from densor.codec.tokens.encoder import TokensEncoder  # noqa: E402
from densor.codec.tokens.params import Mixed, Ranked, RankedMore  # noqa: E402
from densor.files import steps as step_search  # noqa: E402
from densor.formats.container import writer  # noqa: E402
from densor.formats.parsers import parquet  # noqa: E402
from densor.formats.parsers.csv import layout_of  # noqa: E402
from densor.formats.parsers.tabular import layout_in  # noqa: E402

# Good archives, written by densor


def arrays() -> Iterator[tuple[str, bytes]]:
    for name, dtype, rows in (
        ("fp8", "f8_e4m3", 24),
        ("bf16", "bf16", 16),
        ("fp16", "f16", 12),
        ("fp32", "f32", 8),
        ("fp64", "f64", 4),
        ("fp32_of_bf16", "f32", 8),
        ("fp32_short", "f32", 8),
    ):
        yield f"array-{name}", densor.compress(weights(name, rows, 512), dtype=dtype)
    yield "array-big-endian", densor.compress(np.arange(40, dtype=">i4").reshape(5, 8).T)
    dtype = np.dtype([("a", "<f4", (2,)), ("b", "S3")])
    yield "array-record", densor.compress(np.zeros((2, 3), dtype))
    yield "array-scalar", densor.compress(np.array(np.float32(-0.0)))
    yield "array-empty", densor.compress(np.empty((3, 0), np.complex64))
    steps = random_state("golden").integers(0, 50, 3000).cumsum()
    for size in (1, 2, 4, 8):
        yield f"array-steps-{8 * size}", densor.compress(steps.astype(f"<i{size}"))
    scale = np.exp2(np.arange(64) % 12)[:, None]
    rows = random_state("golden rows").standard_normal((64, 256)) * scale
    yield "array-row-classes", densor.compress(rows.astype(np.float16), 6)


def files() -> Iterator[tuple[str, bytes]]:
    yield "bytes", densor.compress(b"densor " * 300)
    yield "bytes-empty", densor.compress(b"")
    yield "bytes-noise", densor.compress(random_state("n").integers(0, 256, 200, "u1").tobytes())
    for name in ("small file", "folder", "tensors", "saved", "nothing"):
        yield f"files-{name.replace(' ', '-')}", archives.sample(name).archive
    bf16 = weights("bf16", 8, 300).tobytes()
    data = safetensors_bytes({"a": ("BF16", (8, 300), bf16), "b": ("F8_E5M2", (3,), b"abc")})
    for level in (1, 9):
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, level, 1, name="m.safetensors")
        yield f"files-level-{level}", out.getvalue()
    entries = {"first": (bf16, kind_of("BF16", (8, 300))), "again": (bf16, BYTES)}
    yield "files-sha256-ref", archives.written(entries, hash="sha256")
    yield "files-no-index", archives.written(entries, index=False)


# Good archives, made by hand: what the format allows and densor does not write today


def by_hand() -> Iterator[tuple[str, bytes]]:
    rng = random_state("golden by hand")
    for name in reference.LAYOUTS:
        n, run = 530, 37
        runs = -(-n // run)
        lists, sections, planes = [], [], []
        for p in range(reference.SIZE[name]):
            count = int(rng.choice([1, 2, 3, 5, 16]))
            code = reference.random_complete_code(rng, int(rng.choice([2, 9, 60])))
            kinds = [Class(0), Class(1, symbol=p + 100), Class.huffman(code)]
            listed = [kinds[i % 3] for i in range(2, 2 + count)]
            chosen = [int(c) for c in rng.integers(0, count, runs)]
            plane = np.empty(n, np.uint8)
            for r, c in enumerate(chosen):
                part = plane[r * run : (r + 1) * run]
                options = {0: range(256), 1: [p + 100], 2: list(code)}[listed[c].kind]
                part[:] = rng.choice(list(options), part.size)
            lists.append(listed)
            planes.append(plane)
            sections.append((3, reference.class_section(plane, listed, run, chosen)))
        delta = name in reference.WITH_DELTA
        elements = reference_planes.merge_planes(reference.LAYOUTS[name], planes)
        if delta:
            elements = reference_planes.undo_delta(elements)
        payload = reference.chunk(sections)
        if len(payload) > elements.nbytes:  # no chunk may grow: raw planes where they are smaller
            sections = [
                (0, plane.tobytes()) if len(data) > n else (3, data)
                for plane, (_, data) in zip(planes, sections, strict=True)
            ]
            sections[0] = (2, zstandard.ZstdCompressor().compress(planes[0].tobytes()))
            if len(sections[0][1]) > n:
                sections[0] = (0, planes[0].tobytes())
            payload = reference.chunk(sections)
        model = Frame(MODEL, bytes(reference.model(name, run, lists, delta)))
        chunks = [Frame(CHUNK, payload, elements.nbytes, 16)]
        if len(payload) > elements.nbytes:
            chunks = [Frame(CHUNK, elements.tobytes(), elements.nbytes)]
        yield f"hand-{name}", bytes_archive([model, *chunks], elements.tobytes())
    n = 1000
    for mode, section in (
        (0, bytes(range(200)) * 5),
        (1, b"\x07"),
        (2, zstandard.ZstdCompressor().compress(bytes(n))),
    ):
        model = Frame(MODEL, bytes(reference.model("byte", 1, [[]])))
        data = {0: section, 1: b"\x07" * n, 2: bytes(n)}[mode]
        inner = [model, Frame(CHUNK, reference.chunk([(mode, section)]), n, 16)]
        if len(inner[1].payload) > n:
            inner[1] = Frame(CHUNK, section, n)
        yield f"hand-mode-{mode}", bytes_archive(inner, data)
    text = b"skipped frames may stand anywhere"
    skip = Frame(200, b"?")
    inner = [skip, Frame(CHUNK, text, len(text)), skip, Frame(255)]
    yield "hand-skippable", bytes_archive(inner, text)
    meta = {"name": "x", "kind": "file", "colour": ["unknown", {"keys": None}]}
    yield "hand-unknown-keys", one_object(meta, [Frame(CHUNK, text, len(text))], text)


# Bad archives


def bad() -> Iterator[tuple[str, bytes, str]]:
    good = archives.sample("noise").archive
    yield "empty", b"", "TruncatedError"
    yield "not-an-archive", b"PK\x03\x04 something else", "FormatError"
    yield "header-only", good[:32], "TruncatedError"
    yield "cut-in-chunk", good[: len(good) // 2], "TruncatedError"
    yield "cut-before-end", good[:-44], "TruncatedError"
    yield "line-ends-converted", good.replace(b"\r\n", b"\n", 1), "FormatError"
    yield "tail", good + b"\0", "FormatError"
    for name, at in (("header", 20), ("frame-header", 40), ("payload", len(good) // 2)):
        damaged = bytearray(good)
        damaged[at] ^= 4
        yield f"flipped-{name}", bytes(damaged), "ChecksumError"
    yield "newer-version", header(version=2) + good[32:], "UnsupportedError"
    yield "unknown-feature", header(features=4) + good[32:], "UnsupportedError"
    yield "version-0", header(version=0) + good[32:], "FormatError"
    yield "chunk-limit", header(limit=1 << 27) + good[32:], "LimitError"
    data = b"abcd"
    chunk = Frame(CHUNK, data, 4)

    def one(*inner: Frame, **meta: object) -> bytes:
        return one_object({"name": "x", "kind": "file", "size": 4} | meta, inner, data)

    yield "unknown-frame", one(Frame(9), chunk), "UnsupportedError"
    yield "unknown-model", one(Frame(CHUNK, data, 4, 9)), "UnsupportedError"
    yield "missing-model", one(Frame(CHUNK, data, 4, 16)), "FormatError"
    yield "unknown-codec", one(Frame(MODEL, bytes([7]) + bytes(8)), chunk), "UnsupportedError"
    yield "unknown-layout", one(Frame(MODEL, bytes([2, 99]) + bytes(7)), chunk), "UnsupportedError"
    code = bytes([2, 1, 0, 1, 1, 0, 0, 0, 1, 2, 0, 1, 0x22])
    yield "incomplete-code", one(Frame(MODEL, code), chunk), "FormatError"
    yield "unknown-hash", one(chunk, hash="md5"), "UnsupportedError"
    yield "path-upwards", one(chunk, name="../x"), "FormatError"
    yield "path-absolute", one(chunk, name="/x"), "FormatError"
    yield "path-drive", one(chunk, name="C:/x"), "FormatError"
    yield "wrong-size", one(chunk, size=5), "FormatError"
    yield "wrong-data", one(Frame(CHUNK, b"abce", 4)), "ChecksumError"
    yield "ref-ahead", one(Frame(REF, struct.pack("<IQ", 0, 0), 4)), "FormatError"
    yield "chunk-too-long", one(Frame(CHUNK, data, (1 << 26) + 1)), "LimitError"
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    assert len(bomb) < 100
    yield "zstd-bomb", one(Frame(CHUNK, bomb, 100, 1)), "FormatError"
    entry, body, close, end = take_apart(one(chunk))
    yield "entry-open", put_together([entry, body, end]), "FormatError"
    yield "name-twice", put_together([entry, body, close] * 2 + [end]), "FormatError"
    twice = Frame(ENTRY, b'{"name":"x","name":"x","kind":"file","size":4}')
    yield "json-key-twice", put_together([twice, body, close, end]), "FormatError"
    digest = Frame(ENTRY_END, close.payload[:8] + b"\x09" + close.payload[9:])
    yield "unknown-hash-kind", put_together([entry, body, digest, end]), "UnsupportedError"
    count = b"".join(f.pack() for f in (entry, body, close, Frame(END, struct.pack("<QQ", 0, 9))))
    yield "wrong-count", header() + count, "FormatError"
    assert INDEX not in {frame.kind for frame in (entry, body, close, end)}


# Codecs of densor 0.2


def codecs() -> Iterator[tuple[str, bytes]]:
    for name in ("scales", "scales fp32", "sparse", "blocks", "chain"):
        yield name.replace(" ", "-"), archives.sample(name).archive
    yield "mixing", densor.compress(weights("bf16", 40, 96), 9, dtype="bf16")
    integers = random_state("planes").standard_normal((80, 250)) * 0.45
    yield "planes", densor.compress(np.rint(integers).astype(np.int8), 6)


# Frames and codecs of densor 0.3


def recovery() -> Iterator[tuple[str, bytes]]:
    with MonkeyPatch.context() as patch:  # many batches, so that there are places
        patch.setattr(sizes, "BATCH_BYTES", 2000)
        patch.setattr(writer, "_PLACE_EVERY", 1500)
        patch.setitem(analyse._CHUNK_BYTES, 2, 1000)
        bits = weights("bf16", 9, 200)
        noise = random_state("recovery").integers(0, 256, 300, "u1").tobytes()
        tensors = {"w": ("BF16", bits.shape, bits.tobytes()), "n": ("U8", (300,), noise)}
        data = safetensors_bytes(tensors)
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, threads=1, name="m.safetensors", recovery=20)
    yield "recovery", out.getvalue()


def damaged_recovery() -> Iterator[tuple[str, bytes, str]]:
    archive = (HERE / "recovery.densor").read_bytes()
    yield "recovery-damaged", archive[:600] + bytes(300) + archive[900:-20], "ChecksumError"


def points() -> Iterator[tuple[str, bytes]]:
    import ml_dtypes

    tensors = {
        "bf16": weights("bf16", 24, 80).view(ml_dtypes.bfloat16),
        "fp16": weights("fp16", 8, 80),
    }
    yield "points", densor.save(tensors, level=3, gpu_index=True)


PROSE = b"""In the beginning nobody knew how far it was to the mill, for the road went up and down
through the woods, and whoever asked the way was told another tale. The miller's daughter said: "An
hour, if the wind is behind you; two, if it is not." Her brother, who never walked if he could ride,
said that it was no way at all. So the traveller took off his hat, thanked them both, and asked the
donkey, which looked at him, turned round and went home: three hours, and the wind was behind them.
"""


def text() -> Iterator[tuple[str, bytes]]:
    binary = bytes(i * j & 255 for i in range(9) for j in range(16))
    with MonkeyPatch.context() as patch:
        patch.setattr(choose_texts, "MIN_BYTES_OF_TEXT", 0)  # for a slow decoder
        yield "text", densor.compress(PROSE, 9)
        yield "text-binary", densor.compress(binary, 9)
        yield "text-light", densor.compress(PROSE.replace(b"\n", b" ").upper() + PROSE, 5)


def images() -> Iterator[tuple[str, bytes]]:
    y, x = np.mgrid[:96, :90]
    noise = random_state("golden images").integers(0, 2, (96, 90, 3))
    picture = (noise + (60 + (x * y // 99) % 90 + (x // 24 + y // 27) % 2 * 70)[..., None]).astype(
        "u1"
    )
    grey = picture[..., 0]
    deep = ((900 + 40 * x + 25 * y)[..., None] + 9 * noise)[:20, :30]
    yield "image-gradient", densor.compress(picture[:48], 1)
    yield "image-light", densor.compress(grey[:36, :30] // 8 * 8, 5)
    yield "image", densor.compress(picture[:24, :30], 9)
    yield "image-16", densor.compress(deep.astype(">u2") * 8, 9)
    yield "image-16-gradient", densor.compress(grey[:60].astype("<u2") * 3 + 300, 3)


def streams() -> Iterator[tuple[str, bytes]]:
    """Streams of zlib at settings of all kinds: bare, with header, in chunks of PNG."""
    y, x = np.mgrid[:24, :30]
    rows = np.zeros((24, 91), np.uint8)
    rows[:, 0] = np.arange(24) % 5
    noise = random_state("golden streams").integers(0, 4, (24, 30, 3))
    rows[:, 1:] = ((x + y)[..., None] // 3 + noise).reshape(24, 90)
    prose = (PROSE + PROSE.upper()) * 3  # repeats beyond the windows below
    settings = (
        *((6, 2, 8), (3, 1, 8), (4, 0, 9), (6, 3, 9)),
        *((9, 0, 8), (6, 1, 1), (6, 4, 8), (1, 0, 8)),
    )
    for i, (level, strategy, memory) in enumerate(settings):
        form = i % 3
        raw = rows.tobytes() if form == PNG else prose
        window = -15 if form == RAW else 9 if form == ZLIB else 15 - i
        deflater = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
        made = deflater.compress(raw) + deflater.flush()
        if form == PNG:
            made = b"".join(_idat(made[k : k + 90]) for k in range(0, len(made), 90))
        stream = Stream(form, 90, 3, Layout(30, 3)) if form == PNG else Stream(form)
        coder = DeflateCoder(stream, level_settings(9))
        chunk = np.frombuffer(made, np.uint8)
        coder.decide([coder.count(chunk)])
        payload = bytes(coder.encode(chunk, 0))
        frames = [Frame(MODEL, coder.model()), Frame(CHUNK, payload, len(made), 16)]
        yield f"deflate-{i}", bytes_archive(frames, made)


def pages_of_columns() -> Iterator[tuple[str, bytes]]:
    """Columns of every type, by both ways of values, and as two writers cut them."""
    for name, codec, level, version, other in (
        ("plain", 0, 3, 1, False),
        ("snappy", 1, 5, 2, False),
        ("others", 1, 3, 1, True),
    ):
        yield from _pages(name, codec, level, version, other)


def compressed_pages() -> Iterator[tuple[str, bytes]]:
    """The same by gzip and LZ4, one with pages of the second version."""
    yield from _pages("gzip", parquet_files.GZIP, 3, 1, False)
    yield from _pages("lz4", parquet_files.LZ4, 5, 2, False)


def split_pages() -> Iterator[tuple[str, bytes]]:
    """Numbers whose bytes are split."""
    kinds = "i4", "f8", "fixed"
    columns = [column for column in parquet_files.flights(300) if column.type in kinds]
    numbers = [replace(column, dictionary=False, split=True) for column in columns]
    yield from _pages("split", parquet_files.SNAPPY, 3, 1, False, numbers)


def newest_pages() -> Iterator[tuple[str, bytes]]:
    """Differences, lengths of texts, what they share, and runs of truths."""
    columns = parquet_files.flights(300)
    yield from _pages("deltas", 0, 3, 1, False, parquet_files.newest(columns))
    yield from _pages("deltas-wide", 1, 5, 2, True, parquet_files.newest(columns, 256, 8))


def _pages(
    name: str,
    codec: int,
    level: int,
    version: int,
    other: bool,
    columns: Sequence[parquet_files.Column] = (),
) -> Iterator[tuple[str, bytes]]:
    columns = columns or parquet_files.flights(300)
    data = parquet_files.file(columns, codec, 100, 300, version, other=other)
    with MonkeyPatch.context() as patch:
        patch.setattr(candidates, "as_pages", _by_values)  # however small
        patch.setattr(parquet, "FEWEST_OF_SEVERAL", 1)
        yield f"pages-{name}", _archive_of("a.parquet", data, level)


def notations() -> Iterator[tuple[str, bytes]]:
    """Weights as varints in a file of ONNX, as text in a pickle, beside bytes of both."""
    values = weights("fp32", 64, 96).view(np.float32)
    half = values.astype(np.float16)
    numbers = (values * 1e6).astype(np.int64)
    model = onnx_model(
        onnx_tensor("half", 10, half.shape, 5, written(half, VARINTS)),
        onnx_tensor("numbers", 7, numbers.shape, 7, written(numbers, VARINTS)),
    )
    pickled = pickle.dumps({"weights": values, "half": half}, 2)
    for name, data, level in (("onnx", model, 3), ("pickle", pickled, 6)):
        yield f"notation-{name}", _archive_of("a", data, level)


def _archive_of(name: str, data: bytes, level: int) -> bytes:
    """What `compress_file` makes of a file, whose time and mode are always the same."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / name, Path(folder) / "out.densor"
        path.write_bytes(data)
        os.utime(path, (10**9, 10**9))
        path.chmod(0o644)
        densor.compress_file(path, out, level=level)
        return out.read_bytes()


def _by_values(batch: Batch, level: Level) -> Coding:
    encoder = CODECS[registry.CODEC_PAGES].propose(batch, level)
    assert encoder is not None
    return encoder.encode()


def _idat(piece: bytes) -> bytes:
    body = b"IDAT" + piece
    return len(piece).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def enlarged() -> Iterator[tuple[str, bytes]]:
    """Images of which each pixel is there several times."""
    y, x = np.mgrid[:40, :50]
    noise = random_state("golden zoom").integers(0, 3, (40, 50, 3))
    picture = ((x * 3 + y * 2)[..., None] + noise).astype(np.uint8)
    wide = np.repeat(np.repeat(picture, 2, 0), 3, 1)
    yield "image-zoom", densor.compress(wide, 9)
    yield "image-zoom-gradient", densor.compress(np.repeat(picture[..., 0], 4, 0), 3)


def residuals() -> Iterator[tuple[str, bytes]]:
    """Images by decisions about residuals."""
    y, x = np.mgrid[:40, :50]
    noise = random_state("golden residuals").integers(0, 9, (40, 50, 3))
    picture = (noise + (40 + 3 * x + y + (x // 12 + y // 9) % 2 * 50)[..., None]).astype(np.uint8)
    yield "image-residual-grey", densor.compress(picture[..., 1], 5)
    deep = (picture[:30].astype(np.uint16) * 3 + noise[:30]).astype(">u2")
    for name, rows in (("image-residual", picture), ("image-residual-16", deep)):
        layout, data = Layout(50, 3, rows.itemsize, rows.itemsize > 1), rows.tobytes()
        coder = MixingCoder(layout, np.frombuffer(data, np.uint8), 0, 2)
        payload = bytes(coder.encode(np.frombuffer(data, np.uint8), 0))
        frames = [Frame(MODEL, coder.model()), Frame(CHUNK, payload, len(data), 16)]
        yield name, bytes_archive(frames, data)


def shapes() -> Iterator[tuple[str, bytes]]:
    """Images under contexts of shapes: of colours, grey, of 16 bits, of two values."""
    y, x = np.mgrid[:24, :30]
    noise = random_state("golden shapes").integers(0, 6, (24, 30, 3))
    inside = (x - 14) ** 2 + 2 * (y - 11) ** 2 < 90
    picture = (np.where(inside, 180 + x, 20)[..., None] + noise).astype(np.uint8)
    yield "image-shapes", densor.compress(picture, 9)
    yield "image-shapes-grey", densor.compress(picture[..., 0], 9)
    yield "image-shapes-16", densor.compress(picture[..., 1].astype("<u2") * 257, 9)
    yield "image-shapes-two", densor.compress(np.where(inside, 255, 7).astype("u1"), 9)
    data = np.ascontiguousarray(picture).reshape(-1)
    coder = MixingCoder(Layout(30, 3), data, 14, 2)
    payload = bytes(coder.encode(data, 0))
    frames = [Frame(MODEL, coder.model()), Frame(CHUNK, payload, data.size, 16)]
    yield "image-shapes-some", bytes_archive(frames, data.tobytes())


# Images with windows, of densor 0.12


def windows() -> Iterator[tuple[str, bytes]]:
    """Samples that are predicted from windows: three planes, one, two, four, and 16 bits."""
    noise = random_state("golden windows").integers(0, 3, (48, 60, 4))
    y, x = np.mgrid[:48, :60]
    wave = 9 * np.sin(x / 5 + y / 9) + 7 * np.cos(x / 3 - y / 7) + 0.1 * x * (y > 20)
    picture = (110 + 3 * wave[..., None] * np.linspace(1, 0.8, 4) + noise).astype(np.uint8)
    yield "image-windows", densor.compress(np.ascontiguousarray(picture[:30, :37, :3]), 9)
    yield "image-windows-grey", densor.compress(np.ascontiguousarray(picture[..., 0]), 9)
    yield "image-windows-alpha", densor.compress(np.ascontiguousarray(picture[:24]), 9)
    deep = (picture[..., 1].astype("<u2") << 4) + picture[..., 2]
    yield "image-windows-16", densor.compress(deep, 9)


# Changes of few elements, of densor 0.5


def changes() -> Iterator[tuple[str, bytes]]:
    yield "few", archives.sample("few").archive


def tables() -> Iterator[tuple[str, bytes]]:
    texts = [(name, RECORDS[name], level) for name, level in (("numbers", 3), ("times", 5))]
    for level, name in ((3, "fast"), (5, "light"), (9, "full")):
        texts.append((name, broken(table(90), 30), level))
    with MonkeyPatch.context() as patch:
        patch.setattr(forms, "_clearly_less", lambda *_: True)  # however small
        for name, text, level in texts:
            layout = layout_of(text.split(b"\n"))
            assert layout is not None
            rows = text, kind_of_table(layout)
            yield f"table-{name}", archives.written({"rows": rows}, level=level)


def latent_tables() -> Iterator[tuple[str, bytes]]:
    text = blocks(2000)
    layout = layout_of(text.split(b"\n"))
    assert layout is not None
    rows = {"rows": (text, kind_of_table(layout))}
    yield "table-latents", archives.written(rows, level=5, table_latents=True)


def tables_of_records() -> Iterator[tuple[str, bytes]]:
    array = records(60)
    rows = {"rows": (array.tobytes(), kind_of_table(layout_of_records(npy(array))))}
    with MonkeyPatch.context() as patch:
        patch.setattr(forms, "_clearly_less", lambda *_: True)  # however small
        yield "table-records", archives.written(rows, level=5)


def tables_of_arrays() -> Iterator[tuple[str, bytes]]:
    with MonkeyPatch.context() as patch:
        patch.setattr(forms, "_clearly_less", lambda *_: True)  # however small
        for name, data in (("stream", stream(*flights(90, 2))), ("file", file(*flights(40)))):
            table, layout = table_in(data)
            rows = {"rows": (table.tobytes(), kind_of_table(layout))}
            yield f"table-arrow-{name}", archives.written(rows, level=5 if name == "stream" else 3)


def tables_between_literals() -> Iterator[tuple[str, bytes]]:
    for name, text in (("json-lines", json_lines(150)), ("fixed-width", fixed_width(200))):
        layout = layout_in(text, True)
        assert layout is not None
        rows = {"rows": (text, kind_of_table(layout))}
        yield f"table-{name}", archives.written(rows, level=3)


def sound() -> Iterator[tuple[str, bytes]]:
    t = np.arange(1200)
    noise = random_state("golden sound").integers(-40, 40, (1200, 2))
    pair = (np.stack([9000 * (t % 97) // 97, 7000 * (t % 97) // 97], 1) + noise).astype("<i2")
    deep = (pair[:800, :1].astype("<i4") << 7).view("u1").reshape(800, 4)[:, :3]
    for name, samples, channels, size in (
        ("audio-lanes", pair, 2, 2),
        ("audio-lanes-24", np.ascontiguousarray(deep), 1, 3),
        ("audio-lanes-8", (pair[:900, 0] >> 8).astype("i1").view("u1") ^ 128, 1, 1),
    ):
        data = samples.tobytes()
        head = struct.pack("<HHIIHH", 1, channels, 8000, 0, channels * size, 8 * size)
        body = b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", len(data)) + data
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(b"RIFF" + struct.pack("<I", len(body)) + body), out, 3)
        yield name, out.getvalue()


def short_form() -> Iterator[tuple[str, bytes]]:
    """Tiny archives of each kind of entry, with and without an index and Zstandard."""
    yield "short-array", densor.compress(weights("bf16", 1, 256), dtype="bf16")
    yield "short-big-endian", densor.compress(np.arange(6, dtype=">u2").reshape(2, 3).T)
    yield "short-scalar", densor.compress(np.array(np.float64(-0.0)))
    yield "short-steps", densor.compress(np.arange(0, 900, 7, dtype="<i4"))
    yield "short-bytes", densor.compress(b"tiny")
    yield "short-empty", densor.compress(b"")
    tensors = {
        f"layers.{i}.{part}": ("BF16", (24,), weights("bf16", 1, 24, i).tobytes())
        for i in range(9)
        for part in ("weight", "bias", "scale")
    }
    for name, data, kind in (
        ("tensors", safetensors_bytes(tensors), None),
        ("sha256", b"a,b\n1,2\n", "sha256"),
    ):
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, 3, 1, name=f"täny {name}", hash=kind)
        yield f"short-{name}", out.getvalue()


def bad_short_form() -> Iterator[tuple[str, bytes, str]]:
    archive = densor.compress(b"tiny")
    yield "short-cut", archive[:-1], "TruncatedError"
    yield "short-behind", archive + b"\0", "FormatError"
    yield "short-flipped", archive[:-3] + bytes([archive[-3] ^ 1]) + archive[-2:], "ChecksumError"


def tokens() -> Iterator[tuple[str, bytes]]:
    noise = random_state("golden tokens").integers(0, 40, 3000)
    words = noise * noise % 37 + 4000 * (noise % 3)
    books = np.stack([words[:600] % 1000, words[1:601] % 777, words[:600] // 3]).astype("<i4")
    yield "tokens-codebooks", densor.compress(np.stack([books, books[:, ::-1]]), 3, tokens=True)


def mixed_tokens() -> Iterator[tuple[str, bytes]]:
    noise = random_state("golden mixed tokens").integers(0, 40, 4000)
    words = noise * noise % 37 + 4000 * (noise % 3)
    yield "tokens-mixed", densor.compress(np.tile(words, 3).astype("<u2"), 3, tokens=True)
    yield "tokens-wide", densor.compress((words * 11).astype("<i4"), 9, tokens=True)
    data = words.astype("<u2").view(np.uint8)
    coder = TokensEncoder(Mixed(2, 4, 9, 10, 3))
    chunk = Frame(CHUNK, bytes(coder.encode(data, 0)), data.size, 16)
    frames = [Frame(MODEL, coder.model()), chunk]
    yield "tokens-streams", bytes_archive(frames, data.tobytes())


def ranked_tokens() -> Iterator[tuple[str, bytes]]:
    return _by_ranks(
        ("one", "<u2", TokensEncoder(Ranked(2, 4, 10, 11, 1))),
        ("three", "<u2", TokensEncoder(Ranked(2, 4, 8, 8, 3))),
        ("wide", "<u4", TokensEncoder(Ranked(4, 5, 9, 9, 4))),
    )


def tokens_of_more_contexts() -> Iterator[tuple[str, bytes]]:
    return _by_ranks(
        ("more", "<u2", TokensEncoder(RankedMore(2, 4, 10, 11, 1))),
        ("more-wide", "<u4", TokensEncoder(RankedMore(4, 5, 8, 8, 3))),
    )


def _by_ranks(*cases: tuple[str, str, TokensEncoder]) -> Iterator[tuple[str, bytes]]:
    rng = random_state("golden ranks of tokens")
    phrases = [rng.integers(0, 9000, length) for length in rng.integers(1, 9, 90)]
    chosen = (rng.zipf(1.3, 900) % 90).tolist()
    words = np.concatenate([phrases[i] for i in chosen])
    for name, dtype, coder in cases:
        data = (words * (1 if dtype == "<u2" else 113)).astype(dtype).view(np.uint8)
        chunk = Frame(CHUNK, bytes(coder.encode(data, 0)), data.size, 16)
        frames = [Frame(MODEL, coder.model()), chunk]
        yield f"token-ranks-{name}", bytes_archive(frames, data.tobytes())


def masks_in_bands() -> Iterator[tuple[str, bytes]]:
    order = random_state("golden bands").random((64, 16, 4)).argsort(2)
    keep = (order < 2).reshape(64, 64).T
    yield "sparse-bands", densor.compress(np.ascontiguousarray(np.tile(keep, (3, 4))), 3)


def adaptive_sound() -> Iterator[tuple[str, bytes]]:
    t = np.arange(1500)
    noise = random_state("golden adaptive sound").integers(-40, 40, (1500, 2))
    pair = (np.stack([9000 * (t % 97) // 97, 7000 * (t % 97) // 97], 1) + noise).astype("<i2")
    deep = (pair[:500, :1].astype("<i4") << 7).view("u1").reshape(500, 4)[:, :3]
    for name, samples, channels, size, level in (
        ("audio-cascade-light", pair, 2, 2, 5),
        ("audio-cascade-24", np.ascontiguousarray(deep), 1, 3, 5),
        ("audio-cascade-full", pair[:400], 2, 2, 9),
    ):
        data = samples.tobytes()
        head = struct.pack("<HHIIHH", 1, channels, 8000, 0, channels * size, 8 * size)
        body = b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", len(data)) + data
        out = io.BytesIO()
        with MonkeyPatch.context() as patch:
            patch.setattr(signals, "with_simpler_sound", lambda _: ())
            content = b"RIFF" + struct.pack("<I", len(body)) + body
            densor.compress_file(io.BytesIO(content), out, level)
        yield name, out.getvalue()


def derived_files() -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        model, quantised = Path(folder) / "model.safetensors", Path(folder) / "quantised.gguf"
        model.write_bytes(quantised_files.model())
        quantised_files.write_gguf(quantised)
        out = Path(folder) / "out.densor"
        densor.pack([model, quantised], out, derive="small", threads=1)
        yield "derived", out.read_bytes()


def told_files() -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        model, quantised = Path(folder) / "model.safetensors", Path(folder) / "quantised.gguf"
        model.write_bytes(quantised_files.model())
        quantised_files.write_told(quantised)
        out = Path(folder) / "out.densor"
        densor.pack([model, quantised], out, derive=True, threads=1)
        yield "derived_told", out.read_bytes()


def steps() -> Iterator[tuple[str, bytes]]:
    shapes = {"0": (12, 50), "layer.1": (70,)}
    with tempfile.TemporaryDirectory() as folder, MonkeyPatch.context() as patch:
        patch.setattr(step_search, "_LEAST", 1)  # so that it stays small
        patch.setattr(step_search, "_LEAST_GAIN", -1000)
        out = Path(folder) / "out.densor"
        for number, content in enumerate(stepped.checkpoints(3, 0.7, 20, shapes=shapes)):
            path = Path(folder) / f"step-{number}"
            path.write_bytes(content)
            _take_up(out, path)
        yield "steps", out.read_bytes()


def _take_up(out: Path, path: Path) -> None:
    """Appends a checkpoint to an archive, or begins one with it."""
    os.utime(path, (10**9, 10**9))
    path.chmod(0o644)
    if out.exists():
        densor.archives.append(out, path, threads=1)
    else:
        densor.compress_file(path, out, threads=1)


def steps_of_weights() -> Iterator[tuple[str, bytes]]:
    """By PyTorch, whose files say what Adam was told."""
    import torch

    torch.manual_seed(5)
    weights = {"a": torch.randn(12, 50) * 0.05, "b": torch.randn(70) * 0.05}
    adam = torch.optim.AdamW([torch.nn.Parameter(w) for w in weights.values()], lr=1e-3)
    with tempfile.TemporaryDirectory() as folder, MonkeyPatch.context() as patch:
        patch.setattr(step_search, "_LEAST", 1)  # so that it stays small
        patch.setattr(step_search, "_LEAST_GAIN", -1000)
        out = Path(folder) / "out.densor"
        for number in range(3):
            for parameter in adam.param_groups[0]["params"]:
                gradient = torch.randn(parameter.shape).bfloat16().float()
                parameter.grad = gradient * 0.7
            adam.step()
            path = Path(folder) / f"step-{number}"
            moved = dict(zip(weights, adam.param_groups[0]["params"], strict=True))
            torch.save({"model": moved, "adam": adam.state_dict()}, path)
            _take_up(out, path)
        yield "steps-weights", out.read_bytes()


class Group(NamedTuple):
    """Archives that were made at once; each of `good` yields name and archive."""

    title: str
    good: tuple[Callable[[], Iterator[tuple[str, bytes]]], ...]
    bad: Callable[[], Iterator[tuple[str, bytes, str]]] | None = None


GROUPS = (
    Group("0.1", (arrays, files, by_hand), bad),
    Group("0.2, codecs", (codecs,)),
    Group("0.3, recovery", (recovery,), damaged_recovery),
    Group("0.3, points", (points,)),
    Group("0.3, text", (text,)),
    Group("0.4, images", (images,)),
    Group("0.5, streams", (streams,)),
    Group("0.5, changes", (changes,)),
    Group("0.5, tables", (tables,)),
    Group("0.5, sound", (sound,)),
    Group("0.6, tables", (latent_tables,)),
    Group("0.6, enlarged images", (enlarged,)),
    Group("0.6, short form", (short_form,), bad_short_form),
    Group("0.6, JSON lines and fixed widths", (tables_between_literals,)),
    Group("0.6, adaptive sound", (adaptive_sound,)),
    Group("0.7, files that follow from others", (derived_files,)),
    Group("0.7, tokens", (tokens,)),
    Group("0.7, mixed tokens", (mixed_tokens,)),
    Group("0.7, masks down columns", (masks_in_bands,)),
    Group("0.7, images by residuals", (residuals,)),
    Group("0.9, records", (tables_of_records,)),
    Group("0.9, steps of Adam", (steps,)),
    Group("0.10, arrays", (tables_of_arrays,)),
    Group("0.10, weights that Adam moves", (steps_of_weights,)),
    Group("0.10, images under contexts of shapes", (shapes,)),
    Group("0.11, pages of columns", (pages_of_columns,)),
    Group("0.11, ranks of tokens", (ranked_tokens,)),
    Group("0.12, pages by gzip and LZ4", (compressed_pages,)),
    Group("0.12, elements in other forms", (notations,)),
    Group("0.12, split pages", (split_pages,)),
    Group("0.12, images with windows", (windows,)),
    Group("0.13, pages of differences", (newest_pages,)),
    Group("0.16, ranks of tokens under more contexts", (tokens_of_more_contexts,)),
    Group("0.19, scales that are told", (told_files,)),
)


def main() -> None:
    path = HERE / "expected.json"
    expected = json.loads(path.read_text()) if path.exists() else {"good": {}, "bad": {}}
    for group in GROUPS:
        archives_of = (pair for make in group.good for pair in make())
        for name, archive in archives_of:
            if name in expected["good"]:
                print(f"{group.title}: the golden archives exist; they are never made anew")
                break
            (HERE / f"{name}.densor").write_bytes(archive)
            found = container.decode(archive)
            expected["good"][name] = {e.name: hashlib.sha256(e.data).hexdigest() for e in found}
        else:
            for name, archive, error in group.bad() if group.bad else ():
                (HERE / f"bad-{name}.densor").write_bytes(archive)
                expected["bad"][f"bad-{name}"] = error
    path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
