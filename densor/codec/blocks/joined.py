"""Packed elements of a few bits, joined to symbols of one byte and sorted by what their scales say.

Formats of blocks keep the low bits of elements in one field and their high bits in another. Under a
code of order 0 both take more than the elements do. Where scales and minima of a block differ, so
do the distributions of its elements: items of elements that share a scale are sorted by a key.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.entropy.deferred import deferred
from densor.errors import FormatError, LimitError, UnsupportedError
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

join, places_of, split = deferred("densor.codec.blocks.kernels", "join", "places_of", "split")

MAX_SORTED = 1 << 20  # items of a chunk, where these are sorted
_HALF = 0x7FFF  # of a number of type F16, all but its sign
_LOGS = np.arange(64, dtype=np.float16).view(np.uint16).astype(np.int32)


class Joined(NamedTuple):
    """How the elements of a field lie, of `bits` each, and where their high bits are.

    Byte i of a run of `group` bytes has its `bits` of elements i, i + group, i + 2 * group ... of
    the 8 / bits * group ones that are in the run, the first in its lowest bits. Likewise with the
    high bits in field number `high`; `high_bits` is 0 where there are none. `key`: by what items
    are sorted; `first`, `scales`: the numbers of fields that this needs.
    """

    bits: int
    group: int
    high: int = 0
    high_bits: int = 0
    high_group: int = 0
    key: int = registry.KEY_NONE
    first: int = 0
    scales: int = 0

    @property
    def element(self) -> int:
        """Bits of an element."""
        return self.bits + self.high_bits

    @property
    def in_symbol(self) -> int:
        """Elements of a symbol."""
        return 8 // self.element

    def symbols(self, size: int) -> int:
        """Symbols of a block whose field has `size` bytes."""
        return 8 * size // self.bits // self.in_symbol

    def items(self, sizes: Sequence[int]) -> int:
        """Items of a block, each with a key of its own; `sizes` of all fields."""
        if self.key == registry.KEY_MAGNITUDE:
            return sizes[self.first]
        if self.key == registry.KEY_RATIO_4:
            return sizes[self.scales]
        return 8 if self.key == registry.KEY_RATIO_6 else 1

    def geometry(self, number: int, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
        """What the kernels need to know of field `number`, int64[11]."""
        high_size = sizes[self.high] if self.high_bits else 0
        return np.array(
            [
                *(sum(sizes), sum(sizes[:number]), sizes[number], self.bits, self.group),
                *(sum(sizes[: self.high]), high_size, self.high_bits, self.high_group),
                *(self.items(sizes), self.in_symbol),
            ],
            np.int64,
        )


def check(joined: Joined, number: int, sizes: Sequence[int], orders: Sequence[int]) -> None:
    """FormatError unless field `number` of fields of such sizes and orders can be so."""
    if joined.key > registry.KEY_RATIO_4:
        raise UnsupportedError(f"unknown key {joined.key}; a newer densor may read this")
    count = len(sizes)
    size = sizes[number]
    whole = joined.bits in (1, 2, 4) and joined.group > 0 and size % joined.group == 0
    if joined.high_bits and whole:
        whole = joined.high < count and orders[joined.high] == registry.ORDER_ELSEWHERE
        whole = whole and joined.high_bits in (1, 2, 4) and joined.high_group > 0
        whole = whole and sizes[joined.high] % joined.high_group == 0
        whole = whole and sizes[joined.high] * joined.bits == size * joined.high_bits
    elif joined.high or joined.high_group:
        whole = False
    if not whole:
        raise FormatError("elements of a joined field have impossible places")
    _check_key(joined, sizes, orders)
    elements, items = 8 * size // joined.bits, joined.items(sizes)
    if elements % (items * joined.in_symbol):
        raise FormatError("items of a joined field are not whole symbols")


def _check_key(joined: Joined, sizes: Sequence[int], orders: Sequence[int]) -> None:
    """FormatError unless the fields that the key needs are there, and are not joined."""
    two = [(joined.first, 2), (joined.first + 1, 2)]
    later = joined.scales
    any_size = 0
    needed: dict[int, list[tuple[int, int]]] = {
        registry.KEY_NONE: [],
        registry.KEY_FIELD: two[:1],
        registry.KEY_RATIO: two,
        registry.KEY_MAGNITUDE: [(joined.first, any_size)],
        registry.KEY_RATIO_6: [*two, (later, 4), (later + 1, 4), (later + 2, 4)],
        registry.KEY_RATIO_4: [*two, (later, any_size)],
    }
    for number, size in needed[joined.key]:
        there = number < len(sizes) and orders[number] < registry.ORDER_JOINED
        if not there or size not in (any_size, sizes[number]):
            raise FormatError("key of a joined field lacks the fields that it depends on")
    if joined.key == registry.KEY_NONE and joined.first:
        raise FormatError("key of a joined field names fields that it does not need")
    if joined.key < registry.KEY_RATIO_6 and joined.scales:
        raise FormatError("key of a joined field names fields that it does not need")


def places(joined: Joined, fields: Sequence[Bytes]) -> npt.NDArray[np.int32]:
    """Where each item of a chunk stands, int32[items], once items are sorted by their keys.

    Empty where they stay as they are. `fields`: bytes of each field, block after block; those that
    the key does not need may be empty.
    """
    if joined.key == registry.KEY_NONE:
        return np.empty(0, np.int32)
    keys = np.ascontiguousarray(_keys(joined, fields))
    if keys.size > MAX_SORTED:
        raise LimitError(f"chunk has more than {MAX_SORTED} items to sort")
    found = np.empty(keys.size, np.int32)
    places_of(keys, np.empty(257, np.int64), found)
    return found


def _keys(joined: Joined, fields: Sequence[Bytes]) -> Bytes:
    """The key of each item."""
    first = fields[joined.first]
    if joined.key == registry.KEY_FIELD:
        return first[1::2]
    if joined.key == registry.KEY_MAGNITUDE:
        magnitudes: Bytes = np.minimum(first, -first)  # of a byte that is a signed number
        return magnitudes
    pair = fields[joined.first : joined.first + 2]
    scale, minimum = ((field.view("<u2") & _HALF).astype(np.int32) for field in pair)
    ratios = (minimum - scale)[:, None]
    if joined.key == registry.KEY_RATIO_4:
        packed = fields[joined.scales].reshape(ratios.size, -1)
        ratios = ratios + (_LOGS[packed >> 4] - _LOGS[packed & 15])
    elif joined.key == registry.KEY_RATIO_6:
        low, high, both = (fields[joined.scales + i].reshape(-1, 4) for i in range(3))
        scales = np.concatenate([low & 63, both & 15 | low >> 6 << 4], axis=1)
        minima = np.concatenate([high & 63, both >> 4 | high >> 6 << 4], axis=1)
        ratios = ratios + (_LOGS[minima] - _LOGS[scales])
    keys: Bytes = np.clip((ratios >> 6) + 128, 0, 255).astype(np.uint8).reshape(-1)
    return keys


def take_symbols(
    blocks: Bytes, joined: Joined, number: int, sizes: Sequence[int], fields: Sequence[Bytes]
) -> Bytes:
    """The symbols of field `number` of whole blocks, sorted; pooled."""
    geometry = joined.geometry(number, sizes)
    count = blocks.size // sum(sizes)
    symbols = POOL.take(count * joined.symbols(sizes[number]))
    elements = np.empty(8 * sizes[number] // joined.bits, np.uint8)
    join(blocks, geometry, places(joined, fields), elements, symbols)
    return symbols


def put_symbols(
    symbols: Bytes,
    joined: Joined,
    number: int,
    sizes: Sequence[int],
    fields: Sequence[Bytes],
    blocks: Bytes,
) -> None:
    """Undoes `take_symbols`: sets field `number`, and that of the high bits, of all `blocks`."""
    geometry = joined.geometry(number, sizes)
    elements = np.empty(8 * sizes[number] // joined.bits, np.uint8)
    if split(symbols, geometry, places(joined, fields), elements, blocks):
        raise FormatError("symbol of a joined field has bits that it does not use")
