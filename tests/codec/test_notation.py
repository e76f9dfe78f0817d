"""Elements in other forms than their bytes: what comes back, what it takes, what is refused."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from helpers import random_state
from notations import varint, written

import densor
from densor.codec.batch import Batch
from densor.codec.codecs import decoder_for
from densor.codec.kind import Kind, kind_of_notation
from densor.codec.levels import level_settings
from densor.codec.notation import encoder as encoders
from densor.codec.notation.decoder import NotationDecoder
from densor.codec.notation.encoder import propose, undo
from densor.codec.notation.layout import BASE64, HEX, LATIN, VARINTS, Notation
from densor.codec.notation.payload import Form, Head
from densor.errors import DensorError, FormatError, LimitError, UnsupportedError
from densor.runtime.workers import Workers

Bytes = encoders.Bytes


def weights(count: int, dtype: str) -> np.ndarray:
    values = random_state("notation", dtype).standard_normal(count) * 0.02
    return values.astype(dtype) if dtype[0] == "f" else (values * 1000).astype(dtype)


def coded(data: bytes, kind: Kind, level: int = 3) -> encoders.CodedBatch | None:
    batch = Batch(np.frombuffer(data, np.uint8), kind, Workers(1))
    return propose(batch, level_settings(level))._coded()


def restored(found: encoders.CodedBatch) -> bytes:
    decoder = decoder_for(found.model or b"")
    out = []
    for chunk in found.chunks:
        made = np.empty(chunk.original, np.uint8)
        payload = np.frombuffer(bytes(chunk.payload), np.uint8)
        decoder.decode(payload, made) if chunk.own else np.copyto(made, payload)
        out.append(made.tobytes())
    return b"".join(out)


FORMS = [
    (VARINTS, 0, "F16", "f2"),
    (VARINTS, 1, "I8", "i1"),
    (VARINTS, 1, "I16", "i2"),
    (VARINTS, 1, "I32", "i4"),
    (VARINTS, 1, "I64", "i8"),
    (VARINTS, 0, "U64", "u8"),
    (LATIN, 0, "F32", "f4"),
    (LATIN, 0, "F64", "f8"),
    (BASE64, 0, "F32", "f4"),
    (BASE64, 1, "F16", "f2"),
    (HEX, 0, "F32", "f4"),
    (HEX, 1, "I16", "i2"),
]


@pytest.mark.parametrize(("form", "option", "dtype", "numpy_type"), FORMS)
@pytest.mark.parametrize("level", [1, 3, 6])
def test_takes_what_the_elements_take(
    form: int, option: int, dtype: str, numpy_type: str, level: int
) -> None:
    array = weights(60000, numpy_type)
    data = written(array, form, option)
    found = coded(data, kind_of_notation(Notation(form, option, dtype, array.shape)), level)
    assert found is not None and restored(found) == data
    assert found.stored <= len(densor.compress(array, level)) + 300


@pytest.mark.parametrize("form", [VARINTS, LATIN, BASE64, HEX])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 700])
def test_what_stands_between_is_kept(form: int, count: int) -> None:
    """Bytes before, between, behind; cut at any place."""
    array = weights(count, "f4").view("u4")
    part = written(array, form)
    whole = b"\xff\x80\x00 head" + part + b"\xff, " + part + b"\x80\xff\xff"
    for cut in (0, 1, 2, 3):
        data = np.frombuffer(whole[cut : len(whole) - cut], np.uint8)
        unit = {VARINTS: 4, BASE64: 3}.get(form, 1)
        undone = undo(Form(form, unit, 0), data)
        if undone is None:
            assert count < 700
            continue
        pairs = undone.runs.astype("<u4").view(np.uint8).reshape(-1)
        out = np.empty(data.size, np.uint8)
        assert Form(form, unit, 0).make(undone.plain, pairs, undone.literals, out) == data.size
        assert np.array_equal(out, data)
        # Where there is no room, it says so and writes nothing beyond.
        guarded = np.full(data.size + 8, 7, np.uint8)
        short = guarded[: data.size - 1]
        assert Form(form, unit, 0).make(undone.plain, pairs, undone.literals, short) == -1
        assert (guarded[data.size - 1 :] == 7).all()


@pytest.mark.parametrize(
    "odd",
    [
        b"\x80\x00",  # longer than need be
        b"\xff" * 9 + b"\x02",  # beyond 64 bits
        varint(-129),
        varint(128),
        b"\x80" * 10,
    ],
)
def test_integers_that_would_be_written_otherwise(odd: bytes) -> None:
    data = written(np.arange(-64, 64, dtype="i1"), VARINTS, 1)
    undone = undo(Form(VARINTS, 1, 1), np.frombuffer(data + odd + data, np.uint8))
    assert undone is not None and undone.literals.tobytes() == odd
    assert undone.runs.tolist() == [[0, 128], [len(odd), 128]]


def test_chunks_of_which_items_reach_from_one_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three bytes in base64, where chunks of the elements end within them."""
    monkeypatch.setattr("densor.codec.choose.sizes.ZSTD_CHUNK", 1 << 10)
    whole = written(np.frombuffer(random_state("chunks").bytes(11996), np.uint8), BASE64)
    lined = b"".join(whole[i : i + 76] + b"\n" for i in range(0, len(whole), 76))
    for data in (whole, lined):
        found = coded(data, kind_of_notation(Notation(BASE64, 0, "", ())), 1)
        assert found is not None and len(found.chunks) == 12 and restored(found) == data


def test_a_chunk_with_all_runs_of_a_batch_is_not_refused() -> None:
    """Of all bytes few are between items, but in one chunk every other one is."""
    data = bytes(range(100)) * 34000 + bytes([7, 0xAC, 2]) * 90000  # 300 is no byte
    assert undo(Form(VARINTS, 1, 0), np.frombuffer(data, np.uint8)) is not None
    kind = kind_of_notation(Notation(VARINTS, 0, "U8", (len(data),)))
    found = coded(data, kind, 1)
    assert found is None or restored(found) == data


def test_what_is_not_in_the_form_stays_bytes() -> None:
    text = b"Not a number in sight, but for 12 of them. " * 40
    for form, unit in ((BASE64, 3), (HEX, 1)):
        assert undo(Form(form, unit, 0), np.frombuffer(text, np.uint8)) is None
    kind = kind_of_notation(Notation(VARINTS, 1, "I32", (9,)))
    data = random_state("no varints").bytes(5000)
    batch = Batch(np.frombuffer(data, np.uint8), kind, Workers(1))
    coding = propose(batch, level_settings(3)).encode().result()
    assert coding.model is None and bytes(coding.chunks[0].payload) == data


# What is refused


def parts(*stored: bytes) -> bytes:
    heads = b"".join(struct.pack("<BI", 0, len(part)) for part in stored)
    return heads + b"".join(stored)


def payload(head: Head, runs: list[tuple[int, int]], literals: bytes, plain: bytes) -> bytes:
    packed = b"".join(struct.pack("<II", *run) for run in runs)
    return head.pack() + parts(packed, literals, plain)


HEXES = b"\x13\x04\x01\x00" + bytes(4)


def decode(model: bytes, data: bytes, size: int) -> bytes:
    out = np.empty(size, np.uint8)
    NotationDecoder(model).decode(np.frombuffer(data, np.uint8), out)
    return out.tobytes()


def test_a_chunk_by_hand() -> None:
    assert decode(HEXES, payload(Head(0, 2, 4, 3), [(1, 2), (2, 1)], b"-: !", b"\1\2\xff"), 10) == (
        b"-0102: ff!"
    )
    model = b"\x13\x03\x03\x01" + bytes(4)
    data = payload(Head(1, 1, 0, 5), [(0, 1)], b"", b"x\xff\xff\xffy")
    assert decode(model, data, 4) == b"____"


@pytest.mark.parametrize(
    ("head", "runs", "literals", "plain", "error"),
    [
        (Head(1, 1, 0, 3), [(0, 2)], b"", b"abc", FormatError),  # passes over an item
        (Head(0, 1, 0, 3), [(0, 4)], b"", b"abc", FormatError),  # more items than elements
        (Head(0, 1, 0, 3), [(0, 2)], b"", b"abc", FormatError),  # fewer
        (Head(0, 2, 1, 3), [(0, 2), (0, 1)], b"a", b"abc", FormatError),  # no literal between
        (Head(0, 2, 1, 3), [(0, 0), (1, 3)], b"a", b"abc", FormatError),  # no item
        (Head(0, 1, 1, 3), [(2, 3)], b"a", b"abc", FormatError),  # more literals than there are
        (Head(0, 1, 0, 3), [(0xFFFFFFFF, 3)], b"", b"abc", FormatError),
        (Head(0, 1, 7, 0), [(0, 1)], b"", b"", LimitError),
        (Head(0, 3, 0, 3), [(0, 1)] * 3, b"", b"abc", LimitError),
        (Head(0, 1, 0, 9), [(0, 9)], b"", b"", LimitError),
        (Head(0, 0, 6, 3), [], b"abcdef", b"abc", FormatError),
        (Head(0, 0, 5, 0), [], b"abcde", b"", FormatError),  # too short
    ],
)
def test_impossible_chunks(
    head: Head, runs: list[tuple[int, int]], literals: bytes, plain: bytes, error: type[DensorError]
) -> None:
    with pytest.raises(error):
        decode(HEXES, payload(head, runs, literals, plain), 6)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (b"\x13\x04\x01", FormatError),
        (b"\x13\x04\x01\x00", FormatError),
        (b"\x13\x05\x01\x00" + bytes(4), UnsupportedError),
        (b"\x13\x00\x01\x00" + bytes(4), UnsupportedError),
        (b"\x13\x04\x02\x00" + bytes(4), FormatError),
        (b"\x13\x01\x03\x00" + bytes(4), FormatError),
        (b"\x13\x02\x01\x01" + bytes(4), FormatError),
        (b"\x13\x04\x01\x02" + bytes(4), FormatError),
        (HEXES + b"\0", FormatError),
        (b"\x13\x04\x01\x00" + struct.pack("<I", 8) + HEXES, FormatError),  # within itself
        (b"\x13\x04\x01\x00" + struct.pack("<I", 1) + b"\xff", UnsupportedError),
    ],
)
def test_impossible_models(model: bytes, error: type[DensorError]) -> None:
    with pytest.raises(error):
        NotationDecoder(model)


def test_damaged_chunks_end_in_no_crash() -> None:
    array = weights(900, "f2")
    data = written(array, VARINTS)
    found = coded(data, kind_of_notation(Notation(VARINTS, 0, "F16", array.shape)))
    assert found is not None and found.model is not None
    chunk = found.chunks[0]
    rng = random_state("damaged notations")
    refused = 0
    for _ in range(300):
        wrong = np.frombuffer(bytes(chunk.payload), np.uint8).copy()
        wrong[int(rng.integers(min(wrong.size, 60)))] = int(rng.integers(256))
        try:
            decoder_for(found.model).decode(wrong, np.empty(chunk.original, np.uint8))
        except DensorError:
            refused += 1
    assert refused > 100


def test_batches_are_cut_anywhere() -> None:
    """Of a tensor that is longer than a batch, the second begins where it happens to."""
    array = weights(30000, "f2")
    data = written(array, VARINTS)
    kind = kind_of_notation(Notation(VARINTS, 0, "F16", (100, 300)))
    for cut in (40001, 40002, 40003):
        found = [coded(part, replace(kind)) for part in (data[:cut], data[cut:])]
        assert all(found) and b"".join(restored(one) for one in found if one) == data
