"""What finds element types in bytes that no parser claims: any bytes are cut into pieces."""

from random import Random

import numpy as np
from helpers import weights

from densor.codec.batch import Batch
from densor.codec.kind import BYTES, is_plain
from densor.codec.levels import level_settings
from densor.codec.types.divide import divide
from densor.codec.types.find import find_stretches, region_of
from densor.runtime.workers import Workers
from fuzz.target import Target, Wrong

_LEVELS = (1, 3, 5)


def run(data: bytes) -> object:
    """Pieces cover all, hold whole elements, and are found again in the same bytes."""
    array = np.frombuffer(data, np.uint8)
    for stretch in find_stretches(array):
        if not 0 <= stretch.begin <= stretch.end <= array.size:
            raise Wrong("a stretch beyond the data")
        region = region_of(array, stretch)
        if region is not None and not 0 <= region.begin < region.end <= array.size:
            raise Wrong("a region beyond the data")
    found = []
    for number in _LEVELS:
        level = level_settings(number)
        pieces = divide(Batch(array, BYTES, Workers(1)), level)
        if pieces != divide(Batch(array, BYTES, Workers(1)), level):
            raise Wrong("the same bytes are cut in another way")
        if [piece.begin for piece in pieces] != [0, *[piece.end for piece in pieces[:-1]]]:
            raise Wrong("pieces leave a gap or overlap")
        if pieces[-1].end != array.size:
            raise Wrong("pieces do not end with the data")
        for piece in pieces:
            if not is_plain(piece.kind) and (piece.end - piece.begin) % piece.kind.unit:
                raise Wrong("a piece of elements that are not whole")
        found.append(tuple(piece.kind.dtype for piece in pieces))
    return found[0], len(found[1])


def seeds() -> list[bytes]:
    """Numbers of several types at odd offsets, texts, noise, and what is too small."""
    rng = Random("fuzz types")
    text = b"".join(b"line %d of a text, with words\n" % rng.randrange(999) for _ in range(300))
    numbers = [weights(kind, 64, 70).tobytes() for kind in ("bf16", "fp16", "fp32")]
    steps = np.cumsum(np.arange(1200) % 7).astype("<i8").tobytes()
    mixed = text[:4001] + numbers[0] + bytes(4001)
    noisy = rng.randbytes(4097) + steps + text[:4000]
    return [b"", bytes(8192), text, *(b"abc" + one for one in numbers), steps, mixed, noisy]


TARGETS = (Target("types", run, seeds, most_memory=1 << 27),)  # pools of Zstandard and buffers
