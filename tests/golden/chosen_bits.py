"""Chunks of the codecs that mix contexts, whose bits are chosen while the slow decoder runs.

The decoder asks for a bit with a probability; what is chosen is written, and the decoder goes on
as if it had read it. So models are led to bounds that no data of an encoder reaches.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from random import Random

from codec_cases import CodecCase
from reference import byte_cm, float_cm
from reference.arithmetic import Arithmetic
from reference.reading import Refused

Choose = Callable[[int], int]  # the probability of a 1, of 2^16, to a bit


class Chosen(Arithmetic):
    """The arithmetic decoder's other side."""

    def __init__(self, choose: Choose) -> None:
        super().__init__(b"")
        self.choose, self.written = choose, bytearray()

    def bit(self, p: int) -> int:
        """Writes the bit that is chosen."""
        y = self.choose(p)
        w = self.high - self.low
        middle = self.low + (w >> 16) * p + (((w & 65535) * p) >> 16)
        if y:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.written.append(self.low >> 24)
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
        return y

    def finish(self) -> bytes:
        """The stream."""
        return bytes(self.written) + self.low.to_bytes(4, "big")


def text(name: str, data: bytes, contexts: int, sets: int, bits: int) -> CodecCase:
    """A chunk of these bytes, under a model with such parameters."""
    model = struct.pack("<BBBBI", 9, bits, sets, 0, contexts)
    wanted = iter([byte >> k & 1 for byte in data for k in range(7, -1, -1)])
    decoder = byte_cm.Decoder(model, b"", len(data))
    decoder.coder = coder = Chosen(lambda p: next(wanted))
    for _ in data:
        decoder.byte()
    return CodecCase(f"telling-byte_cm-{name}", model, coder.finish(), len(data))


class Steered(float_cm.Decoder):
    """A decoder of floats that is told what to decode."""

    def __init__(self, model: bytes, head: bytes, size: int, steer: "Steer", rng: Random) -> None:
        super().__init__(model, head + bytes(4), size)
        self.deciding: float_cm.Key = ()  # a decision or a counter
        self.by_value: float_cm.Key = ()
        self.near = 0
        self.weights_seen = -1  # before the one at hand
        self.arithmetic = self.coder = Chosen(lambda p: steer(self, p))
        self.counters = _Named(self)
        self.raw = rng.getrandbits(8 * size)

    def weight(self, c: int, octaves: int) -> int:
        """Counts it."""
        self.weights_seen += 1
        return super().weight(c, octaves)

    def exponent(self, now: float_cm.Weight, near: int) -> int:
        """Notes what is near."""
        self.near = near
        return super().exponent(now, near)

    def decision(self, d: float_cm.Key, by_value: float_cm.Key, p: int) -> int:
        """Notes which it is."""
        self.deciding, self.by_value = d, by_value
        return super().decision(d, by_value, p)

    def payload(self, head: bytes) -> bytes:
        """Of the chunk, once all is decoded."""
        code = self.coder.finish()
        raw = self.raw & (1 << self.raw_at) - 1
        raw_bytes = raw.to_bytes(-(-self.raw_at // 8), "little")
        return head + struct.pack("<I", len(code)) + code + raw_bytes


class _Named(float_cm.Counters):
    def __init__(self, decoder: Steered) -> None:
        super().__init__(decoder.arithmetic)
        self.decoder = decoder

    def bit(self, key: float_cm.Key, most: int = 255) -> int:
        self.decoder.deciding = key
        return super().bit(key, most)


Steer = Callable[[Steered, int], int]  # and the probability of a 1, of 2^16, to a bit


def values(wanted: list[int]) -> Steer:
    """Weights of these values at scales of 0, in units of 32, from -2047 to 2047."""

    def steer(decoder: Steered, p: int) -> int:
        name, *numbers = decoder.deciding
        if name in ("rows", "columns"):
            return 0
        value = wanted[decoder.weights_seen]
        e = max(abs(value).bit_length() - 8, 0)
        m = (abs(value) >> max(e - 1, 0) & 255) << decoder.M >> 8
        if name == "zero":
            return int(not value)
        if name == "sign":
            return int(value < 0)
        if name in ("at least", "up", "down"):
            first = decoder.by_value[0]
            assert isinstance(first, int)
            return int(e >= first)
        node = numbers[-1]
        assert isinstance(node, int)
        k = node.bit_length()
        if name == "top":
            return m >> (decoder.M - k) & 1
        if name in ("far up", "far down"):
            far = e - decoder.near - 5 if name == "far up" else decoder.near - 13 - e
            return far >> (8 - k) & 1
        return int(p >= 32768)

    return steer


def floats(
    name: str,
    form: tuple[int, int, int],
    groups: list[tuple[int, int]],
    shapes: list[tuple[int, int]],
    steer: Steer,
    rng: Random,
) -> CodecCase:
    """A chunk of matrices of floats, or as much of one as can be decoded.

    `form`: format, top bits, flags; `groups` of low bits, kind and value each.
    """
    kind, top, zeros = form
    head = struct.pack("<H", len(shapes)) + b"".join(struct.pack("<II", *s) for s in shapes)
    head += bytes([zeros]) + b"".join(bytes(group) for group in groups)
    size = float_cm.FORMATS[kind][0] * sum(r * c for r, c in shapes)
    model = bytes([4, kind, top, 0])
    decoder = Steered(model, head, size, steer, rng)
    with suppress(Refused):
        for rows, columns in shapes:
            decoder.matrix(rows, columns)
    return CodecCase(f"telling-float_cm-{name}", model, decoder.payload(head), size)
