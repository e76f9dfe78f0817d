"""Changes of few elements: kernels and the reference decoder, elements of all sizes and blocks."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import random_state
from reference import few as reference

from densor.codec.delta import few_decoder, few_params
from densor.codec.delta.few_encoder import FewEncoder
from densor.codec.delta.payload import FEW_CODED, HEAD
from densor.errors import FormatError
from densor.runtime.workers import Workers

_DTYPES = {"F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}


@pytest.mark.parametrize("size", [1, 33, 2100])
@pytest.mark.parametrize("dtype", _DTYPES)
def test_the_reference_says_the_same(dtype: str, size: int) -> None:
    """Among them are elements of no usual magnitude: zeros, and any bits."""
    width = _DTYPES[dtype]
    rng = random_state("few", dtype, size)
    floats = rng.standard_normal(size)
    kind = {"F16": np.float16, "F64": np.float64}.get(dtype, np.float32)
    old = floats.astype(kind).view(f"u{np.dtype(kind).itemsize}")
    old = (old >> np.array(8 * (old.itemsize - width), old.dtype)).astype(f"u{width}")
    odd = rng.random(size) < 0.02
    old[odd] = rng.integers(0, 1 << 8 * width, int(odd.sum()), f"u{width}")
    old[rng.random(size) < 0.02] = 0
    blocks = set()
    for share in (0.003, 0.015, 0.03, 0.06):
        new = old.copy()
        changed = np.flatnonzero(rng.random(size) < share)
        new[changed] += rng.choice(np.array([1, (1 << 8 * width) - 1, 77], new.dtype), changed.size)
        encoder = FewEncoder(dtype, width)
        part = encoder.survey(new.view(np.uint8), old.view(np.uint8))
        assert part is not None
        encoder.fit([part])
        encoder.record(part)
        few = encoder.decide()
        blocks.add(few.block_bits)
        coded = encoder.code(part)
        found = old.copy()
        few_decoder.apply(few, np.frombuffer(coded, np.uint8), found.view(np.uint8))
        assert found.tobytes() == new.tobytes()
        model = reference.parse_model(few_params.pack(few))
        payload = HEAD.pack(0, FEW_CODED) + coded
        assert reference.decode(model, payload, old.nbytes, old.tobytes()) == new.tobytes()
    assert size < 2100 or len(blocks) > 2


def test_classes_of_blocks_without_changes_take_no_frequencies() -> None:
    """Most blocks expect nothing here: small numbers alone change, and are together."""
    rng = random_state("few classes")
    old = rng.integers(0x3F80, 0x4000, 1 << 14).astype(np.uint16)
    old[:2048] = rng.integers(0x3000, 0x3080, 2048)
    new = old.copy()
    new[np.flatnonzero(rng.random(2048) < 0.05)] += np.uint16(1)
    encoder = FewEncoder("BF16", 2)
    part = encoder.survey(new.view(np.uint8), old.view(np.uint8))
    assert part is not None
    encoder.fit([part])
    encoder.record(part)
    few = encoder.decide()
    assert part.classes is not None and part.counts is not None
    met, changed = set(part.classes), set(part.classes[part.counts > 0])
    assert changed < met
    assert set(np.flatnonzero(few.counts.any(axis=1))) == changed
    found = old.copy()
    few_decoder.apply(few, np.frombuffer(encoder.code(part), np.uint8), found.view(np.uint8))
    assert found.tobytes() == new.tobytes()


@pytest.mark.parametrize("at", [0, 3], ids=["codec", "method"])
def test_parameters_of_another_method_are_refused(at: int) -> None:
    """A message of changes names both, and nothing else looks at them there."""
    old = np.zeros(256, np.uint16)
    new = old.copy()
    new[3] = 1
    encoder = FewEncoder("BF16", 2)
    part = encoder.survey(new.view(np.uint8), old.view(np.uint8))
    assert part is not None
    encoder.fit([part])
    encoder.record(part)
    packed = bytearray(few_params.pack(encoder.decide()))
    few_params.parse(bytes(packed))
    packed[at] += 1
    with pytest.raises(FormatError, match="another method"):
        few_params.parse(bytes(packed))


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_are_recorded_by_all_threads_as_one_by_one(threads: int) -> None:
    rng = random_state("few threads")
    old = rng.integers(0x3E00, 0x4000, 30_000).astype(np.uint16)
    new = old + (rng.random(old.size) < 0.02).astype(np.uint16)
    found = []
    for together in (True, False):
        encoder = FewEncoder("BF16", 2)
        parts = []
        for begin, end in pairwise((0, 40, 9000, 9500, 21_000, 30_000)):
            part = encoder.survey(new[begin:end].view(np.uint8), old[begin:end].view(np.uint8))
            assert part is not None
            parts.append(part)
        encoder.fit(parts)
        if together:
            encoder.record_all(parts, Workers(threads))
        else:
            for part in parts:
                encoder.record(part)
        found.append([few_params.pack(encoder.decide()), *map(encoder.code, parts)])
    assert found[0] == found[1]
