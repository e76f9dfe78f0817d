"""Types of fields as numpy writes them in the header of a `.npy` file of records.

A list of tuples: name, type, and a shape where the field is an array; the type may be such a list
again. It is read by hand, since nested input ends Python's own reader in MemoryError.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from densor.errors import FormatError

MAX_COLUMNS = 1024
_MAX_DEPTH = 16
_TOKEN = re.compile(rb"""\s*(?:(\d{1,18})|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([\[\](),]))""")
_CLOSING = {b"[": b"]", b"(": b")"}


class _Reader:
    """Lists, tuples, texts and integers of a Python literal; FormatError for anything else."""

    def __init__(self, text: bytes, at: int) -> None:
        self._text = text
        self._at = at

    def value(self, depth: int = 0) -> Any:
        """The next value: a list for a list, a tuple for a tuple."""
        number, single, double, mark = self._token()
        if number is not None:
            return int(number)
        if mark is None:
            return single if single is not None else double
        if mark not in _CLOSING or depth == _MAX_DEPTH:
            raise FormatError("types of records are nested too deep")
        found: list[Any] = []
        while not self._takes(_CLOSING[mark]):
            if found and not self._takes(b","):
                raise FormatError("types of records cannot be read")
            if self._takes(_CLOSING[mark]):
                break
            found.append(self.value(depth + 1))
        return found if mark == b"[" else tuple(found)

    def _token(self) -> tuple[bytes | None, ...]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise FormatError("types of records cannot be read")
        self._at = match.end()
        return match.groups()

    def _takes(self, mark: bytes) -> bool:
        """Whether this is what comes next, which is passed then."""
        match = _TOKEN.match(self._text, self._at)
        if match is None or match[4] != mark:
            return False
        self._at = match.end()
        return True


def types_of(text: bytes, at: int) -> list[str]:
    """The types of all elements of a record, in order, such as `<f4`; what is at `at` is a list.

    FormatError where it cannot be read, or has more than `MAX_COLUMNS` elements.
    """
    return _flat(_Reader(text, at).value())


class RecordField(NamedTuple):
    """A field of records, `offset` bytes behind the first. `dtype`: with the shape of arrays."""

    name: str
    offset: int
    dtype: "np.dtype[Any]"


def fields_of(text: bytes, at: int, encoding: str) -> list[RecordField]:
    """The fields of records that `types_of` can read, those within others as `outer.inner`.

    `encoding`: of the text, of which names are literals. FormatError where numpy has no such type.
    """
    try:
        return list(_fields(_Reader(text, at).value(), "", 0, encoding))
    except (TypeError, ValueError) as error:
        raise FormatError("types of records are not those of numpy") from error


def _fields(fields: Any, outer: str, offset: int, encoding: str) -> Iterator[RecordField]:
    for field in fields:
        title = field[0][-1] if isinstance(field[0], tuple) else field[0]
        name = outer + _unescaped(title.decode(encoding, "replace"))
        dtype = _dtype(encoding, *field[1:])
        if isinstance(field[1], list) and len(field) < 3:
            yield from _fields(field[1], f"{name}.", offset, encoding)
        elif title:  # else this is space between fields
            yield RecordField(name, offset, dtype)
        offset += dtype.itemsize


def _unescaped(text: str) -> str:
    """What a literal stands for."""
    if "\\" not in text:
        return text
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def _dtype(encoding: str, kind: Any, shape: Any = ()) -> "np.dtype[Any]":
    """The type of a field, without what has no name within it."""
    if shape != ():
        return np.dtype((_dtype(encoding, kind), shape))
    if isinstance(kind, bytes):
        return np.dtype(kind.decode("ascii", "replace"))
    found = list(_fields(kind, "", 0, encoding))
    size = sum(_dtype(encoding, *part[1:]).itemsize for part in kind)
    return np.dtype({
        "names": [field.name for field in found],
        "formats": [field.dtype for field in found],
        "offsets": [field.offset for field in found],
        "itemsize": size,
    })  # fmt: skip


def _flat(fields: Any) -> list[str]:
    found: list[str] = []
    if not isinstance(fields, list):
        raise FormatError("types of records are no list")
    for field in fields:
        if not isinstance(field, tuple) or not 2 <= len(field) <= 3:
            raise FormatError("field of records has no type")
        count = _count(field[2]) if len(field) > 2 else 1
        kind = field[1]
        inner = [kind.decode("ascii", "replace")] if isinstance(kind, bytes) else _flat(kind)
        if len(found) + count * len(inner) > MAX_COLUMNS:
            raise FormatError("records have too many elements")
        found += inner * count
    return found


def _count(shape: Any) -> int:
    count = 1
    for size in shape if isinstance(shape, tuple) else (shape,):
        if not isinstance(size, int):
            raise FormatError("field of records has no shape")
        count = min(count * size, MAX_COLUMNS + 1) if size else 0
    return count
