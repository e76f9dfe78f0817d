"""Byte planes under both entropy stages: payloads of a slow writer, every layout, hostile models.

The writers know the documents only, and make what the package's own would never choose; what comes
out is checked against `reference.planes` as well. What is special about a stage is in
test_planes_huffman and test_planes_rans.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pytest
import zstandard
from helpers import bits_of, random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import codecs, rans
from reference import planes as reference_planes
from reference import planes_writer as writer
from reference.planes_writer import CONSTANT, RAW, Bytes, Class
from reference.reading import Refused

import densor
from densor.codec import chunks
from densor.codec.codecs import decoder_for
from densor.codec.planes import chunk_encoder, classes, encoder, params
from densor.codec.zstd import zstd_smallest

LAYOUT_NAMES = tuple(writer.LAYOUTS)
Random = np.random.Generator


class Stage(NamedTuple):
    """How one of the two codecs is written.

    `model`: MODEL payload of (layout, run, classes of each plane, delta). `classes`: some classes
    at random. `plane`: one whose runs of a length, with a class for each, fit these classes.
    `section`: such a plane stored by classes, in `mode`. `again`: parses and packs a MODEL.
    `wrong`: place and value of more bytes of a MODEL of such classes that are refused.
    """

    model: Callable[..., bytes]
    classes: Callable[[Random, int], list[Any]]
    plane: Callable[[Random, int, int, list[Any], list[int]], Bytes]
    section: Callable[[Bytes, list[Any], int, Sequence[int]], bytes]
    mode: int
    again: Callable[[bytes], bytes]
    example: list[Any]
    wrong: tuple[tuple[int, int], ...] = ()


def huffman_classes(rng: Random, count: int) -> list[Class]:
    found = []
    for _ in range(count):
        kind = int(rng.integers(0, 3))
        if kind == RAW:
            found.append(Class(RAW))
        elif kind == CONSTANT:
            found.append(Class(CONSTANT, symbol=int(rng.integers(0, 256))))
        else:
            symbols = int(rng.choice([2, 3, 5, 20, 256]))
            found.append(Class.huffman(writer.random_complete_code(rng, symbols)))
    return found


def huffman_plane(rng: Random, n: int, run: int, listed: list[Class], chosen: list[int]) -> Bytes:
    plane = np.empty(n, np.uint8)
    for r, number in enumerate(chosen):
        part, one = plane[r * run : (r + 1) * run], listed[number]
        if one.kind == RAW:
            part[:] = rng.integers(0, 256, part.size)
        elif one.kind == CONSTANT:
            part[:] = one.symbol
        else:
            part[:] = rng.choice([symbol for symbol, _ in one.lengths], part.size)
    return plane


def rans_classes(rng: Random, count: int) -> list[list[int]]:
    """Frequencies: of no symbol, of few, of all."""
    rows = []
    for _ in range(count):
        used = rng.choice(256, int(rng.choice([0, 1, 2, 5, 256])), replace=False)
        row = np.zeros(256, np.int64)
        if used.size:
            row[used] = 1 + rng.multinomial(rans.ONE - used.size, np.ones(used.size) / used.size)
        rows.append(row.tolist())
    return rows


def rans_plane(rng: Random, n: int, run: int, rows: list[list[int]], chosen: list[int]) -> Bytes:
    owners = np.array([rans.slots(row)[0] for row in rows], np.uint8)
    contexts = np.repeat(chosen, min(run, n))[:n] if run < n else np.full(n, chosen[0])
    plane: Bytes = owners[contexts, rng.integers(0, rans.ONE, n)]
    return plane


def rans_model(layout: str, run: int, planes: Sequence[Any], delta: bool = False) -> bytes:
    head = bytes([8, writer.LAYOUTS[layout], delta, writer.SIZE[layout]])
    packed = [bytes([len(rows)]) + (rans.pack(rows) if rows else b"") for rows in planes]
    return head + run.to_bytes(4, "little") + b"".join(packed)


def rans_section(plane: Bytes, rows: list[list[int]], run: int, chosen: Sequence[int]) -> bytes:
    contexts = [chosen[i // run] for i in range(len(plane))]
    return writer.class_map(chosen, len(rows)) + rans.encode([(plane.tobytes(), contexts)], rows)


STAGES = {
    "huffman": Stage(
        lambda *fields: bytes(writer.model(*fields)),
        huffman_classes,
        huffman_plane,
        writer.class_section,
        writer.PLANE_CLASSES,
        lambda model: params.pack(params.parse(model)),
        [Class.huffman({1: 1, 5: 2, 200: 2}), Class(RAW), Class(CONSTANT, symbol=9)],
        ((9, 3), (10, 200)),  # kind of a class, first symbol not below the last
    ),
    "rans": Stage(
        rans_model,
        rans_classes,
        rans_plane,
        rans_section,
        reference_planes.PLANE_RANS,
        lambda model: params.pack(params.parse(model)),
        [[16] * 256, [0, 1024, 3072] + [0] * 253],
    ),
}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def decode_both(model: bytes, payload: bytes, expected: bytes) -> None:
    """Decodes with the package and with the reference decoder; both must give `expected`."""
    out = np.empty(len(expected), np.uint8)
    decoder_for(model).decode(np.frombuffer(payload, np.uint8), out)
    assert out.tobytes() == expected
    assert codecs.parse_model(model).decode(payload, len(expected)) == expected


@pytest.mark.parametrize("mode", ["raw", "constant", "zstd", "mixed"])
@pytest.mark.parametrize("name", LAYOUT_NAMES)
@every_stage
def test_planes_that_are_not_coded_by_classes(stage: Stage, name: str, mode: str) -> None:
    packed = zstandard.ZstdCompressor()
    for count in (1, 2, 3, 7, 8, 1001):
        elements = bits_of("weights", writer.SIZE[name], count, random_state(name, count))
        if mode == "constant":
            elements = np.full_like(elements, elements[-1])
        planes = writer.planes_of(name, elements)
        ways = {
            "raw": lambda plane: (writer.PLANE_RAW, plane.tobytes()),
            "constant": lambda plane: (writer.PLANE_CONSTANT, plane[:1].tobytes()),
            "zstd": lambda plane: (writer.PLANE_ZSTD, packed.compress(plane.tobytes())),
        }
        chosen = ["zstd", "raw"] * 4 if mode == "mixed" else [mode] * len(planes)
        sections = [ways[way](plane) for way, plane in zip(chosen, planes, strict=False)]
        model = stage.model(name, 1, [[]] * len(planes))
        decode_both(model, writer.chunk(sections), elements.tobytes())


@settings(max_examples=200)
@given(
    stage=st.sampled_from(list(STAGES)),
    name=st.sampled_from(LAYOUT_NAMES),
    delta=st.booleans(),
    n=st.integers(1, 600),
    run=st.one_of(st.integers(1, 20), st.integers(1, 1000), st.just(2**32 - 1)),
    classes=st.integers(1, 16),
    seed=st.integers(0, 1 << 30),
)
def test_any_map_of_any_classes_is_decoded(
    stage: str, name: str, delta: bool, n: int, run: int, classes: int, seed: int
) -> None:
    rng, by = np.random.default_rng(seed), STAGES[stage]
    delta = delta and name in writer.WITH_DELTA
    planes, lists, sections = [], [], []
    for _ in range(writer.SIZE[name]):
        listed = by.classes(rng, classes)
        chosen = rng.integers(0, classes, -(-n // run)).tolist()
        plane = by.plane(rng, n, run, listed, chosen)
        lists.append(listed)
        planes.append(plane)
        sections.append((by.mode, by.section(plane, listed, run, chosen)))
    elements = reference_planes.merge_planes(writer.LAYOUTS[name], planes)
    for plane, again in zip(planes, writer.planes_of(name, elements), strict=True):
        assert plane.tobytes() == again.tobytes()  # every layout is a bijection
    if delta:  # the planes are those of some zigzag differences
        elements = reference_planes.undo_delta(elements)
    model = by.model(name, run, lists, delta)
    assert by.again(model) == model
    decode_both(model, writer.chunk(sections), elements.tobytes())


@pytest.mark.parametrize("name", LAYOUT_NAMES)
@every_stage
def test_models_are_checked(stage: Stage, name: str) -> None:
    size = writer.SIZE[name]
    good = stage.model(name, 300, [stage.example] * size)
    assert stage.again(good) == good

    def refused(payload: bytes, error: type[Exception] = densor.FormatError) -> None:
        with pytest.raises(error):
            decoder_for(payload)
        with pytest.raises(Refused):
            codecs.parse_model(payload)

    for length in range(len(good)):
        refused(good[:length])
    refused(good + b"\0")
    for position, value, error in (
        (0, 1, densor.UnsupportedError),  # codec
        (1, 0, densor.UnsupportedError),  # layout
        (1, 8, densor.UnsupportedError),
        (2, 2, densor.FormatError),  # flags
        (2, 128, densor.FormatError),
        (3, size + 1, densor.FormatError),  # planes
        (3, 0, densor.FormatError),
        (8, 17, densor.FormatError),  # classes
        *((position, value, densor.FormatError) for position, value in stage.wrong),
    ):
        refused(good[:position] + bytes([value]) + good[position + 1 :], error)
    refused(good[:4] + bytes(4) + good[8:])  # a run length of 0
    if name not in writer.WITH_DELTA:
        refused(good[:2] + b"\x01" + good[3:])


def _flat_with_equal_rows(dtype: str) -> Any:
    """Floats without a shape whose first MiB is one row again and again."""
    rng = random_state("equal rows", dtype)
    values = rng.normal(0, 0.02, (8 << 20) // (2 if dtype == "bf16" else 4)).astype(np.float32)
    again = values[:384]
    values[: values.size // 8] = np.resize(again, values.size // 8)
    if dtype == "fp32":  # rounded numbers, of which one plane is zeros in one chunk only
        part = values[values.size // 2 :][: values.size // 8].view(np.uint32)
        part &= np.uint32(0xFFFFFF00)
        return values
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("level", [2, 4])
def test_zstandard_is_tried_where_elements_repeat(
    dtype: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _flat_with_equal_rows(dtype)
    tried: list[int] = []

    def counting(plane: Any, zstd: int) -> bytes:
        tried.append(memoryview(plane).nbytes)
        return zstd_smallest(plane, zstd)

    for module in (chunks, chunk_encoder):
        monkeypatch.setattr(module, "zstd_smallest", counting)
    packed = densor.compress(data, level, 1, dtype=dtype)
    assert densor.decompress(packed).tobytes() == data.tobytes()
    few = sum(tried)
    tried.clear()
    for module in (encoder.analyse, chunk_encoder):
        monkeypatch.setattr(module, "matches", lambda _: True)  # tries it everywhere
    everywhere = densor.compress(data, level, 1, dtype=dtype)
    assert few < sum(tried) / 3
    assert len(packed) <= len(everywhere)


def test_borders_are_quantiles_of_the_normal_distribution() -> None:
    for most, borders in classes._BORDERS.items():
        assert borders.tolist() == [NormalDist().inv_cdf(i / most) for i in range(1, most)]
        assert borders.flags.c_contiguous
