"""What compressors know about text: how surprising each byte is, and what may come next.

Also of rows of images and of sound: `generate_rows`, `generate_sound`.
And symbols of any kind under distributions that the caller has: `encode_symbols`.

>>> from densor.text import generate
>>> generate("densor", b"to be or not " * 99, 20, seed=1)[-20:]
b'to be or not to be o'
"""

import gzip
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.byte_cm import segment
from densor.codec.byte_cm.encoder import full_model
from densor.codec.byte_cm.params import MAX_SEGMENT
from densor.codec.byte_cm.segment import Segment
from densor.codec.language_model.meter import Cost, Meter
from densor.codec.language_model.session import Session
from densor.codec.zstd import zstd_compress
from densor.entropy.symbols import MAX_TOTAL, SymbolModel, cumulative
from densor.errors import ArgumentError, FormatError
from densor.formats.io.sources import as_bytes

Samples = npt.NDArray[np.uint8]


class ArrayCompressor(NamedTuple):
    """A compressor of arrays, uint8[height, width] or uint8[n], whose sizes imply probabilities.

    `window`: the last rows or samples that it is given.
    """

    pack: Callable[[Samples], bytes]
    window: int = 1 << 12


Compressor = Literal["densor", "zstd", "gzip"] | SymbolModel[Any] | Callable[[bytes], bytes]
_MEASURED = 1 << 20  # bytes whose tokens are measured at once
_WINDOW = 1 << 12  # last bytes that code lengths are asked for
_MAX_EXPANSION = 12  # coded bytes per byte: 12 bits per bit is the most that the coder spends

_BY_LENGTH: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstd_compress(data, 3),
    "gzip": lambda data: gzip.compress(data, 9),
}


def bits(data: Bytes) -> int:
    """Bits that the model of level 9 takes for `data`, uint8[n]."""
    return sum(8 * segment.coded(full_model(piece), piece).size for piece in _segments(data))


def surprise(data: Bytes) -> npt.NDArray[np.float64]:
    """Bits that the model of level 9 takes for each byte of `data`, uint8[n]; float64[n].

    These are bits on the coder's scale: minus the logarithm of the probability that the byte had.
    """
    found = [segment.surprise(full_model(piece), piece) for piece in _segments(data)]
    return np.concatenate([np.empty(0), *found])


def token_costs(
    data: Bytes, llm: Any, progress: Callable[[int], object] | None = None
) -> Iterator[Cost]:
    """What each token of `data`, uint8[n], takes under a language model, in order.

    `llm`: as for `densor.compress`. The bits are what `compress` spends, which mixes the model with
    that of level 9; 13 bytes for each segment, and what an archive has around, are left out.
    `progress` is called with bytes as they are done. UnsupportedError or ArgumentError where there
    is no such model.
    """
    if llm is None:
        raise ArgumentError("a language model must be given")
    data = as_bytes(data)
    session = Session(llm, progress)
    session.weights()
    for begin in range(0, data.size, _MEASURED):
        yield from Meter(data[begin : begin + _MEASURED], session).costs


def _segments(data: Bytes) -> Iterator[Bytes]:
    data = as_bytes(data)
    for begin in range(0, data.size, MAX_SEGMENT):
        yield data[begin : begin + MAX_SEGMENT]


def generate(compressor: Compressor, prompt: bytes, n: int, seed: int = 0) -> bytes:
    """`prompt` and `n` more bytes, drawn from what the compressor expects after it.

    `compressor`: `densor`, the model of level 9; a `SymbolModel` of bytes; or `zstd`, `gzip` or any
    function that compresses, which imply a probability of 2^-bits by the length of their result
    (Delétang and others, "Language Modeling Is Compression", section 3.5). The same seed gives the
    same bytes. ArgumentError for an unknown compressor, or more than 2^24 bytes in all.
    """
    if n < 0 or len(prompt) + n > MAX_SEGMENT:
        raise ArgumentError(f"prompt and bytes to generate are at most {MAX_SEGMENT}")
    rng = random.Random(seed)
    if compressor == "densor":
        return _decoded_noise(prompt, n, rng)
    if isinstance(compressor, str):
        if compressor not in _BY_LENGTH:
            raise ArgumentError(f"unknown compressor {compressor!r}")
        compressor = _BY_LENGTH[compressor]
    if callable(compressor):
        return _by_length(compressor, prompt, n, rng)
    return _from_model(compressor, prompt, n, rng)


def _are_bytes(array: Samples, dimensions: int) -> bool:
    is_array = isinstance(array, np.ndarray)
    return is_array and array.dtype == np.uint8 and array.ndim == dimensions


def _check_window(compressor: ArrayCompressor) -> None:
    if compressor.window < 1:
        raise ArgumentError("the window of a compressor has one row or sample at least")


def generate_rows(
    compressor: Compressor | ArrayCompressor, image: Samples, rows: int, seed: int = 0
) -> Samples:
    """`image`, uint8[height, width], and so many more rows below, uint8[height + rows, width].

    `compressor`: as for `generate`, of bytes row by row; or an `ArrayCompressor`, such as one of
    images, which is given whole rows each time: what is not drawn yet of the last one is as the
    row above. ArgumentError for other arrays.
    """
    if not _are_bytes(image, 2) or not isinstance(rows, int) or rows < 0:
        raise ArgumentError("an image is uint8[height, width], and its rows are not less than 0")
    height, width = image.shape
    if not isinstance(compressor, ArrayCompressor):
        drawn = generate(compressor, image.tobytes(), rows * width, seed)
        return np.frombuffer(drawn, np.uint8).reshape(height + rows, width)
    if not height:
        raise ArgumentError("a compressor of arrays needs a row to begin with")
    _check_window(compressor)
    rng = random.Random(seed)
    out = np.concatenate([image, np.repeat(image[-1:], rows, 0)])
    for row in range(height, height + rows):
        out[row] = out[row - 1]
        for column in range(width):
            part = out[max(0, row + 1 - compressor.window) : row + 1]
            out[row, column] = _drawn(compressor, part, (part.shape[0] - 1, column), rng)
    return out


def generate_sound(
    compressor: Compressor | ArrayCompressor, samples: Samples, n: int, seed: int = 0
) -> Samples:
    """`samples`, uint8[m], of one channel, and `n` more, uint8[m + n].

    `compressor`: as for `generate`, of bytes; or an `ArrayCompressor`, such as one of sound.
    ArgumentError for other arrays.
    """
    if not _are_bytes(samples, 1) or not isinstance(n, int) or n < 0:
        raise ArgumentError("sound is uint8[m] of one channel, and its length is not less than 0")
    if not isinstance(compressor, ArrayCompressor):
        return np.frombuffer(generate(compressor, samples.tobytes(), n, seed), np.uint8)
    _check_window(compressor)
    rng = random.Random(seed)
    out = np.concatenate([samples, np.zeros(n, np.uint8)])
    for at in range(samples.size, out.size):
        part = out[max(0, at + 1 - compressor.window) : at + 1]
        out[at] = _drawn(compressor, part, (part.size - 1,), rng)
    return out


def _drawn(
    compressor: ArrayCompressor, part: Samples, place: tuple[int, ...], rng: random.Random
) -> int:
    """A value for one place of an array, by what each makes the compressor take."""
    sizes = []
    for value in range(256):
        part[place] = value
        sizes.append(len(compressor.pack(part)))
    return _by_sizes(sizes, rng)


def _by_sizes(sizes: list[int], rng: random.Random) -> int:
    least = min(sizes)
    return rng.choices(range(256), [2.0 ** (8 * (least - size)) for size in sizes])[0]


def _decoded_noise(prompt: bytes, n: int, rng: random.Random) -> bytes:
    """Random bits, decoded by a model that has seen the prompt: just what it expects."""
    content = np.frombuffer(prompt + bytes(n), np.uint8).copy()
    model = Segment(full_model(content[: len(prompt)]), content)
    model.start(True, np.empty(_MAX_EXPANSION * len(prompt) + 4, np.uint8))
    model.code(len(prompt))
    model.start(False, np.frombuffer(rng.randbytes(_MAX_EXPANSION * n + 4), np.uint8).copy())
    model.code(content.size)
    return content.tobytes()


def _by_length(
    compress: Callable[[bytes], bytes], prompt: bytes, n: int, rng: random.Random
) -> bytes:
    text = bytearray(prompt)
    for _ in range(n):
        context = bytes(text[-_WINDOW:])
        sizes = [len(compress(context + bytes([byte]))) for byte in range(256)]
        text.append(_by_sizes(sizes, rng))
    return bytes(text)


def _from_model(model: SymbolModel[Any], prompt: bytes, n: int, rng: random.Random) -> bytes:
    if not hasattr(model, "alphabet"):
        raise ArgumentError(f"{model!r:.80} is no compressor")
    if model.alphabet != 256:
        raise ArgumentError(f"the model has {model.alphabet} symbols, bytes are 256")
    text = bytearray(prompt)
    state = model.start()
    for byte in prompt:
        state = model.update(state, byte)
    for _ in range(n):
        bounds = cumulative(model, state)
        byte = bisect_right(bounds, rng.randrange(bounds[-1])) - 1
        text.append(byte)
        state = model.update(state, byte)
    return bytes(text)


def encode_symbols(symbols: npt.ArrayLike, frequencies: npt.ArrayLike) -> bytes:
    """Codes `symbols`, integers[n], each from 0 to k - 1, under a distribution of its own.

    `frequencies`: integers[n, k] from 0 on, how likely each symbol is at each place, in proportion
    to the sum of the row; k is from 2 to 2^22. It takes about -log2(frequency / sum) bits for each
    symbol, but at most 24, and up to 8 bytes (the range coder of the library `constriction`). What
    decodes must have the very same frequencies; neither these nor n are stored. ArgumentError for
    others, or for a symbol of frequency 0. Where a distribution depends on the symbols before it,
    see `densor.entropy.symbols`.
    """
    from densor.entropy.explicit import encode_categorical

    rows = _distributions(frequencies)
    numbers = np.asarray(symbols)
    if numbers.shape != rows.shape[:1] or (numbers.dtype.kind not in "iu" and numbers.size):
        raise ArgumentError("symbols must be integers, one for each distribution")
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < rows.shape[1]:
        raise ArgumentError(f"symbols must be from 0 to {rows.shape[1] - 1}")
    if not rows[np.arange(len(rows)), numbers.astype(np.int64)].all():
        raise ArgumentError("symbol has no probability")
    words = encode_categorical(numbers.astype(np.int32), rows)
    return words.astype("<u4").tobytes()


def decode_symbols(data: bytes, frequencies: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """The symbols, int32[n], that `encode_symbols` coded under the same distributions.

    FormatError for data that it does not write; damage that happens to give other symbols is not
    noticed.
    """
    from densor.entropy.explicit import decode_categorical

    rows = _distributions(frequencies)
    if len(data) % 4:
        raise FormatError("symbols are not in whole words of 4 bytes")
    symbols = decode_categorical(np.frombuffer(data, "<u4"), rows)
    if not rows[np.arange(len(rows)), symbols].all():
        raise FormatError("symbols are damaged, or of other distributions")
    return symbols


def _distributions(frequencies: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Frequencies as floats, which are exact; ArgumentError for what are none."""
    rows = np.asarray(frequencies)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ArgumentError("frequencies must be integers of two dimensions")
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) <= MAX_TOTAL:
        raise ArgumentError("frequencies must be from 0 to 2^32")
    return rows.astype(np.float64)
