"""From images to a circuit: tree, contexts, hidden states, and all of it in whole numbers.

Expectation-maximization on minibatches, as in A. Liu, S. Mandt, G. Van den Broeck, "Lossless
Compression with Probabilistic Circuits" (ICLR 2022), appendix on training: parameters move from
what they were to what a part of the images asks for, at a rate that falls.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec.circuit.geometry import Geometry, geometry_of
from densor.codec.circuit.model import MAX_LEAVES, MAX_STATES, Circuit, Size
from densor.codec.circuit.training.contexts import Grower, bins_of, fit_weights, flat
from densor.codec.circuit.training.tree import chow_liu
from densor.entropy.deferred import Kernels
from densor.errors import ArgumentError

kernels = Kernels("densor.codec.circuit.training.kernels")
log = logging.getLogger("densor")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float64]
_BINS = 16  # of symbols that are not frequent
_BATCH = 1000  # images
_FIRST_RATE, _LAST_RATE = 0.6, 0.05
_WHOLE = 2  # rounds at the end over all images at once
_TRANSITION_PRIOR, _EMISSION_PRIOR, _LEAF_PRIOR = 0.3, 20.0, 8.0  # counts
_TRANSITION_STEP, _EMISSION_STEP, _SHARE_STEP = 4, 2, 1  # quarters of a bit
_LEAST_COUNT = 1.0  # of a state, below which its transitions are not told
_MOST_SAMPLES = 1 << 26  # of all images; of more, some are left out
_LOWEST = 48  # quarters of a bit that a probability is below the largest, at most


@dataclass(frozen=True)
class Settings:
    """`states` of each hidden variable, `leaves` of the decision tree, `rounds` over all images."""

    states: int = 4
    leaves: int = 256
    rounds: int = 20
    seed: int = 0

    def check(self) -> None:
        """ArgumentError for numbers that no circuit can have."""
        if not 1 <= self.states <= MAX_STATES or not 1 <= self.leaves <= MAX_LEAVES:
            text = f"a circuit has 1 to {MAX_STATES} states and 1 to {MAX_LEAVES} leaves"
            raise ArgumentError(text)
        if self.rounds < 1:
            raise ArgumentError("training takes one round at least")


DEFAULT = Settings()


def learn(
    images: Bytes,
    size: Size,
    settings: Settings = DEFAULT,
    progress: Callable[[int], object] | None = None,
) -> Circuit:
    """A circuit of uint8[count, samples]; `progress`: called with samples that a round is through.

    ArgumentError without images, or for settings that cannot be.
    """
    settings.check()
    if not len(images):
        raise ArgumentError("there are no images to learn from")
    images = np.ascontiguousarray(images[:: -(-images.size // _MOST_SAMPLES)])
    size.check()
    parents = chow_liu(images, size)
    geometry = geometry_of(parents, size.height, size.width)
    weights = fit_weights(images, geometry)
    grower = Grower(images, geometry, weights)
    differences = np.zeros(images.shape, np.uint8)
    near, _, ints = flat(geometry, weights)
    kernels.all_differences(images, near, ints, differences)
    ways = []
    for residual, symbols in ((False, images), (True, differences)):
        ends = bins_of(symbols, _BINS)
        shares, inside = _shares(symbols, ends)
        binned = np.searchsorted(ends, symbols).astype(np.uint8)
        tree = grower.grow(binned, ends.size, settings.leaves)
        ways.append((tree.bits + inside, residual, tree, ends, shares, binned))
    _, residual, tree, ends, shares, binned = min(ways, key=lambda way: way[0])
    leaves = tree.leaves(images, geometry, weights)
    del grower, ways
    states = _States(binned, leaves, geometry, ends.size, settings)
    states.train(progress)
    prior, emissions, transitions = states.levels()
    return Circuit(
        *(size, residual, parents, weights, tree.features, tree.thresholds),
        *(ends, shares, prior, emissions, transitions),
    )


def _shares(symbols: Bytes, ends: Bytes) -> tuple[Bytes, float]:
    """Levels of symbols within their bins, and the bits that these take."""
    counts = np.bincount(symbols.ravel(), minlength=256).astype(np.float64)
    levels = np.zeros(256, np.uint8)
    bits = 0.0
    for begin, end in zip([0, *(ends[:-1].astype(int) + 1)], ends.astype(int) + 1, strict=True):
        inside = counts[begin:end]
        levels[begin:end] = _levels(inside + 0.1, _SHARE_STEP)
        seen = inside[inside > 0]
        bits += float((seen * np.log2(seen.sum() / seen)).sum())
    return levels, bits


def _levels(counts: npt.NDArray[np.floating], step: int) -> Bytes:
    """Levels of counts along the last axis, whole multiples of `step`."""
    most = counts.max(-1, keepdims=True)
    bits = -4 * np.log2(np.maximum(counts / most, 1e-9)) / step
    return np.asarray(np.minimum(np.rint(bits) * step, _LOWEST), np.uint8)


class _States:
    """The parameters of hidden states while they are learned."""

    def __init__(
        self,
        binned: Bytes,
        leaves: npt.NDArray[np.uint16],
        geometry: Geometry,
        bins: int,
        settings: Settings,
    ) -> None:
        self._binned, self._leaves, self._geometry = binned, leaves, geometry
        self._settings, self._bins = settings, bins
        self._random = np.random.default_rng(settings.seed)
        self._count = int(leaves.max()) + 1
        self._begin()

    def _begin(self) -> None:
        """Leaves as they are without states, each state tilted at random."""
        states, random, bins = self._settings.states, self._random, self._bins
        flat = np.zeros(self._count * bins)
        for row, symbols in zip(self._leaves, self._binned, strict=True):
            flat += np.bincount(row.astype(np.int64) * bins + symbols, minlength=flat.size)
        counts = flat.reshape(self._count, bins)
        common = counts.sum(0) / counts.sum()
        self._plain = (counts + _LEAF_PRIOR * common) / (counts.sum(1, keepdims=True) + _LEAF_PRIOR)
        tilt = np.exp(random.normal(size=states) * np.linspace(-1, 1, bins)[:, None])
        tilt[0] *= np.exp(random.normal(size=states))
        emissions = self._plain[:, :, None] * (tilt if states > 1 else 1)
        self._emissions = (emissions / emissions.sum(1, keepdims=True)).astype(np.float32)
        samples = self._geometry.order.size
        moves = random.random((samples, states, states)) + 0.1 + 0.3 * states * np.eye(states)
        self._transitions = (moves / moves.sum(-1, keepdims=True)).astype(np.float32)
        self._prior = np.full(states, 1 / states, np.float32)
        self._moves: Counts = np.zeros(moves.shape)
        self._seen: Counts = np.zeros(emissions.shape)

    def train(self, progress: Callable[[int], object] | None) -> None:
        """Rounds over all images in parts, and the last ones over all at once."""
        images, rounds = len(self._binned), self._settings.rounds
        for number in range(rounds):
            whole = number >= rounds - _WHOLE
            rate = 1.0 if whole else max(_LAST_RATE, _FIRST_RATE * (1 - number / rounds))
            order = self._random.permutation(images)
            size = images if whole else min(images, _BATCH)
            likelihood = 0.0
            for begin in range(0, images, size):
                chosen = order[begin : begin + size]
                likelihood += self._expect(chosen)
                self._maximise(rate, images / chosen.size)
                if progress is not None:
                    progress(chosen.size * self._binned.shape[1])
            bits = -likelihood / np.log(2) / self._binned.size
            log.debug("round %d of %d: %.4f bits for bins", number + 1, rounds, bits)

    def _expect(self, chosen: npt.NDArray[np.int64]) -> float:
        at, states = self._geometry, self._settings.states
        moves = np.zeros(self._transitions.size, np.float32)
        seen = np.zeros(self._emissions.size, np.float32)
        likelihood = np.zeros(1)
        kernels.expect(
            *(self._binned, self._leaves, chosen, at.order, at.parents, self._prior),
            *(self._transitions.ravel(), self._emissions.ravel(), states, self._bins),
            *(np.zeros(3 * at.order.size * states, np.float32), moves, seen, likelihood),
        )
        self._moves = moves.reshape(self._transitions.shape).astype(np.float64)
        self._seen = seen.reshape(self._emissions.shape).astype(np.float64)
        return float(likelihood[0])

    def _maximise(self, rate: float, scale: float) -> None:
        states, root = self._settings.states, self._geometry.order[0]
        prior = self._moves[root, 0] * scale + 0.1
        moves = self._moves * scale + _TRANSITION_PRIOR / states
        seen = self._seen * scale + _EMISSION_PRIOR * self._plain[:, :, None]

        def moved(before: Floats, wanted: Counts, axis: int) -> Floats:
            wanted = wanted / wanted.sum(axis, keepdims=True)
            return np.asarray((1 - rate) * before + rate * wanted, np.float32)

        self._prior = moved(self._prior, prior, 0)
        self._transitions = moved(self._transitions, moves, -1)
        self._emissions = moved(self._emissions, seen, 1)

    def levels(self) -> tuple[Bytes, Bytes, Bytes]:
        """Prior, emissions and transitions of a `Circuit`."""
        emissions = _levels(self._emissions.swapaxes(1, 2), _EMISSION_STEP).swapaxes(1, 2)
        transitions = _levels(self._transitions, _TRANSITION_STEP)
        transitions[self._moves.sum(-1) < _LEAST_COUNT] = 0
        ordered = transitions[self._geometry.order[1:]]
        return _levels(self._prior, 1), np.ascontiguousarray(emissions), ordered
