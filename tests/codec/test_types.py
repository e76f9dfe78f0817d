"""Element types found in bytes that no parser claims."""

import io
from pathlib import Path

import arrow_files
import numpy as np
import pytest

import densor
from densor.codec.batch import Batch
from densor.codec.kind import BYTES
from densor.codec.levels import Level, level_settings
from densor.codec.types import find
from densor.codec.types.divide import Piece, _again, divide
from densor.codec.types.find import find_stretches, region_of
from densor.files.single import compress_file, decompress_file
from densor.formats.container import writer
from densor.runtime.workers import Workers
from tests.support.helpers import weights

SIZES = {"BF16": 2, "F16": 2, "F32": 4}
CONTENT = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}
HEADER = 64  # bytes that a finder may cost where it finds nothing, or something wrong
TEXT = Path(np.__file__).read_bytes() + Path(pytest.__file__).read_bytes()


def numbers(dtype: str, count: int, seed: int = 0) -> bytes:
    """Weights of a type, in rows of different scale."""
    return weights(CONTENT[dtype], count // 256, 256, seed).tobytes()


def packed(data: bytes, level: int = 3, **options: object) -> int:
    """What a file takes; it comes back as it was."""
    out, back = io.BytesIO(), io.BytesIO()
    compress_file(io.BytesIO(data), out, level, name="file", **options)  # type: ignore[arg-type]
    out.seek(0)
    decompress_file(out, back)
    assert back.getvalue() == data
    return len(out.getvalue())


def found(data: bytes) -> list[tuple[int, int, str]]:
    """Begin, end and type of each region."""
    array = np.frombuffer(data, np.uint8)
    regions = [region_of(array, stretch) for stretch in find_stretches(array)]
    return [(r.begin, r.end, r.kind.dtype) for r in regions if r is not None]


@pytest.mark.parametrize("before", [0, 1, 2, 3, 5, 8, 4001])
@pytest.mark.parametrize("dtype", SIZES)
def test_numbers_at_any_offset(dtype: str, before: int) -> None:
    data = numbers(dtype, 1 << 17)
    regions = found(TEXT[:before] + data)
    assert [kind for _, _, kind in regions] == [dtype]
    begin, end, _ = regions[0]
    assert begin % SIZES[dtype] == before % SIZES[dtype]
    assert abs(begin - before) <= 64 and end == before + len(data)


@pytest.mark.parametrize("level", [1, 3, 6])
@pytest.mark.parametrize("dtype", SIZES)
def test_as_small_as_with_the_type_told(dtype: str, level: int) -> None:
    data = numbers(dtype, 1 << 18)
    assert packed(b"head" + data[1:] + b"tail", level) < 1.01 * packed(data, level, dtype=dtype)


def test_several_types_one_after_the_other() -> None:
    parts = [
        ("BF16", numbers("BF16", 1 << 19)[:-1]),
        ("F32", numbers("F32", 1 << 18, 1)),
        ("F16", numbers("F16", 1 << 19, 2)[3:]),
        ("", TEXT),
        ("F64", np.random.default_rng(3).standard_normal(1 << 16).tobytes()),
    ]
    data = b"".join(part for _, part in parts)
    regions = found(data)
    assert [kind for _, _, kind in regions] == [dtype for dtype, _ in parts if dtype]
    at = 0
    for dtype, part in parts:
        if dtype:
            begin, end, _ = regions.pop(0)
            assert abs(begin - at) <= 64 and abs(end - at - len(part)) <= 64
        at += len(part)
    told = sum(packed(part, dtype=dtype) if dtype else packed(part) for dtype, part in parts)
    assert packed(data) < 1.01 * told


@pytest.mark.parametrize("dtype", ["F16", "F64"])
def test_tensors_that_begin_at_different_phases(dtype: str) -> None:
    rng = np.random.default_rng(6)
    kind = {"F16": "<f2", "F64": "<f8"}[dtype]
    sizes = [1 << 18, 1 << 17, 1 << 18, 1 << 17]
    tensors = [rng.normal(0, 0.05, n).astype(kind).tobytes() for n in sizes]
    data = b"".join(b"key"[: 1 + i % 3] + tensor for i, tensor in enumerate(tensors))
    told = sum(packed(tensor, dtype=dtype) for tensor in tensors)
    assert len(found(data)) == {"F16": 3, "F64": 4}[dtype]  # odd ones by two bytes are in line
    assert packed(data) < 1.01 * told


@pytest.mark.parametrize("dtype", SIZES)
def test_what_stands_before_and_behind_does_not_tell(dtype: str) -> None:
    data = numbers(dtype, 1 << 19)
    frame = b"\0" * 6000  # as HDF5 and TensorFlow have their tables
    assert packed(frame + data + frame) < 1.01 * packed(data, dtype=dtype)


def test_integers_by_their_differences() -> None:
    rng = np.random.default_rng(4)
    walk = np.cumsum(rng.integers(-20, 20, 100000))
    for dtype, name in (("<i2", "I16"), ("<i4", "I32"), ("<i8", "I64")):
        data = walk.astype(dtype).tobytes()
        assert [kind for _, _, kind in found(b"x" + data)] == [name]
        assert packed(b"x" + data) < 1.02 * packed(data, dtype=name)


def nothing(batch: Batch, level: Level) -> list[Piece]:
    """As if no type was looked for."""
    return [Piece(0, batch.data.size, BYTES)]


def test_bytes_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    table = "\n".join(",".join(f"{v:.4f}" for v in row) for row in rng.standard_normal((9000, 5)))
    library = Path(np._core._multiarray_umath.__file__).read_bytes()[: 1 << 21]
    inputs = (rng.bytes(1 << 20), TEXT, table.encode(), b"\0" * (1 << 18), library)
    sizes = [packed(data) for data in inputs]
    for data in inputs[:-1]:
        batch = Batch(np.frombuffer(data, np.uint8), BYTES, Workers(1))
        assert divide(batch, level_settings(3)) == nothing(batch, level_settings(3))
    monkeypatch.setattr(writer, "divide", nothing)
    for data, size in zip(inputs, sizes, strict=True):
        assert size <= packed(data) + HEADER


@pytest.mark.parametrize("size", [0, 1, 7, 8191, 8192, 8193, 12289, 20011])
def test_pieces_cover_all(size: int) -> None:
    data = (numbers("F32", 4096) + numbers("BF16", 4096) + TEXT)[3:][:size]
    batch = Batch(np.frombuffer(data, np.uint8), BYTES, Workers(1))
    for level in (1, 3, 5, 9):
        pieces = divide(batch, level_settings(level))
        assert [piece.begin for piece in pieces] == [0, *[piece.end for piece in pieces[:-1]]]
        assert pieces[-1].end == size
    assert packed(data) > 0


@pytest.mark.parametrize("level", [1, 3, 6])
@pytest.mark.parametrize("odd", [0, 3])
@pytest.mark.parametrize("dtype", SIZES)
def test_repetitions_far_apart(dtype: str, odd: int, level: int) -> None:
    """Where a sample shows none: half of a file is what was there before."""
    part = numbers(dtype, (300 << 10) // SIZES[dtype])
    data = part + TEXT[:odd] + part
    assert packed(data, level) < 0.6 * len(data)


@pytest.mark.parametrize("level", [1, 3, 4])
def test_repetitions_a_megabyte_apart(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of small numbers, as an optimizer has, which come again and again."""
    part = np.random.default_rng(8).normal(0, 0.05, 1 << 18).astype(np.float32) ** 2
    data = part.tobytes() * 2
    size = packed(data, level)
    monkeypatch.setattr(writer, "divide", nothing)
    assert size <= packed(data, level) + HEADER


def test_windows_unlike_the_first_are_priced_alone() -> None:
    """Tables of another scale within weights do not have all windows priced."""
    rng = np.random.default_rng(9)
    values = rng.normal(0, 0.05, 1 << 18).astype(np.float32)
    starts = range(0, values.nbytes - find.WINDOW, find._apart(values.nbytes))
    for at in starts[3::5]:
        values[at // 4 : at // 4 + 2048] *= np.float32(1e-3)
    data = np.frombuffer(values.tobytes(), np.uint8)
    priced = find._survey(data)[2][:, 0] >= 0
    assert 0 < 2 * priced.sum() < priced.size
    (stretch,) = find_stretches(data)
    assert stretch[1:3] == (0, values.nbytes) and stretch.way == 5
    assert 0.8 < stretch.share < 0.9


@pytest.mark.parametrize("way", [0, 1, 4, 9])
def test_costs_are_entropies(way: int) -> None:
    """The kernels' logarithms are not exact, but near: tables of codes are half a byte each."""
    data = np.frombuffer(numbers("F16", 1 << 15), np.uint8)
    size = {0: 1, 1: 2, 4: 4, 9: 8}[way]
    window = (data.size - 1) // find.WINDOW * find.WINDOW
    exact = 0.0
    for place in range(size):
        counts = np.bincount(data[:window][place::size], minlength=256)
        total, used = counts.sum(), counts[counts > 0]
        bits = -(used * np.log2(used / total)).sum() + used.size * np.log2(total) / 2
        exact += min(float(bits), 8.0 * total)
    assert find.cost_together(data, way) == pytest.approx(exact / 8 * data.size / window, rel=1e-4)


def test_text_is_asked_for() -> None:
    data = numbers("BF16", 1 << 14)
    batch = Batch(np.frombuffer(data, np.uint8), BYTES, Workers(1))
    assert divide(batch, level_settings(3, text=True)) == [Piece(0, len(data), BYTES)]
    assert len(divide(batch, level_settings(3))) == 1
    assert divide(batch, level_settings(3))[0].kind.dtype == "BF16"


def test_bytes_in_memory_too() -> None:
    data = numbers("F16", 1 << 16)
    packed_bytes = densor.compress(b"abc" + data)
    assert len(packed_bytes) < 0.9 * len(data)
    assert densor.decompress(packed_bytes) == b"abc" + data


def test_integers_of_which_much_repeats() -> None:
    """A level that matches bytes better must not take them for less than their planes."""
    data = arrow_files.file(*arrow_files.flights(4000))
    sizes = [packed(data, level) for level in range(2, 6)]  # as bytes: such input is not parsed
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.15 * len(data)


def test_doubles_of_which_bytes_are_nearly_uniform() -> None:
    """Some windows of normal numbers take .995 to .997 of their size as bytes, .88 as elements."""
    values = np.random.default_rng(16).normal(size=1 << 16)
    data = np.frombuffer(TEXT[:3] + values.tobytes(), np.uint8)
    costs = find._survey(data)[2]
    costs = costs[costs[:, 0] >= 0]
    assert (costs[:, 9] < 0.9 * costs[:, 0]).all()
    assert packed(data.tobytes()) < 0.9 * data.size


@pytest.mark.parametrize("first", [300_000, 400_000])
def test_two_types_in_a_short_file(first: int) -> None:
    """A glance at few windows does not take one for the other."""
    rng = np.random.default_rng(1)
    halves = rng.normal(0, 0.02, first).astype(np.float16).tobytes()[:first]
    doubles = rng.normal(size=25_000).tobytes()
    alone = packed(halves, dtype="F16") + packed(doubles, dtype="F64")
    assert packed(halves + doubles) < 1.005 * alone


def test_planes_that_repeat_are_tried_where_little_is_left() -> None:
    """Days, each for its 24 hours: a quick sample says that they take twice as much as bytes."""
    days = np.repeat(np.arange(279) * 86_400_000_000 + 13 * 10**14, 24).tobytes()
    sizes = [packed(days, level) for level in (1, 2, 3, 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.8 * sizes[1] < 0.8 * sizes[0]


def test_what_zstandard_codes_better_is_not_looked_at_closely() -> None:
    """Entries of a table of relocations, groups of which come again at other addresses."""
    rng = np.random.default_rng(7)
    groups = 0x1F000 + 16 * rng.integers(0, 9000, (60, 8))
    table = np.zeros((20_000, 3), "<u8")
    table[:, 0] = 0x2D8A00 + 8 * np.arange(20_000)
    table[:, 1], table[:, 2] = 8, groups[rng.integers(0, 60, 2_500)].reshape(-1)
    rest = np.frombuffer(TEXT * 20, np.uint8)[: 1 << 20]
    data = np.concatenate([table.view(np.uint8).reshape(-1), rest])
    assert [stretch.type for stretch in find_stretches(data)] == [9]
    assert find_stretches(data, quick=True) == []
    level = level_settings(3)
    assert divide(Batch(data, BYTES, Workers(1)), level) == nothing(
        Batch(data, BYTES, Workers(1)), level
    )


@pytest.mark.parametrize("level", [1, 3])
def test_a_table_of_which_half_stands_elsewhere(
    level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As elements it takes less by itself, but what repeats it finds nothing to repeat."""
    table = (16 * np.sort(np.random.default_rng(7).integers(0, 1 << 22, 3000))).astype("<i8")
    numbers = table.tobytes()
    cells = (numbers[i : i + 40] + TEXT[i : i + 7] for i in range(0, len(numbers) // 2, 40))
    data = 3 * TEXT + numbers + TEXT + b"".join(cells)
    batch = Batch(np.frombuffer(data, np.uint8), BYTES, Workers(1))
    assert "I64" in [piece.kind.dtype for piece in divide(batch, level_settings(level))]
    size = packed(data, level)
    monkeypatch.setattr(writer, "divide", nothing)
    assert size <= packed(data, level) + HEADER


@pytest.mark.parametrize(("level", "count"), [(3, 1184), (6, 1184), (3, 18_730)])
def test_numbers_that_come_again_behind_others(
    level: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    some = rng.normal(0, 0.02, count).astype("<f4").tobytes()
    if count < 10_000:
        others = rng.normal(0, 0.02, 1931).astype("<f4").view("<u2")[1::2].tobytes()
    else:
        others = np.cumsum(rng.integers(-9, 9, 1445)).astype("<i4").tobytes() + rng.bytes(1128)
        others += np.cumsum(rng.integers(0, 900, 33_330)).astype("<i8").tobytes()
    size = packed(some + others + some, level)
    monkeypatch.setattr(writer, "divide", nothing)
    assert size <= packed(some + others + some, level) + HEADER


def test_planes_repeat_within_a_chunk_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What repeats beyond that is not tried as elements, which takes long."""
    part = np.random.default_rng(8).normal(0, 0.05, 1 << 18).astype(np.float32) ** 2
    data = np.frombuffer(part.tobytes() * 2, np.uint8)
    monkeypatch.delattr("densor.codec.types.divide.encode_batch")
    level = level_settings(3)
    assert divide(Batch(data, BYTES, Workers(1)), level) == nothing(
        Batch(data, BYTES, Workers(1)), level
    )


def test_counts_tell_enough_of_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sample is coded where they take half of what bytes do; both are coded then."""
    walk = np.cumsum(np.random.default_rng(4).integers(-20, 20, 100_000)).astype("<i4")
    monkeypatch.delattr("densor.codec.types.divide.coded_bytes")
    batch = Batch(walk.view(np.uint8), BYTES, Workers(1))
    (piece,) = divide(batch, level_settings(3))
    assert piece.kind.dtype == "I32" and not piece.clear


def test_noise_of_integers_that_context_mixing_codes_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which values of the upper byte there are depends on the lower one."""
    data = np.random.default_rng(2).integers(-300, 300, 60_000).astype("<i2").tobytes()
    size = packed(data, 5)
    monkeypatch.setattr(writer, "divide", nothing)
    assert size <= packed(data, 5) + HEADER


def test_text_between_numbers_that_no_window_shows() -> None:
    """The second ones seem to begin with it, and much of it repeats."""
    first, then = numbers("BF16", (1 << 20) + 4096), numbers("F16", 1 << 20, 1)
    text = TEXT[:9297]
    told = packed(first, dtype="BF16") + packed(text) + packed(then, dtype="F16")
    assert packed(first + text + then) < 1.01 * told


def test_what_repeats_does_not_depend_on_what_was_in_memory() -> None:
    data = np.random.default_rng(9).integers(1, 256, 1 << 16).astype(np.uint8)
    counts = [np.bincount(data[at : at + 512], minlength=256) for at in range(0, 1 << 16, 1 << 13)]
    mark = int(np.abs(np.sum(counts, 0)[1:255] - 16).argmin()) + 1
    data[1000:1017] = [mark, *[0] * 7, mark, *[0] * 8]
    found = set()
    for before in (-1, 1 << 30):
        find.WORK.places[:] = before
        found.add(_again(data, 500))
    assert len(found) == 1
