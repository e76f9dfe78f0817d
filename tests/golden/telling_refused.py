"""Chunks that are refused for one reason each, for `make_telling.py`: of codecs but tables."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import zstandard
from circuits import any_circuit
from codec_cases import CodecCase
from make_codecs import scales, zstd
from reference import circuit, codecs, delta, few, rans, scale_context
from reference import planes_writer as planar
from telling_chunks import by_gradients, circuits, of_sizes
from telling_columns import number
from telling_few import _of_rows as few_of
from telling_flac import FIXED, LINEAR, Frame, case_of

from densor.codec.circuit.model import Size, pack

Made = Iterator[CodecCase]
MOST = 1 << 23  # bytes of a chunk of changes


def refusals(rng: Random) -> Made:
    """All that follows."""
    yield from _tokens()
    yield from _circuits()
    yield from _changes()
    yield from _sound()
    yield from _images(rng)
    yield from _planes(rng)
    yield from _pages()


def _tokens() -> Made:
    """One more than a chunk may have."""
    for name, model in (
        ("one", b"\x0e\2\2\x09\1" + bytes(7)),
        ("mixed", b"\x0e\2\2\x09\x09\1"),
        ("ranks", b"\x12\2\4\x08\x08\1"),
        ("more", b"\x14\2\4\x08\x08\1"),
    ):
        yield CodecCase(f"refused-tokens-{name}", model, bytes(40), 2**25 + 2)


def _circuits() -> Made:
    """A circuit that is not known, of another size, of which a node is left."""
    drawn = any_circuit(Size(2, 2, 1), 1, 2, 1, seed="refused")
    drawn.features[0] = circuit.LEAF
    packed = pack(drawn)
    every = circuits(Random("refused"))
    good = next(c for c in every if len(c.payload) < c.size and "bad" not in c.name)
    yield replace(good, name="refused-circuit-length", model=good.model + b"\0")
    unknown = good.model[:6] + bytes(16)
    yield replace(good, name="refused-circuit-unknown", model=unknown, circuit=None)
    head = b"\x10" + struct.pack("<HHB", 2, 2, 1)
    payload = of_sizes([0] * 8)
    case = CodecCase("refused-circuit-size", head + good.model[6:], payload, 32)
    yield replace(case, circuit=good.circuit)
    model = head + circuit.know(packed)
    yield CodecCase("refused-circuit-node", model, payload, 32, circuit=packed)
    drawn.features[0] = 19
    model = head + circuit.know(pack(drawn))
    yield CodecCase("refused-circuit-feature", model, payload, 32, circuit=pack(drawn))
    packed = pack(any_circuit(Size(2, 2, 1), 1, 1, 1, seed="sizes"))
    for bits in (24, 25):
        case = CodecCase(f"refused-circuit-{bits}", head + circuit.know(packed), b"", 32)
        yield replace(case, payload=of_sizes([0] * 8, bits), circuit=packed)


def _changes() -> Made:
    """More bytes than a chunk may have; changes that no element owns, or that are not there."""
    none, two = [4096] + [0] * 255, [0, 0, 4096] + [0] * 253
    own = delta.Model(1, False, delta.XOR, 0, 0, 0, 0, b"\0", [])
    for name, model in (
        ("delta", delta.pack_model(own, zstd)),
        ("few", few_of("", [none] * 64, [two], 5, 4).model),
    ):
        for size in (MOST, MOST + 1):
            base = bytes(size)
            yield CodecCase(f"refused-{name}-{size}", model, bytes(9), size, base)
    all_new, one = [0] * 8 + [4096] + [0] * 247, [0, 4096] + [0] * 254
    for name, counts, tokens, state in (
        ("elements", all_new, two, few.LOW),
        ("owner", one, two, few.LOW | (1 << 24) - 1),
        ("tokens", one, [0] * 256, few.LOW),
    ):
        case = few_of(f"refused-few-{name}", [counts] * 64, [tokens], 5, 3, 8)
        payload = struct.pack("<QBBQ", 0, few.CODED, 0, state) + bytes(16)
        yield replace(case, payload=payload, size=8 * 7)


def _sound() -> Made:
    """Frames of FLAC that say too little, of errors that are too large, of too few samples."""
    low = [3, -1, 2, 0] * 10
    yield case_of("refused-little", [Frame(40, FIXED)], [low], 8)
    far = Frame(40, LINEAR, subframe=[14, 0, 0], params=[0], weights=[16383])
    yield case_of("refused-far", [far], [[2**22] * 40], 24)
    many = Frame(3, LINEAR + 3, subframe=[2, 0, 0], params=[3], weights=[0] * 4)
    yield case_of("refused-order", [many], [low[:3]], 8)


def _images(rng: Random) -> Made:
    """Pixels that stand for several in part of a row, no values, states that are none."""
    head = struct.pack("<10BI", 11, 1, 1, 8, 8, 0, 1, 0, 0, 0, 3)
    for size in (11, 12, 15, 18):
        yield CodecCase(f"refused-image-{size}", head + b"\2\2", b"\xff\xff\xff\0", size)
    head = struct.pack("<10BI", 11, 1, 1, 4, 8, 0, 1, 0, 0, 0, 3)
    yield CodecCase("refused-image-values", head + bytes(32), b"\xff\xff\xff\0", 48)
    good = by_gradients("refused-image", (0, 1, 0, 8, 0, 4, 0, 0, 0, 40), b"", 9, rng)
    assert good is not None
    yield good
    yield replace(good, name=f"{good.name}-short", payload=good.payload[:15])
    yield replace(good, name=f"{good.name}-state", payload=bytes(4) + good.payload[4:])


def _planes(rng: Random) -> Made:
    """Classes that are none, or too many, more runs than there may be; low halves."""
    plain = bytes([8, 1, 0, 1]) + struct.pack("<I", 16)
    yield CodecCase("refused-planes-many", plain + b"\x11", bytes(90), 100)
    payload = b"\4" + struct.pack("<I", 20) + bytes(20)
    yield CodecCase("refused-planes-none", plain + b"\0" + rans.pack([]), payload, 100)
    kinds = [planar.Class(0), planar.Class(0)]
    classes = bytes(planar.model("byte", 1, [kinds]))
    payload = b"\3" + struct.pack("<I", 20) + bytes(20)
    for size in (2**20, 2**20 + 1):
        yield CodecCase(f"refused-planes-{size}", classes, payload, size)
    for case in scales(Random("refused")):
        model = codecs.parse_model(case.model)
        assert isinstance(model, scale_context.Model)
        if model.form.size == 4 and model.nested is None:
            break
    yield replace(case, name="refused-low-behind", payload=case.payload + b"\0")
    for nested in (b"\1", bytes(planar.model("byte", 4, [kinds]))):
        yield replace(case, name=f"refused-low-{nested[0]}", model=case.model + nested)


def _pages() -> Made:
    """More cells than tables of pages may have."""
    packed = zstandard.compress(bytes(500))
    for rows in (2**23, 2**23 + 1):
        said = b"\1\0\0\0\1\2\0" + number(rows) + b"\0\0"
        payload = number(rows) + b"\0" + number(len(said)) + said
        payload += b"\0\1\0\0\1" + number(500) + number(len(packed)) + packed
        payload += b"\1\0" + number(rows) + b"\1\0\1\xfd"
        yield CodecCase(f"refused-pages-{rows}", b"\x11\2", payload, 501)
