"""Snapshots, and what ranks say of their bytes, as an attacker would write them."""

import struct
from collections import OrderedDict
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from reference import rank_parity, snapshot
from reference.container import Entry
from reference.reading import Refused

from densor.errors import FormatError
from densor.torch import pack_snapshot, unpack_snapshot
from densor.torch.stripes import Stripes, parse_rows, row_length
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong
from fuzz.training import mutate_sealed

_GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
_FORMER = b"PK"
_MOST_RANKS = 6
_PAIR = struct.Struct("<BB")


def run_snapshot(data: bytes) -> object:
    """What is taken is what the reference takes; it does not know the former form."""
    state, step = unpack_snapshot(data)
    if data[:2] == _FORMER:
        return "former"
    try:
        right, number = snapshot.decode(data)
    except Refused as error:
        raise Wrong(f"a snapshot that the reference refuses is taken: {error}") from None
    if step != number or _plain(state) != _plain(right):
        raise Wrong("the reference decodes another state")
    return type(state).__name__


def _plain(part: Any) -> Any:
    """A state, tensors as their shapes and bytes, numbers as their bits."""
    if isinstance(part, Entry):
        return tuple(part.meta["shape"]), sorted(part.data)
    if isinstance(part, torch.Tensor):
        flat = part.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return tuple(part.shape), sorted(flat)  # whatever the order in memory
    if isinstance(part, float):
        return struct.pack("<d", part)
    if isinstance(part, complex):
        return struct.pack("<dd", part.real, part.imag)
    if isinstance(part, dict):
        return type(part), [(_plain(key), _plain(value)) for key, value in part.items()]
    if isinstance(part, list | tuple):
        return type(part), [_plain(one) for one in part]
    return type(part), part


@cache
def snapshot_seeds() -> list[bytes]:
    """States with all kinds of nodes, and of the former form."""
    tensors = OrderedDict(a=torch.arange(12).reshape(3, 4).half(), b=torch.zeros(0, 2).t())
    numbers = [1, -(2**70), 0.5, 1j, None, True, "text", b"bytes", (1, 2)]
    files = [_GOLDEN.joinpath(f"{name}.snapshot").read_bytes() for name in ("state", "former")]
    states = ({"model": tensors, 3: numbers}, [{}, (), []], tensors["a"], {(1, "a"): 1})
    return [*files, *(pack_snapshot(state, 9) for state in states)]


def mutate_snapshot(data: bytes, rng: Random, others: Any) -> bytes:
    """As of optimizer states; of the former form, anything."""
    if data[:2] == _FORMER:
        return mutated(data, rng, others)
    return mutate_sealed(data, rng, others)


def run_ranks(data: bytes) -> object:
    """Ranks' bytes, cut out of the input: parity is that of the reference, any may be lost.

    What a rank says of its bytes is refused, or bounded.
    """
    if len(data) < _PAIR.size:
        raise FormatError("is too short")
    ranks, lost = (byte % _MOST_RANKS + 1 for byte in _PAIR.unpack_from(data))
    code = Stripes(ranks, lost)
    rest = data[_PAIR.size : _PAIR.size + 400]
    own = [rest[i * i :: i + 2] for i in range(ranks)]
    sizes, held = [len(part) for part in own], rank_parity.held(own, lost)
    gone = set(np.random.default_rng(len(data)).permutation(ranks)[:lost].tolist())
    found: dict[int, bytes] = dict.fromkeys(gone, b"")
    for stripe in range(ranks):
        blocks = [code.piece(rank, own[rank], sizes, stripe) for rank in range(ranks)]
        for number, holder in enumerate(code.holders(stripe)):
            blocks[holder] = code.parity(stripe, blocks, number)
            if blocks[holder].tobytes() != held[stripe, holder]:
                raise Wrong("parity is not that of the reference")
        left = {rank: block for rank, block in enumerate(blocks) if rank not in gone}
        for rank in gone & set(code.members(stripe)):
            found[rank] += code.restored(rank, stripe, left)
    for rank, made in found.items():
        if made[: sizes[rank]] != own[rank]:
            raise Wrong("bytes of a lost rank are others")
    count = row_length(ranks)
    row = np.frombuffer(data[_PAIR.size :][: 8 * count].ljust(8 * count, b"\0"), "<i8").tolist()
    return ranks, lost, len(parse_rows(row, ranks))


def rank_seeds() -> list[bytes]:
    """Some of each number of ranks, and what ranks say."""
    heads = [_PAIR.pack(ranks - 1, ranks // 3) for ranks in range(2, _MOST_RANKS + 1)]
    said = np.array([1, 5, 10, 12, *[7] * 32], "<i8").tobytes()
    return [*(head + bytes(8) + bytes(range(99)) for head in heads), heads[0] + said]


TARGETS = (
    Target("snapshot", run_snapshot, snapshot_seeds, mutate_snapshot, most_memory=1 << 27),
    Target("ranks", run_ranks, rank_seeds, most_memory=1 << 22),
)
