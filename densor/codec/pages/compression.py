"""How pages are compressed, both ways: a way is the bytes that a recipe has of it."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.pages import gzip, lz4, snappy
from densor.codec.pages.layout import GZIP, LZ4, PLAIN_CODEC, SNAPPY
from densor.codec.pages.sizes import MAX_TABLE, MIN_TABLE, OWN
from densor.codec.table.wire import Reader
from densor.errors import FormatError

PLAIN = b"\0"
_OF_LZ4, _OF_GZIP = 64, 128
# Ways that a column may be made in; of gzip, each page tells its own.
_WAYS = {
    PLAIN_CODEC: (PLAIN,),
    SNAPPY: (bytes([MAX_TABLE]), bytes([14 | OWN]), bytes([14])),  # of versions, and of others
    LZ4: (bytes([_OF_LZ4]),),
    GZIP: (bytes([_OF_GZIP]),),
}
NEWER = frozenset((LZ4, GZIP))  # codecs that pages of the first form cannot have


def ways(codec: int) -> tuple[bytes, ...]:
    """Ways that the pages of a column are tried in, one after the other."""
    return _WAYS[codec]


def take(at: Reader, newer: bool) -> bytes:
    """A way as it stands in a recipe; FormatError for one that is not known."""
    way = at.raw(1)
    (number,) = way
    if newer and number == _OF_GZIP:
        way += at.raw(gzip.WAY)
        gzip.check(way[1:])
    elif number and (not newer or number != _OF_LZ4) and not _is_snappy(number):
        raise FormatError("page of a column is made in an unknown way")
    return way


def _is_snappy(number: int) -> bool:
    return MIN_TABLE <= number & ~OWN <= MAX_TABLE


def undo(data: Bytes, size: int, way: bytes) -> Bytes | None:
    """What a page holds, `size` bytes; None where it is not compressed so."""
    if way == PLAIN:
        return data
    if way[0] == _OF_GZIP:
        return gzip.undo(data, size)
    return lz4.undo(data, size) if way[0] == _OF_LZ4 else snappy.undo(data, size)


def settled(way: bytes, data: Bytes, content: Bytes, last: bytes | None) -> bytes | None:
    """The way in all that a page is made in; None for none. `last`: that of a page before."""
    if way[0] != _OF_GZIP:
        return way
    found = gzip.find(data, content, last and last[1:])
    return None if found is None else way[:1] + found


def make(content: Bytes, way: bytes) -> Bytes:
    """A page that holds `content`; FormatError where it cannot be made so."""
    if way == PLAIN:
        return content
    if way[0] == _OF_GZIP:
        return np.frombuffer(gzip.make(content, way[1:]), np.uint8)
    return lz4.make(content) if way[0] == _OF_LZ4 else snappy.make(content, way[0])
