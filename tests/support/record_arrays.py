"""Arrays of records, of fields of many types."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from helpers import random_state

from densor.codec.table.layout import Layout
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file

FIELDS = [
    *(("id", "<u4"), ("when", "<M8[s]"), ("kind", "S3"), ("price", "<f8"), ("late", ">i2")),
    *(("where", "<f4", (2,)), ("sum", ">f8"), ("flag", "?"), ("half", "<f2"), ("wave", "<c8")),
    *(("many", "<u8"), ("name", "<U2"), ("inner", [("a", "|i1"), ("b", "|V3")])),
]


def records(rows: int, align: bool = False) -> npt.NDArray[np.void]:
    """Columns that depend on each other, of every type; missing, odd and few values among them."""
    rng = random_state("records", rows)
    found = np.zeros(rows, np.dtype(FIELDS, align=align))
    kind = rng.integers(0, 3, rows)
    found["id"] = np.arange(rows) * 3 + 2**31
    found["when"] = 1_700_000_000 + np.cumsum(rng.integers(0, 9, rows))
    found["kind"] = np.array([b"ab", b"c", b""])[kind]
    found["price"] = np.where(
        rng.random(rows) < 0.1, np.nan, kind * 1.25 + rng.integers(0, 9, rows)
    )
    found["late"] = rng.integers(-20, 20, rows)
    found["where"] = rng.normal(size=(rows, 2))
    found["sum"] = found["late"] + kind / 4 - 0.0
    found["flag"] = kind == 1
    found["half"] = rng.integers(-4, 4, rows) / 8
    found["wave"] = np.exp(1j * kind)
    found["many"] = np.array([0, 2**63, 2**64 - 1], np.uint64)[kind]
    found["name"] = np.array(["Kö", "x", ""])[kind]
    found["inner"]["a"] = -kind
    for i, bits in enumerate((0x8000000000000000, 0x7FF0DEADBEEF0001, 0xFFF0000000000000, 1)):
        found["price"].view("<u8")[i : i + 1] = bits
    if align:  # noise between fields, as uninitialised memory leaves it
        noise = rng.integers(0, 256, found.nbytes, np.uint8).reshape(rows, -1)
        view = found.view(np.uint8).reshape(rows, -1)
        view[:, _gaps(found.dtype)] = noise[:, _gaps(found.dtype)]
    return found


def _gaps(dtype: "np.dtype[Any]") -> npt.NDArray[np.intp]:
    """Bytes of a record that are in no field."""
    used = np.zeros(dtype.itemsize, np.bool_)
    for field, offset, *_ in (dtype.fields or {}).values():
        used[offset : offset + field.itemsize] = True
    return np.flatnonzero(~used)


def layout_of_records(file: bytes) -> Layout:
    """How the records of a `.npy` file lie."""
    plan = plan_file(MemorySource(file), len(file), random=MemoryRandomSource(file))
    return next(s.kind.table for s in plan.segments if s.kind.table is not None)


def npy(array: npt.NDArray[Any]) -> bytes:
    """A `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
