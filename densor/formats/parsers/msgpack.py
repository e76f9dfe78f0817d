"""Parameters as Flax and Orbax write them with msgpack: maps of names, arrays at their leaves.

Format: `flax/serialization.py` of https://github.com/google/flax, `_ndarray_to_bytes`: an array is
an extension of type 1 that holds another message, (shape, name of the type, elements in C order).
Messages: https://github.com/msgpack/msgpack/blob/master/spec.md. What is not a map, a list or such
an array is passed over.
"""

import math
from collections.abc import Iterator

from densor import dtypes
from densor.errors import FormatError, TruncatedError
from densor.formats.parsers.contents import Contents, Head, Window, plain
from densor.formats.tensors import MAX_DIMENSIONS, MAX_NAME, Distinct, TensorInfo

_MAX_VALUES = 1 << 20
_MAX_VALUES_WITHOUT = 1 << 14  # before the first array
_MAX_NAMES = 1 << 26  # characters of all names
_MAX_DEPTH = 64
_ARRAY = 1  # type of extension
_MAX_TYPE = 64  # bytes of its name
# By first byte: bytes of a number that follows, whether it tells a length, and what is added to it
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_FIXED |= {0xCC + i: 1 << i for i in range(4)} | {0xD0 + i: 1 << i for i in range(4)}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LISTS, _MAPS = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}


class _Cursor:
    """Reads one value after the other, of texts, bytes and extensions only their places."""

    def __init__(self, window: Window, at: int, end: int) -> None:
        self._window = window
        self.at = at
        self._end = end

    def take(self, count: int) -> bytes:
        if count > self._end - self.at:
            raise TruncatedError("message ends within a value")
        data = self._window.read(self.at, count)
        self.at += count
        return data

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def skip(self, count: int) -> None:
        if count > self._end - self.at:
            raise TruncatedError("message ends within a value")
        self.at += count

    def children(self, first: int) -> tuple[int, bool] | None:
        """Elements of a list, or of a map and that it is one; None for other values."""
        if first & 0xF0 in (0x80, 0x90):
            return first & 15, first < 0x90
        if first in _LISTS or first in _MAPS:
            return self.number((_LISTS | _MAPS)[first]), first in _MAPS
        return None

    def text_size(self, first: int) -> int | None:
        """Bytes of a text, None for other values."""
        if first & 0xE0 == 0xA0:
            return first & 31
        return self.number(_TEXTS[first]) if first in _TEXTS else None

    def key(self) -> str:
        """A key of a map, empty where it is a number."""
        first = self.number(1)
        size = self.text_size(first)
        if size is None:
            self.pass_over(first)
            return ""
        if size > MAX_NAME:
            raise FormatError("name in a message is too long")
        return self.take(size).decode("utf-8", "replace")

    def whole(self) -> int:
        """An integer that is not negative."""
        first = self.number(1)
        if first < 0x80:
            return first
        if not 0xCC <= first <= 0xCF:
            raise FormatError("message has no size where one has to be")
        return self.number(1 << (first - 0xCC))

    def pass_over(self, first: int) -> None:
        """Goes on behind a value that holds no others."""
        if first < 0x80 or first >= 0xE0:
            return
        size = self.text_size(first)
        if size is None and first in _BYTES:
            size = self.number(_BYTES[first])
        if size is None and first in _FIXED:
            size = _FIXED[first]
        if size is None:
            raise FormatError("message has a value of an unknown kind")
        self.skip(size)


def find(head: Head) -> Contents | None:
    """The arrays of a message that can be read at random; None if there are none."""
    first = head.first(2)
    if head.random is None or len(first) < 2 or not _begins_map(first):
        return None
    found: list[TensorInfo] = []
    distinct = Distinct()
    cursor = _Cursor(Window(head.random), 0, head.random.size)
    try:
        for tensor in _arrays(cursor):
            found.append(tensor._replace(name=distinct.of(tensor.name)))
    except (FormatError, TruncatedError):  # the arrays up to there are what they are
        found.append(_unread("what follows"))
    tensors = [tensor for tensor in found if tensor.plain]
    others = [tensor for tensor in found if not tensor.plain]
    return plain(tensors)._replace(others=others) if tensors else None


def _unread(name: str) -> TensorInfo:
    """What stands in the message and cannot be read."""
    return TensorInfo(name, "unknown", (), 0, 0)


def _begins_map(first: bytes) -> bool:
    """Whether these are the first bytes of a map with keys that are texts."""
    if first[0] in _MAPS:
        return first[1] < 2  # of fewer than 512 Ki values
    return 0x81 <= first[0] <= 0x8F and (first[1] & 0xE0 == 0xA0 or first[1] in _TEXTS)


def _arrays(cursor: _Cursor) -> Iterator[TensorInfo]:
    """All arrays within a message, by the keys that lead to them, in the order of the file."""
    open_ones: list[tuple[Iterator[int], bool, str]] = []  # what is left, whether a map, its name
    most, values, name = _MAX_VALUES_WITHOUT, 0, ""
    letters = _MAX_NAMES
    while True:
        values += 1
        if values > most:
            raise FormatError("message has too many values")
        kind = cursor.number(1)
        children = cursor.children(kind)
        if children is not None:
            if len(open_ones) == _MAX_DEPTH:
                raise FormatError("message is too deep")
            open_ones.append((iter(range(children[0])), children[1], name))
        elif (size := _extension(cursor, kind)) is None:
            cursor.pass_over(kind)
        else:
            found = _array(cursor, size, name)
            if found is not None:
                most = _MAX_VALUES if found.plain else most
                letters -= len(name)
                if letters < 0:
                    raise FormatError("message has too many names")
                yield found
        following = _following(cursor, open_ones)
        if following is None:
            return
        name = following


def _following(cursor: _Cursor, open_ones: list[tuple[Iterator[int], bool, str]]) -> str | None:
    """The name of the next value, None behind the last one."""
    while open_ones:
        left, is_map, name = open_ones[-1]
        i = next(left, None)
        if i is not None:
            key = cursor.key() if is_map else str(i)
            path = f"{name}.{key}" if name else key
            return path if len(path) <= MAX_NAME else name
        open_ones.pop()
    return None


def _extension(cursor: _Cursor, kind: int) -> int | None:
    """Bytes of an extension, which begin with its type; None for other values."""
    if kind in _EXTENSIONS:
        return cursor.number(_EXTENSIONS[kind]) + 1
    return (1 << (kind - 0xD4)) + 1 if 0xD4 <= kind <= 0xD8 else None


def _array(cursor: _Cursor, size: int, name: str) -> TensorInfo | None:
    """The array that an extension of `size` bytes is, None if it is something else."""
    begin = cursor.at
    cursor.skip(size)
    inner = _Cursor(cursor._window, begin, begin + size)
    try:
        if inner.number(1) != _ARRAY:
            return None
        return _tensor(inner, begin + size, name) or _unread(name)
    except (FormatError, TruncatedError):
        return _unread(name)


def _tensor(inner: _Cursor, end: int, name: str) -> TensorInfo | None:
    """Shape, type and elements; None where they do not match."""
    outer = inner.children(inner.number(1))
    dimensions = inner.children(inner.number(1)) if outer == (3, False) else None
    if dimensions is None or dimensions[1] or dimensions[0] > MAX_DIMENSIONS:
        return None
    shape = tuple(inner.whole() for _ in range(dimensions[0]))
    length = inner.text_size(inner.number(1))
    if length is None or length > _MAX_TYPE:
        return None
    dtype = dtypes.from_library(inner.take(length).decode("utf-8", "replace"))
    kind = inner.number(1)
    if dtype is None or kind not in _BYTES:
        return None
    size = inner.number(_BYTES[kind])
    if inner.at + size != end or dtypes.nbytes(dtype, math.prod(shape)) != size:
        return None
    return TensorInfo(name, dtype, shape, inner.at, size)
