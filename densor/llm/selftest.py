"""Whether this machine computes what every other computes: a tiny network with a known result."""

import functools
import hashlib
import math

import numpy as np

from densor.errors import UnsupportedError
from densor.llm.head import Head, Rates
from densor.llm.model import CACHE_8, CACHE_16, NUMERICS, Floats, Model, Shape, build
from densor.llm.network import Network, Rows
from densor.llm.vocabulary import Vocabulary

EXPECTED = {
    CACHE_16: "fa0ff8e46785f20093f8595f460b2519b64d67ff46157cabd49a72d8fd05f119",
    CACHE_8: "b44a3b3bd6dc97a0501901f3d0a99581b4fc52231dca5923c987d68c9f343003",
}
_SHAPE = Shape(
    layers=2,
    hidden=64,
    heads=4,
    groups=2,
    size=32,
    inner=1056,  # one sum of 32 bits is not enough
    vocabulary=80,
    theta=10000.0,
    epsilon=1e-5,
)
_POSITIONS = 64
RATES = Rates(1 << 20, 13)


def tiny_model(shape: Shape = _SHAPE) -> Model:
    """A network with weights from -1/4 to 1/4, which SplitMix64 makes; the last two tokens stand
    for nothing."""
    made = 0

    def random(*size: int) -> Floats:
        nonlocal made
        count = math.prod(size)
        z = np.arange(made + 1, made + 1 + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        made += count
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        units = ((z ^ (z >> np.uint64(31))) >> np.uint64(41)).astype(np.float32)  # of 23 bits
        return (units / np.float32(1 << 24) - np.float32(0.25)).reshape(size)

    own, shared = shape.heads * shape.size, shape.groups * shape.size
    tensors: dict[str, Floats] = {
        "model.embed_tokens.weight": random(shape.vocabulary, shape.hidden),
        "model.norm.weight": 1 + random(shape.hidden),
    }
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        for name in ("input", "post_attention"):
            tensors[f"{at}{name}_layernorm.weight"] = 1 + random(shape.hidden)
        for name, size in (("q", own), ("k", shared), ("v", shared)):
            tensors[f"{at}self_attn.{name}_proj.weight"] = random(size, shape.hidden)
            tensors[f"{at}self_attn.{name}_proj.bias"] = random(size)
        tensors[f"{at}self_attn.o_proj.weight"] = random(shape.hidden, own)
        tensors[f"{at}mlp.gate_proj.weight"] = random(shape.inner, shape.hidden)
        tensors[f"{at}mlp.up_proj.weight"] = random(shape.inner, shape.hidden)
        tensors[f"{at}mlp.down_proj.weight"] = random(shape.hidden, shape.inner)
    pieces = [bytes([48 + i]) for i in range(shape.vocabulary - 2)]
    words = Vocabulary([*pieces, None, None])
    return build(shape, tensors.get, words, _POSITIONS, shape.vocabulary - 1)


def outcome(model: Model, rows: int, numerics: int = NUMERICS) -> bytes:
    """What is said after each of some tokens of two texts, read `rows` at a time, by a head that
    learns that each came again."""
    network = Network(model, 2, _POSITIONS, numerics)
    tokens = np.arange(60, dtype=np.int64) * 7 % model.shape.vocabulary
    slots = np.arange(60, dtype=np.int64) % 2
    places = np.arange(60, dtype=np.int64) // 2
    head = Head(model, RATES)
    all_counts = []
    for at in range(0, 60, rows):
        part = slice(at, min(at + rows, 60))
        read = network.read(tokens[part], slots[part], places[part], part.stop - at)
        for i, token in enumerate(tokens[part].tolist()):
            row = Rows(read.values[i : i + 1], read.shifts[i : i + 1])
            counts = head.counts(row)
            all_counts.append(counts)
            if token < model.vocabulary.count:
                head.learn(row, 0, counts[0], token)
    return np.concatenate(all_counts).astype("<i8").tobytes()


@functools.cache
def check(numerics: int) -> None:
    """UnsupportedError unless the result is the one that it must be, by this version of rules."""
    found = hashlib.sha256(outcome(tiny_model(), 60, numerics)).hexdigest()
    if found != EXPECTED[numerics]:
        raise UnsupportedError(
            "this machine does not compute as the language-model tier needs it; "
            "please report it, with the processor and the versions of numba and numpy"
        )
