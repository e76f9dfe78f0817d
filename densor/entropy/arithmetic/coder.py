"""Bits with given probabilities to bytes and back: the binding of the arithmetic coder."""

import math

import numpy as np
import numpy.typing as npt

from densor.entropy.arithmetic import kernels
from densor.errors import ArgumentError, FormatError
from densor.runtime.types import Bytes

Probabilities = npt.NDArray[np.uint16]


def position(state: npt.NDArray[np.int64]) -> float:
    """How many bits were coded so far, to fractions: what later bits add is their cost."""
    low, high, at = (int(value) for value in state[:3])
    return 8 * at - math.log2(high - low + 1)


def encode_bits(bits: Bytes, probabilities: Probabilities) -> Bytes:
    """Codes `bits`, uint8[n], each 0 or 1, in close to their entropy.

    `probabilities`: uint16[n], of a 1 in units of 2^-16, at least 1. ArgumentError for others.
    """
    if bits.size != probabilities.size or (probabilities == 0).any() or (bits > 1).any():
        raise ArgumentError("bits need as many probabilities, from 1 to 65535")
    state = np.zeros(kernels.STATE, np.int64)
    out = np.empty(1024 + bits.size, np.uint8)
    needed = kernels.encode_bits(bits, probabilities, state, out)
    if needed > out.size:
        out = np.empty(needed, np.uint8)
        kernels.encode_bits(bits, probabilities, state, out)
    return out[:needed]


def decode_bits(data: Bytes, probabilities: Probabilities) -> Bytes:
    """The bits, uint8[n], that were coded with these probabilities.

    FormatError if other bits than these or other probabilities were coded, as far as the number
    of bytes tells.
    """
    if (probabilities == 0).any():
        raise ArgumentError("probabilities are from 1 to 65535")
    bits = np.empty(probabilities.size, np.uint8)
    state = np.zeros(kernels.STATE, np.int64)
    if kernels.decode_bits(data, probabilities, state, bits) != data.size:
        raise FormatError("arithmetic stream has the wrong length")
    return bits
