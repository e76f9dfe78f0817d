"""The coding side's choice of frequencies: its own for a batch, or those of one before."""

import numpy as np
import numpy.typing as npt

from densor.codec.scales.forms import Form
from densor.codec.scales.model import Alphabet
from densor.entropy.rans.tables import Freqs, cost_bits, pack, quantise

Counts = npt.NDArray[np.int64]
_KEPT = 32  # tables of earlier batches that may be used again
_WEIGHT = 64  # of a symbol that occurs, against one that only might
_NEAR = 24  # steps of scale that might occur
FRAME_BITS = 8 * 34  # of a MODEL frame without its frequencies


class History:
    """Frequencies of the latest batches of an archive, by form."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Alphabet], list[Freqs]] = {}

    def choose(self, counts: Counts, form: Form, alphabet: Alphabet) -> tuple[Freqs, float]:
        """The cheapest frequencies for these counts and the bits they lead to, all told."""
        kept = self._kept.setdefault((form.number, alphabet), [])
        best = _own(counts, alphabet, form)
        bits = _cost(counts, best, alphabet, form) + 8 * len(pack(best)) + FRAME_BITS
        own = True
        for freqs in kept:
            other = _cost(counts, freqs, alphabet, form)
            if other < bits:
                best, bits, own = freqs, other, False
        if own:
            kept.append(best)
            del kept[:-_KEPT]
        return best, bits


def _own(counts: Counts, alphabet: Alphabet, form: Form) -> Freqs:
    """Frequencies made for these counts, with a little for what else might occur."""
    weighted = counts * _WEIGHT
    elements = weighted[:-2]
    used = counts[:-2].any(axis=1)
    elements[used] += counts[:-2].any(axis=0)
    elements[used, alphabet.main(form) + 1 + alphabet.tails] += 1
    weighted[-2:, 128 - _NEAR : 129 + _NEAR] += 1
    return quantise(weighted)


def _cost(counts: Counts, freqs: Freqs, alphabet: Alphabet, form: Form) -> float:
    """Bits for everything that symbols with these counts lead to."""
    escape = alphabet.main(form) + 1 + alphabet.tails
    moved = counts.copy()
    elements = moved[:-2]
    unknown = (elements > 0) & (freqs[:-2] == 0)
    if unknown.any():
        escaped = np.where(unknown, elements, 0).sum(axis=1)
        elements[unknown] = 0
        elements[:, escape] += escaped  # last: the escape itself may be unknown
    bits = cost_bits(moved, freqs)
    apart = elements[:, alphabet.main(form) + 1 : escape].sum() * form.top
    return bits + float(apart + elements[:, escape].sum() * form.bits)
