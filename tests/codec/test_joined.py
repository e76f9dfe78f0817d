"""Packed elements of blocks joined to symbols: round trips, the reference, gains, refusals."""

import struct
from typing import Any

import numpy as np
import pytest
from helpers import random_state
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import codecs
from reference.reading import Refused
from test_blocks import assert_both_refuse, assert_decodes, blocks, chunk_of, coded

import densor
from densor.codec import registry
from densor.codec.batch import Batch
from densor.codec.blocks.block import Field
from densor.codec.blocks.encoder import BlocksEncoder, Split
from densor.codec.blocks.joined import MAX_SORTED, Joined
from densor.codec.choose.candidates import encode_batch
from densor.codec.codecs import decoder_for
from densor.codec.kind import kind_of_blocks
from densor.codec.levels import level_settings
from densor.formats.parsers.gguf import BLOCKS
from densor.runtime.workers import Workers

Bytes = Any
PACKED = [block for block in BLOCKS.values() if any(field.joined for field in block.fields)]


def by(
    fields: tuple[Field, ...], data: Bytes, together: bool, level: int = 3
) -> tuple[bytes, bytes]:
    """Model and payload of blocks as one chunk."""
    kind = kind_of_blocks(fields, 4)
    way = Split(kind, data.size, together)
    coder = BlocksEncoder(data, kind, level_settings(level), data.size, way)
    coder.decide([coder.count(data)])
    payload = bytes(coder.encode(data, 0))
    return coder.model(), payload


def packed(elements: Bytes, bits: int, group: int) -> Bytes:
    """Bits of elements, uint8[blocks, W], as the bytes of a field: after the specification."""
    run = 8 * group // bits
    found = np.zeros((len(elements), elements.shape[1] * bits // 8), np.uint8)
    for w in range(elements.shape[1]):
        x, y = w % run, w // run
        part = (elements[:, w] & (1 << bits) - 1) << bits * (x // group)
        found[:, group * y + x % group] |= part.astype(np.uint8)
    return found


@pytest.mark.parametrize("level", [3, 6])
@pytest.mark.parametrize("block", PACKED, ids=lambda block: block.name)
def test_types_of_gguf_come_back_joined(block: Any, level: int) -> None:
    data = blocks(block.fields, 60)
    model, payload = by(block.fields, data, together=True, level=level)
    at = next(i for i, field in enumerate(block.fields) if field.joined)
    assert struct.pack("<HB", block.fields[at].size, registry.ORDER_JOINED) in model
    assert_decodes(model, [(payload, data.size)], data.tobytes())


def test_normal_weights_take_less_joined() -> None:
    """Q5_0 of normally distributed weights: symbols, and not bytes of their parts."""
    block = BLOCKS[6]
    rng = random_state("joined")
    x = rng.standard_normal((4000, 32)).astype(np.float32)
    most = np.take_along_axis(x, abs(x).argmax(axis=1)[:, None], axis=1)
    scale = most / -16
    q = np.clip(np.round(x / scale) + 16, 0, 31).astype(np.uint8)
    parts = [scale.astype("<f2").view(np.uint8), packed(q >> 4, 1, 1), packed(q, 4, 16)]
    data = np.concatenate(parts, axis=1).reshape(-1)
    kind = kind_of_blocks(block.fields, 16)
    taken, chunks = coded(data, kind)
    apart = len(by(block.fields, data, together=False)[1])
    joined = sum(len(payload) for payload, _ in chunks)
    counts = np.bincount(q.reshape(-1))
    counts = counts[counts > 0]
    bound = float((counts * np.log2(q.size / counts)).sum()) / 8
    assert joined < 1.01 * bound + parts[0].size
    assert joined < 0.975 * apart
    assert_decodes(taken, chunks, data.tobytes())


def test_what_is_not_joined_better_stays_apart() -> None:
    """Bytes whose nibbles go together in other ways than the elements."""
    block = BLOCKS[14]
    data = blocks(block.fields, 3000).reshape(3000, -1)
    data[:, :128] = np.random.default_rng(1).choice([0x1E, 0xA3, 0x77], (3000, 128))
    data = data.reshape(-1)
    batch = encode_batch(
        Batch(data, kind_of_blocks(block.fields, 4), Workers(1)), level_settings(3)
    ).result()
    apart = by(block.fields, data, together=False)
    assert batch.stored <= len(apart[0]) + len(apart[1]) + 56
    assert batch.model is not None and batch.model[4] != registry.ORDER_JOINED


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4]),
    high=st.sampled_from([0, 1, 2, 4]),
    group=st.sampled_from([1, 2, 3, 4, 8, 12, 16]),
    high_group=st.sampled_from([1, 2, 3, 4, 8, 16]),
    many=st.integers(1, 3),
    key=st.integers(0, 5),
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_places(
    bits: int,
    high: int,
    group: int,
    high_group: int,
    many: int,
    key: int,
    count: int,
    seed: int,
) -> None:
    run = int(np.lcm.reduce([8 * group // bits, 8 * high_group // high if high else 1, 8 * 16]))
    elements = run * many
    items = 2 if key in (3, 5) else 8 if key == 4 else 1
    assume(elements % (items * (8 // (bits + high))) == 0 and elements <= 1 << 13)
    scales = [Field("F16", 2), Field("F16", 2)]
    scales += [Field("U8", 4)] * 3 if key == 4 else [Field("U8", items)]
    at = len(scales)
    fields = [*scales, Field("U8", elements * high // 8)] if high else scales
    first, later = (2, 0) if key == 3 else (0, 2 if key > 3 else 0)
    joined = Joined(bits, group, at * (high > 0), high, high_group * (high > 0), key, first, later)
    low = Field("U8", elements * bits // 8, joined=joined)
    whole = (*fields, low)
    rng = random_state("any places", seed)
    block = sum(field.size for field in whole)
    data = rng.integers(0, 256, count * block).astype(np.uint8)
    model, payload = by(whole, data, together=True)
    assert_decodes(model, [(payload, data.size)], data.tobytes())


# What is refused


def model_of(*fields: tuple[int, int, bytes]) -> bytes:
    """A model of (bytes per block, order, what is said of joined fields) each."""
    parts = [
        struct.pack("<HBBI", size, order, 0, 0) + more + bytes(4) for size, order, more in fields
    ]
    return struct.pack("<BB", 5, len(fields)) + b"".join(parts)


def said(*numbers: int) -> bytes:
    return struct.pack("<BHBBHBBB", *numbers, *[0, 0, 0, 0, 0][: 8 - len(numbers)])


D, HIGH = (2, 0, b""), (4, 6, b"")
GOOD = said(4, 16, 1, 1, 1, 1, 0, 0)


def test_what_the_specification_says() -> None:
    """Two blocks of two elements of 5 bits and six: low bits, high bits, order by scale."""
    model = model_of((2, 0, b""), (1, 6, b""), (4, 5, said(4, 2, 1, 1, 1, 1, 0, 0)))
    symbols = bytes([1, 2, 3, 4, 5, 6, 7, 24, *range(16, 24)])  # of the second block first
    payload = chunk_of((0, b"\0\x20\0\x10"), (0, b""), (0, symbols))
    first = bytes([0, 0x20, 0xFF, 0x20, 0x31, 0x64, 0x75])
    second = bytes([0, 0x10, 0x80, 0x31, 0x42, 0x75, 0x86])
    assert_decodes(model, [(payload, 14)], first + second)


@pytest.mark.parametrize(
    "fields",
    [
        [D, HIGH, (16, 5, said(3, 16, 1, 1, 1))],
        [D, HIGH, (16, 5, said(4, 0, 1, 1, 1))],
        [D, HIGH, (16, 5, said(4, 5, 1, 1, 1))],
        [D, HIGH, (16, 5, said(4, 16, 0, 1, 1))],
        [D, HIGH, (16, 5, said(4, 16, 3, 1, 1))],
        [D, HIGH, (16, 5, said(4, 16, 1, 3, 1))],
        [D, HIGH, (16, 5, said(4, 16, 1, 2, 1))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 0))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 3))],
        [D, (16, 5, said(4, 16, 1, 0, 0))],
        [D, (16, 5, said(4, 16, 0, 0, 1))],
        [D, HIGH, (16, 5, said(4, 16, 0, 0, 0))],
        [D, HIGH],
        [D, HIGH, (16, 5, GOOD), (16, 5, GOOD)],
        [D, HIGH, (4, 6, b""), (16, 5, GOOD)],
        [(4, 0, b""), HIGH, (16, 5, GOOD)],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 1, 1, 0))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 2, 0, 0))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 1, 9, 0))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 0, 1, 0))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 1, 0, 1))],
        [D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 3, 2, 0))],
        [(3, 0, b""), HIGH, (16, 5, said(4, 16, 1, 1, 1, 3, 0, 0))],
        [D, D, (16, 5, said(4, 16, 0, 0, 0, 5, 0, 2))],
        [D, D, (4, 0, b""), (4, 0, b""), (16, 5, said(4, 16, 0, 0, 0, 4, 0, 2))],
        [D, (4, 5, said(1, 4, 0, 0, 0)), (1, 2, b"")],
        [D, *[(4, 0, b"")] * 3, (16, 5, said(4, 16, 0, 0, 0, 4, 0, 1))],  # one of 2 and of 4 bytes
        [D, HIGH, (16, 5, GOOD[:-1])],
    ],
)
def test_hostile_models(fields: list[tuple[int, int, bytes]]) -> None:
    model = model_of(*fields)
    with pytest.raises(densor.FormatError):
        decoder_for(model)
    with pytest.raises(Refused):
        codecs.parse_model(model)


def test_unknown_keys_and_cut_models() -> None:
    model = model_of(D, HIGH, (16, 5, said(4, 16, 1, 1, 1, 6, 0, 0)))
    assert_both_refuse(model, b"", 0, "unsupported")
    good = model_of(D, HIGH, (16, 5, GOOD))
    decoder_for(good)
    for length in range(len(good)):
        with pytest.raises(densor.FormatError):
            decoder_for(good[:length])


def test_symbols_with_other_bits() -> None:
    model = model_of(D, HIGH, (16, 5, GOOD))
    for at in (0, 17, 31):
        symbols = bytearray(32)
        symbols[at] = 32
        assert_both_refuse(model, chunk_of((0, b"ab"), (0, b""), (0, bytes(symbols))), 22)
    assert_both_refuse(model, chunk_of((0, b"ab"), (0, b"abcd"), (0, bytes(32))), 22)


def test_too_many_items_to_sort() -> None:
    count = MAX_SORTED // 8 + 1
    scales = [(2, 0, b""), (2, 0, b""), (8, 0, b"")]
    fields = [*scales, (2, 5, said(2, 2, 0, 0, 0, 5, 0, 2))]
    model = model_of(*fields)
    parts = [(0, bytes(size * count)) for size in (2, 2, 8, 2)]
    with pytest.raises(densor.FormatError):  # eight items of eight elements are not whole symbols
        decoder_for(model)
    fields[3] = (8, 5, said(2, 8, 0, 0, 0, 5, 0, 2))
    parts[3] = (0, bytes(8 * count))
    assert_both_refuse(model_of(*fields), chunk_of(*parts), 20 * count, "limit")
