"""Frequencies of symbols under each context: from counts, into a model, and back."""

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import Kernels
from densor.entropy.rans.constants import BITS, CONTEXTS, LIKELY
from densor.errors import FormatError

kernels = Kernels("densor.entropy.rans.kernels")

Freqs = npt.NDArray[np.uint16]  # uint16[contexts, 256]; a row adds up to 4096, or is all 0
ONE = 1 << BITS
_UNIT = 1 - 2.0**-22  # of which reciprocals are, as `vectors.reciprocal` has them


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


def ends_of_common(freqs: Freqs) -> npt.NDArray[np.uint32]:
    """Where the slots of symbols 0, 1 and 2 end, uint32[3 * 32], by context; see `common_kernels`.

    Empty where there are more contexts. One that is empty decodes to symbol 0.
    """
    if not 0 < len(freqs) <= CONTEXTS:
        return np.empty(0, np.uint32)
    ends = np.full((LIKELY, CONTEXTS), ONE, np.uint32)
    some = np.cumsum(freqs[:, :LIKELY], axis=1, dtype=np.uint32)
    ends[:, : len(freqs)] = np.where(freqs.any(axis=1), some.T, ONE)
    return ends.reshape(-1)


def starts_of_common(freqs: Freqs) -> npt.NDArray[np.uint32]:
    """What the coding side wants to know of symbols 0, 1 and 2, uint32[6 * 32] by context: what
    `build_starts` tells, and the bits of float32 reciprocals; see `common_kernels`.

    Empty where there are more contexts.
    """
    if not 0 < len(freqs) <= CONTEXTS:
        return np.empty(0, np.uint32)
    some = freqs[:, :LIKELY].astype(np.uint32)
    firsts = np.cumsum(some, axis=1, dtype=np.uint32) - some
    found = np.zeros((2, LIKELY, CONTEXTS), np.uint32)
    found[0, :, : len(freqs)] = (some << np.uint32(16) | firsts).T
    some[~freqs.any(axis=1), 0] = ONE
    found[0, 0, : len(freqs)] = some[:, 0] << np.uint32(16)
    inverse = np.float32(_UNIT) / np.maximum(some, 1).astype(np.float32)
    found[1, :, : len(freqs)] = inverse.astype(np.float32).view(np.uint32).T
    return found.reshape(-1)
