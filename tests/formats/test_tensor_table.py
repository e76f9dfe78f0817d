"""Many tensors of a file, held as columns: the same as one object for each."""

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import densor
from densor import arrays
from densor.codec.levels import level_settings
from densor.errors import FormatError, LimitError
from densor.formats.container import index
from densor.formats.container.entry import Listed, list_tensors, listed_text, parse_tensors
from densor.formats.container.listed_entries import TensorsInEntries
from densor.formats.container.strictjson import text
from densor.formats.io.sources import Pieces
from densor.formats.parsers.contents import Stretch
from densor.formats.parsers.groups import coded, groups_of, groups_of_table
from densor.formats.tensor_table import TensorTable, table_of
from densor.formats.tensors import MAX_DIMENSIONS, MAX_NAME, TensorInfo, are_names, is_name

SHAPES: list[tuple[int, ...]] = [(), (0, 4), (3,), (64,), (8, 64), (40, 33), (5, 4, 3), (700, 300)]
DTYPES = ["F32", "BF16", "F16", "I64", "F8_E4M3", "BOOL", "C64", "F64"]
SIZES = [4, 2, 2, 8, 1, 1, 8, 8]


def some_table(seed: int, count: int = 400) -> TensorTable:
    """Tensors in runs of a form, some with gaps before them."""
    rng = np.random.default_rng(seed)
    named: list[tuple[str, str, tuple[int, ...], int]] = []
    while len(named) < count:
        which, shape = int(rng.integers(len(DTYPES))), SHAPES[int(rng.integers(len(SHAPES)))]
        size = SIZES[which] * int(np.prod(shape))
        for _ in range(int(rng.choice([1, 1, 2, 30]))):
            named.append((f"l.{len(named)}.é", DTYPES[which], shape, size))
    table = table_of(named)
    gaps = np.where(rng.random(len(table)) < 0.02, rng.integers(1, 99, len(table)), 0)
    table.offsets = table.offsets + np.cumsum(gaps)
    return table


def test_is_what_a_list_is() -> None:
    table = some_table(1)
    whole = list(table)
    assert table == whole and table == some_table(1) and table != whole[1:]
    assert table[5] == whole[5] and table[-1] == whole[-1] and table[3:30:4] == whole[3:30:4]
    assert [tensor.size for tensor in whole] == table.sizes.tolist()
    assert list(table.moved(7)) == [t._replace(offset=t.offset + 7) for t in whole]
    with pytest.raises(IndexError):
        table[len(table)]


@pytest.mark.parametrize("level", [1, 3, 6])
@pytest.mark.parametrize("seed", range(6))
def test_groups_are_those_of_single_tensors(seed: int, level: int) -> None:
    table, settings = some_table(seed), level_settings(level)
    stretches = [coded(Stretch(t.offset, t.size, t.dtype, t.shape)) for t in table if t.size]
    found = [(begin, end, kind()) for begin, end, kind in groups_of_table(table, settings)]
    assert found == [(begin, end, kind()) for begin, end, kind in groups_of(stretches, settings)]
    assert len(found) < len(stretches)


def test_is_listed_as_single_tensors_are() -> None:
    table = some_table(2)
    end = int((table.offsets + table.sizes).max())
    for size in (end, end - 1):
        assert listed_text(table, size) == text(list_tensors(list(table), size))[1:-1]
    later = table_of([("a", "F32", (2,), 8), ("b", "F8_E4M3FNUZ", (2,), 2), ("c", "F4", (4,), 2)])
    assert listed_text(later, 12) == text(list_tensors(list(later), 12))[1:-1]
    assert listed_text(table_of([]), 0) == ""


@pytest.mark.parametrize(
    "names", [["a", ""], ["a\0"], ["\ud800"], ["a", 1], [b"a"], ["x" * (MAX_NAME + 1)]]
)
def test_names_that_none_can_have(names: list[Any]) -> None:
    assert not are_names(names)
    assert are_names(["a", '"\\', "x" * MAX_NAME]) and are_names([])
    assert is_name("é") and not are_names(["é"])  # which takes a closer look


def test_pieces_are_joined_whatever_they_are() -> None:
    rng = np.random.default_rng(3)
    kinds: list[Any] = [np.float32, ml_dtypes.bfloat16, np.uint8, np.dtype(">f4"), np.float64]
    for _ in range(30):
        given: list[Any] = []
        for _ in range(int(rng.integers(1, 6))):
            shape = SHAPES[int(rng.integers(len(SHAPES) - 1))]
            one = rng.standard_normal(shape).astype(kinds[int(rng.integers(len(kinds)))])
            given += [np.asarray(one)] * int(rng.integers(1, 4))
        whole = b"".join(array.tobytes() for array in given)
        pieces = Pieces(given)
        for _ in range(30):
            begin, count = rng.integers(0, len(whole) + 2, 2).tolist()
            assert pieces.read_at(begin, count).tobytes() == whole[begin : begin + count]
        taken = [pieces.take(count).tobytes() for count in (0, 7, 100, len(whole), 5)]
        assert b"".join(taken) == whole


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_arrays_over_a_file_are_those_of_each_tensor(framework: str) -> None:
    if framework == "torch":
        pytest.importorskip("torch")
    table = some_table(4)
    size = int((table.offsets + table.sizes).max())
    data = np.frombuffer(np.random.default_rng(5).bytes(size), np.uint8).copy()
    make = arrays.to_torch if framework == "torch" else arrays.to_numpy
    found = arrays.of_table(table, data, framework == "torch")
    made = 0
    for array, tensor in zip(found, table, strict=True):
        if array is None:
            continue
        made += 1
        part = data[tensor.offset : tensor.offset + tensor.size].copy()
        wanted = make(tensor.dtype, tensor.shape, part)
        assert array.dtype == wanted.dtype and tuple(array.shape) == tuple(wanted.shape)
        assert arrays.describe(array)[1].tobytes() == part.tobytes()
    assert made > len(table) // 4
    assert arrays.of_table(table_of([]), data, False) == []


@pytest.mark.parametrize("torch", [False, True])
def test_as_many_dimensions_as_there_may_be(torch: bool) -> None:
    shape = (1,) * (MAX_DIMENSIONS - 1) + (3,)
    table = table_of([(f"{number}", "F32", shape, 12) for number in range(9)])
    data = np.arange(9 * 12, dtype=np.uint8)
    for number, tensor in enumerate(arrays.of_table(table, data, torch)):
        assert tuple(tensor.shape) == shape
        part = data[12 * number : 12 * number + 12]
        assert arrays.describe(tensor)[1].tobytes() == part.tobytes()


@pytest.mark.parametrize("key", ["tensors", "others"])
@pytest.mark.parametrize("value", [None, 0, "", {}])
def test_a_list_that_is_none_is_refused_beside_columns(key: str, value: object) -> None:
    with pytest.raises(FormatError, match="not a list"):
        parse_tensors({key: value}, 100, Listed(table_of([("a", "F32", (2,), 8)]), 8))


def loaded(tensors: dict[str, Any], monkeypatch: pytest.MonkeyPatch, least: int) -> dict[str, Any]:
    monkeypatch.setattr(index, "LEAST", least)
    return densor.load(densor.save(tensors, level=1))


def test_files_with_odd_tensors_are_read_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    tensors = {
        f"{number}": np.asarray(rng.standard_normal(SHAPES[number % 7])).astype(dtype)
        for number, dtype in enumerate([np.float32, np.float16, ml_dtypes.bfloat16, bool] * 30)
    }
    found, again = (loaded(tensors, monkeypatch, least) for least in (0, 1 << 40))
    assert list(found) == list(again) and found.keys() == tensors.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape) == (tensors[name].dtype, tensors[name].shape)
        assert array.tobytes() == tensors[name].tobytes() == again[name].tobytes()
        assert array.flags.writeable


def test_names_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name that two files have, the later one counts, where the earlier one stood."""
    monkeypatch.setattr(index, "LEAST", 0)
    out = io.BytesIO()
    with densor.Writer(out, 1) as writer:
        for number in range(3):
            first = 10 * number - number  # the last one again
            named = {
                f"t{n}": np.full(9, n + number / 4, np.float32) for n in range(first, first + 10)
            }
            densor.save_file(named, tmp_path / "x.densor", level=1, overwrite=True)
            densor.decompress_file(tmp_path / "x.densor", tmp_path / "x", overwrite=True)
            writer.add_file(tmp_path / "x", f"{number}")
        writer.add_tensor("t1", np.ones(3, np.float32))
    with densor.open(out) as file:
        assert isinstance(file.archive.tensors(), TensorsInEntries)
        found = file.get_tensors()
        assert list(found) == file.keys() and len(found) == len(file.keys()) == 28
        assert {file.archive.tensors()[name][0].meta.name for name in found} == {
            "0",
            "1",
            "2",
            "t1",
        }
        for name, array in found.items():
            assert (array == file.get_tensor(name)).all()
        assert found["t9"][0] == 9.25 and found["t18"][0] == 18.5 and found["t1"].size == 3
    with pytest.raises(LimitError):
        densor.load(out.getvalue(), max_output_size=100)


def test_tensors_of_an_index_are_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LEAST", 0)
    with densor.open(densor.save({"b": np.ones((2, 3), np.float32), "a": np.ones(4)})) as file:
        (entry,) = file.archive.entries
        assert isinstance(entry.meta.tensors, TensorTable)
        begin = entry.size - 32 - 24
        wanted = [
            TensorInfo("a", "F64", (4,), begin, 32),
            TensorInfo("b", "F32", (2, 3), begin + 32, 24),
        ]
        assert entry.meta.tensors == wanted
