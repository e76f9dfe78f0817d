"""Chunks of images whose samples are given, for `make_telling.py`: few of them, at all bounds.

The slow decoders by mixing, with and without windows, and by residuals run; each bit is the one
that the wanted sample needs. Rows are padded where what no model expects is larger than it was.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any
from unittest import mock

from chosen_bits import Chosen
from codec_cases import CodecCase
from reference import codecs, image, image_residual, rans
from reference.reading import Refused
from telling_chunks import by_gradients

Made = Iterator[CodecCase]
MIXING, RESIDUALS, WINDOWS = 1, 2, 3
FEW, MANY = 120, 1500  # samples that take the slow decoder some time, of many bits and of one


def given_images(rng: Random) -> Made:
    """All three methods: samples of all depths, one to five channels, edges of 8 columns."""
    shapes = (
        *((1, 1, 9), (1, 2, 5), (1, 3, 12), (1, 7, 6), (1, 8, 5), (1, 9, 7), (1, 17, 4)),
        *((2, 3, 8), (2, 8, 4), (3, 1, 6), (3, 5, 4), (3, 9, 3), (4, 4, 4), (5, 2, 4)),
    )
    number = 0
    for content in CONTENTS:
        for depth in (1, 2, 5, 8, 8, 9, 12, 16):
            for method in (MIXING, RESIDUALS, WINDOWS):
                number += 1
                channels, width, rows = rng.choice(shapes)
                contexts = 0 if method == RESIDUALS else rng.choice((1, 5, 9, 11, 12, 13, 14, 16))
                steps = rng.choice((0, 1, 3, 12, 32))
                layout = channels, width, rows, depth
                samples = contents(content, layout, rng)
                colour = 4 * (channels > 2 and rng.random() < 0.3)
                head = method, colour, contexts, steps
                yield from of_samples(f"{content}-{number}", layout, head, samples)
    yield from long_images(rng)


def long_images(rng: Random) -> Made:
    """Of one bit or two, so that what counts comes to its end."""
    for method in (MIXING, RESIDUALS, WINDOWS):
        for content in ("same", "turns", "rare"):
            for depth, channels in ((1, 1), (1, 2), (2, 1)):
                contexts = {RESIDUALS: 0, MIXING: 5, WINDOWS: 16}[method]
                size = 400 if method == WINDOWS else MANY
                layout = channels, 20, size // 20 // channels, depth
                samples = contents(content, layout, rng)
                name = f"long-{content}-{depth}-{channels}-{method}"
                yield from of_samples(name, layout, (method, 0, contexts, 1), samples)


def bounds(rng: Random) -> Made:
    """Fields of models at their bounds, and chunks of too many bytes."""
    plain = {"method": 1, "channels": 1, "flags": 0, "depth": 8, "colour": 0}
    plain |= {"first": 1, "second": 0, "padding": 0, "shift": 0, "width": 3}

    def case(size: int, more: bytes = b"", **fields: int) -> CodecCase:
        model = struct.pack("<10BI", image.CODEC, *(plain | fields).values()) + more
        name = "-".join(f"{key}-{value}" for key, value in fields.items())
        payload = rng.randbytes(min(size, 9))
        return CodecCase(f"telling-image-bound-{name}-{size}{more.hex()}", model, payload, size)

    for method in (MIXING, RESIDUALS, WINDOWS):
        first = int(method != RESIDUALS)
        for width in (2**15, 2**15 + 1, 2**19, 2**19 + 1):
            yield case(5, method=method, first=first, width=width)
        for width in (512, 513, 2**13, 2**13 + 1):
            yield case(5, method=method, first=first, width=width, channels=64)
        for size in (2**24, 2**24 + 64):
            yield case(size, method=method, first=first, width=64)
        for wrong in (0, 16, 17):
            yield case(9, method=method, first=wrong)
    yield case(9, method=4)
    yield case(9, method=4, first=0)
    yield case(9, flags=16)
    for zoom in (b"\0\2", b"\2\0", b"\x11\1", b"\1\x10", b"\2\2"):
        yield case(48, zoom, flags=8)
    head = (0, 3, 0, 8, 0, 1, 8, 0, 0, 9)
    good = None
    while good is None:  # smaller than what it decodes to
        good = by_gradients("telling-image-bound-gradients", head, b"", 40, rng)
    yield good
    for place, values in ((5, (4, 5)), (6, (0, 16, 17)), (7, (0, 8, 9)), (4, (0, 9)), (1, (4,))):
        for value in values:
            model = good.model[:place] + bytes([value]) + good.model[place + 1 :]
            yield replace(good, name=f"{good.name}-{place}-{value}", model=model)
    for symbol in (163, 164, 255):
        frequencies = [[2048 * (k in (0, symbol)) for k in range(256)]] * 39
        model = good.model[:14] + rans.pack(frequencies)
        yield replace(good, name=f"{good.name}-symbol-{symbol}", model=model)


CONTENTS = (
    *("same", "ends", "turns", "noise", "ramp", "steps", "blocks", "again", "rare", "smooth"),
    *("columns", "rows", "far", "beside"),
)
Layout = tuple[int, int, int, int]  # channels, width, rows, bits of a sample


def contents(name: str, layout: Layout, rng: Random) -> list[int]:
    """Samples in the order of a file."""
    channels, width, rows, depth = layout
    top = 2**depth - 1
    found = []
    patch = [rng.randint(0, top) for _ in range(7 * channels)]
    first = rng.choice((0, top, top // 2))
    for y in range(rows):
        for x in range(width):
            for c in range(channels):
                at = (y * width + x) * channels + c
                found.append(
                    {
                        "same": first,
                        "ends": rng.choice((0, top)),
                        "turns": top * ((x + y + c) & 1),
                        "noise": rng.randint(0, top),
                        "ramp": (x * 9 + y * 5 + c * 3) * top // 150,
                        "steps": top * (x // 3 & 1),
                        "blocks": (x // 3 * 37 + y // 2 * 91 + 11 * c) % (top + 1),
                        "again": patch[at % len(patch)],
                        "rare": top - first if rng.random() < 0.03 else first,
                        "smooth": top // 2 + rng.randint(-2, 2) + x - y,
                        "columns": patch[x % 7],
                        "rows": patch[y % 7],
                        "far": top * (y > rows // 2) - (x & 1) * (top // 3),
                        "beside": patch[0] + (x * y % 5) + 2 * c,
                    }[name]
                )
    return [min(max(value, 0), top) for value in found]


def of_samples(
    name: str, layout: Layout, head: tuple[int, int, int, int], samples: list[int]
) -> Made:
    """A chunk of these samples, its rows as long as its stream needs."""
    channels, width, rows, depth = layout
    method, colour, contexts, steps = head
    wide = int(depth > 8)
    if colour:  # planes are g, r, b
        for at in range(0, len(samples), channels):
            samples[at : at + 2] = samples[at + 1], samples[at]
    coder = Steered(samples, depth)
    stride = width * channels * (1 + wide)

    def model(padding: int) -> bytes:
        fields = 11, method, channels, wide, depth, colour, contexts, steps, padding, 0, width
        return struct.pack("<10BI", *fields)

    with (
        mock.patch.object(image, "Arithmetic", lambda data: coder),
        mock.patch.object(image_residual, "Arithmetic", lambda data: coder),
        mock.patch.object(image_residual.Residuals, "decision", coder.decision()),
        mock.patch.object(image_residual.Residuals, "decisions", coder.decisions()),
        suppress(Refused),
    ):
        codecs.parse_model(model(0)).decode(b"", stride * rows)
    payload = coder.finish()
    padding = max(0, -(-(len(payload) - stride * rows) // rows))
    if padding < 256:
        total = rows * (stride + padding)
        yield CodecCase(f"telling-image-{name}", model(padding), payload, total)


class Steered(Chosen):
    """Bits of given samples, the highest first, or what is decided about them."""

    def __init__(self, samples: list[int], depth: int) -> None:
        super().__init__(self._next)
        self.at = 0
        self.samples, self.depth = samples, depth
        self.asked = 0  # bits, or samples by residuals

    def _next(self, p: int) -> int:
        at, b = divmod(self.asked, self.depth)
        self.asked += 1
        return self.samples[at] >> (self.depth - 1 - b) & 1

    def decisions(self) -> Callable[..., int]:
        """Stands for `Residuals.decisions`."""
        first = image_residual.Residuals.decisions

        def decided(*arguments: Any) -> int:
            found = first(*arguments)
            self.asked += 1
            return found

        return decided

    def decision(self) -> Callable[..., int]:
        """Stands for `Residuals.decision`."""
        first = image_residual.Residuals.decision

        def decided(residuals: Any, c: int, t: int, *others: Any) -> int:
            self.choose = lambda p: int(self.samples[self.asked] >= t)
            return first(residuals, c, t, *others)

        return decided
