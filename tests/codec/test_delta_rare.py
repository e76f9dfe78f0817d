"""Changes that are nearly always none or one step, which kernels code without loads of tables."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from densor.codec.batch import Batch, Before
from densor.codec.delta.decoder import DeltaDecoder
from densor.codec.delta.encoder import DeltaEncoder
from densor.codec.delta.params import Contexts, parse
from densor.codec.kind import kind_of
from densor.entropy.rans import tables
from densor.entropy.rans.constants import CONTEXTS
from densor.errors import FormatError
from densor.formats.io.sources import MemoryRandomSource
from densor.runtime.workers import Workers

NOTHING = np.zeros(0, np.uint32)
DTYPES = {
    "BF16": np.uint16,
    "F16": np.uint16,
    "F32": np.uint32,
    "F8_E4M3": np.uint8,
    "I64": np.uint64,
}


def values(dtype: str, count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Numbers as weights have them, as integers of their size."""
    weights = (rng.normal(0, 0.05, count) * np.exp2(rng.integers(-6, 3, count))).astype("<f4")
    if dtype == "BF16":
        return (weights.view(np.uint32) >> 16).astype(np.uint16)
    if dtype == "F16":
        return weights.astype(np.float16).view(np.uint16)
    if dtype == "F32":
        return weights.view(np.uint32)
    return rng.integers(0, 120, count).astype(DTYPES[dtype])


def changed(old: npt.NDArray[Any], rng: np.random.Generator, large: float) -> npt.NDArray[Any]:
    """Most as before, some a step further, and `large` of them anywhere."""
    one = old.dtype.type(1)
    new = old + one * (rng.random(old.size) < 0.03).astype(old.dtype)
    new -= one * (rng.random(old.size) < 0.03).astype(old.dtype)
    far = rng.random(old.size) < large
    new[far] = rng.permutation(old)[far]
    return new


def pair(dtype: str, count: int, large: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(count)
    old = values(dtype, count, rng)
    return changed(old, rng, large), old


def encoder_of(new: npt.NDArray[Any], old: npt.NDArray[Any], dtype: str) -> DeltaEncoder:
    before = Before(old.view(np.uint8), 0)
    batch = Batch(new.view(np.uint8), kind_of(dtype, new.shape), Workers(1), base=before)
    encoder = DeltaEncoder(batch)
    encoder.encode().result()
    return encoder


@pytest.mark.parametrize("large", [0.0, 0.0005, 0.02, 0.3])
@pytest.mark.parametrize("count", [257, 4096 + 31, 3 * 16384 + 5, 140_001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bytes_by_all_ways(dtype: str, count: int, large: float) -> None:
    new, old = pair(dtype, count, large)
    encoder = encoder_of(new, old, dtype)
    data, before = new.view(np.uint8), old.view(np.uint8)
    payload = bytes(encoder._coded(data, before, 0))
    encoder._common = NOTHING
    encoder._window = -1, encoder._window[1]
    assert bytes(encoder._coded(data, before, 0)) == payload
    encoder._common = tables.starts_of_common(encoder._freqs)
    assert bytes(encoder._coded(data, before, 0)) == payload
    stored, base = np.frombuffer(payload, np.uint8), MemoryRandomSource(before)
    for common, window in ((True, True), (True, False), (False, True), (False, False)):
        decoder = DeltaDecoder(parse(encoder.model()))
        if not common:
            decoder._ends = NOTHING
        if not window:
            decoder._window = -1, decoder._window[1]
        out = np.zeros(data.size, np.uint8)
        decoder.decode_from(stored, out, base)
        assert np.array_equal(out, data)
        for cut in (*range(20), stored.size // 2, stored.size - 1):
            with pytest.raises(FormatError):
                decoder.decode_from(stored[:cut], out, base)


@pytest.mark.parametrize("large", [0.0, 0.0005, 0.3])
@pytest.mark.parametrize("count", [63, 4096 + 64 + 31, 200_003])
def test_all_tokens_are_counted(count: int, large: float) -> None:
    new, old = pair("BF16", max(count, 300), large)
    encoder = encoder_of(new, old, "BF16")
    data, before = new[:count].view(np.uint8), old[:count].view(np.uint8)
    found = encoder._find(data, before)
    assert found is not None
    expected = np.zeros_like(found.counts)
    np.add.at(expected, (found.contexts, found.symbols), 1)
    assert np.array_equal(found.counts, expected)
    contexts = encoder._choice.contexts
    places = old[:count] >> contexts.shift & (contexts.mapped.size - 1)
    assert np.array_equal(found.contexts, contexts.mapped[places])


def test_rare_is_what_it_is_taken_for() -> None:
    assert encoder_of(*pair("BF16", 140_001, 0.0005), "BF16")._common.size
    assert not encoder_of(*pair("BF16", 140_001, 0.02), "BF16")._common.size


@pytest.mark.parametrize("size", [1, 2, 4])
def test_windows_have_all_that_maps_have(size: int) -> None:
    rng = np.random.default_rng(size)
    for bits in (0, 1, 4, 8, 9, 12):
        for many in (1, 5, 200, 256, 257, 300):
            for begin in (0, 1, 3, 1000, 4000):
                mapped = np.full(1 << bits, rng.integers(0, 3), np.uint8)
                inside = mapped[begin : begin + many]
                inside[:] = rng.integers(0, 30, inside.size)
                if rng.random() < 0.5:
                    mapped[begin + many :] = 7
                first, window = Contexts(0, mapped).window(size)
                used = mapped[: 1 << 8 * size] if size == 1 else mapped
                runs = np.flatnonzero(np.diff(used)) + 1
                narrow = not runs.size or used.size <= 256 or runs[-1] - runs[0] <= 254
                if first >= 0:
                    places = np.clip(np.arange(used.size) - first, 0, 255)
                    assert np.array_equal(window[places], used)
                assert (first >= 0) == narrow


def test_tables_of_contexts_that_are_empty_or_too_many() -> None:
    freqs = np.zeros((3, 256), np.uint16)
    freqs[0, :4] = 4000, 60, 30, 6
    freqs[2, 5] = 4096
    ends = tables.ends_of_common(freqs).reshape(3, CONTEXTS)
    assert ends[:, 0].tolist() == [4000, 4060, 4090]
    assert ends[:, 1].tolist() == [4096] * 3
    assert ends[:, 2].tolist() == [0] * 3
    starts = tables.starts_of_common(freqs).reshape(2, 3, CONTEXTS)[0]
    assert starts[:, 0].tolist() == [4000 << 16, 60 << 16 | 4000, 30 << 16 | 4060]
    assert starts[0, 1] == 4096 << 16
    assert not starts[:, 2].any()
    many = np.zeros((CONTEXTS + 1, 256), np.uint16)
    assert tables.ends_of_common(many).size == tables.starts_of_common(many).size == 0
    assert tables.ends_of_common(many[:0]).size == 0
