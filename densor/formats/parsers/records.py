"""Types of fields as numpy writes them in the header of a `.npy` file of records.

A list of tuples: name, type, and a shape where the field is an array; the type may be such a list
again. It is read by hand, since nested input ends Python's own reader in MemoryError.
"""

import re
from typing import Any

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
