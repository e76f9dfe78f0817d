"""Chunks of sound whose samples are given, for `make_telling.py`: silence, bursts, full scale.

The slow decoder of cascades runs, and each error is chosen so that the wanted sample follows.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Any
from unittest import mock

from chosen_bits import Chosen
from codec_cases import CodecCase
from reference import audio_cascade, codecs
from reference.reading import Refused

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


def by_cascade(
    name: str, samples: Sequence[int], depth: int, channels: int, setting: int, first: int
) -> Made:
    """A chunk of these samples, where it is smaller than they are."""
    size = -(-depth // 8)
    head = struct.pack("<8BI", 12, 1, channels, size, 0, depth, 0, setting, 0)
    count = len(samples) // channels
    first = first if channels == 2 else 0
    order = [first, 1 - first] if channels == 2 else range(channels)
    wanted = iter([samples[i * channels + c] for i in range(count) for c in order])
    bits: list[int] = []
    coder = Chosen(lambda p: bits.pop(0))
    error_of = audio_cascade.error_of

    def steered(counters: Any, channel: Any, predicted: int) -> int:
        f = counters.f
        error = audio_cascade.signed(next(wanted) - ((predicted + 2**f // 2) >> f), depth)
        bits[:] = _bits_of(
            error, max(0, (audio_cascade.level(channel.averages[1] >> 4) >> 2) - 1 - f)
        )
        return error_of(counters, channel, predicted)

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
