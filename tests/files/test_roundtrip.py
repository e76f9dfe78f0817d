"""Objects in memory come back as they were: every dtype, shape, memory layout and content.

Compared as bits, never as numbers: NaN payloads and the sign of zero count.
"""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from helpers import (
    CONTENTS,
    LAYOUTS_IN_MEMORY,
    NUMPY_DTYPES,
    UNUSUAL_DTYPES,
    assert_same,
    laid_out,
    make_array,
    random_state,
    weights,
)
from hypothesis import given
from hypothesis import strategies as st

import densor

SHAPES = st.one_of(
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.tuples(st.integers(1, 40), st.integers(1, 700)),
    st.integers(0, 5000).map(lambda size: (size,)),
)
BYTE_ORDERS = st.sampled_from(("<", ">"))


def round_trip(thing: Any, level: int = 3, threads: int = 1) -> Any:
    return densor.decompress(densor.compress(thing, level, threads), threads)


@given(
    dtype=st.sampled_from(NUMPY_DTYPES),
    order=BYTE_ORDERS,
    shape=SHAPES,
    content=st.sampled_from(CONTENTS),
    layout=st.sampled_from(LAYOUTS_IN_MEMORY),
    level=st.integers(1, 9),
    threads=st.integers(1, 2),
)
def test_any_array_comes_back(
    dtype: str,
    order: str,
    shape: tuple[int, ...],
    content: str,
    layout: str,
    level: int,
    threads: int,
) -> None:
    wanted = np.dtype(dtype).newbyteorder(order).str
    array = laid_out(make_array(wanted, shape, content), layout)
    assert_same(round_trip(array, level, threads), array)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_dtype_with_every_content(dtype: str, content: str) -> None:
    array = make_array(dtype, (37, 301), content)
    assert_same(round_trip(array), array)


@pytest.mark.parametrize("layout", LAYOUTS_IN_MEMORY)
@pytest.mark.parametrize("dtype", ["<u1", "<i2", ">i2", "<f4", ">f8", "<c16", "S5", "M8[ns]"])
def test_every_memory_layout(dtype: str, layout: str) -> None:
    array = laid_out(make_array(dtype, (6, 5, 70), "weights"), layout)
    assert_same(round_trip(array), array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1, 1), (2,) * 16, (0,) * 64])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "bool", "c8", "S3", "M8[D]"])
def test_unusual_shapes(dtype: str, shape: tuple[int, ...]) -> None:
    array = make_array(dtype, shape, "random")
    assert_same(round_trip(array), array)


@pytest.mark.parametrize("dtype", UNUSUAL_DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (7, 40)])
def test_records_strings_and_dates(dtype: str, shape: tuple[int, ...]) -> None:
    array = make_array(dtype, shape, "random")
    assert_same(round_trip(array), array)


def record_dtypes() -> list[np.dtype[Any]]:
    return [
        np.dtype([("a", "<f4"), ("b", ">i8"), ("c", "S3")]),
        np.dtype([("a", "<f4", (2, 3)), ("b", "?")]),
        np.dtype([("outer", [("x", "<i4"), ("y", ">f8")]), ("z", "U2")]),
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.dtype([(("title", "name"), "<i4"), ("größe", "<M8[us]")]),
        np.dtype({"names": ["a", "b"], "formats": ["<i4", "<f8"], "offsets": [0, 12]}),
    ]


@pytest.mark.parametrize("dtype", record_dtypes(), ids=str)
def test_records_of_many_kinds(dtype: np.dtype[Any]) -> None:
    array = np.empty((4, 3), dtype)
    array.view(np.uint8)[:] = random_state(dtype).integers(0, 100, array.view(np.uint8).shape)
    array = laid_out(array, "F")
    assert_same(round_trip(array), array)


def test_what_cannot_come_back_is_refused() -> None:
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})
    for array in (np.array([None, 1]), np.zeros(3, overlapping), np.array(["ab"], "T")):
        with pytest.raises(densor.ArgumentError):
            densor.compress(array)


class _Image:
    """Describes its pixels as an array, and has more than these, such as a palette."""

    __array_interface__ = np.zeros((2, 2), np.uint8).__array_interface__


def test_what_is_no_plain_array_is_refused_at_every_door() -> None:
    """None of these is numbers in memory that numpy or torch would give back as they were."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    swapped = np.zeros(3, np.dtype(ml_dtypes.bfloat16).newbyteorder(">"))  # numpy has no name
    things: list[Any] = ["path.bin", _Image(), swapped, np.array(["ab"], "T"), None]
    with contextlib.suppress(ImportError):
        import torch

        freed = torch.ones(1000)
        part = freed[10:20]
        freed.untyped_storage().resize_(0)
        views = torch._to_functional_tensor(torch.ones(3))
        things += [freed, part, views, torch.ones(3).untyped_storage()]
    for thing in things:
        with pytest.raises(densor.ArgumentError):
            densor.compress(thing)
        with pytest.raises(densor.ArgumentError):
            densor.save({"x": thing})
        with pytest.raises(densor.ArgumentError):
            densor.save_file({"x": thing}, io.BytesIO())
        with pytest.raises(densor.ArgumentError), densor.Writer(io.BytesIO()) as writer:
            writer.add_tensor("x", thing)
    for content in (b"abc", bytearray(b"abc"), [1, 2]):
        densor.compress(content)
    assert densor.load(densor.save({"x": [1, 2]}))["x"].tolist() == [1, 2]


def test_lazy_tensors() -> None:
    torch = pytest.importorskip("torch")
    backend = pytest.importorskip("torch._lazy.ts_backend")
    backend.init()
    tensor = torch.arange(300.0, device="lazy") * 2
    assert densor.decompress(densor.compress(tensor[10:20])).tolist() == list(range(20, 40, 2))


def test_dtypes_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int4"):
        dtype = np.dtype(getattr(ml_dtypes, name))
        bits = random_state(name).integers(0, 256, 4 * dtype.itemsize, np.uint8)
        array = bits.view(dtype).reshape(2, 2)
        assert_same(round_trip(array), array)


@pytest.mark.parametrize("level", range(1, 10))
@pytest.mark.parametrize("threads", [1, 2])
def test_every_level_with_row_classes_and_several_chunks(level: int, threads: int) -> None:
    for kind in ("bf16", "fp32", "fp8"):
        array = weights(kind, 300, 1030)
        dtype = {"fp32": None, "fp8": "f8_e4m3"}.get(kind, kind)
        packed = densor.compress(array, level, threads, dtype=dtype)
        assert_same(densor.decompress(packed, threads), array)
        assert len(packed) < 0.95 * array.nbytes


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 63, 64, 65, 4095, 4096, 4097, 300_001])
def test_bytes_come_back_as_bytes(kind: str, size: int) -> None:
    data = bytes(random_state(size).integers(0, 50, size, np.uint8))
    thing = {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind](data)
    restored = round_trip(thing)
    assert type(restored) is bytes
    assert restored == data


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int64", "c128", "f8_e5m2", "bool"])
@pytest.mark.parametrize("size", [0, 1, 7, 16, 1001, 70_000])
def test_bytes_taken_as_numbers_come_back_whatever_their_number(dtype: str, size: int) -> None:
    data = bytes(random_state(size).integers(0, 50, size, np.uint8))
    assert densor.decompress(densor.compress(data, dtype=dtype)) == data


def test_a_dtype_only_guides_the_codec() -> None:
    bits = weights("bf16", 64, 512)
    restored = densor.decompress(densor.compress(bits, dtype="bf16"))
    assert_same(restored, bits)
    assert len(densor.compress(bits, dtype="bf16")) < len(densor.compress(bits, dtype="u16"))


@pytest.mark.parametrize(
    ("thing", "arguments"),
    [
        (b"x", {"level": 0}),
        (b"x", {"level": 10}),
        (b"x", {"threads": -1}),
        (b"x", {"dtype": "float17"}),
        (b"x", {"dtype": "void"}),
        (np.zeros(3, np.float32), {"dtype": "bf16"}),
    ],
)
def test_senseless_arguments_are_refused(thing: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(densor.ArgumentError):
        densor.compress(thing, **arguments)
    with pytest.raises(ValueError):  # the same error, for callers who expect Python's
        densor.compress(thing, **arguments)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    array = weights("bf16", 900, 2000)
    assert densor.compress(array, threads=1) == densor.compress(array, threads=3)


def test_a_restored_array_can_be_written_to() -> None:
    for array in (np.arange(6, dtype=">i4"), np.zeros((2, 3)), np.array(["a", "b"])):
        restored = round_trip(array)
        restored[...] = restored[::-1].copy()
        assert restored.flags.writeable


def test_numpy_scalars_lists_and_matrices_become_arrays() -> None:
    assert_same(round_trip(np.float32(3)), np.array(3, np.float32))
    assert_same(round_trip([1, 2, 3]), np.array([1, 2, 3]))
    matrix = np.array([[1, 2], [3, 4]]).view(np.matrix)
    assert_same(round_trip(matrix), np.array([[1, 2], [3, 4]]))


@given(st.binary(max_size=3000), st.integers(1, 9))
def test_any_bytes_come_back(data: bytes, level: int) -> None:
    assert round_trip(data, level) == data


@given(
    dtype=st.sampled_from(["<u1", "<u2", "<u4", "<u8"]),
    runs=st.lists(st.tuples(st.integers(0, 255), st.integers(1, 3000)), min_size=1, max_size=12),
    width=st.integers(1, 600),
    level=st.sampled_from([1, 3, 6]),
)
def test_rows_that_differ_in_nature_come_back(
    dtype: str, runs: list[tuple[int, int]], width: int, level: int
) -> None:
    # Stretches of constants, of few symbols and of noise: runs of all kinds of classes.
    rng = random_state(runs, width)
    pieces = []
    for symbol, count in runs:
        spread = symbol % 5
        noise = rng.integers(0, 256, count, np.uint8)
        pieces.append(
            [np.full(count, symbol), noise, noise & 1, noise & symbol, noise >> 3][spread]
        )
    data = np.concatenate(pieces).astype(np.uint8)
    size = np.dtype(dtype).itemsize
    values = np.resize(data, data.size // (size * width) * size * width + size).view(dtype)
    rows = values[: values.size // width * width].reshape(-1, width)
    for array in (values, rows):
        assert_same(round_trip(array, level), array)
