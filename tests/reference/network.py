"""The network of docs/format/llm.md in numpy alone, slowly: one text, one token at a time.

Written from the specification; shares nothing with the package but the quantised weights.
"""

import functools
import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@functools.lru_cache(64)
def unpacked(matrix: Any) -> Ints:
    """int64[columns, size]: the weights of a matrix."""
    blocks = matrix.weights.reshape(-1, matrix.size // 2, 32, 2)
    found: Ints = blocks.transpose(0, 2, 1, 3).reshape(-1, matrix.size).astype(np.int64)
    return found


def half(shift: int) -> int:
    return (1 << shift) >> 1


def quantised(values: npt.NDArray[Any], bits: int) -> tuple[Ints, int]:
    shift = max(int(np.abs(values).max()).bit_length() - bits, 0)
    return np.minimum((values + half(shift)) >> shift, (1 << bits) - 1), shift


def product(row: Ints, shift: int, matrix: Any, places: int) -> Ints:
    """The matrix times a row in units of 2^(shift - 16)."""
    total = (unpacked(matrix) @ row) * matrix.scales.astype(np.int64)
    right = min(max(matrix.exponent - places + 16 - shift, -40), 62)
    most = 1 << 47
    if right >= 0:
        total = (total + half(right)) >> right
    else:
        total = np.clip(total, -(most >> -right), most >> -right) << -right
    found: Ints = np.clip(total, -most, most)
    return found + matrix.bias if matrix.bias.size else found


def in_bytes(values: Ints) -> tuple[Ints, int]:
    """Numbers from -127 to 127, and their unit."""
    most = int(np.abs(values).max())
    shift = max(most.bit_length() - 11, 0)
    unit = ((most >> shift) // 127 + 1) << shift
    return (values + (unit >> 1)) // unit, unit


class Reference:
    def __init__(self, model: Any, numerics: int = 2) -> None:
        self.model = model
        self.numerics = numerics
        shape = model.shape
        self.keys: list[list[list[tuple[Ints, int]]]] = [
            [[] for _ in range(shape.groups)] for _ in range(shape.layers)
        ]
        self.values: list[list[list[tuple[Ints, int]]]] = [
            [[] for _ in range(shape.groups)] for _ in range(shape.layers)
        ]
        self.place = 0
        self.tables: dict[int, Ints] = {}
        with localcontext() as context:
            context.prec = 60
            ln2 = Decimal(2).ln()
            self.exp2 = [(-ln2 * i / 1024).exp() for i in range(1024)]
            self.factor = int(((1 << 20) / (ln2 * Decimal(shape.size).sqrt())).to_integral_value())
            self.log2_e = int(((1 << 16) / ln2).to_integral_value())
            self.sigmoid = np.array(
                [
                    int((65536 / (1 + (-Decimal(i - 4096) / 256).exp())).to_integral_value())
                    for i in range(8193)
                ]
            )

    def exponential(self, x: Ints, places: int) -> Ints:
        if places not in self.tables:
            rounded = [int((e * (1 << places)).to_integral_value()) for e in self.exp2]
            self.tables[places] = np.array(rounded)
        found: Ints = self.tables[places][x & 1023] >> (x >> 10)
        return found

    def norm(self, x: Ints, weights: Ints) -> tuple[Ints, int]:
        shift = max(int(np.abs(x).max()).bit_length() - 20, 0)
        small = x >> shift
        epsilon = round(self.model.shape.epsilon * (1 << 48))
        mean = int((small * small).sum()) // x.size
        mean += epsilon >> (2 * shift) if shift < 30 else 0
        inverse = (1 << 52) // max(math.isqrt(mean << 20), 1)
        value = (small * inverse + (1 << 21)) >> 22
        return quantised((value * weights + (1 << 19)) >> 20, 14)

    def turned(self, head: Ints) -> Ints:
        """A head turned by its position."""
        size = head.size
        head = np.clip(head, -(1 << 40), 1 << 40)
        c, s = rotary(self.model.shape.theta, size, self.place)
        x, y = head[: size // 2], head[size // 2 :]
        first, second = x * c - y * s, y * c + x * s
        return (np.concatenate([first, second]) + (1 << 14)) >> 15

    def attention(self, layer: int, qkv: Ints) -> tuple[Ints, int]:
        shape = self.model.shape
        heads = qkv.reshape(-1, shape.size)
        share = shape.heads // shape.groups
        out = []
        for group in range(shape.groups):
            key = heads[shape.heads + group]
            value = heads[shape.heads + shape.groups + group]
            small = self.numerics == 2
            key = self.turned(key)
            if small:
                most = (1 << 30) - 1
                self.keys[layer][group].append(in_bytes(key))
                self.values[layer][group].append(in_bytes(np.clip(value, -most, most)))
            else:
                key, shift = quantised(key, 11)
                words = np.clip((value + 64) >> 7, -32767, 32767)
                self.keys[layer][group].append((key, 1 << shift))
                self.values[layer][group].append((words, 1))
            for head in range(group * share, (group + 1) * share):
                query, shift = quantised(self.turned(heads[head]), 12)
                keys = self.keys[layer][group]
                scores = np.array([int(query @ k) * u for k, u in keys])
                right = 42 - shift
                limit = ((32 << 10) << right) // self.factor + 1
                below = np.minimum(scores.max() - scores, limit)
                e = self.exponential((below * self.factor) >> right, 22)
                inverse = (32767 << 40) // int(e.sum())
                values = np.array([v for v, _ in self.values[layer][group]])
                units = np.array([u for _, u in self.values[layer][group]])
                if small:
                    weights = ((e * inverse) >> 32) * units
                    most, total = int(weights.max()), int(weights.sum())
                    right = max(most.bit_length() - 15, total.bit_length() - 23, 0)
                    weights = np.minimum((weights + half(right)) >> right, 32767)
                    out.append((weights @ values) << right)
                else:
                    out.append(((e * inverse) >> 40) @ values)
        row, shift = quantised(np.concatenate(out), 14)
        return row, shift - (23 if small else 8)

    def read(self, token: int) -> tuple[Ints, int]:
        """Takes in a token; the row that the head is multiplied with, and its shift."""
        model = self.model
        scale = int(model.tokens.scales[token])
        right = model.tokens.exponent - 24
        x = (unpacked(model.tokens)[token] * scale + half(right)) >> right
        for number, layer in enumerate(model.layers):
            qkv = product(*self.norm(x, layer.before), layer.qkv, 16)
            x = x + product(*self.attention(number, qkv), layer.joined, 24)
            gates = product(*self.norm(x, layer.after), layer.gates, 16)
            g, u = np.clip(gates, -(1 << 30), 1 << 30).reshape(2, -1)
            steps = np.clip((g + 128) >> 8, -4096, 4096) + 4096
            inner = (((g * self.sigmoid[steps]) >> 16) * u) >> 16
            x = x + product(*quantised(inner, 14), layer.down, 24)
        self.place += 1
        return self.norm(x, model.norm)


class Head:
    """Counts of the next token, from a head that learns at these rates."""

    def __init__(self, model: Any, rate: int = 0, offset_rate: int = 0) -> None:
        self.model = model
        self.rate, self.offset_rate = rate, offset_rate
        size = model.shape.hidden
        self.change = np.zeros((size, size), np.int64)
        self.offsets = np.zeros(model.vocabulary.count, np.int64)
        self.base = Reference(model)

    def counts(self, row: Ints, shift: int) -> Ints:
        """int64[count + 1], how many counts are on all tokens before each."""
        changed, more = quantised((row << 30) + self.change @ row, 14)
        logits = product(changed, shift + more - 30, self.model.head, 16)
        logits = logits[: self.offsets.size] + self.offsets
        below = np.minimum(logits.max() - logits, 40 << 16)
        counts = self.base.exponential((below * self.base.log2_e) >> 22, 30) + 1
        return np.concatenate([[0], np.cumsum(counts)])

    def learn(self, row: Ints, shift: int, counts: Ints, token: int) -> None:
        """Takes in which token came."""
        each = np.diff(counts)
        total = int(counts[-1])
        errors = np.where(each > total >> 11, -((each << 16) // total), 0)
        errors[token] = 65536 - (int(each[token]) << 16) // total
        self.offsets += (errors * self.offset_rate + 64) >> 7
        self.offsets = np.clip(self.offsets, -(1 << 24), 1 << 24)
        matrix = self.model.head
        used = np.flatnonzero(errors)
        scaled = errors[used] * matrix.scales[used].astype(np.int64)
        pull = scaled @ unpacked(matrix)[used]
        right = min(max(matrix.exponent - 8, -40), 62)
        if right >= 0:
            pull = (pull + half(right)) >> right
        else:
            most = (1 << 26) >> min(-right, 26)
            pull = np.clip(pull, -most, most) << -right
        pull = np.clip(pull, -(1 << 26), 1 << 26)
        strength = np.clip((pull * self.rate) >> 12, 1 - (1 << 30), (1 << 30) - 1)
        right = min(max(30 - shift, 0), 62)
        self.change += (np.outer(strength, row) + half(right)) >> right
        self.change = np.clip(self.change, 1 - (1 << 30), (1 << 30) - 1)


@functools.cache
def rotary(theta: float, size: int, place: int) -> tuple[Ints, Ints]:
    """Cosines and sines of a place, times 2^15."""
    with localcontext() as context:
        context.prec = 60
        found = np.zeros((2, size // 2), np.int64)
        for i in range(size // 2):
            angle = (Decimal(theta).ln() * (-2 * i) / size).exp() * place
            for row, value in enumerate(_cos_sin(angle)):
                rounded = (value * 32768 + Decimal("0.5")).to_integral_value("ROUND_FLOOR")
                found[row, i] = int(rounded)
        return found[0], found[1]


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """The series of a part of the angle below 1, doubled up: that of a large one would cancel."""
    doublings = int(angle).bit_length()
    angle /= 1 << doublings
    parts = [Decimal(0), Decimal(0)]
    term = Decimal(1)
    n = 0
    while abs(term) > Decimal(10) ** -50 or n < 8:
        parts[n % 2] += -term if n % 4 > 1 else term
        n += 1
        term = term * angle / n
    c, s = parts
    for _ in range(doublings):
        c, s = c * c - s * s, 2 * c * s
    return c, s
