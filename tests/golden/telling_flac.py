"""Chunks of FLAC files whose frames are put together field by field, at the bounds of each."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import numpy as np
import zstandard
from codec_cases import CodecCase
from telling_files import HEAD, as_long

from densor.codec.audio.coders import LaneCoder
from densor.codec.audio.layout import Layout
from densor.codec.audio.params import pack_flac
from densor.codec.audio.samples import model_of

Made = Iterator[CodecCase]
DEPTHS = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}  # their codes in the header of a frame
FIRST = 256  # instants of a frame of zeros as they are, which makes a chunk long enough
CONSTANT, VERBATIM, FIXED, LINEAR = 0, 1, 8, 32


@dataclass
class Frame:
    """What one frame says. `number`: in place of the next one."""

    size: int = 16  # instants
    kind: int = CONSTANT
    assignment: int | None = None
    flags: int | None = None
    head: list[int] | None = None
    number: int | None = None
    wasted: int = 0
    bits: int = 0  # of the first byte of subframes, beside what is usual
    subframe: list[int] = field(default_factory=list)  # behind its first byte, and wasted bits
    params: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)

    def heads(self, channels: int, depth: int) -> list[int]:
        said = [(0 if self.number is not None else 2) if self.flags is None else self.flags]
        if not said[0] & 1:
            assignment = channels - 1 if self.assignment is None else self.assignment
            usual = [255, 248, 0x69, assignment << 4 | DEPTHS[depth] << 1, self.size - 1]
            said += usual if self.head is None else self.head
        said += (self.number or 0).to_bytes(5, "little") if not said[0] & 2 else b""
        for _ in range(channels):
            said.append(self.kind << 1 | (self.wasted > 0) | self.bits)
            said += [self.wasted] * (self.wasted > 0) + self.subframe
        return said


def case_of(
    name: str, frames: Sequence[Frame], samples: Sequence[Sequence[int]], depth: int, tail: int = 0
) -> CodecCase:
    """A chunk of a frame of zeros and others, of as many samples in all."""
    channels = len(samples)
    first = Frame(FIRST, VERBATIM, head=None)
    first.head = [255, 248, 0x89, channels - 1 << 4 | DEPTHS[depth] << 1]
    size = (depth + 7) // 8
    rows = np.array([[0] * FIRST + list(channel) for channel in samples], np.int64).T
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(-1, channels, 8)[:, :, :size]
    data = (data ^ np.array([0] * (size - 1) + [128 * (size == 1)], np.uint8)).reshape(-1)
    model = model_of(Layout(channels, size), data)
    assert model is not None
    coder = LaneCoder(model)
    coder.decide([coder.count(data)])
    every = [first, *frames]
    heads = bytes(byte & 255 for one in every for byte in one.heads(channels, depth))
    values = [0, *(value for one in every for value in one.params)]
    params = bytes((b - a) & 255 for a, b in pairwise(values))
    weights = [value for one in every for value in one.weights]
    words = b"".join(struct.pack("<h", value) for value in weights)
    said = heads + params + words[::2] + words[1::2] + b"t" * tail
    packed = zstandard.compress(said)
    sizes = HEAD.pack(len(rows), len(heads), len(params), len(weights), len(packed), tail)
    payload = sizes + packed + bytes(coder.encode(data, 0))
    return as_long(CodecCase(f"telling-flac-{name}", pack_flac(depth, coder.model()), payload, 900))


def fields(rng: Random) -> Made:
    """Every field of a frame at its bounds, and a step beyond."""
    low = [rng.randrange(-3, 4) for _ in range(40)]
    for size in (1, 192, 576, 1152, 2304, 4608, 256, 512):
        code = {192: 1, 576: 2, 1152: 3, 2304: 4, 4608: 5, 256: 8, 512: 9}.get(size, 6)
        head = [255, 248, code << 4 | 9, 2] + [0] * (code == 6)
        yield case_of(f"size-{size}", [Frame(kind=VERBATIM, head=head)], [[0] * size], 8)
    for kind in (2, 7, 13, 14, 31, *range(8, 13)):
        said, params = ([0], [2]) if kind > 6 else ([], [])
        frame = Frame(40, kind, subframe=said, params=params)
        yield case_of(f"kind-{kind}", [frame], [low], 8)
    for order in (1, 2, 31, 32, 33):
        frame = Frame(40, 31 + order, subframe=[2, 0, 0], params=[3], weights=[0] * order)
        yield case_of(f"order-{order}", [frame], [low], 8)
        frame = Frame(order - 1, 31 + order, subframe=[2, 0, 0], params=[3], weights=[0] * order)
        if order > 1:
            yield case_of(f"order-{order}-of-less", [frame], [low[: order - 1]], 8)
    for precision in (0, 1, 2, 14, 15, 16):
        for shift in (0, 1, 14, 15, 16, 31):
            frame = Frame(
                40, LINEAR, subframe=[precision, shift, 0], params=[3], weights=[precision > 1]
            )
            yield case_of(f"linear-{precision}-{shift}", [frame], [low], 8)
    for way in (0, 16):
        for k in (0, 1, 13, 14, 15, 16, 17, 29, 30, 31, 32, 33, 36, 62, 63, 64, 65):
            values = [0] * 40 if k == 32 else low
            frame = Frame(40, FIXED, subframe=[way], params=[k])
            yield case_of(f"parameter-{way}-{k}", [frame], [values], 8)
    for way in (1, 17):
        frame = Frame(40, FIXED, subframe=[way], params=[32, 3])
        yield case_of(f"nothing-{way}", [frame], [[0] * 20 + low[20:]], 8)
    for way in (1, 2, 3, 4, 5, 17, 18, 32, 33):
        for kind in (FIXED, FIXED + 2, FIXED + 4):
            count = 1 << (way & 15)
            params = [rng.randrange(4) for _ in range(count)]
            frame = Frame(16, kind, subframe=[way], params=params)
            yield case_of(f"partitions-{way}-{kind}", [frame], [low[:16]], 8)
    for depth, wasted in ((8, 1), (8, 7), (8, 8), (12, 11), (12, 12)):
        values = [x << wasted for x in (-1, 0) * 8]
        for kind in (CONSTANT, VERBATIM):
            some = values[:1] * 16 if kind == CONSTANT else values
            if wasted < depth:
                frame = Frame(16, kind, wasted=wasted)
                yield case_of(f"wasted-{depth}-{wasted}-{kind}", [frame], [some], depth)
    yield case_of("wasted-0", [Frame(subframe=[0], kind=CONSTANT, bits=1)], [[0] * 16], 8)
    yield case_of("of-one", [Frame(40)], [low], 8)  # says no more than its first sample
    yield case_of("wasted-8", [Frame(16, VERBATIM, wasted=8)], [[0] * 16], 8)
    for number in (0, 1, 127, 128, 2047, 2048, 65535, 65536, *(1 << k for k in (21, 26, 31))):
        for value in (number, number - 1 if number > 65536 else number):
            yield case_of(f"number-{value}", [Frame(number=value), Frame()], [[0] * 32], 8)
    for number in ((1 << 36) - 1, 1 << 36):
        yield case_of(f"number-{number}", [Frame(number=number)], [[0] * 16], 8)
    for flags in (1, 3, 4, 6):
        yield case_of(f"flags-{flags}", [Frame(), Frame(flags=flags)], [[0] * 32], 8)


def headers(rng: Random) -> Made:
    """Each bit of a frame's header, and what channels are to each other."""
    good = [255, 248, 0x69, 2, 15]
    for place in range(4):
        for bit in range(8):
            head = [byte ^ (1 << bit if i == place else 0) for i, byte in enumerate(good)]
            yield case_of(f"header-{place}-{bit}", [Frame(head=head), Frame()], [[0] * 32], 8)
    for rate in (0, 11, 12, 13, 14, 15):
        more = [7, 9][: {12: 1, 13: 2, 14: 2}.get(rate, 0)]
        frame = Frame(head=[255, 248, 0x60 | rate, 2, 15, *more])
        yield case_of(f"rate-{rate}", [frame], [[0] * 16], 8)
    both = [[rng.randrange(-50, 50) for _ in range(16)] for _ in range(2)]
    for depth in (8, 12, 16, 20, 24):
        yield case_of(f"depth-{depth}", [Frame(16, VERBATIM)], both[:1], depth)
    for assignment in range(13):
        for count in (1, 2, 3):
            frame = Frame(16, VERBATIM, assignment)
            samples = [*both, both[0]][:count]
            yield case_of(f"channels-{assignment}-{count}", [frame], samples, 8)
    for tail in (1, 3, 2000):
        yield case_of(f"tail-{tail}", [Frame()], [[0] * 16], 8, tail)
    for number in range(2):
        steps = [Frame(head=[255, 249, 0x69, 2, 15]), Frame(head=[255, 248 + number, 0x69, 2, 15])]
        yield case_of(f"steps-{number}", [*steps, Frame()], [[0] * 48], 8)


def bounds(_: Random) -> Made:
    """What frames say in all, as much as a chunk may have, and a byte more."""
    good = case_of("long", [Frame()], [[0] * 16], 8)
    count, heads, params, weights, packed, tail = HEAD.unpack_from(good.payload)
    said = zstandard.decompress(good.payload[24 : 24 + packed])
    rest = good.payload[24 + packed :]
    most = 64 + 16 * good.size
    for more in (-1, 0, 1):
        longer = said + bytes(most - len(said) + more)
        for place in range(2):
            sizes = [heads, params, weights]
            sizes[place] += most - len(said) + more
            stored = zstandard.compress(longer)
            payload = HEAD.pack(count, *sizes, len(stored), tail) + stored + rest
            yield CodecCase(f"telling-flac-all-{place}-{more}", good.model, payload, good.size)
    alone = HEAD.pack(count, 1 << 20, 0, 0, 0, 0)  # too much, and no more of it
    yield CodecCase("telling-flac-head-alone", good.model, alone, good.size)
    for size in (2, 3):
        yield CodecCase(f"telling-flac-model-{size}", good.model[:size], good.payload, good.size)
    near = *range(count - 1, count + 2), *range((1 << 26) - 1, (1 << 26) + 2), good.size << 15
    for counts in (0, 1, *near):
        for step in (0, 1):
            payload = HEAD.pack(counts + step, *HEAD.unpack_from(good.payload)[1:])
            payload += good.payload[24:]
            name = f"telling-flac-count-{counts}-{step}"
            yield CodecCase(name, good.model, payload, good.size)
