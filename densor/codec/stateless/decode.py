"""Decodes a piece that was coded by itself."""

import threading

import numpy as np
import xxhash

from densor.codec.batch import Bytes
from densor.codec.stateless import layout as t
from densor.codec.zstd import zstd_decompress_into
from densor.entropy.deferred import deferred
from densor.errors import ChecksumError, DensorError, FormatError, TruncatedError

decode_piece = deferred("densor.codec.stateless.decode_kernels", "decode_piece")

_ERRORS: dict[int, tuple[type[DensorError], str]] = {
    t.TOO_SHORT: (TruncatedError, "piece ends too early"),
    t.UNKNOWN_MODE: (FormatError, "plane of a piece has an unknown mode"),
    t.NOT_A_CODE: (FormatError, "code lengths of a piece are not those of a code"),
    t.BAD_STREAM: (FormatError, "stream of a piece does not end where it should"),
    t.TOO_LONG: (FormatError, "piece is longer than its content"),
    t.WRONG_CHECK: (ChecksumError, "content of a piece has another checksum"),
}
_local = threading.local()


class _Work:
    """Work space of a thread."""

    def __init__(self) -> None:
        self.planes = np.empty(0, np.uint8)
        self.rest = (
            np.empty((1, 1 << 12), np.uint64),
            np.empty(8200, np.uint64),
            np.empty(t.CODES, np.uint32),
            np.empty(8, np.int64),
            np.empty(t.EDGE, np.uint8),
            np.empty(256, np.uint8),
        )


def size_of(data: Bytes) -> int:
    """Bytes that a piece decodes to, from its header."""
    if data.size < t.HEAD:
        raise TruncatedError(f"piece ends after {data.size} of the {t.HEAD} bytes of its header")
    return int(data[1]) | int(data[2]) << 8 | int(data[3]) << 16


def decode_into(data: Bytes, out: Bytes) -> None:
    """Fills `out`, of `size_of(data)` bytes, with what a piece holds.

    An error leaves anything in `out`.
    """
    way, phase = int(data[0]) & 15, int(data[0]) >> 4
    if way in t.ELEMENTS:
        _decode_elements(data, way, phase, out)
        return
    if way > t.ZSTD or phase:
        raise FormatError(f"piece is coded in an unknown way, {int(data[0])}")
    if way == t.ZSTD:
        zstd_decompress_into(data[t.HEAD :], out)
    elif data.size != t.HEAD + out.size:
        raise FormatError("piece has not the size that its header says")
    else:
        out[:] = data[t.HEAD :]
    if xxhash.xxh3_64_digest(out)[:3:-1] != data[4:8].tobytes():
        _fail(t.WRONG_CHECK)


def _decode_elements(data: Bytes, way: int, phase: int, out: Bytes) -> None:
    layout, size = t.ELEMENTS[way]
    if phase >= size or out.size < phase + size:
        raise FormatError("piece has an impossible phase or size")
    work: _Work | None = getattr(_local, "work", None)
    if work is None:
        work = _local.work = _Work()
    if work.planes.size < out.size:
        work.planes = np.empty(out.size, np.uint8)
    error = decode_piece(data, layout, size, phase, out, work.planes, *work.rest)
    if error:
        _fail(error)


def _fail(error: int) -> None:
    kind, text = _ERRORS[error]
    raise kind(text)
