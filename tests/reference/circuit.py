"""Images under a circuit, after docs/format/circuit.md; not how the package does it.

Circuits are not in archives: they are added to `KNOWN` by their bytes.
"""

import functools
import importlib
import itertools
from dataclasses import dataclass
from typing import Protocol

import xxhash

from reference.reading import Cursor, Refused, fail

CODEC = 16
KNOWN: dict[bytes, bytes] = {}
_QUARTERS = (16777216, 14107901, 11863283, 9975792)
_PLACES = (
    *((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)),
    *((0, -2), (0, 2), (-2, 0), (2, 0)),
)
LEAF = 255


def know(circuit: bytes) -> bytes:
    """Lets archives name a circuit; its name."""
    name = xxhash.xxh3_128_digest(circuit)
    KNOWN[name] = circuit
    return name


def frequencies(levels: list[int], total: int) -> list[int]:
    """Levels -> frequencies."""
    weights = [_QUARTERS[level % 4] >> level // 4 for level in levels]
    found = [max(1, w * (total - len(weights)) // sum(weights)) for w in weights]
    found[found.index(max(found))] += total - sum(found)
    return found


def check_size(height: int, width: int, channels: int) -> int:
    """The samples of an image."""
    samples = height * width * channels
    if not samples or channels > 4:
        fail("size of images")
    if samples > 1 << 14:
        raise Refused("limit", "samples of an image")
    return samples


@dataclass
class Circuit:
    """What a model file holds, and what follows from it."""

    data: bytes

    def __post_init__(self) -> None:
        cursor = Cursor(self.data)
        if cursor.take(4) != b"DCIR":
            fail("magic")
        if cursor.u8() != 1:
            raise Refused("unsupported", "version")
        flags = cursor.u8()
        self.sizes = cursor.u16(), cursor.u16(), cursor.u8()
        n = check_size(*self.sizes)
        states, nodes, bins = cursor.u8(), cursor.u16(), cursor.u16()
        if flags > 1 or not 1 <= states <= 32 or not 1 <= bins <= 256:
            fail("parameters")
        if nodes % 2 == 0 or nodes >= 2048:
            fail("decision tree")
        leaves = (nodes + 1) // 2
        if leaves * bins * states > 1 << 22 or n * states**2 > 1 << 22:
            raise Refused("limit", "circuit")
        self.differences, self.states = bool(flags), states
        self.parents = [cursor.u16() for _ in range(n)]
        self.weights = [[_signed(cursor.u8(), 8) for _ in range(11)] for _ in range(n)]
        self.features = [cursor.u8() for _ in range(nodes)]
        self.thresholds = [_signed(cursor.u16(), 16) for _ in range(nodes)]
        ends = [cursor.u8() for _ in range(bins)]
        shares = list(cursor.take(256))
        levels = list(cursor.take(states))
        emissions = [[list(cursor.take(states)) for _ in range(bins)] for _ in range(leaves)]
        moves = [[list(cursor.take(states)) for _ in range(states)] for _ in range(n - 1)]
        if cursor.position != len(cursor.data):
            fail("bytes behind a circuit")
        flat = [levels, *(e for leaf in emissions for e in leaf), *(r for m in moves for r in m)]
        if max(shares) > 95 or any(max(row) > 95 for row in flat):
            fail("level")
        if ends[-1] != 255 or any(a >= b for a, b in itertools.pairwise(ends)):
            fail("bins")
        self.bins = [range(a + 1, b + 1) for a, b in zip([-1, *ends[:-1]], ends, strict=True)]
        self.shares = [frequencies([shares[s] for s in found], 1 << 16) for found in self.bins]
        self.prior = frequencies(levels, 1 << 15)
        self.emissions = []
        for leaf in emissions:
            columns = [frequencies([row[k] for row in leaf], 1 << 16) for k in range(states)]
            self.emissions.append([[c[i] for c in columns] for i in range(bins)])
        self._tree(n)
        self.moves = {
            v: [frequencies(row, 1 << 15) for row in rows]
            for v, rows in zip(self.order[1:], moves, strict=True)
        }
        self.uppers = _uppers(self.features)

    def _tree(self, n: int) -> None:
        roots = [v for v in range(n) if self.parents[v] == v]
        if len(roots) != 1 or any(p >= n for p in self.parents):
            fail("root")
        self.children: dict[int, list[int]] = {v: [] for v in range(n)}
        for v, parent in enumerate(self.parents):
            if v != parent:
                self.children[parent].append(v)
        (root,) = roots
        reached = [root]
        for v in reached:
            reached += self.children[v]
        if len(reached) != n:
            fail("a circle")
        below = {v: [v] for v in range(n)}
        for v in reversed(reached):
            if v != root:
                below[self.parents[v]] += below[v]
        self.order: list[int] = []
        waiting = [root]
        while waiting:
            v = waiting.pop()
            self.order.append(v)
            self.children[v].sort(key=lambda c: (len(below[c]), c))
            waiting += reversed(self.children[v])
        self.rank = {v: i for i, v in enumerate(self.order)}

    def decode(self, data: bytes) -> list[int]:
        """One stream -> the samples of an image."""
        return decode_image(self, data)

    def number(self, row: int, column: int, channel: int) -> int | None:
        """A sample; None outside of the image."""
        height, width, channels = self.sizes
        inside = 0 <= row < height and 0 <= column < width
        return (row * width + column) * channels + channel if inside else None

    @functools.cached_property
    def near(self) -> list[list[int]]:
        """The neighbours of all samples."""
        _, width, channels = self.sizes
        found = []
        for v in range(len(self.parents)):
            row, column, channel = v // channels // width, v // channels % width, v % channels
            some = []
            for dy in range(-3, 4):
                for dx in range(-3, 4):
                    for other in range(channels):
                        u = self.number(row + dy, column + dx, other)
                        if u is not None and self.rank[u] < self.rank[v]:
                            some.append((dy * dy + dx * dx, other != channel, u))
            found.append([u for *_, u in sorted(some)[:10]])
        return found

    def leaf(self, v: int, image: dict[int, int], prediction: int) -> int:
        """The leaf that a sample comes to."""
        _, width, channels = self.sizes
        row, column, channel = v // channels // width, v // channels % width, v % channels
        near = [image[u] for u in self.near[v][:6]]
        features = [prediction, sum(abs(x - prediction) for x in near)]
        features += [max(near, default=0), min(near, default=255)]
        others: list[int | None] = [self.parents[v] if self.parents[v] != v else None]
        others += [self.number(row + dy, column + dx, channel) for dy, dx in _PLACES]
        others += [self.number(row, column, (channel + step) % channels) for step in (1, 2)]
        for u in others:
            known = u is not None and self.rank[u] < self.rank[v]
            features.append(image[u] if known and u is not None else -1)
        node = 0
        while self.features[node] != LEAF:
            low = features[self.features[node]] <= self.thresholds[node]
            node = node + 1 if low else self.uppers[node]
        return self.features[:node].count(LEAF)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _uppers(features: list[int]) -> dict[int, int]:
    """Where the upper child of each inner node is; refuses what is not one whole tree."""
    found: dict[int, int] = {}

    def end(node: int) -> int:
        if node >= len(features) or 18 < features[node] < LEAF:
            fail("decision tree")
        if features[node] == LEAF:
            return node + 1
        found[node] = end(node + 1)
        return end(found[node])

    if end(0) != len(features):
        fail("decision tree")
    return found


class Coder:
    """Takes parts out of one stream."""

    def __init__(self, data: bytes) -> None:
        self.data, self.range, self.at = data, 1 << 56, 7
        self.code = int.from_bytes(data[:7].ljust(7, b"\0"), "big")

    def take(self, bounds: list[int], bits: int = 16) -> int:
        """Which part; `bounds`: their ends, rising to 2^bits."""
        step = self.range >> bits
        part = 0
        while part < len(bounds) - 1 and self.code >= step * bounds[part]:
            part += 1
        low = bounds[part - 1] if part else 0
        self.code -= step * low
        self.range = step * (bounds[part] - low)
        while self.range < 1 << 48:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.code = (self.code << 8 | byte) % (1 << 56)
            self.at += 1
            self.range <<= 8
        return part


def scaled(values: list[int]) -> list[int]:
    """So that the largest has 20 bits."""
    bits = max(values).bit_length()
    return [max(1, v << 20 >> bits) for v in values]


def decode_image(circuit: Circuit, data: bytes) -> list[int]:
    """One stream -> the samples of an image."""
    coder, states = Coder(data), range(circuit.states)
    n = len(circuit.parents)
    image: dict[int, int] = {}
    belief: dict[int, list[int]] = {}
    below: dict[int, list[int]] = {}
    left = {v: len(circuit.children[v]) for v in range(n)}
    for v in circuit.order:
        u, is_root = circuit.parents[v], circuit.parents[v] == v
        weights = circuit.weights[v]
        total = sum(w * image[x] for w, x in zip(weights, circuit.near[v], strict=False))
        prediction = min(max((total + weights[10] * 16 + 32) >> 6, 0), 255)
        leaf = circuit.emissions[circuit.leaf(v, image, prediction)]
        wanted = circuit.prior
        if not is_root:
            moves = circuit.moves[v]
            wanted = [sum(belief[u][j] * moves[j][k] for j in states) for k in states]
        belief[v] = scaled(wanted)
        factor = (1 << 44) // sum(belief[v])
        mix = [b * factor >> 30 for b in belief[v]]
        mix[belief[v].index(max(belief[v]))] += (1 << 14) - sum(mix)
        sums = [sum(m * e for m, e in zip(mix, row, strict=True)) for row in leaf]
        found = coder.take([sum(sums[: i + 1]) >> 14 for i in range(len(sums))])
        symbol = circuit.bins[found][0]
        if len(circuit.bins[found]) > 1:
            shares = circuit.shares[found]
            symbol += coder.take([sum(shares[: i + 1]) for i in range(len(shares))])
        image[v] = (symbol + prediction - 128) % 256 if circuit.differences else symbol
        below[v] = list(leaf[found])
        belief[v] = scaled([b * e for b, e in zip(belief[v], leaf[found], strict=True)])
        while not left[v] and circuit.parents[v] != v:
            u, moves = circuit.parents[v], circuit.moves[v]
            told = scaled([sum(below[v][k] * moves[j][k] for k in states) for j in states])
            belief[u] = scaled([b * m for b, m in zip(belief[u], told, strict=True)])
            below[u] = scaled([b * m for b, m in zip(below[u], told, strict=True)])
            left[u] -= 1
            v = u
    if coder.at < len(data) or data[-1:] == b"\0":
        fail("a stream goes on")
    return [image[v] for v in range(n)]


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    sizes: tuple[int, int, int]
    name: bytes

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Streams -> images."""
        n = check_size(*self.sizes)
        if original % n or not original:
            fail("whole images")
        count = original // n
        cursor = Cursor(payload)
        least, bits = cursor.u32(), cursor.u8()
        if bits > 24:
            fail("bits of sizes")
        packed = int.from_bytes(cursor.take((count * bits + 7) // 8), "little")
        sizes = [least + (packed >> i * bits) % (1 << bits) for i in range(count)]
        if packed >> count * bits:
            fail("bits beyond sizes")
        if sum(sizes) != len(payload) - cursor.position:
            fail("streams and payload")
        if self.name not in KNOWN:
            raise Refused("unsupported", "circuit")
        circuit = _circuit(KNOWN[self.name])
        if circuit.sizes != self.sizes:
            fail("size of images")
        return bytes(x for size in sizes for x in circuit.decode(cursor.take(size)))


class Images(Protocol):
    """What a model file holds."""

    sizes: tuple[int, int, int]

    def decode(self, data: bytes) -> list[int]:
        """One stream -> the samples of an image."""


@functools.lru_cache(16)
def _circuit(data: bytes) -> Images:
    if data.startswith(b"DARD"):
        return importlib.import_module("reference.ardm").Network(data)  # type: ignore[no-any-return]
    return Circuit(data)


def parse_model(payload: bytes) -> Model:
    """MODEL payload."""
    cursor = Cursor(payload[1:])
    sizes = cursor.u16(), cursor.u16(), cursor.u8()
    check_size(*sizes)
    name = cursor.take(16)
    if cursor.position != len(cursor.data):
        fail("length of a MODEL")
    return Model(sizes, name)
