"""Samples without a header, of which somebody says how they lie."""

import io
from pathlib import Path

import numpy as np
import pytest
from helpers import random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from written_bytes import Pipe

import densor
from densor.codec.kind import Data
from densor.errors import ArgumentError
from densor.formats.parsers.raw import kind_of_raw

KINDS = {"u8": "u1", "s8": "i1", "s16": "<i2", "s16be": ">i2", "s32le": "<i4", "f32": "<f4"}
WRONG = [
    "audio:44100:0:s16",
    "audio:44100:33:s16",
    "audio:44100:2:s12",
    "audio::2:s16",
    "audio:44100:2:s16 ",
    "image:0x10:u8",
    "image:10x0:u8",
    "image:10x10x0:u8",
    "image:10x10x65:u8",
    "image:999999999x1:u8",
    "image:10x10:f32",
    "10x10:u8",
    "",
]


def tone(dtype: str, channels: int) -> bytes:
    """A tone with some noise."""
    rng = random_state("raw", dtype)
    wave = np.sin(np.arange(3000) / 17)[:, None] * np.linspace(0.3, 0.8, channels)
    wave = wave + rng.normal(0, 0.003, wave.shape)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return wave.astype(kind).tobytes()
    half = 1 << (8 * kind.itemsize - 1)
    return (wave * 0.9 * half + (half if kind.kind == "u" else 0)).astype(kind).tobytes()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("u8", "u1"),
        ("s8", "i1"),
        ("s16", "<i2"),
        ("s16be", ">i2"),
        ("s32le", "<i4"),
        ("f32", "<f4"),
    ],
)
@pytest.mark.parametrize("level", [3, 5])
def test_sound_is_coded_as_such(name: str, dtype: str, level: int) -> None:
    data = tone(dtype, 2)
    packed = densor.compress(data, level, raw=f"audio:8000:2:{name}")
    assert bytes(densor.decompress(packed)) == data
    others = {"u8": "s8", "s8": "u8", "s16": "s16be", "s16be": "s16", "s32le": "f32", "f32": "s16"}
    assert len(packed) < len(densor.compress(data, level, raw=f"audio:8000:2:{others[name]}"))


def test_images_are_coded_as_such() -> None:
    x, y = np.meshgrid(np.arange(90), np.arange(70))
    noise = random_state("raw image").integers(0, 3, (70, 90, 3))
    rows = (np.stack([x + y, x, 255 - y], 2) + noise).astype(np.uint8)
    data = rows.tobytes()
    packed = densor.compress(data, raw="image:90x70x3:u8")
    assert bytes(densor.decompress(packed)) == data
    assert len(packed) < 0.7 * len(densor.compress(data))
    wide = (rows.astype(np.uint16) * 256).byteswap().tobytes()
    kind = kind_of_raw("image:90x70x3:u16be", len(wide))
    assert kind.data is Data.IMAGE and kind.image is not None and kind.image.big
    assert bytes(densor.decompress(densor.compress(wide, raw="image:90x70x3:u16be"))) == wide


@pytest.mark.parametrize("raw", WRONG)
def test_what_makes_no_sense_is_refused(raw: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        densor.compress(bytes(4000), raw=raw)
    source = tmp_path / "samples"
    source.write_bytes(bytes(4000))
    with pytest.raises(ArgumentError):
        densor.compress_file(source, tmp_path / "out", raw=raw)
    assert not (tmp_path / "out").exists()


def test_with_a_dtype_or_for_an_array_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        densor.compress(np.zeros(99, np.int16), raw="audio:8000:1:s16")
    source = tmp_path / "samples"
    source.write_bytes(bytes(4000))
    with pytest.raises(ArgumentError):
        densor.compress_file(source, tmp_path / "out", raw="audio:8000:1:s16", dtype="BF16")


@pytest.mark.parametrize("size", [0, 1, 3, 100, 11_999, 12_000])
@pytest.mark.parametrize("raw", ["audio:8000:2:s16", "image:30x20x3:u8"])
def test_odd_ends_of_files_and_pipes(size: int, raw: str, tmp_path: Path) -> None:
    data = tone("<i2", 2)[:size]
    source = tmp_path / "samples"
    source.write_bytes(data)
    densor.compress_file(source, tmp_path / "file.densor", raw=raw)
    pipe = io.BytesIO()
    densor.compress_file(Pipe(data), pipe, raw=raw)
    for packed in ((tmp_path / "file.densor").read_bytes(), pipe.getvalue()):
        out = io.BytesIO()
        densor.decompress_file(io.BytesIO(packed), out)
        assert out.getvalue() == data
        assert size < 9000 or not raw.startswith("audio") or len(packed) < 0.75 * size


@st.composite
def samples(draw: st.DrawFn, most: int) -> np.ndarray:
    """Numbers as samples are: smooth or not, few of them, with low bits that are all alike."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    size = draw(st.integers(1, most))
    bits = draw(st.integers(1, 32))
    wave = np.cumsum(rng.normal(0, draw(st.sampled_from([0, 0.01, 1, 1000])), size))
    numbers = wave.astype(np.int64) + draw(st.integers(-(1 << 31), 1 << 31))
    numbers &= (1 << bits) - 1
    numbers <<= draw(st.integers(0, 32 - bits))
    if draw(st.booleans()):
        numbers |= draw(st.integers(0, 255))
    if draw(st.booleans()):
        at = draw(st.integers(0, size - 1))
        numbers[at:] = numbers[: size - at]
    return numbers.astype(np.uint32)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_samples_come_back(data: st.DataObject) -> None:
    draw = data.draw
    width = draw(st.sampled_from([1, 2, 3, 4]))
    order = draw(st.sampled_from(["", "be"]))
    channels = draw(st.integers(1, 5))
    numbers = draw(samples(4000)).astype(">u4" if order else "<u4").view(np.uint8).reshape(-1, 4)
    rows = numbers[:, -width:] if order else numbers[:, :width]
    found = rows.tobytes() + draw(st.binary(max_size=3))
    if width < 3 and draw(st.booleans()):
        raw = f"image:{draw(st.integers(1, 60))}x9x{channels}:u{8 * width}{order}"
    else:
        name = draw(st.sampled_from([f"s{8 * width}", *{1: ["u8"], 4: ["f32"]}.get(width, [])]))
        raw = f"audio:8000:{channels}:{name}{order}"
    out = io.BytesIO()
    pipe = io.BytesIO()
    densor.compress_file(io.BytesIO(found), pipe, draw(st.sampled_from([1, 3, 5, 9])), 1, raw=raw)
    densor.decompress_file(io.BytesIO(pipe.getvalue()), out, 1)
    assert out.getvalue() == found
