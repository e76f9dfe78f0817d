"""Random changes of bytes, which know a little of what stands in files: lengths, counts, text."""

import re
import struct
from collections.abc import Sequence
from random import Random

_BYTES = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 63, 64, 127, 128, 200, 254, 255)
_WORDS = (0, 1, 2, 7, 8, 64, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_LONGS = (*_WORDS, 1 << 32, 1 << 40, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_NUMBERS = (b"0", b"-1", b"1", b"63", b"65", b"4294967296", b"9223372036854775807", b"1e9", b"0.5")
_FORMS = ("<B", "<H", "<I", "<Q", ">H", ">I", ">Q")
_NEAR_BEGIN = 96  # heads are short, and most of what can go wrong stands there
_MOST = 1 << 17  # bytes that an input may grow to


def mutated(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to a few changes. `others`: where pieces may be taken from."""
    out = bytearray(data)
    changes = 1
    while changes < 16 and rng.random() < 0.45:
        changes += 1
    for _ in range(changes):
        _change(out, rng, others)
    return bytes(out[:_MOST])


def _place(size: int, rng: Random) -> int:
    """Somewhere from 0 to `size`, often near the start, sometimes at the end."""
    kind = rng.random()
    if kind < 0.4:
        return rng.randrange(min(size, _NEAR_BEGIN) + 1)
    if kind < 0.55:
        return size - rng.randrange(min(size, _NEAR_BEGIN) + 1)
    return rng.randrange(size + 1)


def _length(rng: Random) -> int:
    return rng.choice((1, 1, 2, 3, 4, 4, 8, 8, rng.randrange(1, 64)))


def _change(out: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    at = _place(len(out), rng)
    action = rng.randrange(12)
    if action <= 1 and at < len(out):
        out[at] ^= 1 << rng.randrange(8)
    elif action == 2 and at < len(out):
        out[at] = rng.choice(_BYTES)
    elif action == 3 and at < len(out):
        out[at] = (out[at] + rng.choice((-2, -1, 1, 2))) % 256
    elif action <= 5:
        _number(out, at, rng)
    elif action == 6:
        del out[at : at + _length(rng)]
    elif action == 7:
        out[at:at] = out[at : at + _length(rng)]
    elif action == 8:
        out[at:at] = rng.randbytes(_length(rng))
    elif action == 9:
        _digits(out, at, rng)
    elif action == 10 and others:
        other = rng.choice(others)
        begin = _place(len(other), rng)
        out[at : at + _length(rng)] = other[begin : begin + _length(rng)]
    elif rng.random() < 0.5:
        del out[at:]
    else:
        piece = out[at : at + _length(rng)]
        begin = _place(len(out), rng)
        out[begin : begin + len(piece)] = piece


def _number(out: bytearray, at: int, rng: Random) -> None:
    """Replaces an integer, or adds a little to it."""
    form = rng.choice(_FORMS)
    size = struct.calcsize(form)
    if at + size > len(out):
        return
    most = (1 << 8 * size) - 1
    if rng.random() < 0.5:
        value = rng.choice(_LONGS) + rng.choice((-1, 0, 0, 1))
    else:
        value = struct.unpack_from(form, out, at)[0] + rng.randrange(-9, 10)
    struct.pack_into(form, out, at, value & most)


def _digits(out: bytearray, at: int, rng: Random) -> None:
    """Replaces a number that is written in digits, as in JSON, the next one from `at` on."""
    begin = next((i for i in range(at, min(len(out), at + 64)) if 48 <= out[i] <= 57), None)
    if begin is None:
        return
    end = begin
    while end < len(out) and 48 <= out[end] <= 57:
        end += 1
    out[begin:end] = rng.choice(_NUMBERS)


def mutated_text(text: bytes, pieces: Sequence[bytes], rng: Random) -> bytes:
    """A text with pieces put in, doubled, moved and taken out, and numbers changed."""
    out = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, action = rng.randrange(len(out) + 1), rng.randrange(5)
        if action <= 1:
            out[at : at + action * rng.randrange(1, 6)] = rng.choice(pieces)
        elif action == 2:
            del out[at : at + rng.randrange(1, 30)]
        elif action == 3:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other : other + rng.randrange(1, 150)]
        else:
            _decimal(out, rng)
    return bytes(out[: 1 << 16])


def _decimal(text: bytearray, rng: Random) -> None:
    places = list(re.finditer(rb"\d+", text))
    if places:
        place = rng.choice(places)
        near = int(place.group()) + rng.choice((-1, 1))
        most = rng.choice((b"0", b"4294967296", b"9" * 18, b"9" * 19, b"%d" % max(near, 0)))
        text[place.start() : place.end()] = most
