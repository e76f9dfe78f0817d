"""Keys coded relative to what their rotated means predict: one compiled call for each direction.

An element is a symbol of 8 bits, whether its sign is the expected one and how far its magnitude is
from the expected one in half octaves, under one of eight Huffman codes by how much the prediction
says; and six bits that no code makes smaller. See docs/format/cache_page.md, way 3.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import deferred
from densor.errors import DensorError, FormatError, TruncatedError
from densor.torch import rotated
from densor.torch.rotated import Bits, Means

_EXPECT, _ENCODE, _DECODE = deferred(
    "densor.torch.rotated_coding_kernels", "expect", "encode", "decode"
)
# Contexts from which on the next code is used: of real keys those lose least, and of eight codes
# whose contexts are fitted to a page none takes less.
_BOUNDS = bytes((2, 4, 6, 9, 13, 20, 32))
_ERRORS: dict[int, tuple[type[DensorError], str]] = {
    1: (TruncatedError, "page of a cache ends too early"),
    2: (FormatError, "page of a cache has code lengths that are none"),
    3: (FormatError, "stream of a page does not end where it should"),
    4: (FormatError, "page of a cache has another number of escapes"),
    5: (FormatError, "page of a cache is longer than its content"),
}
_MAX_LIMIT = (1 << 31) - 1  # of a size, beyond any
_local = threading.local()


_MAX_KEPT = 1 << 22  # elements whose work space a thread keeps for the next page


class _Work:
    """Work space for pages of up to `size` elements, behind `before` bytes."""

    def __init__(self, size: int, before: int) -> None:
        self.size, self.before = size, before
        self.expected = np.zeros(size, np.uint16)
        self.groups, self.symbols, self.lows = (np.zeros(size, np.uint8) for _ in range(3))
        self.numbered = np.empty(size, np.uint16)
        self.out = np.empty(before + 3 * size + 4096, np.uint8)
        self.encoding = (
            np.empty(8192, np.uint32),
            np.empty(2048 + 272, np.uint32),
            np.empty(1280, np.int64),
            np.empty(256 + 6144, np.uint8),
        )
        self.decoding = (
            np.empty(8 * 2048, np.uint16),
            np.empty(272, np.uint32),
            np.empty(4, np.uint64),
            np.empty(256, np.uint8),
        )


def _work_for(size: int, before: int = 0) -> _Work:
    work: _Work | None = getattr(_local, "work", None)
    if work is None or work.size < size or work.before < before:
        work = _Work(size, before)
        if size <= _MAX_KEPT:
            _local.work = work
    return work


def _expect(means: Means, tokens: int, bounds: bytes, work: _Work) -> None:
    rows, _ = means.means.shape
    scales = rotated.scales_of(means.scales).reshape(-1)
    # Eight times the size of a mean, by its deviation, is at least the bound
    products = np.frombuffer(bounds, np.uint8).astype(np.int64)[:, None] * scales
    limits = np.minimum(-(-products >> 3), _MAX_LIMIT).astype(np.int32).reshape(-1)
    for begin, count, sine, cosine in rotated.turns_in_parts(means, tokens):
        _EXPECT(
            np.ascontiguousarray(means.means).reshape(-1),
            scales,
            sine.reshape(-1),
            cosine.reshape(-1),
            rows,
            tokens,
            begin,
            count,
            means.exponent,
            limits,
            work.expected,
            work.groups,
        )


def encode(bits: Bits, means: Means, before: bytes) -> memoryview | None:
    """BF16 of keys, uint16[rows, tokens, channels], behind the bytes `before`.

    None where many are far from the prediction. It is work space of this thread until its
    next page.
    """
    size = bits.size
    quarters = (size + 3) // 4 * 4
    work = _work_for(quarters, len(before))
    _expect(means, bits.shape[1], _BOUNDS, work)
    begin = len(before) + len(_BOUNDS)
    work.out[:begin] = np.frombuffer(before + _BOUNDS, np.uint8)
    end = _ENCODE(
        np.ascontiguousarray(bits).reshape(-1),
        work.expected,
        work.groups,
        work.out,
        begin,
        work.numbered,
        work.lows[:quarters],
        *work.encoding,
    )
    return memoryview(work.out)[:end] if end else None


def decode(data: memoryview, means: Means, tokens: int) -> Bits:
    """Undoes `encode`: uint16[rows, tokens, channels]; a DensorError for what is not sound."""
    rows, channels = means.means.shape
    size = rows * tokens * channels
    quarters = (size + 3) // 4 * 4
    if len(data) < len(_BOUNDS) + 3 * quarters // 4:  # before anything is made for it
        raise TruncatedError("page of a cache ends too early")
    work = _work_for(quarters)
    _expect(means, tokens, bytes(data[: len(_BOUNDS)]), work)
    bits: npt.NDArray[np.uint16] = np.empty(quarters, np.uint16)
    array: Any = np.frombuffer(data, np.uint8)
    error = _DECODE(
        array,
        len(_BOUNDS),
        size,
        work.expected[:quarters],
        work.groups[:quarters],
        bits,
        work.symbols[:quarters],
        *work.decoding,
    )
    if error:
        kind, text = _ERRORS[error]
        raise kind(text)
    return bits[:size].reshape(rows, tokens, channels)
