"""Whether this machine computes what every other computes: a tiny network with a known result."""

import functools
import hashlib
import math

import numpy as np

from densor.errors import UnsupportedError
from densor.llm.model import Floats, Model, Shape, build
from densor.llm.network import Network
from densor.llm.vocabulary import Vocabulary

EXPECTED = "eee773f70ad7948a17498c06d256bcc42a430733c94911c2feaeaf21784a5828"
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


def outcome(model: Model, rows: int) -> bytes:
    """What the network says after each of some tokens of two texts, read `rows` at a time."""
    network = Network(model, 2, _POSITIONS)
    tokens = np.arange(60, dtype=np.int64) * 7 % model.shape.vocabulary
    slots = np.arange(60, dtype=np.int64) % 2
    places = np.arange(60, dtype=np.int64) // 2
    found = [
        network.advance(tokens[at : at + rows], slots[at : at + rows], places[at : at + rows], n)
        for at in range(0, 60, rows)
        for n in (min(rows, 60 - at),)
    ]
    return np.concatenate(found).astype("<i8").tobytes()


@functools.cache
def check() -> None:
    """UnsupportedError unless the result is the one that it must be."""
    if hashlib.sha256(outcome(tiny_model(), 60)).hexdigest() != EXPECTED:
        raise UnsupportedError(
            "this machine does not compute as the language-model tier needs it; "
            "please report it, with the processor and the versions of numba and numpy"
        )
