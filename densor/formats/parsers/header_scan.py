"""A large safetensors header read by a compiled scan, where it is written as writers mostly do."""

import math
from typing import NamedTuple

import numpy as np

from densor.dtypes import is_known, nbytes
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.formats.container import strictjson
from densor.formats.tensor_table import Form, Numbers, TensorTable
from densor.formats.tensors import are_names, is_listable

scan_header = deferred("densor.formats.parsers.header_kernels", "scan_header")

LEAST = 1 << 16  # bytes of a header that is scanned: the parser of JSON is as quick with others
_MAX_FORMS = 256
_LENGTH_SIZE = 8
_KEYS = ["dtype", "shape", "data_offsets"]


class Scanned(NamedTuple):
    """A header: tensors by offset in the file, which share no bytes, and the metadata as JSON."""

    table: TensorTable
    metadata: bytes


def scan(text: bytes, size: int | None) -> Scanned | None:
    """What a header from its length field on tells of a file of so many bytes, None if unknown.

    None where it is not written as usual, or something is wrong with it.
    """
    rows = np.empty((text.count(b'"data_offsets"'), 5), np.int64)
    found = np.empty((_MAX_FORMS, 3), np.int64)
    state = np.empty(9, np.int64)
    body = text[_LENGTH_SIZE:]
    if scan_header(np.frombuffer(body, np.uint8), rows, found, state):
        return None
    count, kinds, begin, end = state[[2, 0, 3, 4]].tolist()
    rows = rows[:count]
    forms = [_form(body[first:last]) for first, last in found[:kinds, :2].tolist()]
    names = _names(body, rows)
    table = _table(names, forms, rows, len(text)) if None not in forms and names else None
    if table is None or (size is not None and _ends(table).max(initial=0) > size):
        return None
    return Scanned(table, body[begin:end])


def _names(text: bytes, rows: Numbers) -> list[str] | None:
    """The names of tensors; None where they take a closer look."""
    if not text.isascii():
        return None
    names = strictjson.parts(text, zip(rows[:, 1].tolist(), rows[:, 2].tolist(), strict=True))
    return names if are_names(names) and len(set(names)) == len(names) else None


def _form(text: bytes) -> Form | None:
    """What tensors have in common; None where they are not of a type that is known."""
    try:
        found = strictjson.loads(b"{" + text + b'"data_offsets":[]}', "header")
        shape = strictjson.shape(found.get("shape"), "shape")
    except FormatError:
        return None
    dtype = found.get("dtype")
    if list(found) != _KEYS or not isinstance(dtype, str) or not is_known(dtype):
        return None
    size = nbytes(dtype, math.prod(shape))
    return None if size is None or size >= 1 << 62 else Form(dtype, shape, size)


def _table(
    names: list[str], forms: list[Form | None], rows: Numbers, start: int
) -> TensorTable | None:
    """Tensors whose data lie behind a header of so many bytes; None where their places are odd."""
    known = [form for form in forms if form is not None]
    table = TensorTable(names, known, rows[:, 0], start + rows[:, 3])
    if not all(map(is_listable, table.one_of_each)) or (rows[:, 4] < rows[:, 3]).any():
        return None
    if (table.sizes != rows[:, 4] - rows[:, 3]).any():
        return None
    if (rows[1:, 3] < rows[:-1, 4]).any():
        order = np.lexsort((table.sizes, table.offsets))
        names = [names[number] for number in order.tolist()]
        table = TensorTable(names, known, table.form_of[order], table.offsets[order])
    some = table.sizes > 0
    apart = table.offsets[some][1:] >= _ends(table)[some][:-1]
    return table if apart.all() else None


def _ends(table: TensorTable) -> Numbers:
    return table.offsets + table.sizes
