"""Chunks of changes of few elements for `make_telling.py`: symbols by chance, coded afterwards."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from unittest import mock

import zstandard
from codec_cases import CodecCase
from reference import codecs, delta, few, rans
from reference.reading import Refused

Made = Iterator[CodecCase]


class Drawn:
    """Stands for the stream: slots by chance, which are coded at the end."""

    def __init__(self, rng: Random, ends: Sequence[int] = ()) -> None:
        self.rng, self.ends = rng, ends  # of elements' shares of a whole block
        self.taken: list[tuple[int, int, int, int]] = []  # slot, first, slots, bits
        self.at = 0

    def slot(self, bits: int) -> int:
        edge = self.rng.random() < 0.02
        self.at = self.rng.choice((0, (1 << bits) - 1)) if edge else self.rng.getrandbits(bits)
        if bits == 24 and self.ends and self.rng.random() < 0.5:
            self.at = self.rng.choice(self.ends)
        return self.at

    def take(self, first: int, slots: int, bits: int) -> None:
        self.taken.append((self.at, first, slots, bits))

    symbol, bits = few.Stream.symbol, few.Stream.bits

    def finish(self) -> None:
        pass

    def code(self) -> bytes:
        """States and words."""
        x, words = few.LOW, []
        for slot, _, slots, bits in reversed(self.taken):
            if x >= slots << (63 - bits):
                words.append(x & 0xFFFFFFFF)
                x >>= 32
            first = self._first(slot, _, slots)
            x = (x // slots << bits) + x % slots + first
        return struct.pack("<Q", x) + b"".join(struct.pack("<I", word) for word in reversed(words))

    @staticmethod
    def _first(slot: int, first: int, slots: int) -> int:
        """Where the part begins; that of bits that are taken whole is their value."""
        return first if slots > 1 else slot


def changes(rng: Random) -> Made:
    """Settings by chance, and fields at their bounds."""
    yield from _unchanged(rng)
    for number in range(160):
        case = _any(f"telling-few-{number}", rng)
        if case is None:
            continue
        yield case
        if number < 6:
            yield from _edges(case, rng)


def _any(name: str, rng: Random) -> CodecCase | None:
    size, flags = rng.choice((1, 2, 2, 4, 8)), rng.choice((0, delta.FLOATS))
    pairs = [
        (d, m)
        for d in range(9)
        for m in range(9)
        if delta.splits_all(delta.DIFFERENCE, 8 * size, d, m)
    ]
    direct, mantissa = rng.choice(pairs)
    contexts, shift = rng.choice((1, 2, 5, 16)), rng.randrange(8 * size)
    bits, block_bits = rng.choice((0, 1, 3)), rng.randrange(3, 8)
    mapped = bytes(rng.randrange(contexts) for _ in range(1 << bits))
    codes = bytes(rng.choice((0, 1, 20, 60, 100, 151)) for _ in range(1 << bits))
    meant = delta.Model(
        size, flags == delta.FLOATS, delta.DIFFERENCE, 0, direct, mantissa, shift, b"\0", []
    )
    valid = [t for t in range(1, 256) if delta.meaning(meant, t) is not None]
    counts = [_row([0, *rng.sample(range(1, 1 + (1 << block_bits)), 2)], rng) for _ in range(64)]
    counts[rng.randrange(64)] = [0] * 256
    counts[rng.randrange(64)] = [4096] + [0] * 255
    tokens = [_row(rng.sample(valid, min(4, len(valid))), rng) for _ in range(contexts)]
    packed = zstandard.compress(mapped + codes)
    fields = (7, size, flags, few.METHOD, direct, mantissa, contexts, shift, bits, block_bits)
    model = few.HEAD.pack(*fields, len(packed)) + packed + rans.pack(counts + tokens)
    count = rng.choice((40, 129, 300, 2100)) if size < 4 else rng.choice((40, 129))
    base, offset = rng.randbytes(count * size + 3), rng.choice((0, 3))
    first = rng.choice((0, 1, 5, 40, 100, 127))
    head = struct.pack("<QBB", offset, few.CODED, first)
    drawn = Drawn(rng, _ends(codes[0], 1 << block_bits) if len({*codes}) == 1 else ())
    with mock.patch.object(few, "Stream", lambda _: drawn):
        try:
            codecs.parse_model(model).decode(head, count * size, base)
        except Refused:
            return None
    payload = head + drawn.code()
    if len(payload) > count * size:
        return None
    return CodecCase(name, model, payload, count * size, base)


def _ends(code: int, elements: int) -> list[int]:
    """Where the shares of elements of one rate end."""
    rate = max(1, ((8 + code % 8) << code // 8) // 16)
    each = (1 << 48) // (rate * elements)
    return [rate * (i + 1) * each >> 24 for i in range(elements - 1)]


def _unchanged(rng: Random) -> Made:
    """No change at all, whatever was expected; and models at bounds that such a chunk may have."""
    none, token = [4096] + [0] * 255, _row([1, 2], rng)
    for first in (0, 1, 40, 127, 128):
        for code in (0, 151):
            for count in (2100, 4200):
                case = _of_rows("", [none] * 64, [token], code, 4)
                payload = struct.pack("<QBB", 0, few.CODED, first) + struct.pack("<Q", few.LOW)
                name = f"telling-few-none-{first}-{code}-{count}"
                base = bytes(range(100)) * 42
                yield replace(case, name=name, payload=payload, size=count, base=base)
    for block_bits in (3, 7):
        for symbol in (1 << block_bits, (1 << block_bits) + 1, (1 << block_bits) + 2):
            row = _row([0, symbol], rng)
            name = f"telling-few-many-{block_bits}-{symbol}"
            yield _of_rows(name, [row] * 64, [token], 5, block_bits)
    for symbol in (0, 1, 254, 255):
        row = _row([2, symbol], rng)
        yield _of_rows(f"telling-few-symbol-{symbol}", [none] * 64, [row], 5, 4)
        yield _of_rows(f"telling-few-wide-{symbol}", [none] * 64, [row], 5, 4, 8)
    for contexts in (15, 16, 17):
        yield _of_rows(f"telling-few-contexts-{contexts}", [none] * 64, [token] * contexts, 5, 4)
    for block_bits in (2, 3, 7, 8):
        yield _of_rows(f"telling-few-block-{block_bits}", [none] * 64, [token], 5, block_bits)
    for code in (150, 151, 152):
        yield _of_rows(f"telling-few-rate-{code}", [none] * 64, [token], code, 4)
    for size in (1, 2, 3, 4, 7, 8, 9):
        yield _of_rows(f"telling-few-size-{size}", [none] * 64, [token], 5, 4, size)


def _of_rows(
    name: str,
    counts: list[list[int]],
    tokens: list[list[int]],
    code: int,
    block: int,
    size: int = 1,
) -> CodecCase:
    """A chunk that is its base, under a model of these frequencies."""
    packed = zstandard.compress(bytes([0, code]))
    fields = (7, size, 0, few.METHOD, 3, 0, len(tokens), 0, 0, block)
    model = few.HEAD.pack(*fields, len(packed)) + packed + rans.pack(counts + tokens)
    payload = struct.pack("<QB", 0, few.SAME)
    return CodecCase(name, model, payload, 8 * size * 9, bytes(range(1, 73)) * size)


def _row(symbols: list[int], rng: Random) -> list[int]:
    """Frequencies of some symbols, most of the first one."""
    row = [0] * 256
    for symbol in symbols:
        row[symbol] = rng.choice((1, 30, 400))
    row[symbols[0]] += 4096 - sum(row)
    return row


def _edges(case: CodecCase, rng: Random) -> Made:
    """Fields with other values, lengths off by some."""
    for place in range(few.HEAD.size):
        now = case.model[place]
        for value in {0, 1, 2, 4, 7, 8, 12, 13, 16, 17, 255, (now + 1) % 256, (now - 1) % 256}:
            model = case.model[:place] + bytes([value]) + case.model[place + 1 :]
            yield replace(case, name=f"{case.name}-model-{place}-{value}", model=model)
    for length in (0, 1, few.HEAD.size - 1, few.HEAD.size, few.HEAD.size + 1, len(case.model) - 1):
        yield replace(case, name=f"{case.name}-model-{length}", model=case.model[:length])
    yield replace(case, name=f"{case.name}-model-more", model=case.model + b"\0")
    for place in range(min(18, len(case.payload))):
        now = case.payload[place]
        for value in {0, 1, 2, 3, 4, 127, 128, (now + 1) % 256, (now - 1) % 256}:
            payload = case.payload[:place] + bytes([value]) + case.payload[place + 1 :]
            yield replace(case, name=f"{case.name}-at-{place}-{value}", payload=payload)
    for length in (0, 8, 9, 10, 14, 17, 18, 19, 22, len(case.payload) - 4, len(case.payload) - 1):
        yield replace(case, name=f"{case.name}-payload-{length}", payload=case.payload[:length])
    for more in (b"\0", bytes(4)):
        name = f"{case.name}-behind-{len(more)}"
        yield replace(case, name=name, payload=case.payload + more)
    same = case.payload[:8] + bytes([few.SAME])
    for payload in (same, same + b"\0", same[:8] + b"\1"):
        yield replace(case, name=f"{case.name}-same-{payload[8:].hex()}", payload=payload)
    base = case.base or b""
    for offset in (0, 1, 2, 3, 4):
        moved = struct.pack("<Q", offset) + same[8:]
        yield replace(case, name=f"{case.name}-from-{offset}", payload=moved)
    yield replace(case, name=f"{case.name}-no-base", base=None)
    yield replace(case, name=f"{case.name}-odd", payload=same, size=case.size - 1)
    for codes in (b"\x98", b"\x97"):
        contexts, bits = case.model[6], case.model[8]
        mapped = bytes([contexts - 1]) * (1 << bits)
        for one in (mapped, bytes([contexts]) * (1 << bits)):
            packed = zstandard.compress(one + codes * (1 << bits))
            old = int.from_bytes(case.model[10:12], "little")
            model = case.model[:10] + struct.pack("<H", len(packed)) + packed
            model += case.model[12 + old :]
            name = f"{case.name}-codes-{codes.hex()}-{one[0]}"
            yield replace(case, name=name, model=model, payload=same, base=base)
