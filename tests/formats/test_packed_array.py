"""Any bytes of what stays packed."""

import numpy as np
import pytest
from helpers import random_state

import densor
from densor.errors import ArgumentError
from densor.formats.container.packed_array import PackedArray
from densor.runtime.workers import Workers


@pytest.mark.parametrize("threads", [1, 2])
def test_any_part_is_decoded_alone(threads: int) -> None:
    rng = random_state("parts")
    data = rng.standard_normal((900, 1000)).astype(np.float32)
    packed = PackedArray(densor.compress(data))
    chunks = [size for *_, size, _ in packed.chunks()]
    assert len(chunks) >= 3 and packed.size == data.nbytes
    wanted = data.reshape(-1).view(np.uint8)
    edge = chunks[0]
    places = [
        (0, 0),
        (0, packed.size),
        (edge, edge),
        (edge - 1, edge + 1),
        (5, edge),
        (edge, edge * 2),
    ]
    places += [tuple(sorted(rng.integers(0, packed.size + 1, 2).tolist())) for _ in range(20)]
    for begin, end in places:
        around = np.full(end - begin + 16, 7, np.uint8)
        packed.decode_part(begin, around[8:-8], Workers(threads))
        assert np.array_equal(around[8:-8], wanted[begin:end])
        assert (around[:8] == 7).all() and (around[-8:] == 7).all()
        cost = packed.cost(begin, end)
        assert end - begin <= cost <= end - begin + 2 * max(chunks) and (begin < end or not cost)
    for begin, size in ((-1, 2), (packed.size, 1), (packed.size - 1, 2), (packed.size + 1, 0)):
        with pytest.raises(ArgumentError, match="array has"):
            packed.decode_part(begin, np.empty(size, np.uint8), Workers(threads))


def test_repetitions_are_parts_too() -> None:
    block = random_state("repeated").standard_normal((600, 1024)).astype(np.float32)
    data = np.concatenate([block, block])
    packed = PackedArray(densor.compress(data))
    out = np.empty(3000, np.uint8)
    packed.decode_part(block.nbytes + 777, out, Workers(1))
    assert np.array_equal(out, data.reshape(-1).view(np.uint8)[block.nbytes + 777 :][:3000])
