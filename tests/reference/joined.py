"""Joined fields of blocks, after docs/format/blocks.md and nothing else."""

import struct
from dataclasses import dataclass

import numpy as np

from reference.reading import Bytes8, Cursor, Refused, fail

NONE, FIELD, RATIO, MAGNITUDE, RATIO_6, RATIO_4 = range(6)
MAX_SORTED = 1048576


@dataclass(frozen=True)
class Joined:
    """What the description of a field of order 5 goes on with."""

    bits: int
    group: int
    high: int
    high_bits: int
    high_group: int
    key: int
    first: int
    scales: int

    def items(self, sizes: list[int]) -> int:
        """n."""
        if self.key == MAGNITUDE:
            return sizes[self.first]
        if self.key == RATIO_4:
            return sizes[self.scales]
        return 8 if self.key == RATIO_6 else 1

    @property
    def in_symbol(self) -> int:
        """q."""
        return 8 // (self.bits + self.high_bits)

    def symbols(self, number: int, sizes: list[int]) -> int:
        """n * m."""
        return 8 * sizes[number] // self.bits // self.in_symbol

    def verify(self, number: int, sizes: list[int], plain: list[int], elsewhere: list[int]) -> None:
        """Refuse what field `number` cannot be; `plain`: fields that keys may need."""
        if self.key > RATIO_4:
            raise Refused("unsupported", f"key {self.key}")
        if self.bits not in (1, 2, 4) or not self.group or sizes[number] % self.group:
            fail("bits or group")
        if self.high_bits:
            if self.high_bits not in (1, 2, 4) or self.high not in elsewhere:
                fail("high bits")
            if not self.high_group or sizes[self.high] % self.high_group:
                fail("group of high bits")
            if sizes[number] * self.high_bits != sizes[self.high] * self.bits:
                fail("numbers of low and high bits")
        elif self.high or self.high_group:
            fail("places of high bits that there are not")
        self.verify_key(sizes, plain)
        if 8 * sizes[number] // self.bits % (self.items(sizes) * self.in_symbol):
            fail("items that are not whole symbols")

    def verify_key(self, sizes: list[int], plain: list[int]) -> None:
        """Refuse a key whose fields are not there."""
        p, e = self.first, self.scales
        needed = [(p, 2)] if self.key == FIELD else []
        if self.key in (RATIO, RATIO_4, RATIO_6):
            needed = [(p, 2), (p + 1, 2)]
        if self.key == RATIO_6:
            needed += [(e, 4), (e + 1, 4), (e + 2, 4)]
        some = {MAGNITUDE: [p], RATIO_4: [e]}.get(self.key, [])
        if any(i not in plain for i in [*(i for i, _ in needed), *some]):
            fail("fields of a key")
        if any(sizes[i] != size for i, size in needed):
            fail("sizes of fields of a key")
        if (self.key == NONE and p) or (self.key < RATIO_6 and e):
            fail("fields that a key does not need")


def parse(cursor: Cursor) -> Joined:
    """The ten bytes of a field of order 5."""
    return Joined(
        cursor.u8(),
        cursor.u16(),
        *(cursor.u8(), cursor.u8()),
        cursor.u16(),
        *(cursor.u8(), cursor.u8(), cursor.u8()),
    )


def logarithm(v: int) -> int:
    """L(v)."""
    return int(struct.unpack("<H", struct.pack("<e", v))[0])


def key_of(joined: Joined, block: list[bytes], i: int) -> int:
    """The key of item i of a block, given its fields."""
    first = block[joined.first]
    if joined.key == FIELD:
        return first[1]
    if joined.key == MAGNITUDE:
        return min(first[i], (256 - first[i]) % 256)
    t, u = (int.from_bytes(block[joined.first + k], "little") % 2**15 for k in (0, 1))
    d = u - t
    if joined.key == RATIO_4:
        packed = block[joined.scales][i]
        d += logarithm(packed // 16) - logarithm(packed % 16)
    if joined.key == RATIO_6:
        x, y, z = (block[joined.scales + k][i % 4] for k in range(3))
        scale, minimum = x % 64, y % 64
        if i >= 4:
            scale, minimum = z % 16 + 16 * (x // 64), z // 16 + 16 * (y // 64)
        d += logarithm(minimum) - logarithm(scale)
    return min(max(d // 64 + 128, 0), 255)


def put_back(
    joined: Joined, number: int, sizes: list[int], fields: list[Bytes8], blocks: int
) -> None:
    """Makes the symbols in `fields[number]` that field, and sets that of the high bits."""
    symbols, n, q = fields[number].tolist(), joined.items(sizes), joined.in_symbol
    c = joined.bits + joined.high_bits
    if any(symbol >> (c * q) for symbol in symbols):
        fail("bits of a symbol that no element has")
    order = list(range(blocks * n))
    if joined.key != NONE:
        if blocks * n > MAX_SORTED:
            raise Refused("limit", "more items to sort than a chunk may have")
        keys = []
        for b in range(blocks):
            block = [f[b].tobytes() if f.ndim == 2 else b"" for f in fields]
            keys += [key_of(joined, block, i) for i in range(n)]
        order.sort(key=lambda item: (keys[item], item))
    m = joined.symbols(number, sizes) // n
    elements: list[list[int]] = [[] for _ in order]
    for at, item in enumerate(order):
        mine = symbols[at * m : (at + 1) * m]
        elements[item] = [s >> (c * j) & (1 << c) - 1 for j in range(q) for s in mine]
    whole = [[w for i in elements[b * n : (b + 1) * n] for w in i] for b in range(blocks)]
    low = [[w & (1 << joined.bits) - 1 for w in block] for block in whole]
    fields[number] = packed(low, joined.bits, joined.group, sizes[number])
    if joined.high_bits:
        high = [[w >> joined.bits for w in block] for block in whole]
        at = joined.high
        fields[at] = packed(high, joined.high_bits, joined.high_group, sizes[at])


def packed(blocks: list[list[int]], bits: int, group: int, size: int) -> Bytes8:
    """Elements of blocks -> bytes of a field, uint8[blocks, size]."""
    found = np.zeros((len(blocks), size), np.uint8)
    run = 8 * group // bits
    for b, block in enumerate(blocks):
        for w, element in enumerate(block):
            x, y = w % run, w // run
            found[b, group * y + x % group] |= element << bits * (x // group)
    return found
