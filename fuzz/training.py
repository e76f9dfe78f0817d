"""Packed optimizer states and pages of caches, as an attacker would write them."""

import copy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import xxhash
from reference import adam, cache_page
from reference.reading import Refused

import densor
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import DensorError
from densor.torch import pack_page, pack_state, pages, rotated, sealed, unpack_page, unpack_state
from densor.torch.adam import layout
from densor.torch.pages import KEYS, VALUES, Page
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
_HASH = 16
_WORTH_CHECKING = 1 << 12  # elements of what the slow reference decodes as well


def _sealed(body: bytes) -> bytes:
    return body + xxhash.xxh3_128_digest(body)


@cache
def _states() -> list[dict[str, Any]]:
    """The state of an optimizer after some steps."""
    generator = torch.Generator().manual_seed(4)
    parameters = [
        torch.nn.Parameter(torch.randn(size, generator=generator)) for size in ((12, 20), (9,))
    ]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    found = []
    for step in range(3):
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            exact = gradient.bfloat16().float() * 0.7
            parameter.grad = gradient if step == 2 else exact
        optimizer.step()
        found.append(copy.deepcopy(optimizer.state_dict()))
    return found


def _moments(state: dict[str, Any]) -> dict[Any, adam.Moments]:
    return {
        key: (slot["exp_avg"].numpy().tobytes(), slot["exp_avg_sq"].numpy().tobytes())
        for key, slot in state["state"].items()
    }


def run_state(data: bytes) -> object:
    """What is taken is what the reference takes."""
    before = _states()[0]
    found = unpack_state(data, before)
    groups = layout.table_of(data)["groups"]
    try:
        right = adam.decode(data, _moments(before))
    except (Refused, KeyError) as error:
        raise Wrong(f"a state that the reference refuses is taken: {error}") from None
    made = _moments({"state": {key: found["state"][key] for keys in right for key in keys}})
    for keys, (m, v) in right.items():
        if b"".join(made[key][0] for key in keys) != m:
            raise Wrong("m is another one")
        if b"".join(made[key][1] for key in keys) != v:
            raise Wrong("v is another one")
    return sorted(group["way"] for group in groups)


@cache
def state_seeds() -> list[bytes]:
    """States that are coded in all ways."""
    first, second, third = _states()
    return [
        pack_state(second, first),
        pack_state(third, first),
        pack_state(third),
        pack_state(first, first, level=3),
        _GOLDEN.joinpath("adam-relative.state").read_bytes(),
    ]


def mutate_sealed(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes the table of what `densor.torch.sealed` made, or anything; the checksum is right."""
    if len(data) < sealed.HEAD.size + _HASH or rng.random() < 0.05:
        return mutated(data, rng, others)
    magic, version, reserved, stored, size = sealed.HEAD.unpack_from(data)
    table = data[sealed.HEAD.size : sealed.HEAD.size + stored]
    rest = data[sealed.HEAD.size + stored : -_HASH]
    if rng.random() < 0.5:
        try:
            text = mutated(zstd_decompress(table, min(size, 1 << 16)), rng, [])
        except DensorError:
            return _sealed(mutated(data[:-_HASH], rng, others))
        table, size = zstd_compress(text, 3), len(text)
        head = sealed.HEAD.pack(magic, version, reserved, len(table), size)
        return _sealed(head + table + rest)
    return _sealed(data[: sealed.HEAD.size + stored] + mutated(rest, rng, []))


def run_page(data: bytes) -> object:
    """What is taken is what the reference takes, if it is not too much for it."""
    page = unpack_page(data)
    if page.tensor.numel() > _WORTH_CHECKING:
        return "large"
    try:
        right = cache_page.decode(data)
    except Refused as error:
        raise Wrong(f"a page that the reference refuses is taken: {error}") from None
    made = page.tensor.contiguous().view(torch.uint8).numpy().tobytes()
    if made != right.data or tuple(page.tensor.shape) != right.shape:
        raise Wrong("the reference decodes other bytes")
    if page[:3] != (right.which, right.layer, right.first):
        raise Wrong("the reference reads another head")
    return data[11]


@cache
def page_seeds() -> list[bytes]:
    """Pages of all ways."""
    rng = np.random.default_rng(3)
    turn = np.arange(60)[:, None] * 100.0 ** -(np.arange(4) / 4)
    means = 4 * rng.normal(size=(2, 1, 8))
    a, b = np.split(means + 0.2 * rng.normal(size=(2, 60, 8)), 2, axis=2)
    keys = np.concatenate(
        [a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)], 2
    )
    tensor = torch.from_numpy(keys[None]).bfloat16()
    wide = torch.from_numpy(10.0 ** np.arange(-16, 16, dtype=np.float64)).reshape(1, 1, 1, 32)
    return [
        pack_page(Page(KEYS, 1, 5, tensor), rope_theta=100.0),
        _former(rng),
        pack_page(Page(KEYS, 1, 5, (tensor.float() * wide[..., :8].float()).half())),
        pack_page(Page(VALUES, 0, 0, tensor)),
        pack_page(Page(VALUES, 7, 0, torch.zeros(1, 2, 0, 8))),
    ]


def _former(rng: np.random.Generator) -> bytes:
    """A page of way 2, which is not written any more: any numbers under any means."""
    shape = 1, 2, 60, 8
    means = rng.integers(-3000, 3000, (2, 8)).astype(np.int16)
    scales = rng.integers(0, 193, (2, 8)).astype(np.uint8)
    side = rotated.pack(rotated.Means(means, scales, rotated.steps_of(100.0, 8), -9, 5), 60)
    flat = rng.normal(24000, 500, 960).astype(np.uint16)
    head = pages._HEAD.pack(pages.MAGIC, pages.VERSION, KEYS, pages.SORTED, 1, 5, *shape)
    return _sealed(head + side + densor.compress(flat, 3, 1))


def mutate_page(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a page; the checksum is mostly made right again."""
    if rng.random() < 0.05:
        return mutated(data, rng, others)
    return _sealed(mutated(data[:-_HASH], rng, [other[:-_HASH] for other in others]))


TARGETS = (
    Target("adam", run_state, state_seeds, mutate_sealed, most_memory=1 << 27),
    Target("page", run_page, page_seeds, mutate_page, most_memory=1 << 27),
)
