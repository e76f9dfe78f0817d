"""Chunks of sound whose samples are given, for `make_telling.py`: silence, bursts, full scale.

The slow decoder of cascades runs, and each error is chosen so that the wanted sample follows.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any
from unittest import mock

import zstandard
from chosen_bits import Chosen
from codec_cases import CodecCase
from reference import audio, audio_cascade, codecs, rans
from reference.reading import Refused
from telling_chunks import Drawn, folded, put_golomb
from telling_flac import VERBATIM, Frame, case_of

Made = Iterator[CodecCase]


def sounds_by_cascade(rng: Random) -> Made:
    """Both settings and all depths, one and two channels."""
    for number, (depth, channels, setting) in enumerate(
        (
            *((16, 1, 0), (24, 1, 0), (8, 2, 0), (20, 2, 0), (24, 2, 0), (12, 1, 0), (2, 1, 0)),
            *((17, 3, 0), (24, 2, 1), (16, 1, 1), (18, 2, 0), (23, 1, 0), (16, 2, 0), (22, 1, 0)),
        )
    ):
        for name, samples in _signals(depth, channels, rng):
            if setting and name not in ("burst", "steps"):
                continue
            yield from by_cascade(f"{name}-{number}", samples, depth, channels, setting, number % 2)


def _signals(depth: int, channels: int, rng: Random) -> Iterator[tuple[str, list[int]]]:
    """Samples, one channel's after the other's in each instant."""
    top = 2 ** (depth - 1) - 1
    ends = [top, -top - 1, top, 0, 1, -1, 0, top // 3, -top // 5, 2 & top, 0]
    quiet = 700 if channels == 1 and depth in (16, 22) else 260
    yield "burst", [0] * quiet + ends * channels + [0] * 20 * channels
    small = [rng.choice((0, 0, 1, -1)) for _ in range(120 * channels)]
    yield "small", small + [top, -top - 1] * channels + small[: 40 * channels]
    yield "steps", [top if i // 7 % 2 else -top - 1 for i in range(150)] * channels
    one_sided = [v for i in range(150) for v in (rng.randint(-top, top), *[i % 2] * (channels - 1))]
    yield "one loud", one_sided[: 150 * channels]
    yield (
        "waves",
        [((i * i) % (2 * top + 2) - top - 1) // (1 + i % 3) for i in range(130 * channels)],
    )


Wanted = Callable[[Any, int], int]  # a channel and what is predicted, to a sample


def by_cascade(
    name: str, samples: Sequence[int], depth: int, channels: int, setting: int, first: int
) -> Made:
    """A chunk of these samples, where it is smaller than they are."""
    first = first if channels == 2 else 0
    count = len(samples) // channels
    order = [first, 1 - first] if channels == 2 else range(channels)
    wanted = iter([samples[i * channels + c] for i in range(count) for c in order])
    yield from led(name, lambda *_: next(wanted), count, depth, channels, setting, first)


def led(
    name: str, wanted: Wanted, count: int, depth: int, channels: int, setting: int, first: int
) -> Made:
    """A chunk whose samples are chosen by what the decoder has learned."""
    size = -(-depth // 8)
    head = struct.pack("<8BI", 12, 1, channels, size, 0, depth, 0, setting, 0)
    bits: list[int] = []
    coder = Chosen(lambda p: bits.pop(0) if bits else 0)
    error_of = audio_cascade.error_of

    def steered(counters: Any, channel: Any, predicted: int) -> int:
        f = counters.f
        sample = wanted(channel, predicted)
        if sample != NO_BUCKET:
            error = audio_cascade.signed(sample - ((predicted + 2**f // 2) >> f), depth)
            middle = audio_cascade.level(channel.averages[1] >> 4) >> 2
            bits[:] = _bits_of(error, max(0, middle - 1 - f))
        found: int = error_of(counters, channel, predicted)
        return found

    with (
        mock.patch.object(audio_cascade, "Arithmetic", lambda data: coder),
        mock.patch.object(audio_cascade, "error_of", steered),
        suppress(Refused),
    ):
        total = count * channels * size
        codecs.parse_model(head).decode(bytes([first]), total)
    payload = bytes([first]) + coder.finish()
    if len(payload) <= total:
        yield CodecCase(f"telling-audio-{name}", head, payload, total)


NO_BUCKET = 1 << 40  # stands for a number that no bucket has


def led_cascades(rng: Random) -> Made:
    """Samples that what has been learned is most wrong about, or right: weights go to their ends.

    What no prediction expects takes more room than it did: silence before and after makes up.
    """
    number = 0
    for depth, channels, setting in ((24, 1, 0), (16, 1, 0), (24, 2, 0), (12, 1, 1), (20, 1, 0)):
        top = 2 ** (depth - 1) - 1
        for way in ("against", "with", "turns", "quiet", "wrap", "no bucket", "pulses", "tone"):
            number += 1
            loud = 90 if setting == 0 else 40
            count = {"tone": 290 if setting else 150, "no bucket": 40}.get(way, 3 * loud)
            yield from led(
                f"led-{way}-{number}",
                _way(way, top, loud * channels, rng),
                count,
                depth,
                channels,
                setting,
                number % 2 if channels == 2 else 0,
            )
    tone = [round(60 * math.sin(i * i / 3000) + 50 * math.sin(i / 9)) for i in range(1060)]
    yield from by_cascade("long", tone, 8, 1, 1, 0)


def _way(way: str, top: int, loud: int, rng: Random) -> Wanted:
    """Of `_led`: which sample is wanted next."""
    at = 0

    def wanted(channel: Any, predicted: int) -> int:
        nonlocal at
        at += 1
        said = sum(stage.say() for stage in channel.stages)
        high = {
            "against": predicted < 0,
            "with": said >= 0 if at < loud * 2 // 3 else said < 0,
            "turns": (said >= 0) == (at // 24 % 2 == 0),
            "pulses": at % 31 == 0,
        }.get(way)
        if way == "no bucket":
            return NO_BUCKET if at % 13 == 12 else rng.choice((0, 1, -1))
        if way == "tone":
            return round(top * 0.7 * math.sin(at / 5 + at * at / 900))
        if way == "quiet" or at > loud:
            return rng.choice((0, 0, 0, 1, -1)) if at % 50 else top * (at % 100 == 0)
        if way == "wrap":
            return rng.choice((top, -top - 1, 0, top // 2))
        return top if high else -top - 1

    return wanted


def _bits_of(error: int, unit: int) -> list[int]:
    """The decisions of an error, and its place."""
    left = -error - 1 if error < 0 else error
    found = [int(error >= 0)]
    for k in range(30):
        bits = min(25, unit + audio_cascade.SHIFTS[k])
        if k == 29:
            break
        found.append(int(left < 1 << bits))
        if found[-1]:
            break
        left -= 1 << bits
    return found + [left >> i & 1 for i in range(bits - 1, -1, -1)]


# By lanes, and heads


class _Same(Drawn):
    """Errors of 0, but for some."""

    def __init__(self, rng: Random, often: float) -> None:
        super().__init__(rng, audio.LANES)
        self.often = often

    def token(self, i: int, row: tuple[list[int], list[int], list[int]]) -> int:
        """The token of an error of 0 mostly."""
        if self.rng.random() < self.often:
            return super().token(i, row)
        _, firsts, freqs = row
        self.taken.append((i, firsts[0], freqs[0]))
        self.bits.append(0)
        return 0

    def low(self, i: int, count: int) -> int:
        """Zeros."""
        self.taken.append((i, 0, 0))
        self.bits.append(count)
        return 0


def sound_bounds(rng: Random) -> Made:
    """Weights, first samples and blocks of lanes at their bounds; heads that are wrong by one."""
    for depth, most in ((16, 1 << 16), (17, 1 << 20), (24, 1 << 20), (8, 1 << 16)):
        for total in (most - 1, most):
            weights = [(15, [total - 5, -3], [2])] * 2
            yield from _lanes(f"weights-{depth}-{total}", depth, 2, 80, weights, rng)
    for start in (2**23, 2**24, 2**24 + 1, -(2**24), -(2**24) - 1):
        yield from _lanes(f"floats-{start}", 26, 1, 90, [(0, [], [])], rng, start, flags=4)
    blocks = [(3, [9, -1], [4]), (2, [3], [1]), (2, [], [2]), (4, [15, 1], [])]
    for count in (511, 512, 700, 767, 768, 800):
        some = (blocks * 2)[: 2 * max(1, count >> 8)]
        yield from _lanes(f"blocks-{count}", 16, 2, count, some, rng, often=0.2)
        yield from _lanes(f"deep-{count}", 30, 2, count, some, rng, often=0.2)
    good = next(iter(by_cascade("plain", [0, 3, 5, -2] * 60, 24, 1, 0, 0)))
    yield good
    for field, value in ((4, 16), (4, 32), (5, 25), (7, 2), (1, 3)):
        model = bytearray(good.model)
        model[field] = value
        yield replace(good, name=f"{good.name}-{field}-{value}", model=bytes(model))
    for channels in (7, 8, 9):
        frame = Frame(60, VERBATIM)
        yield case_of(f"channels-{channels}", [frame, frame], [[0] * 120] * channels, 16)


def sound_fields(rng: Random) -> Made:
    """Fields at their bounds, of chunks that would decode but for these."""
    for count in (32, 33):
        yield from _lanes(f"fields-weights-{count}", 16, 1, 160, [(6, [1] * count, [])], rng)
    floats = next(_lanes("fields-floats", 26, 1, 160, [(0, [], [])], rng, 5, flags=4))
    plain = next(_lanes("fields-plain", 8, 1, 320, [(0, [], [])], rng))
    yield from (floats, plain)
    for places in (62, 63, 64):
        model = floats.model[:6] + bytes([places]) + floats.model[7:]
        yield replace(floats, name=f"{floats.name}-{places}", model=model)
    model = plain.model[:5] + b"\0" + plain.model[6:]
    yield replace(plain, name=f"{plain.name}-no-bits", model=model)
    for least, count in ((65536, 1), (65537, 1), (-65536, 1), (-65537, 1), (0, 8192), (0, 8193)):
        packed = zstandard.ZstdCompressor().compress(b"\xff" + bytes(count - 1))
        values = struct.pack("<iHI", least, count, len(packed)) + packed
        model = plain.model[:4] + b"\10" + plain.model[5:12] + values + plain.model[12:]
        yield replace(plain, name=f"{plain.name}-{least}-{count}", model=model)
    frame = Frame(60, VERBATIM)
    flac = case_of("fields", [frame, frame], [[0] * 120] * 2, 16)
    for flags in (0, 1, 2, 4):
        model = flac.model[:7] + bytes([flags]) + flac.model[8:]
        yield replace(flac, name=f"{flac.name}-{flags}", model=model)
    for length in (22, 23, 24):
        yield replace(flac, name=f"{flac.name}-cut-{length}", payload=flac.payload[:length])


class _Loud(_Same):
    """Errors by chance among those of 0, with their bits."""

    def low(self, i: int, count: int) -> int:
        """Any."""
        return Drawn.low(self, i, count)


def lane_bounds(rng: Random) -> Made:
    """Distributions with roundings of their own, wide samples, heads and weights at bounds."""
    for d in (2, 81, 97, 127):
        flat = _contexts(d)
        loud = _Loud(rng, 0.4)
        yield from _lanes(f"shape-{d}", 16, 1, 640, [(0, [], [])] * 2, rng, 0, 0, loud, flat)
    for depth, level, flags in (
        *((32, 239, 0), (32, 200, 0), (31, 160, 0), (26, 120, 4), (25, 100, 0), (24, 191, 0)),
        *((24, 92, 0), (17, 60, 0), (16, 127, 0), (12, 239, 0), (8, 8, 0), (1, 0, 0)),
    ):
        for often in (0.5, 0.1):
            name, loud = f"level-{depth}-{level}-{often}", _Loud(rng, often)
            weights = [(1, [1], [])]
            yield from _lanes(name, depth, 1, 400, weights, rng, 0, flags, loud, level=level)
    for count in (1, 2):  # of a weight that is as large as may be, behind twenty zeros
        weights = [(15, [0] * 5 + [2**20 - count], [])]
        yield from _lanes(f"twenty-zeros-{count}", 24, 1, 160, weights, rng)
    good = next(_lanes("heads", 16, 2, 160, [(6, [1, 2], [3])] * 2, rng))
    yield good
    for place, value in ((0, 7), (0, 20), (0, 21), (1, 1), (1, 2), (2, 33), (3, 33), (8, 240)):
        payload = good.payload[:place] + bytes([value]) + good.payload[place + 1 :]
        yield replace(good, name=f"{good.name}-{place}-{value}", payload=payload)
    yield replace(good, name=f"{good.name}-setting", model=good.model[:7] + b"\1" + good.model[8:])
    floats = next(_lanes("heads-floats", 26, 1, 160, [(0, [], [])], rng, 5, flags=4))
    for depth in (32, 33):
        model = floats.model[:5] + bytes([depth]) + floats.model[6:]
        yield replace(floats, name=f"{floats.name}-{depth}", model=model)
    for first, last in ((0, 255), (9, 9), (255, 255), (255, 0)):
        some = _contexts(129, first, last)
        name = f"some-{first}-{last}"
        yield from _lanes(name, 16, 1, 160, [(0, [], [])], rng, contexts=some)
    for shape, scale, zeros in ((3, 0, 0), (0, 44, 0), (0, -1, 0), (0, 0, 21)):
        bits = rans.BitWriter()
        put_golomb(bits, (1 << zeros) - 1 if zeros else shape, 0)
        put_golomb(bits, folded(scale), 1)
        some = b"\0\0" + bits.finish()
        yield replace(good, name=f"{good.name}-of-{shape}-{scale}", model=good.model[:12] + some)


def sound_refusals(rng: Random) -> Made:
    """One for each refusal that is left."""
    good = next(_lanes("refused", 16, 2, 160, [(6, [1, 2], [3])] * 2, rng))
    states = 8 + 2 + 2 * 32 + int.from_bytes(good.payload[4:8], "little")
    wrong = good.payload[:states] + b"\xff\xff\0\0" + good.payload[states + 4 :]
    yield replace(good, name=f"{good.name}-state", payload=wrong)
    yield from _lanes("refused-weight", 24, 1, 160, [(15, [0] * 5 + [2**20], [])], rng)
    plain = next(_lanes("refused-plain", 8, 1, 320, [(0, [], [])], rng))
    for name, flags, size, places, bitmap in (
        ("nothing", 8, 1, 0, b"\0"),
        ("floats", 12, 4, 0, b"\1"),
        ("wide", 8, 3, 0, b"\1"),
        ("places", 8, 2, 1, b"\1"),
    ):
        packed = zstandard.compress(bitmap)
        values = struct.pack("<iHI", 0, 1, len(packed)) + packed
        model = struct.pack("<8BI", 12, 0, 1, size, flags, 8, places, 0, 0) + values
        model += plain.model[12:]
        yield replace(plain, name=f"{plain.name}-{name}", model=model, size=320 * size)
    for channels in (0, 33):
        model = plain.model[:2] + bytes([channels]) + plain.model[3:]
        yield replace(plain, name=f"{plain.name}-channels-{channels}", model=model)
    led = next(by_cascade("refused-led", [0, 3, 5, -2] * 60, 16, 1, 0, 0))
    yield replace(led, name=f"{led.name}-first", payload=b"\1" + led.payload[1:])
    yield replace(led, name=f"{led.name}-none", payload=b"")
    yield replace(led, name=f"{led.name}-behind", payload=led.payload + b"\0")
    wide = led.model[:3] + b"\4\0\x19" + led.model[6:]
    yield replace(led, name=f"{led.name}-deep", model=wide, size=2 * led.size)
    frame = Frame(60, VERBATIM)
    flac = case_of("refused", [frame, frame], [[0] * 120] * 2, 16)
    for place, value in ((2, 20), (6, 3), (2, 9)):
        model = flac.model[:place] + bytes([value]) + flac.model[place + 1 :]
        yield replace(flac, name=f"{flac.name}-{place}-{value}", model=model)


def _contexts(d: int, first: int = 0, last: int = 255) -> bytes:
    """A distribution for some contexts."""
    usual = audio.contexts_of(audio.Cursor(b"\1\0"))
    bits = rans.BitWriter()
    for i in range(first, last + 1):
        put_golomb(bits, d % 3, 0)
        put_golomb(bits, folded(d // 3 - usual[i] // 3), 1)
    return bytes([first, last]) + bits.finish()


def _lanes(
    name: str,
    depth: int,
    channels: int,
    count: int,
    weights: Sequence[tuple[int, Sequence[int], Sequence[int]]],
    rng: Random,
    start: int = 0,
    flags: int = 0,
    often: float | _Same = 0.0,
    contexts: bytes = b"\1\0",
    level: int = 0,
) -> Made:
    """Shift and weights of each block and channel; what is refused is what would be coded so."""
    size = 4 if flags & 4 else -(-depth // 8)
    model = struct.pack("<8BI", 12, 0, channels, size, flags, depth, 0, 0, 0) + contexts
    packed = rans.BitWriter()
    for shift, *lists in weights:
        packed.put(shift, 4)
        for some in lists[:channels]:
            order = 9
            packed.put(len(some), 6)
            for value in map(folded, some):
                put_golomb(packed, value, order)
                order = (order + (value >> 1).bit_length() + 1) >> 1
        if channels == 1:
            packed.put(0, 6)
    said = packed.finish()
    head = struct.pack("<BBBBI", 8, 0, 32, 32 * (channels > 1), len(said))
    head += bytes([level] * channels)
    head += start.to_bytes(-(-depth // 8), "little", signed=True) * 16 * channels + said
    drawn = _Same(rng, often) if isinstance(often, float) else often
    total = count * channels * size
    # Whatever the weights are, the same states follow: errors do not depend on samples
    decoder = codecs.parse_model(model)
    assert isinstance(decoder, audio.Model)
    with (
        mock.patch.object(audio, "States", lambda _: drawn),
        mock.patch.object(audio, "weights_of", lambda *_: _weights(weights, channels)),
        mock.patch.object(audio.Model, "sample", lambda self, c: b""),
        suppress(Refused),
    ):
        decoder.decode(head, total)
    payload = head + drawn.code()
    if len(payload) <= total:
        yield CodecCase(f"telling-audio-{name}", model, payload, total)


def _weights(
    weights: Sequence[tuple[int, Sequence[int], Sequence[int]]], channels: int
) -> list[list[audio.Weights]]:
    every = [audio.Weights(shift, [*own], [*other]) for shift, own, other in weights]
    return [every[at : at + channels] for at in range(0, len(every), channels)]
