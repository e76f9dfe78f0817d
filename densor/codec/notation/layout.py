"""In which form elements stand in a stretch of a file, as a parser finds it."""

import math
from typing import NamedTuple

from densor.dtypes import SIZES

# Forms: integers of protobuf; bytes as the characters of Latin-1 in UTF-8; base64; hexadecimal.
VARINTS, LATIN, BASE64, HEX = range(1, 5)
PLAIN, OTHER = range(2)  # options; the other one is signs, the alphabet of URLs, capital letters
MAX_PLAIN = 3 << 23  # bytes of elements that are coded together
MAX_ITEM = 10  # bytes of a stretch that an item takes
LEAST_ITEM = {VARINTS: 1, LATIN: 1, BASE64: 4, HEX: 2}


class Notation(NamedTuple):
    """A form, its option, and what the elements are.

    `dtype`: empty where that is not known. `shape`: of all elements, not of those of one batch.
    """

    form: int
    option: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def unit(self) -> int:
        """Bytes of an item: an element as a varint, three bytes in base64, one elsewhere."""
        if self.form == VARINTS:
            return SIZES[self.dtype]
        return 3 if self.form == BASE64 else 1

    @property
    def most(self) -> int:
        """Bytes of a stretch that are coded together."""
        return MAX_PLAIN // self.unit if self.form == VARINTS else MAX_PLAIN

    @property
    def elements(self) -> int:
        """How many the shape has."""
        return math.prod(self.shape)
