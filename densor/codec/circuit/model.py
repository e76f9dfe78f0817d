"""A circuit as it is stored, and the tables in integers that are made of it.

Hidden Chow-Liu trees: A. Liu, S. Mandt, G. Van den Broeck, "Lossless Compression with Probabilistic
Circuits" (ICLR 2022), section 4. Beside the paper, a leaf depends on samples near by that are coded
before it, through a decision tree; see `docs/format/circuit.md`.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from densor.codec.circuit.geometry import LINKS, NEAR, Geometry, geometry_of
from densor.errors import FormatError, LimitError, UnsupportedError

MAGIC, VERSION = b"DCIR", 1
RESIDUAL = 1  # flag: symbols are differences from the prediction
LEAF = 255  # in place of a feature
P, SPREAD, MOST, LEAST = range(4)  # features that are computed; links follow
FEATURES = 4 + LINKS
HASH = 16  # bytes of a circuit's name
MAX_SAMPLES, MAX_CHANNELS = 1 << 14, 4  # of an image
MAX_STATES, MAX_LEAVES = 32, 1024
MAX_EMISSIONS, MAX_TRANSITIONS = 1 << 22, 1 << 22
EMISSION_BITS, TRANSITION_BITS = 16, 15
WEIGHT_STEP = 64  # of a weight of the prediction
CONSTANT = 16  # what the last weight is multiplied by
MAX_LEVEL = 95  # of a weight in quarters of a bit

_HEAD = struct.Struct("<4sBBHHBBHH")
_QUARTERS = (16777216, 14107901, 11863283, 9975792)  # 2^24 times powers of 2^(-1/4)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]


def weights_of(levels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Weights of levels in quarters of a bit: 2^24 for 0, half of that for 4, and so on."""
    steps = np.asarray(levels, np.int64)
    return np.asarray(np.array(_QUARTERS, np.int64)[steps & 3] >> (steps >> 2))


def normalised(levels: npt.NDArray[Any], bits: int) -> Ints:
    """Frequencies, along the last axis, that are 1 at least and add up to 2^bits."""
    weights = weights_of(levels)
    count = weights.shape[-1]
    room = (1 << bits) - count
    found = np.maximum(1, weights * room // weights.sum(-1, keepdims=True))
    first = found.argmax(-1)[..., None]
    rest = (1 << bits) - found.sum(-1, keepdims=True)
    np.put_along_axis(found, first, np.take_along_axis(found, first, -1) + rest, -1)
    return np.asarray(found, np.int32)


@dataclass(frozen=True)
class Size:
    """Rows, pixels of a row, and samples of a pixel."""

    height: int
    width: int
    channels: int

    @property
    def samples(self) -> int:
        """Samples of an image."""
        return self.height * self.width * self.channels

    def check(self) -> None:
        """LimitError for an image that is too large, FormatError for one without samples."""
        if not self.samples or self.channels > MAX_CHANNELS:
            raise FormatError("circuit has images of an impossible size")
        if self.samples > MAX_SAMPLES:
            raise LimitError(f"circuit has images of more than {MAX_SAMPLES} samples")


@dataclass(frozen=True, eq=False)
class Circuit:
    """All that is stored. Levels are weights in quarters of a bit, 0 being the largest.

    `parents`: uint16[samples], the root's its own number. `weights`: int8[samples, NEAR + 1], of
    the prediction from samples near by, and of a constant. `features`, `thresholds`: uint8[nodes],
    int16[nodes], of the decision tree in preorder, `LEAF` for a leaf. `ends`: uint8[bins], the last
    symbol of each; `shares`: uint8[256], levels of symbols within their bins. `prior`:
    uint8[states], of the root; `emissions`: uint8[leaves, bins, states]; `transitions`:
    uint8[samples - 1, from, to], in the order of coding, without the root.
    """

    size: Size
    residual: bool
    parents: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.int8]
    features: Bytes
    thresholds: npt.NDArray[np.int16]
    ends: Bytes
    shares: Bytes
    prior: Bytes
    emissions: Bytes
    transitions: Bytes

    @property
    def states(self) -> int:
        """Values that a hidden variable takes."""
        return self.prior.size

    @property
    def leaves(self) -> int:
        """Leaves of the decision tree."""
        return int((self.features == LEAF).sum())


def pack(circuit: Circuit) -> bytes:
    """The bytes of a circuit."""
    size = circuit.size
    sizes = size.height, size.width, size.channels, circuit.states
    head = _HEAD.pack(
        *(MAGIC, VERSION, RESIDUAL * circuit.residual),
        *(*sizes, circuit.features.size, circuit.ends.size),
    )
    parts = (
        circuit.parents.astype("<u2"),
        circuit.weights,
        circuit.features,
        circuit.thresholds.astype("<i2"),
        circuit.ends,
        circuit.shares,
        circuit.prior,
        circuit.emissions,
        circuit.transitions,
    )
    return head + b"".join(part.tobytes() for part in parts)


class _Taken:
    """Arrays from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = _HEAD.size

    def __call__(self, dtype: str, *shape: int) -> npt.NDArray[Any]:
        count = int(np.prod(shape))
        end = self.at + count * np.dtype(dtype).itemsize
        if end > len(self.data):
            raise FormatError("circuit ends too early")
        found = np.frombuffer(self.data, dtype, count, self.at).reshape(shape)
        self.at = end
        return found


def parse(data: bytes) -> Circuit:
    """A circuit; a DensorError for bytes that are none, or one that makes no sense."""
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise FormatError("this is no circuit for images")
    _, version, flags, height, width, channels, states, nodes, bins = _HEAD.unpack_from(data)
    if version != VERSION:
        raise UnsupportedError(f"circuit of version {version}; a newer densor may read this")
    size = Size(height, width, channels)
    size.check()
    if flags > RESIDUAL or not 1 <= states <= MAX_STATES or not 1 <= bins <= 256:
        raise FormatError("circuit has impossible parameters")
    if nodes % 2 == 0 or nodes >= 2 * MAX_LEAVES:
        raise FormatError("circuit has an impossible decision tree")
    leaves = nodes // 2 + 1
    if leaves * bins * states > MAX_EMISSIONS or size.samples * states**2 > MAX_TRANSITIONS:
        raise LimitError("circuit is too large")
    take = _Taken(data)
    circuit = Circuit(
        size,
        bool(flags & RESIDUAL),
        take("<u2", size.samples),
        take("i1", size.samples, NEAR + 1),
        take("u1", nodes),
        take("<i2", nodes),
        take("u1", bins),
        take("u1", 256),
        take("u1", states),
        take("u1", leaves, bins, states),
        take("u1", size.samples - 1, states, states),
    )
    if take.at != len(data):
        raise FormatError("circuit goes on after its end")
    _check_levels(circuit)
    return circuit


def _check_levels(circuit: Circuit) -> None:
    for levels in (circuit.shares, circuit.prior, circuit.emissions, circuit.transitions):
        if levels.size and levels.max() > MAX_LEVEL:
            raise FormatError("circuit has an impossible probability")
    if circuit.ends[-1] != 255 or (np.diff(circuit.ends.astype(int)) <= 0).any():
        raise FormatError("circuit has impossible bins")


def upper_children(features: Bytes) -> Ints:
    """For each node of a decision tree in preorder, where a value above its threshold leads.

    For a leaf, its number as a negative number less 1. FormatError where this is no whole tree.
    """
    found = np.zeros(features.size, np.int32)
    waiting: list[int] = []  # nodes whose upper child is to come
    leaves, complete = 0, False
    for node, feature in enumerate(features.tolist()):
        if complete or (feature != LEAF and feature >= FEATURES):
            raise FormatError("circuit has an impossible decision tree")
        if feature != LEAF:
            waiting.append(node)
            continue
        found[node] = -1 - leaves
        leaves += 1
        if waiting:
            found[waiting.pop()] = node + 1
        else:
            complete = True
    if not complete:
        raise FormatError("circuit has an impossible decision tree")
    return found


@dataclass(frozen=True, eq=False)
class Tables:
    """A circuit ready for kernels: int32 arrays, flat. `digest`: the name of the circuit."""

    size: Size
    states: int
    residual: bool
    digest: bytes
    geometry: Geometry
    weights: Ints
    features: Ints
    thresholds: Ints
    upper: Ints
    ends: Ints  # first symbol of each bin, and 256
    inner: Ints  # cumulative frequencies of symbols within their bins, [257]
    prior: Ints
    emissions: Ints  # [leaves, bins, states]
    transitions: Ints  # [samples, from, to], zeros for the root
    leaves: int = field(default=0)


def tables_of(circuit: Circuit) -> Tables:
    """The tables of a circuit; FormatError where it makes no sense, as with a circle."""
    geometry = geometry_of(circuit.parents, circuit.size.height, circuit.size.width)
    firsts = np.concatenate([[0], circuit.ends.astype(np.int32) + 1]).astype(np.int32)
    inner = np.zeros(257, np.int32)
    for begin, end in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        shares = normalised(circuit.shares[begin:end], EMISSION_BITS)
        inner[begin] = 0
        inner[begin + 1 : end] = np.cumsum(shares)[:-1]
    states, samples = circuit.states, circuit.size.samples
    transitions = np.zeros((samples, states, states), np.int32)
    if samples > 1:
        transitions[geometry.order[1:]] = normalised(circuit.transitions, TRANSITION_BITS)
    emissions = normalised(circuit.emissions.swapaxes(1, 2), EMISSION_BITS).swapaxes(1, 2)
    return Tables(
        circuit.size,
        states,
        circuit.residual,
        xxhash.xxh3_128_digest(pack(circuit)),
        geometry,
        circuit.weights.astype(np.int32).ravel(),
        circuit.features.astype(np.int32),
        circuit.thresholds.astype(np.int32),
        upper_children(circuit.features),
        firsts,
        inner,
        normalised(circuit.prior, TRANSITION_BITS),
        np.ascontiguousarray(emissions).ravel(),
        transitions.ravel(),
        circuit.leaves,
    )
