"""Streams of zlib: made again as zlib makes them, found in files, refused where they lie."""

import gzip
import io
import itertools
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state
from reference.deflate import CLASSIC, parse_model

import densor
from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.codec.deflate import encoder, filters, settings, stream
from densor.codec.deflate.encoder import DeflateCoder, undo
from densor.codec.deflate.params import HEAD_SIZE
from densor.codec.deflate.settings import Settings, make
from densor.codec.deflate.stream import PNG, RAW, ZLIB, Stream
from densor.codec.levels import level_settings

classic = pytest.mark.skipif(not CLASSIC, reason="another zlib, which writes other streams")


def _contents() -> dict[str, bytes]:
    rng = random_state("deflate")
    words = [bytes(rng.integers(97, 123, n, dtype=np.uint8)) for n in rng.integers(1, 9, 300)]
    text = b" ".join(words[i] for i in rng.zipf(1.3, 20_000) % 300)
    smooth = np.cumsum(rng.integers(-2, 3, 60_000)).astype(np.uint8)
    return {
        "nothing": b"",
        "one": b"x",
        "short": text[:37],
        "one byte": b"a" * 70_000,
        "text": text[:60_000],
        "noise": rng.integers(0, 256, 60_000, dtype=np.uint8).tobytes(),
        "smooth": smooth.tobytes(),
        "sparse": (rng.random(60_000) < 0.02).astype(np.uint8).tobytes(),
        "far": b"\0" * 40_000 + text[:30_000] + b"\0" * 40_000 + text[:30_000],
    }


CONTENTS = _contents()


def _deflated(raw: bytes, level: int, strategy: int, window: int, memory: int) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
    return deflater.compress(raw) + deflater.flush()


@classic
@pytest.mark.parametrize("content", CONTENTS)
def test_streams_are_those_of_zlib(content: str) -> None:
    raw = CONTENTS[content]
    data = np.frombuffer(raw, np.uint8)
    for level, strategy in itertools.product(range(1, 10), range(5)):
        for window, memory in ((15, 9), (12, 8), (9, 1)):
            wanted = _deflated(raw, level, strategy, -window, memory)
            made = make(Settings(level, strategy, window, memory), data, len(wanted))
            assert made == wanted, (level, strategy, window, memory)


@classic
@pytest.mark.parametrize("level", range(1, 10))
def test_data_in_pieces_gives_the_same(level: int) -> None:
    """As libpng hands it over, a row at a time."""
    raw = CONTENTS["text"] + CONTENTS["smooth"]
    deflater = zlib.compressobj(level, zlib.DEFLATED, -15, 8, 1)
    wanted = b"".join(deflater.compress(raw[i : i + 601]) for i in range(0, len(raw), 601))
    wanted += deflater.flush()
    assert make(Settings(level, 1, 15, 8), np.frombuffer(raw, np.uint8), len(wanted)) == wanted


@classic
@pytest.mark.parametrize("level", [1, 3, 6, 9])
@pytest.mark.parametrize("memory", [8, 9])
@pytest.mark.parametrize("strategy", range(5))
def test_settings_are_found(level: int, memory: int, strategy: int) -> None:
    raw = CONTENTS["text"][:9_000]
    for form, window in ((ZLIB, 15), (ZLIB, 12), (RAW, -15)):
        made = np.frombuffer(_deflated(raw, level, strategy, window, memory), np.uint8)
        found = undo(Stream(form), made)
        assert found is not None and found.content.tobytes() == raw


@pytest.mark.parametrize("row", [1, 3, 30])
@pytest.mark.parametrize("pixel", [1, 3])
def test_filters_are_undone(row: int, pixel: int) -> None:
    if pixel > row:
        pytest.skip("no pixel in a row")
    raw = random_state("filters", row).integers(0, 256, (40, row + 1), dtype=np.uint8)
    raw[:, 0] %= 5
    kinds, pixels = np.empty(40, np.uint8), np.empty(40 * row, np.uint8)
    assert filters.undo_filters(raw.ravel(), row, pixel, kinds, pixels)
    again = np.empty(raw.size, np.uint8)
    filters.filter_rows(kinds, pixels, row, pixel, again)
    assert again.tobytes() == raw.tobytes()
    raw[7, 0] = 5
    assert not filters.undo_filters(raw.ravel(), row, pixel, kinds, pixels)


def _picture(mode: str) -> Any:
    image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[:120, :170]
    noise = random_state("picture").integers(0, 3, (120, 170, 3))
    rgb = ((x + y)[..., None] // 3 * np.array([1, 2, 3]) // 2 + noise).astype(np.uint8)
    return image.fromarray(rgb).convert(mode)


@classic
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "LA"])
@pytest.mark.parametrize("how", [{}, {"optimize": True}, {"compress_level": 1}])
def test_png_files(mode: str, how: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _picture(mode).save(path, **how)
    packed = tmp_path / "a.densor"
    sizes = {}
    for level in (2, 4):
        sizes[level] = densor.compress_file(path, packed, level=level, overwrite=True).stored
        densor.decompress_file(packed, tmp_path / "back.png", overwrite=True)
        assert (tmp_path / "back.png").read_bytes() == path.read_bytes()
    if mode in ("RGB", "L", "RGBA"):
        assert sizes[4] < 0.9 * sizes[2]
    with densor.open(packed) as archive:
        assert archive.keys() == []


@classic
def test_gzip_and_zip_files(tmp_path: Path) -> None:
    text = CONTENTS["text"]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as members:
        for i in range(3):
            members.writestr(f"part {i}", text[i * 20_000 : (i + 1) * 20_000])
        members.writestr("small", b"")
    for data in (gzip.compress(text), held.getvalue()):
        (tmp_path / "a").write_bytes(data)
        sizes = densor.compress_file(tmp_path / "a", tmp_path / "b", level=9, overwrite=True)
        assert sizes.stored < 0.97 * len(data)
        densor.decompress_file(tmp_path / "b", tmp_path / "c", overwrite=True)
        assert (tmp_path / "c").read_bytes() == data
        for cut in (len(data) - 1, len(data) // 2, 20):
            (tmp_path / "a").write_bytes(data[:cut])
            densor.compress_file(tmp_path / "a", tmp_path / "b", level=9, overwrite=True)
            densor.decompress_file(tmp_path / "b", tmp_path / "c", overwrite=True)
            assert (tmp_path / "c").read_bytes() == data[:cut]


def _idat(kind: bytes, body: bytes, check: int = 0) -> bytes:
    crc = zlib.crc32(kind + body) ^ check
    return len(body).to_bytes(4, "big") + kind + body + crc.to_bytes(4, "big")


@pytest.mark.parametrize("wrong", ["nothing", "crc", "adler", "pieces", "filter", "rows", "end"])
def test_odd_png_files_come_back(wrong: str, tmp_path: Path) -> None:
    rows = np.zeros((40, 121), np.uint8)
    rows[:, 1:] = random_state("odd").integers(0, 9, (40, 120))
    if wrong == "filter":
        rows[3, 0] = 9
    raw = rows.tobytes()[: -7 if wrong == "rows" else None]
    made = zlib.compress(raw)
    if wrong == "adler":
        made = made[:-1] + bytes([made[-1] ^ 1])
    if wrong == "end":
        made += b"more"
    size = 500
    pieces = [made[i : i + size] for i in range(0, len(made), size)]
    if wrong == "pieces":
        pieces = [pieces[0][:100], pieces[0][100:], *pieces[1:]]
    head = struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _idat(b"IHDR", head)
    data += b"".join(_idat(b"IDAT", piece, wrong == "crc") for piece in pieces)
    data += _idat(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    densor.compress_file(tmp_path / "a.png", tmp_path / "a.densor", level=4)
    densor.decompress_file(tmp_path / "a.densor", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == data


def _coded() -> tuple[bytes, bytes, bytes]:
    """MODEL, CHUNK, and the stream of rows in chunks of PNG."""
    rows = np.zeros((30, 31), np.uint8)
    rows[:, 0] = np.arange(30) % 5
    rows[:, 1:] = random_state("coded").integers(0, 4, (30, 30))
    made = zlib.compress(rows.tobytes(), 9)
    data = b"".join(_idat(b"IDAT", made[i : i + 100]) for i in range(0, len(made), 100))
    coder = DeflateCoder(Stream(PNG, 30, 3), level_settings(3))
    chunk = np.frombuffer(data, np.uint8)
    coder.decide([coder.count(chunk)])
    return coder.model(), bytes(coder.encode(chunk, 0)), data


def _decoded(model: bytes, payload: bytes, size: int) -> bytes:
    out = np.empty(size, np.uint8)
    decoder: Any = decoder_for(model)
    decoder.decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


@classic
def test_every_changed_byte_is_refused_or_harmless() -> None:
    model, payload, data = _coded()
    assert _decoded(model, payload, len(data)) == data
    reference = parse_model(model, lambda inner: decoder_for(inner))  # has no models within
    assert reference.decode(payload, len(data)) == data
    for at in range(HEAD_SIZE + 10):
        for bit in range(8):
            broken = bytearray(payload)
            broken[at] ^= 1 << bit
            try:
                found = _decoded(model, bytes(broken), len(data))
            except densor.DensorError:
                continue
            assert len(found) == len(data)
            assert found == reference.decode(bytes(broken), len(data)), (at, bit)
    for size in (0, 1, len(data) - 1, len(data) + 1, 3 * len(data)):
        with pytest.raises(densor.DensorError):
            _decoded(model, payload, size)
    for cut in range(len(payload)):
        with pytest.raises(densor.DensorError):
            _decoded(model, payload[:cut], len(data))


@pytest.mark.parametrize("size", [1 << 26, (1 << 26) + 1, 1 << 31])
def test_lying_sizes_take_no_memory(size: int) -> None:
    model, payload, data = _coded()
    broken = payload[:1] + size.to_bytes(4, "little") + payload[5:]
    with pytest.raises(densor.LimitError):
        _decoded(model, broken, len(data))


def test_a_bomb_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MAX_RAW", 1 << 20)
    made = np.frombuffer(zlib.compress(bytes((1 << 20) + 1), 9), np.uint8)
    assert undo(Stream(ZLIB), made) is None
    assert stream.MAX_RAW == 1 << 26 and registry.CODEC_DEFLATE == 15


def test_other_programs_streams_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks where zlib makes one."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    made = deflater.compress(b"one, two, " * 50) + deflater.flush(zlib.Z_FULL_FLUSH)
    made += deflater.compress(b"three, four, " * 50) + deflater.flush()
    assert undo(Stream(RAW), np.frombuffer(made, np.uint8)) is None
    for data in (b"", b"\0", os.urandom(300), zlib.compress(b"")[2:-4]):
        assert undo(Stream(RAW), np.frombuffer(data, np.uint8)) is None
    assert settings.find(b"", np.frombuffer(b"abc", np.uint8), b"\1", False) is None
