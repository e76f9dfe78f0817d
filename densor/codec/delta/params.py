"""The model of change-coded chunks: how changes become tokens, contexts, and their frequencies."""

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.delta.tokens import Method, token_table
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.entropy.rans import tables
from densor.errors import FormatError, UnsupportedError

MAX_CONTEXTS = 64
MAX_CONTEXT_BITS = 12
_WINDOW = 256
_HEAD = struct.Struct("<BBBBBBBBBBH")
_FLOATS = 1
_MAP_LEVEL = 19


def _one_context() -> npt.NDArray[np.uint8]:
    return np.zeros(1, np.uint8)


@dataclass(frozen=True, eq=False)
class Contexts:
    """The context of an element: `mapped[b >> shift & (mapped.size - 1)]`, `b` in the base."""

    shift: int = 0
    mapped: npt.NDArray[np.uint8] = field(default_factory=_one_context)  # uint8[2 ** bits]

    def window(self, size: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Where 256 places of `mapped` begin of which the first has the context of all before, the
        last that of all behind; these, uint8[256]. -1 where there is no such place.

        `size`: bytes of an element.
        """
        mapped = self.mapped[:_WINDOW] if size == 1 else self.mapped
        last = mapped.size - 1
        begin = max(0, int(np.argmax(mapped != mapped[0])) - 1)
        if last < _WINDOW or not (mapped != mapped[0]).any():
            begin = 0
        end = min(begin + _WINDOW, mapped.size)
        if (mapped[end - 1 :] != mapped[-1]).any():
            return -1, np.zeros(_WINDOW, np.uint8)
        found = np.full(_WINDOW, mapped[-1], np.uint8)
        found[: end - begin] = mapped[begin:end]
        return begin, found


@dataclass(frozen=True, eq=False)
class Parameters:
    """All that a chunk's payload needs to be decoded, besides the base.

    `freqs`: uint16[contexts, 256]; no context where all chunks are as in the base.
    """

    method: Method
    contexts: Contexts
    freqs: npt.NDArray[np.uint16]


def pack(model: Parameters) -> bytes:
    """The payload of a MODEL frame."""
    method, contexts = model.method, model.contexts
    packed = zstd_compress(contexts.mapped, _MAP_LEVEL) if len(model.freqs) > 1 else b""
    head = _HEAD.pack(
        registry.CODEC_DELTA,
        method.size,
        _FLOATS * method.floats,
        method.number,
        method.drop,
        method.direct,
        method.mantissa,
        len(model.freqs),
        contexts.shift,
        contexts.mapped.size.bit_length() - 1,
        len(packed),
    )
    return head + packed + (tables.pack(model.freqs) if len(model.freqs) else b"")


def parse(payload: bytes) -> Parameters:
    """The model in a MODEL frame; FormatError or UnsupportedError for a bad one."""
    if payload[3:4] and not 1 <= payload[3] <= 3:
        raise UnsupportedError(f"unknown kind of changes {payload[3]}; a newer densor may read it")
    if len(payload) < _HEAD.size:
        raise FormatError("model is too short")
    _, size, flags, number, drop, direct, mantissa, count, shift, bits, length = _HEAD.unpack_from(
        payload
    )
    method = Method(number, size, bool(flags & _FLOATS), drop, direct, mantissa)
    if flags & ~_FLOATS or not method.known():
        raise FormatError("model of changes has impossible fields")
    end = _HEAD.size + length
    if count > MAX_CONTEXTS or bits > MAX_CONTEXT_BITS or shift >= 8 * size or len(payload) < end:
        raise FormatError("model of changes has impossible contexts")
    contexts = Contexts(shift, _parse_map(payload[_HEAD.size : end], bits, count))
    freqs = np.zeros((0, 256), np.uint16)
    if count:
        freqs, taken = tables.unpack(np.frombuffer(payload, np.uint8)[end:], count)
        end += taken
    if len(payload) > end:
        raise FormatError("model is too long")
    if freqs[:, ~token_table(method).valid].any():
        raise FormatError("model of changes has tokens that no element can have")
    return Parameters(method, contexts, freqs)


def _parse_map(packed: bytes, bits: int, count: int) -> npt.NDArray[np.uint8]:
    if count < 2:
        if packed or bits:
            raise FormatError("model of changes has a map without contexts")
        return _one_context()
    mapped = np.frombuffer(zstd_decompress(packed, 1 << bits), np.uint8)
    if mapped.max() >= count:
        raise FormatError("model of changes maps to a context that it does not have")
    return mapped
