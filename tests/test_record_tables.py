"""Columns and rows of `.npy` files of records, read from archives."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from record_arrays import npy, records

import densor
from densor.codec.table.reading import StoredPart
from densor.errors import ArgumentError, FileError

NAMES = ["id", "when", "kind", "price", "late", "where", "sum", "flag", "half", "wave", "many"]
NAMES += ["name", "inner.a", "inner.b"]


def packed(tmp_path: Path, array: npt.NDArray[Any], level: int = 3) -> Path:
    (tmp_path / "a.npy").write_bytes(npy(array))
    densor.pack([tmp_path / "a.npy"], tmp_path / "a.densor", level=level, overwrite=True)
    return tmp_path / "a.densor"


def column(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    for part in name.split("."):
        array = array[part]
    return array


def same(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> bool:
    """Whether values have the same bits, in this machine's byte order."""
    native = wanted.astype(wanted.dtype.newbyteorder("="))
    equal = found.dtype == native.dtype and found.shape == native.shape
    return equal and found.tobytes() == native.tobytes()


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("level", [1, 5])
def test_fields_are_columns(tmp_path: Path, align: bool, level: int) -> None:
    array = records(900, align)
    archive = packed(tmp_path, array, level)
    found = densor.read_table(archive)
    assert list(found) == NAMES
    for rows in (slice(None), slice(0, 1), slice(300, 877), slice(899, 5000), slice(900, None)):
        found = densor.read_table(archive, rows=rows)
        assert all(same(found[name], column(array, name)[rows]) for name in NAMES)


def test_conditions(tmp_path: Path) -> None:
    array = records(700)
    archive = packed(tmp_path, array)
    asked = ["late >= -3", "kind == ab", "when < 2023-11-14T22:40:00", f"many > {2**63 - 1}"]
    held = (
        array["late"] >= -3,
        array["kind"] == b"ab",
        array["when"] < np.datetime64(asked[2][7:]),
        array["many"] > 2**63 - 1,
    )
    for condition, good in zip(asked, held, strict=True):
        found = densor.read_table(archive, columns=["id"], where=condition)["id"]
        assert found.tolist() == array["id"][good].tolist()
    both = densor.read_table(archive, columns=["price"], rows=slice(9, 600), where=asked[:2])
    assert same(both["price"], array["price"][9:600][(held[0] & held[1])[9:600]])


@pytest.mark.parametrize("condition", ["where > 1", "wave == 1", "inner.b == 1", "late > x"])
def test_what_cannot_be_compared(tmp_path: Path, condition: str) -> None:
    archive = packed(tmp_path, records(300))
    with pytest.raises(ArgumentError):
        densor.read_table(archive, where=condition)


def test_other_orders_titles_and_arrays_of_records(tmp_path: Path) -> None:
    inner = np.dtype([("x", ">u2"), ("y", "<f4")], align=True)
    array = np.zeros(
        (40, 30), [(("a title", "first"), "<i4"), ("points", inner, (2, 2)), ("", "V3")]
    )
    array["first"] = np.arange(1200).reshape(40, 30)
    array["points"]["x"] = 7
    found = densor.read_table(packed(tmp_path, array))
    assert same(found["first"], array["first"].reshape(-1))
    assert found["points"].shape == (1200, 2, 2) and (found["points"]["x"] == 7).all()
    fortran = np.asfortranarray(array["first"]).astype([("first", "<i4")], order="F")
    found = densor.read_table(packed(tmp_path, fortran))["first"]
    assert same(found, fortran["first"].reshape(-1, order="F"))


def test_rows_that_are_in_no_table(tmp_path: Path) -> None:
    """Noise, which is coded as bytes, whole and in chunks that end within records."""
    noise = np.random.default_rng(5).integers(0, 256, 9 << 20, np.uint8)
    array = noise[: noise.size // 11 * 11].view([("a", "<u8"), ("b", "V3")])
    archive = packed(tmp_path, array, 1)
    for rows in (slice(0, 5), slice(70_000, 500_000), slice(array.size - 3, None)):
        found = densor.read_table(archive, rows=rows)
        assert all(same(found[name], array[name][rows]) for name in "ab")


def test_only_what_is_asked_for_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path, records(5000))
    asked = []
    record = StoredPart.record
    monkeypatch.setattr(
        StoredPart, "record", lambda part, number: (asked.append(number), record(part, number))[1]
    )
    densor.read_table(archive, columns=["id"])
    assert asked == [0]
    with densor.open(archive) as file:
        assert file.read_file("a.npy") == (tmp_path / "a.npy").read_bytes()


@pytest.mark.parametrize("array", [np.zeros(400), np.array([None] * 300, object)])
def test_arrays_of_other_types_are_no_tables(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    archive = packed(tmp_path, array)
    with pytest.raises((FileError, ArgumentError)):
        densor.read_table(archive)


def test_frames(tmp_path: Path) -> None:
    array = records(400)
    archive = packed(tmp_path, array)
    pandas = pytest.importorskip("pandas")
    found = densor.read_table(archive, to="pandas")
    assert isinstance(found, pandas.DataFrame) and found.shape == (400, len(NAMES))
    assert found["late"].tolist() == array["late"].tolist()
    assert found["where"][7].tolist() == array["where"][7].tolist()


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_arrays_in_the_first_field_and_names_of_all_kinds(tmp_path: Path) -> None:
    names = ["é", "a b", "it's", "both'\"", "back\\slash", "line\nend"]
    array = np.zeros(500, [(name, "<i2", (3,)) for name in names])
    for number, name in enumerate(names):
        array[name] = np.arange(1500).reshape(500, 3) + number
    for wide in (False, True):  # a header in Latin-1, and in UTF-8
        if wide:
            array.dtype.names = (*names[:-1], "長さ")  # type: ignore[misc]
        archive = packed(tmp_path, array)
        found = densor.read_table(archive, rows=slice(7, 90))
        assert list(found) == list(array.dtype.names or ())
        assert all(same(found[name], array[name][7:90]) for name in found)


@pytest.mark.parametrize("rows", [slice(1.5, 3), slice("a"), slice(None, None, 2), slice(-3, None)])
def test_rows_that_are_none(rows: slice, tmp_path: Path) -> None:
    archive = packed(tmp_path, records(400))
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 300)
    densor.pack([tmp_path / "a.csv"], tmp_path / "csv.densor")
    for each in (archive, tmp_path / "csv.densor"):
        with pytest.raises((ArgumentError, TypeError), match="rows"):
            densor.read_table(each, rows=rows)
        with pytest.raises(TypeError, match="condition"):
            densor.read_table(each, where=[3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("condition", "count"), [("h > 1e5", 1), ("h == 1e5", 0), ("f < -1e300", 1)]
)
@pytest.mark.filterwarnings("error")
def test_numbers_that_are_too_large_for_a_column(
    tmp_path: Path, condition: str, count: int
) -> None:
    array = np.zeros(300, [("h", "<f2"), ("f", "<f4")])
    array["h"][:2], array["f"][:2] = (65504, np.inf), (1, -np.inf)
    assert densor.read_table(packed(tmp_path, array), where=condition)["h"].size == count
