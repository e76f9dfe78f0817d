"""A slow maker of FLAC frames, after docs/format/audio.md, section 10, and RFC 9639."""

import struct

from reference.reading import Refused, decode_zstd, fail

RATE_BYTES = {12: 1, 13: 2, 14: 2}
BLOCK_BYTES = {6: 1, 7: 2}
FIXED = ((), (1,), (2, -1), (3, -3, 1), (4, -6, 4, -1))


class Bits:
    """A string of bits, the highest of a byte first."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def put(self, value: int, count: int) -> None:
        if count:
            self.text.append(format(value % (1 << count), f"0{count}b"))

    def bytes(self) -> bytes:
        text = "".join(self.text)
        text += "0" * (-len(text) % 8)
        return int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:]


class Said:
    """What frames say, read in order (10.1)."""

    def __init__(self, heads: bytes, params: bytes, weights: list[int]) -> None:
        self.parts: dict[str, list[int]] = {"heads": list(heads), "weights": weights}
        value, self.parts["params"] = 0, []
        for change in params:
            value = (value + change) % 256
            self.parts["params"].append(value)

    def take(self, part: str = "heads") -> int:
        return self.parts[part].pop(0) if self.parts[part] else fail("frames say too little")


def remainder(data: bytes, polynomial: int, bits: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial | 1 << bits if value >> (bits - 1) else 0)
    return value


def number_bytes(number: int) -> bytes:
    if number >> 36:
        fail("number of a frame")
    if number < 128:
        return bytes([number])
    size = next(n for n in range(2, 8) if not number >> (5 * n + 1))
    rest = [128 | number >> 6 * i & 63 for i in reversed(range(size - 1))]
    return bytes([(0xFF00 >> size & 255) | number >> 6 * (size - 1), *rest])


def block_size(head: list[int]) -> int:
    code = head[2] >> 4
    if code in BLOCK_BYTES:
        return int.from_bytes(bytes(head[4 : 4 + BLOCK_BYTES[code]]), "big") + 1
    return 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)


def residual(
    bits: Bits, samples: list[int], weights: tuple[int, ...], shift: int, said: Said
) -> None:
    way = said.take()
    method, log = way >> 4, way & 15
    part, order = len(samples) >> log, len(weights)
    if method > 1 or part << log != len(samples) or part < order:
        fail("partitions")
    bits.put(way, 6)
    escape = (15, 31)[method]
    for p in range(1 << log):
        k = said.take("params")
        if k > 63 or escape <= k < 32:
            fail("parameter")
        bits.put(min(k, escape), 4 + method)
        if k >= 32:
            bits.put(k - 32, 5)
        for t in range(max(order, p * part), (p + 1) * part):
            predicted = sum(w * samples[t - 1 - i] for i, w in enumerate(weights)) >> shift
            error = samples[t] - predicted
            if k >= 32:
                bits.put(error, k - 32)
                continue
            folded = 2 * error if error >= 0 else -2 * error - 1
            if folded >> k > 1 << 27:
                fail("length")
            bits.put(0, folded >> k)
            bits.put(1, 1)
            bits.put(folded, k)


def subframe(bits: Bits, samples: list[int], depth: int, said: Said) -> None:
    first = said.take()
    kind = first >> 1
    bits.put(first, 8)
    if first & 1:
        wasted = said.take()
        if not 1 <= wasted < depth:
            fail("wasted bits")
        bits.put(1, wasted)
        depth -= wasted
        samples = [x >> wasted for x in samples]
    if kind == 0:
        return bits.put(samples[0], depth)
    if kind == 1:
        for x in samples:
            bits.put(x, depth)
        return None
    if not (8 <= kind <= 12 or 32 <= kind <= 63):
        fail("type of a subframe")
    weights: tuple[int, ...] = FIXED[kind - 8] if kind < 32 else ()
    shift = 0
    order = len(weights) if kind < 32 else kind - 31
    if order > len(samples):
        fail("order")
    for x in samples[:order]:
        bits.put(x, depth)
    if kind >= 32:
        precision, shift = said.take(), said.take()
        if not 1 <= precision <= 15 or shift > 15:
            fail("precision")
        weights = tuple(said.take("weights") for _ in range(order))
        bits.put(precision - 1, 4)
        bits.put(shift, 5)
        for w in weights:
            bits.put(w, precision)
    return residual(bits, samples, weights, shift, said)


def good(head: list[int], channels: int, depth: int) -> bool:
    known = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24}
    if (
        head[0] != 255
        or head[1] & 254 != 248
        or head[3] & 1
        or known.get(head[3] >> 1 & 7) != depth
    ):
        return False
    kind = head[3] >> 4
    right = kind + 1 == channels if kind < 8 else kind < 11 and channels == 2
    return right and head[2] & 15 != 15 and head[2] >> 4 != 0


def frames(channels: list[list[int]], depth: int, said: Said) -> bytes:
    out, at, number, step = b"", 0, -1, 1
    head: list[int] = []
    while at < len(channels[0]):
        flags = said.take()
        if flags > 3 or (flags & 1 and not head):
            fail("flags of a frame")
        if not flags & 1:
            head = [said.take() for _ in range(4)]
            more = BLOCK_BYTES.get(head[2] >> 4, 0) + RATE_BYTES.get(head[2] & 15, 0)
            head += [said.take() for _ in range(more)]
        number += step
        if not flags & 2:
            number = sum(said.take() << 8 * i for i in range(5))
        if not good(head, len(channels), depth):
            fail("header of a frame")
        size = block_size(head)
        blocks = [channel[at : at + size] for channel in channels]
        if len(blocks[0]) < size:
            fail("instants")
        out += frame(head, number, blocks, depth, said)
        at += size
        step = size if head[1] & 1 else 1
    return out


def frame(head: list[int], number: int, blocks: list[list[int]], depth: int, said: Said) -> bytes:
    first = bytes(head[:4]) + number_bytes(number) + bytes(head[4:])
    bits = Bits()
    for byte in first + bytes([remainder(first, 0x07, 8)]):
        bits.put(byte, 8)
    kind = head[3] >> 4
    depths = [depth] * len(blocks)
    if kind >= 8:
        left, right = blocks
        side = [a - b for a, b in zip(left, right, strict=True)]
        middle = [(a + b) >> 1 for a, b in zip(left, right, strict=True)]
        blocks = {8: [left, side], 9: [side, right], 10: [middle, side]}[kind]
        depths[0 if kind == 9 else 1] += 1
    for block, bits_of_block in zip(blocks, depths, strict=True):
        subframe(bits, block, bits_of_block, said)
    data = bits.bytes()
    return data + remainder(data, 0x8005, 16).to_bytes(2, "big")


def parse_said(
    payload: bytes, channels: int, size: int, original: int
) -> tuple[int, Said, bytes, bytes]:
    """Instants, what frames say, the tail, and the payload of the samples (10.1)."""
    if len(payload) < 24:
        fail("a chunk that is too short")
    count, heads, params, weights, packed, tail = struct.unpack_from("<6I", payload)
    total = heads + params + 2 * weights + tail
    if not count or 24 + packed > len(payload) or tail > min(original, 1 << 20):
        fail("sizes")
    samples = count * channels * size
    if total > min(1 << 25, 64 + 16 * original) or samples > min(1 << 26, original << 15):
        raise Refused("limit", "too much")
    data = decode_zstd(payload[24 : 24 + packed], total)
    low, high = data[heads + params :][:weights], data[heads + params + weights :][:weights]
    words = [struct.unpack("<h", bytes(pair))[0] for pair in zip(low, high, strict=True)]
    said = Said(data[:heads], data[heads : heads + params], words)
    return count, said, data[total - tail : total], payload[24 + packed :]
