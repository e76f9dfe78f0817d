"""A causal language model of Llama's architecture with weights of 8 bits, and its digest."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt

from densor.errors import UnsupportedError
from densor.llm.kernels import PLACES, WIDE, round_rows
from densor.llm.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Weights = Callable[[str], Floats | None]  # a tensor by its name in transformers, None if missing

# Versions of the rounding rules, see docs/format/llm.md: keys and values of 16 bits, or of 8.
CACHE_16, CACHE_8 = 1, 2
NUMERICS = CACHE_8  # what is written
_MAX_SIZE = 1 << 15  # of a row of a matrix: 2^15 products of 2^21 fit the sums of `multiply`
_MAX_SCALE = 64  # logarithm of a matrix's largest scale, either way
_SHAPE = struct.Struct("<7I2d")


@dataclass(frozen=True)
class Shape:
    """The hyperparameters that the computation depends on."""

    layers: int
    hidden: int
    heads: int
    groups: int  # heads of keys and values
    size: int  # of a head
    inner: int  # of the feed-forward part
    vocabulary: int
    theta: float  # base of the rotary positions
    epsilon: float

    def check(self) -> None:
        """UnsupportedError for a shape that the kernels are not made for."""
        sizes = (self.hidden, self.size, self.inner, self.heads * self.size)
        if min(astuple(self)[:7]) < 1 or any(n % WIDE or n > _MAX_SIZE for n in sizes):
            raise UnsupportedError(f"model has widths that are no multiples of {WIDE}: {sizes}")
        if self.heads % self.groups or self.size > 256:
            raise UnsupportedError(
                f"model has {self.heads} heads of {self.size}, which is not done"
            )
        if self.layers > 1 << 10 or self.vocabulary > 1 << 20 or not 0 <= self.epsilon < 1:
            raise UnsupportedError("model has impossible hyperparameters")


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix by its outputs, in 8 bits as `kernels.round_rows` lays them out.

    The weights of output j are in units of scales[j] * 2^-exponent.
    """

    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.int32]
    exponent: int
    size: int  # of what goes in
    bias: npt.NDArray[np.int64]  # 2^-16; empty for none

    @property
    def columns(self) -> int:
        """Outputs, a multiple of 32."""
        return self.scales.size


@dataclass(frozen=True, eq=False)
class Flat:
    """The matrices of all layers one after the other, which `Layer`s are views of."""

    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.int32]
    exponents: npt.NDArray[np.int64]  # int64[layers, 4]
    norms: npt.NDArray[np.int64]  # int64[layers, 2, hidden], 2^-16
    biases: npt.NDArray[np.int64]  # int64[layers, columns], of queries, keys and values


@dataclass(frozen=True, eq=False)
class Layer:
    """The parameters of a layer."""

    before: npt.NDArray[np.int64]  # norms, 2^-16
    qkv: Matrix
    joined: Matrix
    after: npt.NDArray[np.int64]
    gates: Matrix
    down: Matrix


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to compute; tokens are numbered in the order of its vocabulary."""

    shape: Shape
    vocabulary: Vocabulary
    tokens: Matrix  # embeddings, of all tokens
    layers: list[Layer]
    flat: Flat
    norm: npt.NDArray[np.int64]
    head: Matrix  # of the tokens that stand for bytes
    positions: int  # that it was made for
    start: int  # number of the token that texts begin with
    digest: bytes  # SHA-256 of all of this but the vocabulary's bytes

    @property
    def parameters(self) -> int:
        """Number of weights in all matrices; norms and biases not counted."""
        matrices = [m for layer in self.layers for m in (layer.qkv, layer.joined, layer.gates)]
        matrices += [layer.down for layer in self.layers] + [self.tokens]
        return sum(matrix.weights.size for matrix in matrices)


def quantise(rows: Floats, bias: Floats | None = None) -> Matrix:
    """A matrix, float32[outputs, inputs], in 8 bits: each output has a scale.

    Every step is one rounding of IEEE 754 in double precision.
    """
    rows = _finite(rows)
    columns = -(-rows.shape[0] // WIDE) * WIDE
    largest = np.zeros(columns)
    largest[: rows.shape[0]] = np.abs(rows).max(axis=1)
    _, top = np.frexp(largest.max() / 127)
    if abs(int(top)) > _MAX_SCALE:
        raise UnsupportedError("model has a matrix of impossible scale")
    exponent = 24 - int(top)
    scales = np.maximum(np.ceil(np.ldexp(largest / 127, exponent)), 1.0)
    packed = np.zeros(columns * rows.shape[1], np.int8)
    steps = np.ldexp(scales, -exponent)
    round_rows(np.ascontiguousarray(rows).reshape(-1), rows.shape[1], steps, packed)
    offsets = np.zeros(0, np.int64)
    if bias is not None:
        offsets = np.zeros(columns, np.int64)
        offsets[: rows.shape[0]] = _fixed(bias)
    return Matrix(packed, scales.astype(np.int32), exponent, rows.shape[1], offsets)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise UnsupportedError("model has weights that are not finite")
    return values


def _fixed(values: Floats) -> npt.NDArray[np.int64]:
    """In units of 2^-16, within 2^14."""
    units = np.rint(_finite(values).astype(np.float64) * (1 << PLACES))
    return np.clip(units, -(1 << 30), 1 << 30).astype(np.int64)


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a model by their names in transformers, of the shapes that they must have."""

    shape: Shape
    get: Weights

    def need(self, name: str, *size: int) -> Floats:
        """A tensor; UnsupportedError if there is none of this shape."""
        tensor = self.get(name)
        if tensor is None or tensor.shape != size:
            raise UnsupportedError(f"model has no tensor {name} of shape {size}")
        return tensor

    def norm(self, name: str) -> npt.NDArray[np.int64]:
        """The weights of a norm."""
        return _fixed(self.need(name, self.shape.hidden))

    def attention(self, at: str) -> Matrix:
        """The projections to queries, keys and values as one matrix."""
        shape = self.shape
        sizes = {"q": shape.heads * shape.size, "k": shape.groups * shape.size}
        sizes["v"] = sizes["k"]
        names = {f"{at}self_attn.{letter}_proj": size for letter, size in sizes.items()}
        rows = [self.need(f"{name}.weight", n, shape.hidden) for name, n in names.items()]
        biased = {name for name in names if self.get(f"{name}.bias") is not None}
        biases = [
            self.need(f"{name}.bias", n) if name in biased else np.zeros(n, np.float32)
            for name, n in names.items()
        ]
        return quantise(np.concatenate(rows), np.concatenate(biases) if biased else None)

    def layer(self, number: int) -> Layer:
        """A layer, ready to compute."""
        at, shape = f"model.layers.{number}.", self.shape
        gates = [
            self.need(f"{at}mlp.{n}_proj.weight", shape.inner, shape.hidden) for n in ("gate", "up")
        ]
        joined = self.need(f"{at}self_attn.o_proj.weight", shape.hidden, shape.heads * shape.size)
        return Layer(
            self.norm(f"{at}input_layernorm.weight"),
            self.attention(at),
            quantise(joined),
            self.norm(f"{at}post_attention_layernorm.weight"),
            quantise(np.concatenate(gates)),
            quantise(self.need(f"{at}mlp.down_proj.weight", shape.hidden, shape.inner)),
        )


def build(shape: Shape, get: Weights, vocabulary: Vocabulary, positions: int, start: int) -> Model:
    """The model that these weights make; UnsupportedError if they do not make one.

    `positions`: at most so many were seen in training. `start`: the token, by its number in the
    model, that texts begin with.
    """
    shape.check()
    tensors = _Tensors(shape, get)
    embeddings = tensors.need("model.embed_tokens.weight", shape.vocabulary, shape.hidden)
    tokens = quantise(embeddings[vocabulary.numbers])
    norm = tensors.norm("model.norm.weight")
    head = tokens
    if get("lm_head.weight") is not None:
        rows = tensors.need("lm_head.weight", shape.vocabulary, shape.hidden)
        head = quantise(rows[vocabulary.numbers[: vocabulary.count]])
    layers, flat = _joined(shape.layers, tensors.layer)
    first = int(np.flatnonzero(vocabulary.numbers == start)[0])
    digest = _digest(shape, tokens, layers, norm, head, first)
    return Model(shape, vocabulary, tokens, layers, flat, norm, head, positions, first, digest)


def _joined(count: int, layer: Callable[[int], Layer]) -> tuple[list[Layer], Flat]:
    """Layers, made one after the other, in one piece of memory each kind."""
    layers: list[Layer] = []
    for number in range(count):
        made = layer(number)
        matrices = (made.qkv, made.joined, made.gates, made.down)
        if not number:
            flat = Flat(
                np.empty(count * sum(matrix.weights.size for matrix in matrices), np.int8),
                np.empty(count * sum(matrix.columns for matrix in matrices), np.int32),
                np.empty((count, 4), np.int64),
                np.empty((count, 2, made.before.size), np.int64),
                np.zeros((count, made.qkv.columns), np.int64),
            )
        flat.exponents[number] = [matrix.exponent for matrix in matrices]
        flat.norms[number] = made.before, made.after
        if made.qkv.bias.size:
            flat.biases[number] = made.qkv.bias
        at, column = number * (flat.weights.size // count), number * (flat.scales.size // count)
        views = []
        for matrix in matrices:
            weights = flat.weights[at : at + matrix.weights.size]
            scales = flat.scales[column : column + matrix.columns]
            weights[:], scales[:] = matrix.weights, matrix.scales
            views.append(replace(matrix, weights=weights, scales=scales))
            at, column = at + weights.size, column + scales.size
        norms = flat.norms[number]
        layers.append(Layer(norms[0], views[0], views[1], norms[1], views[2], views[3]))
    return layers, flat


def _digest(
    shape: Shape,
    tokens: Matrix,
    layers: list[Layer],
    norm: npt.NDArray[np.int64],
    head: Matrix,
    start: int,
) -> bytes:
    sha = hashlib.sha256(_SHAPE.pack(*astuple(shape)) + struct.pack("<I", start))
    for matrix in (tokens, head):
        _take_in(sha, matrix)
    for layer in layers:
        sha.update(layer.before.astype("<i8"))
        sha.update(layer.after.astype("<i8"))
        for matrix in (layer.qkv, layer.joined, layer.gates, layer.down):
            _take_in(sha, matrix)
    sha.update(norm.astype("<i8"))
    return sha.digest()


def _take_in(sha: "hashlib._Hash", matrix: Matrix) -> None:
    sha.update(struct.pack("<iII", matrix.exponent, matrix.size, matrix.columns))
    sha.update(matrix.scales.astype("<i4"))
    sha.update(matrix.weights)
    sha.update(matrix.bias.astype("<i8"))
