"""The coding side's choice of frequencies: its own for a batch, or those of one before."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.history import History
from densor.codec.scale_context.forms import Form
from densor.codec.scale_context.params import Alphabet
from densor.entropy.rans.tables import Freqs, cost_bits, pack, quantise

Counts = npt.NDArray[np.int64]
_MAX_SHARED_LATER = 4  # tables of a form that an archive has when later ones may still share them
_SHARED_LATER = 0.75  # the part of such a table's cost that later batches are expected to bear
_WEIGHT = 64  # of a symbol that occurs, against one that only might
_NEAR = 24  # steps of scale that might occur
FRAME_BITS = 8 * 34  # of a MODEL frame without its frequencies


class Choice(NamedTuple):
    """Frequencies and the bits they lead to, all told.

    `free`: the part of the model's cost that others bear, 1 if an earlier batch has the model.
    """

    freqs: Freqs
    bits: float
    free: float


def choose(history: History, counts: Counts, form: Form, alphabet: Alphabet) -> Choice:
    """The cheapest frequencies for these counts, new ones or those of an earlier batch."""
    kept = history.kept(_key(form, alphabet))
    own = _own(counts, alphabet, form)
    bits = _cost(counts, own, alphabet, form) + 8 * len(pack(own)) + FRAME_BITS
    best = Choice(own, bits, _SHARED_LATER if len(kept) < _MAX_SHARED_LATER else 0.0)
    for freqs in kept:
        bits = _cost(counts, freqs, alphabet, form)
        if bits < best.bits:
            best = Choice(freqs, bits, 1.0)
    return best


def keep(history: History, choice: Choice, form: Form, alphabet: Alphabet) -> None:
    """Lets later batches use what was chosen, which will stand in the archive."""
    if choice.free < 1:
        history.keep(_key(form, alphabet), choice.freqs)


def _key(form: Form, alphabet: Alphabet) -> Hashable:
    return registry.CODEC_SCALES, form.number, alphabet


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
