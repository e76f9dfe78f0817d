"""Blocks with joined fields written by hand for `make_telling.py`: all keys, fields at bounds."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import zstandard
from codec_cases import CodecCase

Made = Iterator[CodecCase]
Plain = Sequence[tuple[int, int]]  # bytes per block and order of fields
KEYS: dict[int, list[int]] = {  # bytes per block of the fields that each key needs
    0: [], 1: [2], 2: [2, 2], 3: [4], 4: [2, 2, 4, 4, 4], 5: [2, 2, 4],
}  # fmt: skip
ITEMS = {3: 4, 4: 8, 5: 4}
PAD = 100  # bytes per block that are zeros: makes a chunk longer than what it is coded in
EDGES = (0, 1, 0x3F, 0x40, 0x7F, 0x80, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xFFFF)


@dataclass(frozen=True)
class Blocks:
    """Fields before the joined one, which is the last; `said`: the ten bytes of that."""

    before: Plain
    size: int
    said: tuple[int, int, int, int, int, int, int, int]  # a, g, h, b, r, k, p, e
    symbols: int  # of a block

    def model(self) -> bytes:
        out = bytes([5, len(self.before) + 1])
        for size, order in self.before:
            out += struct.pack("<HBBII", size, order, 0, 0, 0)
        return out + struct.pack("<HBBIBHBBHBBBI", self.size, 5, 0, 0, *self.said, 0)

    def case(self, name: str, blocks: int, rng: Random, over: int = 0) -> CodecCase:
        """Parts by chance; `over`: bits of a symbol that it may not have."""
        bits = self.said[0] + self.said[3]
        used = bits * (8 // bits if 0 < bits <= 8 else 1) + over
        parts = [numbers_of(blocks, size, rng) * (order != 6) for size, order in self.before]
        symbols = [rng.getrandbits(min(used, 8)) for _ in range(blocks * self.symbols)]
        parts.append(bytes(symbols))
        heads, stored = b"", b""
        for part in parts:
            found = zstandard.compress(part, 19) if part else b""
            way = 0 < len(found) < len(part)
            heads += struct.pack("<BI", way, len(found if way else part))
            stored += found if way else part
        size = blocks * (self.size + sum(size for size, _ in self.before))
        return CodecCase(f"telling-joined-{name}", self.model(), heads + stored, size)


def numbers_of(blocks: int, size: int, rng: Random) -> bytes:
    """Bytes of a field: numbers of two bytes near each other, at edges, or by chance."""
    if size >= PAD:
        return bytes(blocks * size)
    if size != 2:
        return bytes(rng.choice((rng.randrange(256), 0, 255, 128)) for _ in range(blocks * size))
    found = [
        0x3C00 + rng.randrange(-3000, 3000) if rng.random() < 0.8 else rng.choice(EDGES)
        for _ in range(blocks)
    ]
    return struct.pack(f"<{blocks}H", *found)


def possible(rng: Random) -> Blocks:
    """Settings that fit together, by chance."""
    a, b, k = rng.choice((1, 2, 4)), rng.choice((0, 1, 2, 4)), rng.randrange(6)
    g, r = rng.choice((1, 2, 3, 4, 8)), rng.choice((1, 2, 4, 6))
    q, n = 8 // (a + b), ITEMS.get(k, 1)
    run = int(np.lcm(8 * g // a, 8 * r // b if b else 1))
    elements = int(np.lcm(run, n * q))
    before = [(size, 0) for size in KEYS[k]]
    lead = [(3, 0)] * rng.randrange(2)  # so that the first field that is needed is not field 0
    p = len(lead) if k else 0
    e = p + 2 if k > 3 else 0
    before = lead + before
    h = len(before) if b else 0
    if b:
        before.append((elements * b // 8, 6))
    before.append((PAD, 0))
    said = (a, g, h, b, r if b else 0, k, p, e)
    return Blocks(before, elements * a // 8, said, elements // q)


def joined_fields(rng: Random) -> Made:
    """Settings by chance, and one field of each changed."""
    number = 0
    while number < 90:
        one = possible(rng)
        if one.symbols > 200 or len(one.before) > 7:
            continue
        number += 1
        blocks = rng.choice((3, 9, 20))
        yield one.case(f"{number}", blocks, rng)
        if number % 3 == 0:
            yield one.case(f"{number}-over", blocks, rng, 1)
        for place in range(8) if number < 40 else ():
            for more in (-1, 1, 2):
                value = one.said[place] + more
                if value >= 0:
                    said = (*one.said[:place], value, *one.said[place + 1 :])
                    changed = replace(one, said=said)  # type: ignore[arg-type]
                    yield changed.case(f"{number}-{place}-{value}", 9, rng)
        if number < 40:
            for at, (size, order) in enumerate(one.before):
                for other in ((size + 1, order), (size, 6 if order == 0 else 0)):
                    before = [*one.before[:at], other, *one.before[at + 1 :]]
                    name = f"{number}-field-{at}-{other[0]}-{other[1]}"
                    yield replace(one, before=before).case(name, 9, rng)
    yield from of_joined(rng)
    yield from many()


def of_joined(rng: Random) -> Made:
    """Orders and keys by a field that is joined itself; a field of no bytes."""
    two, pad = (2, 0), (PAD, 0)
    by_joined = Blocks([two, (2, 5), pad], 1, (4, 1, 0, 0, 0, 1, 1, 0), 1)
    inner = (4, 1, 0, 0, 0, 0, 0, 0)
    for name, one, count in (
        ("key", by_joined, 9),
        ("key-2", replace(by_joined, said=(4, 1, 0, 0, 0, 2, 0, 0)), 9),
        ("key-good", replace(by_joined, said=(4, 1, 0, 0, 0, 1, 0, 0)), 9),
        ("size", replace(by_joined, before=[(0, 0), (2, 5), two, pad], said=inner), 9),
        ("size-last", replace(by_joined, before=[two, (2, 5), (0, 0), pad], said=inner), 9),
        ("order", replace(by_joined, before=[pad, (2, 5), (1, 2)], said=inner), 9),
        ("order-of-two", replace(by_joined, before=[pad, two, (2, 5), (1, 3)], said=inner), 9),
        ("order-good", replace(by_joined, before=[pad, (2, 5), two, (1, 2)], said=inner), 9),
    ):
        case = one.case(f"of-joined-{name}", count, rng)
        place = case.model.index(struct.pack("<HBBI", 2, 5, 0, 0)) + 8
        model = case.model[:place] + struct.pack("<BHBBHBBB", *inner) + case.model[place:]
        yield replace(case, model=model)


def many() -> Made:
    """One more item than may be sorted, and one more block."""
    rng = Random("many")
    count = (1 << 20) + 1
    one = Blocks([(2, 0)], 1, (4, 1, 0, 0, 0, 1, 0, 0), 1)
    few = one.case("many", 1, rng)
    zeros = [zstandard.compress(bytes(size * count), 19) for size in (2, 1)]
    heads = b"".join(struct.pack("<BI", 1, len(part)) for part in zeros)
    payload = heads + b"".join(zeros)
    yield replace(few, payload=payload, size=3 * count)
    model = (
        bytes([5, 2]) + struct.pack("<HBBII", 2, 0, 0, 0, 0) + struct.pack("<HBBII", 1, 2, 0, 0, 0)
    )
    yield CodecCase("telling-joined-many-blocks", model, payload, 3 * count)
