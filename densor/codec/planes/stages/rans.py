"""Byte planes under rANS: how classes are chosen, and symbols written.

The context of a symbol is the class of its run.
"""

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.class_map import RunClasses
from densor.codec.planes.classes import Coding, Counts, Prices, RunCounts, search_classes
from densor.codec.planes.payload import map_bits
from densor.codec.planes.stages.stage import Precision, Stage, Writer
from densor.entropy.deferred import deferred
from densor.entropy.rans import tables
from densor.entropy.rans.constants import BITS, STATES
from densor.entropy.rans.encode import capacity, encode
from densor.entropy.rans.tables import Freqs
from densor.runtime.buffers import ThreadBuffers
from densor.runtime.types import Bytes

spread = deferred("densor.codec.planes.kernels", "spread")

_MAX_SIZE_OF_CODED = 0.9985  # rANS must save this much against raw, which decodes faster
_STATES_BITS = 32 * STATES
_BUFFERS = ThreadBuffers()


def _choose(counts: RunCounts, total: Counts, most: int, chunks: int) -> Coding[Freqs] | None:
    """The cheapest coding of a plane found with at most `most` classes; None if raw is best.

    `counts`: uint16[runs, 256], the histogram of each run; `total`: int64[256], their sum;
    `chunks`: how many streams there will be.
    """
    freqs = tables.quantise(total[None])
    best = Coding(freqs, None)
    least = _bits(total[None], freqs, 0)
    class_bits = 8.0 * len(tables.pack(freqs))
    runs, by_class = search_classes(counts, total, most, class_bits, _prices)
    if len(by_class) > 1:
        freqs = tables.quantise(by_class)
        bits = _bits(by_class, freqs, len(counts))
        if bits < least:
            best, least = Coding(freqs, runs), bits
    if least + chunks * _STATES_BITS >= _MAX_SIZE_OF_CODED * 8.0 * float(total.sum()):
        return None
    return best


def _bits(by_class: npt.NDArray[np.int64], freqs: Freqs, runs: int) -> float:
    """Bits of symbols with these counts, of their model, and of the class map."""
    packed = 8 * len(tables.pack(freqs))
    return tables.cost_bits(by_class, freqs) + packed + runs * map_bits(len(freqs))


def _prices(by_class: npt.NDArray[np.int64], total: Counts) -> Prices:
    """Bits per symbol in each class; one that the class does not have yet counts as rare."""
    counts = np.maximum(by_class + (total > 0), 1).astype(np.float32)
    sums = counts.sum(axis=1, keepdims=True)
    prices: Prices = np.log2(sums / counts).clip(max=BITS)
    return prices


def _writer(freqs: Freqs, run: int) -> Writer:
    def write(plane: Bytes, runs: RunClasses | None, out: Bytes, at: int) -> int:
        contexts = _BUFFERS.take("contexts", plane.size)
        if runs is None:
            contexts[:] = 0
        else:
            spread(runs, run, contexts)
        stream = encode(plane, contexts, freqs)
        out[at : at + stream.size] = stream
        return at + stream.size

    return write


RANS = Stage(
    codec=registry.CODEC_PLANES_RANS,
    mode=registry.PLANE_RANS,
    precision=Precision(least=0.0, worth=0.995),
    choose=_choose,
    capacity=capacity,
    writer=_writer,
)
