"""A large index read by a compiled scan, where it is written as this package writes it."""

from typing import Any, NamedTuple

import numpy as np

from densor.entropy.deferred import deferred
from densor.errors import DensorError
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import Listed, parse
from densor.formats.container.listed_entries import TensorColumns
from densor.formats.tensor_table import Form, Numbers, TensorTable
from densor.formats.tensors import MAX_NAME, element_bytes

scan_index = deferred("densor.formats.container.index_kernels", "scan_index")

LEAST = 1 << 16  # bytes of an index that is scanned: the parser of JSON is as quick with others
_MAX_FORMS = 256
_LEAST_TENSOR = len('["","",[],0,0],')  # bytes of one in a list
_LEAST_ENTRY = len('{"name":"","kind":"dir"},')
_KEYS = {"name", "kind", "size", "dtype", "shape"}


class Scanned(NamedTuple):
    """An index. `columns`: as `wire.COLUMNS`. `tensors`: its entries, where all are tensors; else
    `entries`, their JSON without `tensors`, and what `listed` says of those."""

    columns: list[Numbers]
    tensors: TensorColumns | None
    entries: list[dict[str, Any]]
    listed: list[Listed]


def scan(text: bytes, index_at: int) -> Scanned | None:
    """An index that stands at `index_at`; None where it is not written as usual, and may be wrong.

    Whether frames and entries go together is not looked at.
    """
    rows = np.empty((min(text.count(b'["'), len(text) // _LEAST_TENSOR) + 1, 5), np.int64)
    entries = np.empty((min(text.count(b'{"'), len(text) // _LEAST_ENTRY) + 1, 8), np.int64)
    forms = np.empty((_MAX_FORMS, 3), np.int64)
    columns = np.empty((4, min(index_at // wire.FRAME_SIZE, len(text) // 2) + 1), np.int64)
    state = np.empty(9, np.int64)
    if scan_index(np.frombuffer(text, np.uint8), entries, rows, forms, columns, state):
        return None
    found = [column[:count] for column, count in zip(columns, state[4:8].tolist(), strict=True)]
    entries, rows = entries[: state[3]], rows[: state[2]]
    texts = [text[begin:end] for begin, end in forms[: state[0], :2].tolist()]
    try:
        if len(entries) and entries[:, 0].min() >= 0:
            return Scanned(found, _tensors(text, entries, texts), [], [])
        return Scanned(found, None, _others(text, entries), _listed(text, entries, rows, texts))
    except (_UnusualError, DensorError, UnicodeDecodeError):
        return None


class _UnusualError(Exception):
    """Something that only the parser can tell about."""


def _names(text: bytes, rows: Numbers) -> list[str]:
    """Names of entries or tensors, by where they begin and end."""
    names = strictjson.parts(text, zip(rows[:, 1].tolist(), rows[:, 2].tolist(), strict=True))
    if len(set(names)) != len(names) or (rows[:, 2] - rows[:, 1]).max(initial=0) > MAX_NAME:
        raise _UnusualError
    return names


def _tensors(text: bytes, rows: Numbers, texts: list[bytes]) -> TensorColumns:
    """Entries that are tensors."""
    forms = [_form_of_entry(form) for form in texts]
    names = _names(text, rows)
    digests = [text[begin:end].decode() for begin, end in rows[:, 6:].tolist()]
    if "" in names:
        raise _UnusualError
    return TensorColumns(names, forms, rows[:, 0], rows[:, 3], rows[:, 4], rows[:, 5], digests)


def _form_of_entry(text: bytes) -> Form:
    found = strictjson.loads(b'{"name":"-"' + text + b"}", "index")
    if found.keys() != _KEYS:
        raise _UnusualError
    meta = parse(found)
    assert meta.dtype is not None and meta.shape is not None and meta.size is not None
    return Form(meta.dtype, meta.shape, meta.size)


def _others(text: bytes, rows: Numbers) -> list[dict[str, Any]]:
    """Entries of any kind, as JSON; their lists of tensors are empty."""
    pieces: list[bytes] = []
    for form, begin, end, *lists, _, _, last in rows.tolist():
        if form >= 0:
            pieces.append(text[begin - len(b'{"name":"') : last + len(b'"]}')])
        elif lists[0]:
            pieces.append(text[begin : lists[0]] + b',"tensors":[]' + text[lists[1] : end])
        else:
            pieces.append(text[begin:end])
    joined = b'{"entries":[' + b",".join(pieces) + b"]}"
    found: list[dict[str, Any]] = strictjson.loads(joined, "index")["entries"]
    return found


def _listed(text: bytes, entries: Numbers, rows: Numbers, texts: list[bytes]) -> list[Listed]:
    """The tensors in each of some entries."""
    used, form_of = np.unique(rows[:, 0], return_inverse=True)
    forms = [_form_in_list(texts[number]) for number in used.tolist()]
    found = []
    for form, *_, begin, end, _ in entries.tolist():
        mine = rows[begin:end] if form < 0 else rows[:0]
        table = TensorTable(
            _names(text, mine), forms, form_of[begin : begin + len(mine)], mine[:, 3]
        )
        if (table.sizes != mine[:, 4]).any():
            raise _UnusualError
        found.append(Listed(table, int((mine[:, 3] + mine[:, 4]).max(initial=0))))
    return found


def _form_in_list(text: bytes) -> Form:
    found = strictjson.loads(b'{"tensor":["-"' + text + b"]}", "index")["tensor"]
    if len(found) != 3 or type(found[1]) is not str or found[1] == "VOID":
        raise _UnusualError
    shape = strictjson.shape(found[2], "shape")
    size = element_bytes(found[1], shape)
    if size >= 1 << 63:  # which columns cannot hold
        raise _UnusualError
    return Form(found[1], shape, size)
