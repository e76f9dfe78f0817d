"""Frequencies of symbols under each context: from counts, into a model, and back."""

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import Kernels
from densor.entropy.rans.constants import BITS
from densor.errors import FormatError

kernels = Kernels("densor.entropy.rans.kernels")

Freqs = npt.NDArray[np.uint16]  # uint16[contexts, 256]; a row adds up to 4096, or is all 0
ONE = 1 << BITS


def quantise(counts: npt.NDArray[np.int64]) -> Freqs:
    """Frequencies of 12 bits that cost little more than `counts`, int64[contexts, 256], demand.

    Every symbol that occurs gets at least 1; a context without symbols stays empty.
    """
    if counts.ndim != 2 or counts.shape[1] != 256:
        raise ValueError("every context needs 256 counts")
    freqs = np.empty(counts.shape, np.uint16)
    kernels.quantise(np.ascontiguousarray(counts), freqs, np.empty(256))
    return freqs


def cost_bits(counts: npt.NDArray[np.int64], freqs: Freqs) -> float:
    """Bits that symbols with these counts take; infinite if one of them has no frequency."""
    if counts.shape != freqs.shape or counts.shape[1:] != (256,):
        raise ValueError("every context needs 256 counts")
    return float(kernels.cost_bits(np.ascontiguousarray(counts), freqs))


def pack(freqs: Freqs) -> bytes:
    """The frequencies as they stand in a model. See docs/format/rans.md."""
    out = np.zeros(freqs.shape[0] * (3 + 256 * 4), np.uint8)
    return out[: kernels.pack_freqs(freqs, out)].tobytes()


def unpack(data: npt.NDArray[np.uint8], contexts: int) -> tuple[Freqs, int]:
    """Frequencies and the number of bytes they take at the start of `data`.

    FormatError where they are cut short, do not add up, or are otherwise impossible.
    """
    freqs = np.zeros((contexts, 256), np.uint16)
    size = int(kernels.unpack_freqs(np.ascontiguousarray(data), freqs))
    if size < 0:
        raise FormatError("frequencies of a model are malformed")
    return freqs, size
