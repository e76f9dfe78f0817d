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


Steer = Callable[[tuple[object, ...], int], int]  # what is decided and the probability, to a bit


class Steered(float_cm.Decoder):
    """A decoder of floats that is told what to decode."""

    def __init__(self, model: bytes, head: bytes, size: int, steer: Steer, rng: Random) -> None:
        super().__init__(model, head + bytes(4), size)
        self.deciding: tuple[object, ...] = ()
        self.arithmetic = self.coder = Chosen(lambda p: steer(self.deciding, p))
        self.counters = _Named(self)
        self.raw = rng.getrandbits(8 * size)

    def decision(self, d: tuple[object, ...], by_value: tuple[object, ...], p: int) -> int:
        """Likewise, by the number of the decision."""
        self.deciding = ("decision", *d)
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

    def bit(self, key: tuple[object, ...], most: int = 255) -> int:
        self.decoder.deciding = key
        return super().bit(key, most)


def floats(
    name: str,
    kind: int,
    top: int,
    zeros: int,
    groups: list[tuple[int, int]],
    shapes: list[tuple[int, int]],
    steer: Steer,
    rng: Random,
) -> CodecCase:
    """A chunk of matrices of floats; `groups` of low bits, kind and value each."""
    head = struct.pack("<H", len(shapes)) + b"".join(struct.pack("<II", *s) for s in shapes)
    head += bytes([zeros]) + b"".join(bytes(group) for group in groups)
    size = float_cm.FORMATS[kind][0] * sum(r * c for r, c in shapes)
    model = bytes([4, kind, top, 0])
    decoder = Steered(model, head, size, steer, rng)
    with suppress(Refused):
        for rows, columns in shapes:
            decoder.matrix(rows, columns)
    return CodecCase(f"telling-float_cm-{name}", model, decoder.payload(head), size)
