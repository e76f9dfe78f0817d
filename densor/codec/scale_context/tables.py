"""The coding side's choice of frequencies: its own for a batch, or those of one before."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.history import History
from densor.codec.scale_context.params import Alphabet
from densor.codec.scale_context.split_format import SplitFormat
from densor.entropy.deferred import Kernels
from densor.entropy.rans.tables import Freqs, pack, quantise

kernels = Kernels("densor.codec.scale_context.kernels")

Counts = npt.NDArray[np.int64]
_MAX_SHARED_LATER = 4  # tables of a form that an archive has when later ones may still share them
_SHARED_LATER = 0.75  # the most of such a table's cost that later batches are expected to bear
_WEIGHT_OF_COUNTED = 64  # of a symbol that occurs, against one that only might
_STEPS_THAT_MIGHT_OCCUR = 24  # steps of scale that might occur
FRAME_BITS = 8 * 34  # of a MODEL frame without its frequencies


class Choice(NamedTuple):
    """Frequencies and the bits they lead to, all told.

    `free`: the part of the model's cost that others bear, 1 if an earlier batch has the model.
    """

    freqs: Freqs
    bits: float
    free: float


def choose(history: History, counts: Counts, form: SplitFormat, alphabet: Alphabet) -> Choice:
    """The cheapest frequencies for these counts, new ones or those of an earlier batch."""
    kept = history.kept(_key(form, alphabet))
    own = _own(counts, alphabet, form)
    bits = _cost(counts, own, alphabet, form) + 8 * len(pack(own)) + FRAME_BITS
    shared = min(_SHARED_LATER, history.follows) if len(kept) < _MAX_SHARED_LATER else 0.0
    best = Choice(own, bits, shared)
    for freqs in kept:
        bits = _cost(counts, freqs, alphabet, form)
        if bits < best.bits:
            best = Choice(freqs, bits, 1.0)
    return best


def keep(history: History, choice: Choice, form: SplitFormat, alphabet: Alphabet) -> None:
    """Lets later batches use what was chosen, which will stand in the archive."""
    if choice.free < 1:
        history.keep(_key(form, alphabet), choice.freqs)


def _key(form: SplitFormat, alphabet: Alphabet) -> Hashable:
    return registry.CODEC_SCALE_CONTEXT, form.number, alphabet


def _own(counts: Counts, alphabet: Alphabet, form: SplitFormat) -> Freqs:
    """Frequencies made for these counts, with a little for what else might occur."""
    escape = alphabet.main(form) + 1 + alphabet.low_exponents
    weighted = np.empty_like(counts)
    kernels.weigh_counts(counts, _WEIGHT_OF_COUNTED, _STEPS_THAT_MIGHT_OCCUR, escape, weighted)
    return quantise(weighted)


def _cost(counts: Counts, freqs: Freqs, alphabet: Alphabet, form: SplitFormat) -> float:
    """Bits for everything that symbols with these counts lead to."""
    main = alphabet.main(form)
    escape = main + 1 + alphabet.low_exponents
    return float(kernels.cost_with_escapes(counts, freqs, main, escape, form.top, form.bits))
