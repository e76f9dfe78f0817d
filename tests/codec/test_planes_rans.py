"""Byte planes by rANS: against the slow coder in `reference.rans`, every layout, damage.

Payloads are made by a slow writer too, after docs/format/planes_rans.md, which makes what the
package's own writer would never choose.
"""

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import assert_same, entropy_bytes, random_state, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import codecs, container, rans
from reference import planes as reference_planes
from reference import planes_writer as planes_of_layouts
from reference.reading import Refused
from test_planes import decode_both, rans_model, rans_section

import densor
from densor.codec import registry
from densor.codec.batch import Batch
from densor.codec.choose.candidates import encode_batch
from densor.codec.codecs import decoder_for
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import level_settings
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.layout import LAYOUTS
from densor.codec.planes.stages.rans import RANS
from densor.entropy.rans import tables
from densor.runtime.workers import Workers

LAYOUT_NAMES = tuple(planes_of_layouts.LAYOUTS)
LEVEL = replace(level_settings(6), try_zstd=False)
Rows = list[list[int]]


def decode(model: bytes, payload: bytes, size: int) -> bytes:
    out = np.empty(size, np.uint8)
    decoder_for(model).decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


def coded(data: bytes, layout: str, run: int, chunk: int, level: Any = LEVEL) -> tuple[int, int]:
    """Codes `data` in chunks of `chunk` elements and back; returns bytes of model and of chunks."""
    size = planes_of_layouts.SIZE[layout]
    array = np.frombuffer(data, np.uint8)
    pieces = [array[i : i + chunk * size] for i in range(0, array.size, chunk * size)]
    found = LAYOUTS[planes_of_layouts.LAYOUTS[layout]]
    coder = PlanesEncoder(RANS, array, found, run, level, layout in planes_of_layouts.WITH_DELTA)
    coder.decide([coder.count(piece) for piece in pieces])
    model = coder.model()
    payloads = [coder.encode(piece, i).tobytes() for i, piece in enumerate(pieces)]
    for piece, payload in zip(pieces, payloads, strict=True):
        assert decode(model, payload, piece.size) == piece.tobytes()
        if piece.size <= 10_000:
            parsed = codecs.parse_model(model)
            expected = parsed.decode(payload, piece.size)
            assert expected == piece.tobytes()
    return len(model), sum(map(len, payloads))


# Round trips


@settings(max_examples=60)
@given(
    layout=st.sampled_from(LAYOUT_NAMES),
    n=st.integers(1, 700),
    run=st.one_of(st.integers(1, 40), st.integers(1, 2000)),
    chunk_runs=st.integers(1, 30),
    symbols=st.integers(1, 256),
    seed=st.integers(0, 1 << 30),
)
def test_any_elements_come_back(
    layout: str, n: int, run: int, chunk_runs: int, symbols: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size = planes_of_layouts.SIZE[layout]
    data = (rng.integers(0, symbols, n * size) ** 2 % 256).astype(np.uint8)
    data[: data.size // 2] //= 3
    coded(data.tobytes(), layout, run, run * chunk_runs)


# Bad input


def example() -> tuple[bytes, bytes, bytes]:
    """Parameters, payload and data: two planes, one of three classes, one raw."""
    rng = random_state("example")
    counts = np.zeros((3, 256), np.int64)
    counts[:, :4] = [[900, 50, 0, 3], [1, 1, 5, 900], [0, 1, 0, 0]]
    rows = tables.quantise(counts).tolist()
    owners = np.array([rans.slots(row)[0] for row in rows], np.uint8)
    class_of_run = [0, 1, 2, 0, 1]
    contexts = [class_of_run[i // 30] for i in range(150)]
    high = owners[contexts, rng.integers(0, 4096, 150)]
    low = rng.integers(0, 256, 150, np.uint8)
    section = rans_section(high, rows, 30, class_of_run)
    payload = planes_of_layouts.chunk([(4, section), (0, low.tobytes())])
    elements = reference_planes.merge_planes(3, [high, low])
    return rans_model("word16", 30, [rows, []]), payload, elements.tobytes()


def test_payloads_that_contradict_their_model_are_refused() -> None:
    model, good, data = example()
    decode_both(model, good, data)

    def refused(payload: bytes, size: int = len(data), model: bytes = model) -> None:
        with pytest.raises(densor.FormatError):
            decode(model, payload, size)
        with pytest.raises(Refused):
            parsed = codecs.parse_model(model)
            parsed.decode(payload, size)

    for mode in (0, 1, 2, 3, 5, 255):
        refused(bytes([mode]) + good[1:])
    for mode in (1, 2, 3, 4):  # the second plane has no classes
        refused(good[:5] + bytes([mode]) + good[6:])
    with pytest.raises(densor.FormatError):
        decode(model, good, 0)
    for size in (1, 2, len(data) - 2, len(data) - 1, len(data) + 1, len(data) + 2, 10**6):
        refused(good, size)
    for length in (0, 1, 2**31, 2**32 - 1):
        refused(good[:1] + length.to_bytes(4, "little") + good[5:])
    for map_byte in (0b00_10_01_11, 0b11_10_01_00):  # class 3 of 3
        refused(good[:10] + bytes([map_byte]) + good[11:])
    refused(good[:11] + bytes([good[11] | 0b100]) + good[12:])  # an unused bit of the map


@given(text=st.binary(max_size=60), kept=st.integers(0, 60))
def test_models_from_anywhere_end_in_errors_or_decoders(text: bytes, kept: int) -> None:
    model, payload, data = example()
    for bad in (b"\x08" + text, model[:kept] + text):
        with contextlib.suppress(densor.DensorError):
            decode(bad, payload, len(data))


# Sizes


@pytest.mark.parametrize(
    ("kind", "layout"),
    [("fp8", "byte"), ("bf16", "bf16"), ("fp16", "word16"), ("fp32", "fp32"), ("fp64", "fp64")],
)
def test_weights_shrink_to_the_entropy_of_their_planes(kind: str, layout: str) -> None:
    array = weights(kind, 256, 2048)
    planes = planes_of_layouts.planes_of(layout, array.reshape(-1)[:1])  # for the number of them
    split = np.empty(array.nbytes, np.uint8)
    LAYOUTS[planes_of_layouts.LAYOUTS[layout]].split(array.view(np.uint8).reshape(-1), split)
    entropy = sum(entropy_bytes(plane) for plane in split.reshape(len(planes), -1))
    model, stored = coded(array.tobytes(), layout, 2048, 1 << 18)
    assert model + stored <= 1.002 * entropy + 400 * len(planes)


def quantised(rows: int, columns: int, dtype: str) -> Any:
    """Normal numbers of which every row is scaled to the whole range of integers."""
    numbers = random_state("quantised").standard_normal((rows, columns))
    most = np.iinfo(dtype).max
    return np.round(numbers / np.abs(numbers).max(1, keepdims=True) * most).astype(dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_level_6_beats_whole_bits_on_integers(dtype: str) -> None:
    array = quantised(700, 1024, "int16" if dtype == "int16" else "int8")
    if dtype == "uint8":
        array = (array.astype(np.int16) + 128).astype(np.uint8)
    packed = {level: densor.compress(array, level) for level in (3, 6)}
    for blob in packed.values():
        assert_same(densor.decompress(blob), array)
    assert len(packed[6]) < 0.9995 * len(packed[3])
    flat = array.view(np.uint8).reshape(-1, array.itemsize)
    entropy = sum(entropy_bytes(np.ascontiguousarray(plane)) for plane in flat.T)
    assert len(packed[6]) <= 1.001 * entropy + 1000


def test_bits_that_are_nearly_certain_take_fractions() -> None:
    array = (random_state("few").random((400, 1000)) < 0.03).astype(np.uint8) * 77
    model, stored = coded(array.tobytes(), "byte", 1000, 1 << 18)
    assert model + stored < 1.01 * entropy_bytes(array) + 300
    assert model + stored < 0.21 * array.size / 8 + 300


def test_row_classes_pay() -> None:
    rng = random_state("rows")
    scale = np.exp2(rng.integers(0, 6, (400, 1)))
    rows = np.round(rng.standard_normal((400, 2048)) * scale).clip(-128, 127).astype(np.int8)
    model, stored = coded(rows.tobytes(), "byte", 2048, 1 << 18)
    assert model + stored < 0.9 * entropy_bytes(rows.view(np.uint8))
    one = sum(coded(rows.tobytes(), "byte", 2048, 1 << 18, replace(LEVEL, classes=1)))
    assert model + stored < 0.9 * one


@pytest.mark.parametrize("size", [1, 2, 100, 1000, 5000, 40_000])
def test_small_batches_take_the_smallest_way(size: int) -> None:
    rng = random_state("small", size)
    data = np.round(rng.standard_normal(size) * 20).astype(np.int8).view(np.uint8)
    kind = kind_of("I8", (1, size))
    sizes = {}
    for planes in ("huffman", "rans"):
        level = replace(level_settings(6), planes=planes)
        batch = encode_batch(Batch(data, kind, Workers(1)), level).result()
        sizes[planes] = len(batch.model or b"") + sum(len(c.payload) for c in batch.chunks)
    assert sizes["rans"] <= sizes["huffman"]
    assert_same(densor.decompress(densor.compress(data, 6)), data)


def test_which_codec_codes_what() -> None:
    """Levels 1 to 5 have Huffman codes; from 6 on everything that is not coded by rows has rANS."""
    array = quantised(300, 1024, "int8")
    for level in range(1, 10):
        kind: Kind = kind_of("I8", array.shape)
        data = array.view(np.uint8).reshape(-1)
        batch = encode_batch(Batch(data, kind, Workers(1)), level_settings(level)).result()
        assert batch.model is not None
        wanted = registry.CODEC_PLANES_RANS if level >= 6 else registry.CODEC_PLANES_HUFFMAN
        assert batch.model[0] == wanted
    packed = densor.compress(array, 6)
    assert container.decode(packed)[0].data == array.tobytes()
