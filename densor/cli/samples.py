"""Made samples of every kind of data, sent through the codecs: to warm the kernels, to test them.

The numbers are normal, with a scale of their own in each row, as weights of a network are.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import densor
from densor.errors import ChecksumError

Array = npt.NDArray[Any]
WARM_BYTES = 1 << 18  # from 64 KiB on a batch takes the way that large ones take
_WORDS = b"the quick brown fox jumps over a lazy dog, and again: "


class Trip(NamedTuple):
    """One sample that went in and came back."""

    name: str
    level: int
    original: int  # bytes
    stored: int
    compress_s: float
    decompress_s: float


def _rows(size: int, dtype: Any) -> Array:
    columns = 512
    random = np.random.default_rng(1)
    rows = max(size // columns, 1)
    scale = np.exp(random.normal(0, 0.5, (rows, 1))) * 0.02
    found: Array = (random.standard_normal((rows, columns)) * scale).astype(dtype)
    return found


def _bf16(size: int) -> Array:
    return (_rows(size // 2, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _fp8(size: int) -> Array:
    """Bits 7 to 14 of FP16 numbers: in their spread close to E4M3."""
    return (_rows(size, np.float16).view(np.uint16) >> 7).astype(np.uint8)


def _masked(data: Array) -> Array:
    """Without nine numbers of ten."""
    kept = np.random.default_rng(4).random(data.shape) < 0.1
    found: Array = np.where(kept, data, data.dtype.type(0))
    return found


def _mixed(size: int) -> Array:
    """As in a file of a format that nobody knows: weights of two types after some text."""
    parts = (_text(size)[1:], _rows(size // 2, np.float32), _bf16(size // 2), _text(size // 2))
    return np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])


def _text(size: int) -> Array:
    words = np.array(_WORDS.split(b" "), dtype=object)
    random = np.random.default_rng(2)
    text: bytes = b" ".join(words[random.integers(0, words.size, size // 5)])
    return np.frombuffer(text[:size], np.uint8)


def _image(size: int) -> Array:
    side = int(size**0.5)
    y, x = np.mgrid[:side, :side]
    noise = np.random.default_rng(3).integers(0, 5, (side, side))
    found: Array = ((x // 3 + y // 5 + noise) % 256).astype(np.uint8)
    return found


class Sample(NamedTuple):
    """A kind of data: `make` gives about so many bytes of it."""

    make: Callable[[int], Array]
    dtype: str | None = None  # what its elements really are
    told: bool = True  # or bytes, whose type is found


SAMPLES = {
    "BF16": Sample(_bf16, "bf16"),
    "FP16": Sample(lambda size: _rows(size // 2, np.float16)),
    "FP32": Sample(lambda size: _rows(size // 4, np.float32)),
    "FP8": Sample(_fp8, "f8_e4m3"),
    "text": Sample(_text),
    "image": Sample(_image),
}


LESSER = {  # what else is in files of weights, and takes other kernels
    "FP32 of FP16": Sample(lambda size: _rows(size // 4, np.float16).astype(np.float32)),
    "FP64": Sample(lambda size: _rows(size // 8, np.float64)),
    "INT8": Sample(lambda size: (_rows(size, np.float32) * 1000).astype(np.int8)),
    "INT64": Sample(lambda size: np.arange(size // 8, dtype=np.int64)),
    "masked FP32": Sample(lambda size: _masked(_rows(size // 4, np.float32))),
    "unknown bytes": Sample(lambda size: _rows(size // 4, np.float32).view(np.uint8), told=False),
    "mixed bytes": Sample(lambda size: _mixed(size // 4), told=False),
    "small BF16": Sample(lambda size: _bf16(size >> 5), "bf16"),
    "small FP32": Sample(lambda size: _rows(size >> 7, np.float32)),
    "small INT64": Sample(lambda size: np.arange(size >> 7, dtype=np.int64)),
    "small FP32 of FP16": Sample(lambda size: _rows(size >> 7, np.float16).astype(np.float32)),
}


def changed(data: Array) -> Array:
    """The lowest bit of every tenth number turned, as the next checkpoint may have it."""
    moved = data.copy()
    flat = moved.reshape(-1)
    flat[::10] ^= 1
    return moved


def round_trip(name: str, level: int, size: int, threads: int) -> Trip:
    """One sample, there and back; ChecksumError unless it comes back bit for bit."""
    sample = SAMPLES.get(name) or LESSER[name]
    data = sample.make(size)
    given = data if sample.told else data.tobytes()
    return _timed(name, level, given, threads, dtype=sample.dtype)


def delta_trip(level: int, size: int, threads: int) -> Trip:
    """BF16 numbers coded against others of which a tenth differs."""
    base = SAMPLES["BF16"].make(size)
    return _timed(CHANGED, level, changed(base), threads, dtype="bf16", base=base)


def _timed(name: str, level: int, data: Array | bytes, threads: int, **options: Any) -> Trip:
    begin = time.perf_counter()
    packed = densor.compress(data, level, threads, **options)
    coded = time.perf_counter()
    back = densor.decompress(packed, threads, base=options.get("base"))
    decoded = time.perf_counter()
    if _digest(back) != _digest(data):
        raise ChecksumError(f"{name} at level {level} did not come back as it was")
    size = memoryview(data).nbytes
    return Trip(name, level, size, len(packed), coded - begin, decoded - coded)


def _digest(data: Array | bytes) -> bytes:
    whole = data if isinstance(data, bytes) else np.ascontiguousarray(data)
    return hashlib.sha256(whole).digest()


CHANGED = "BF16 --base"  # in place of a sample: BF16 numbers against others


def all_at(levels: Sequence[int]) -> list[tuple[str, int]]:
    """Names of all samples, the lesser ones too, and `CHANGED`, with each of these levels."""
    return [(name, level) for level in levels for name in (*SAMPLES, *LESSER, CHANGED)]


def trips(chosen: Iterable[tuple[str, int]], size: int) -> Iterator[Trip]:
    """Samples at levels, as `all_at` lists them, with one thread; the slow levels on little."""
    for name, level in chosen:
        given = size if level < 9 else size // 16
        if name == CHANGED:
            yield delta_trip(level, given, 1)
        else:
            yield round_trip(name, level, given, 1)
