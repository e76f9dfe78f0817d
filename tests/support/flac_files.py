"""FLAC files of all sorts of frames, by the reference's maker of frames."""

from random import Random

from reference import flac

DEPTHS = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}


class _Written:
    """What frames say, on its way into them."""

    def __init__(self) -> None:
        self.heads: list[int] = []
        self.params: list[int] = []
        self.weights: list[int] = []

    def said(self) -> flac.Said:
        found = flac.Said(bytes(self.heads), b"", list(self.weights))
        found.parts["params"] = list(self.params)
        return found


def flac_frames(rng: Random, channels: int, depth: int, count: int = 4) -> bytes:
    """`count` frames, of fixed or of varying size, and sometimes a tail."""
    written = _Written()
    variable = rng.random() < 0.3
    samples: list[list[int]] = [[] for _ in range(channels)]
    sizes = [rng.choice((16, 64, 192)) for _ in range(count)]
    for i, size in enumerate(sizes if variable else [sizes[0]] * count):
        kind = rng.choice((channels - 1, 8, 9, 10) if channels == 2 else (channels - 1,))
        rate = rng.choice((9, 9, 0, 12, 13, 14))
        block, more = (1, b"") if size == 192 else rng.choice(
            ((6, bytes([size - 1])), (7, bytes([0, size - 1])))
        )  # fmt: skip
        more += bytes(flac.RATE_BYTES.get(rate, 0))
        written.heads += [2 if rng.random() < 0.8 else 0, 255, 248 | variable]
        written.heads += [block << 4 | rate, kind << 4 | DEPTHS[depth] << 1, *more]
        if not written.heads[-len(more) - 5] & 2:
            number = rng.choice((i, 127, 2**11, 2**20, 2**35))
            written.heads += [number >> 8 * k & 255 for k in range(5)]
        _frame(rng, written, samples, size, depth)
    made = flac.frames(samples, depth, written.said())
    return made + bytes(rng.choice((0, 0, 128)))


def _frame(rng: Random, written: _Written, samples: list[list[int]], size: int, depth: int) -> None:
    """Adds samples of a frame, and what its subframes say."""
    wasted = rng.choice((0, 0, 0, 2))
    constant = rng.random() < 0.15
    most = (1 << (depth - 1)) - 1
    for channel in samples:
        value, speed = rng.randint(-most // 3, most // 3), 0.0
        for _ in range(size):
            channel.append(max(-most, min(most, int(value))) >> wasted << wasted)
            speed = 0.8 * speed + rng.gauss(0, most / 500)
            value += 0 if constant else speed
    for _ in samples:
        _subframe(rng, written, size, depth, wasted, constant)


def _subframe(
    rng: Random, written: _Written, size: int, depth: int, wasted: int, constant: bool
) -> None:
    order = rng.choice((1, 2, 8, 12))
    kind = 0 if constant else rng.choice((1, 8, 9, 10, 11, 12, 31 + order))
    written.heads.append(kind << 1 | (wasted > 0))
    written.heads += [wasted] if wasted else []
    if kind < 8:
        return
    if kind >= 32:
        written.heads += [12, 9]
        written.weights += [700, -250, *(rng.randint(-20, 20) for _ in range(10))][:order]
    method, log = rng.choice((0, 1)), rng.choice((0, 1, 2)) if order < 12 and size > 16 else 0
    written.heads.append(method << 4 | log)
    for _ in range(1 << log):
        escaped = rng.random() < 0.1
        usual = rng.randint(max(2, depth - 10), min(14, depth + 2))
        written.params.append(32 + 27 if escaped else usual)


def flac_file(frames: bytes, channels: int, depth: int) -> bytes:
    """A file with a comment."""
    fields = 44100 << 44 | (channels - 1) << 41 | (depth - 1) << 36
    info = bytes(10) + fields.to_bytes(8, "big") + bytes(16)
    comment = bytes(8)
    return b"fLaC\0\0\0\x22" + info + b"\x84\0\0\x08" + comment + frames
