"""The package's arithmetic coder for bits on their own, and its package-merge for any limit.

Codecs call these from inside their kernels; here they have kernels of their own.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.arithmetic import kernels
from densor.entropy.arithmetic.state import AT, STATE
from densor.entropy.huffman.kernels import _package_merge
from densor.entropy.jit import I64, R8, R16, W8, kernel
from densor.errors import ArgumentError, FormatError

Bytes = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.uint16]
jit: Any = kernel


@jit(types.int64(R8, R16, I64, W8))
def _encode(bits, probabilities, state, out):  # type: ignore[no-untyped-def]
    kernels.start_encoder(state, 0, out.size)
    for i in range(bits.size):
        kernels.encode_bit(state, out, bits[i], numba.int64(probabilities[i]))
    kernels.flush(state, out)
    return state[AT]


@jit(types.int64(R8, R16, I64, W8))
def _decode(data, probabilities, state, bits):  # type: ignore[no-untyped-def]
    kernels.start_decoder(state, data, 0, data.size)
    for i in range(bits.size):
        bits[i] = kernels.decode_bit(state, data, numba.int64(probabilities[i]))
    return state[AT]


@jit(types.int64(I64, types.int64, I64, I64, W8, W8))
def _lengths(counts, limit, weights, packages, is_leaf, lengths):  # type: ignore[no-untyped-def]
    return _package_merge(counts, limit, weights, packages, is_leaf, lengths)


def encode_bits(bits: Bytes, probabilities: Probabilities) -> Bytes:
    """Codes `bits`, uint8[n], each 0 or 1, in close to their entropy.

    `probabilities`: uint16[n], of a 1 in units of 2^-16, at least 1. ArgumentError for others.
    """
    if bits.size != probabilities.size or (probabilities == 0).any() or (bits > 1).any():
        raise ArgumentError("bits need as many probabilities, from 1 to 65535")
    state = np.zeros(STATE, np.int64)
    out = np.empty(1024 + bits.size, np.uint8)
    needed = _encode(bits, probabilities, state, out)
    if needed > out.size:
        out = np.empty(needed, np.uint8)
        _encode(bits, probabilities, state, out)
    return out[:needed]


def decode_bits(data: Bytes, probabilities: Probabilities) -> Bytes:
    """The bits, uint8[n], that were coded with these probabilities.

    FormatError if other bits than these or other probabilities were coded, as far as the number
    of bytes tells.
    """
    if (probabilities == 0).any():
        raise ArgumentError("probabilities are from 1 to 65535")
    bits = np.empty(probabilities.size, np.uint8)
    state = np.zeros(STATE, np.int64)
    if _decode(data, probabilities, state, bits) != data.size:
        raise FormatError("arithmetic stream has the wrong length")
    return bits


def code_lengths(counts: npt.NDArray[np.int64], limit: int = 12) -> Bytes:
    """Optimal code lengths of at most `limit` bits for symbols with these counts, int64[256]."""
    lengths = np.empty(256, np.uint8)
    weights, packages = np.empty(512, np.int64), np.empty(512, np.int64)
    _lengths(counts, limit, weights, packages, np.empty(512 * limit, np.uint8), lengths)
    return lengths
