"""The kernels of sound that look at samples and find weights, against a few lines of numpy."""

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state

from densor.codec.audio import kernels, lanes
from densor.codec.audio.distributions import costs
from densor.codec.audio.fitting import Fitter, Shape, _window
from densor.codec.audio.kernels import MOST, ROW

I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]


def _walk(name: str, channels: int, count: int, depth: int) -> I32:
    """Samples that can be predicted, of so many bits."""
    steps = random_state("sound", name, channels, count).normal(0, 1, (channels, count))
    walk = np.cumsum(steps, 1) + 0.5 * steps
    return (walk / np.abs(walk).max() * ((1 << (depth - 1)) - 1)).astype(np.int32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [1, 15, 16, 83])
def test_words(channels: int, count: int) -> None:
    data = random_state("words", channels, count).integers(0, 256, 2 * channels * count)
    data = data.astype(np.uint8)
    planes = np.empty((channels, count), np.int32)
    kernels.split_samples(data, 2, False, False, planes)
    found = np.empty(channels * count, np.uint32)
    kernels.split_words(data, channels, found)
    assert (found.view(np.int32).reshape(planes.shape) == planes).all()
    back = np.zeros_like(data)
    kernels.join_words(found, channels, back)
    assert (back == data).all()


def _few(counts: npt.NDArray[np.uint32], step: int, middle: int, total: int) -> int:
    size = np.count_nonzero(counts)
    few = 16 * size * step <= counts.size and 12 * size <= 2 * total
    possible = counts[::step]
    middle = min(max(middle, 0), possible.size - 1)
    for octave in range(16, 3, -1):
        part = possible[max(0, middle - (1 << octave)) : middle + (1 << octave)]
        if part.size >= 16 and part.sum() >= 12 * part.size:
            return int(few) + 2 * int(np.count_nonzero(part) < 0.7 * part.size)
    return int(few)


def test_few_values_and_gaps() -> None:
    rng = random_state("few values")
    found = []
    for size, every, step, spread in [
        *((5000, 1, 1, 60.0), (5000, 1, 4, 40.0), (5000, 3, 1, 60.0), (5000, 1, 1, 900.0)),
        *((900, 400, 1, 3000.0), (40, 1, 1, 60.0), (30000, 2, 8, 100.0)),
    ]:
        values = np.rint(rng.normal(0, spread / every, size)).astype(int) * every * step
        low = int(values.min())
        counts = np.bincount(values - low).astype(np.uint32)
        sides = counts, step, -low // step, size
        assert kernels.find_few(*sides) == _few(*sides)
        found.append(_few(*sides))
    assert {0, 1, 2} == set(found)


def test_what_weights_have() -> None:
    rng = random_state("weights of sound")
    for own, other, wide in [(0, 0, 0), (1, 32, 0), (32, 7, 1), (12, 0, 1 << 15)]:
        rows = np.zeros((3, 2, ROW), np.int32)
        rows[1, 0, 1 : 1 + own] = rng.integers(-900, -1, own)
        rows[2, 1, 1 + MOST : 1 + MOST + other] = rng.integers(1, 900, other)
        rows[0, 0, 0] = wide
        sizes = np.abs(rows[:, :, 1:]).sum(2)
        assert lanes._used(rows) == (own, other, wide < 1 << 15, sizes.max())


def test_the_cheapest_distributions() -> None:
    rng = random_state("distributions")
    counts = np.zeros((256, 256), np.uint32)
    for context in (0, 1, 40, 120, 254, 255):
        np.add.at(counts[context], rng.geometric(1 / (1 + context / 3), 300).clip(0, 255), 1)
    usual = rng.integers(0, 132, 256).astype(np.uint8)
    usual[:2] = 0, 131
    table = costs(16)[: 256 * 132].reshape(256, 132)
    found = lanes.choose_contexts(counts, 16, usual)
    for context in range(256):
        low, high = max(0, int(usual[context]) - 36), min(132, int(usual[context]) + 36)
        bits = counts[context] @ table[:, low:high]
        bits[usual[context] - low] -= 3
        best = usual[context] if not counts[context].any() else low + bits.argmin()
        assert bits[best - low] == pytest.approx(bits[found[context] - low])
        assert counts[context].any() or found[context] == usual[context]


def _lags(x: F64, y: F64, most: int) -> F64:
    """Sums of x[t] y[t - d] for d up to `most`."""
    return np.array([x[d:] @ y[: x.size - d] for d in range(most + 1)])


@pytest.mark.parametrize("count", [300, 512, 1023])
@pytest.mark.parametrize("depth", [8, 16, 24])
def test_weights_solve_correlations(count: int, depth: int) -> None:
    planes = _walk("solved", 1, count, depth)
    fitter = Fitter(1, depth)
    row = fitter.weights(planes, Shape(9, 16))[0, 0]
    windowed = planes[0] * _window(count).astype(float)
    lags = _lags(windowed, windowed, 16)
    rounding = 2.0 ** (depth - 15) * np.sqrt(lags[0] * count) + 1  # of halves, upwards
    assert fitter._work.own[0, :17] == pytest.approx(lags, abs=rounding)
    size = int(row[1 : 1 + MOST].nonzero()[0].max()) + 1
    exact = fitter._work.own[0]
    matrix = exact[np.abs(np.subtract.outer(np.arange(size), np.arange(size)))]
    wanted = np.linalg.solve(matrix + 0.5 * np.eye(size), exact[1 : size + 1]) * 2.0 ** row[0]
    assert row[1 : 1 + size] == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize("level", [-(1 << 15), (1 << 15) - 1])
def test_correlations_of_the_loudest_samples(level: int) -> None:
    planes = np.full((1, 1024), level, np.int32)
    fitter = Fitter(1, 16)
    fitter.weights(planes, Shape(10, 16))
    windowed = planes[0] * _window(1024).astype(float)
    assert fitter._work.own[0, :17] == pytest.approx(_lags(windowed, windowed, 16), rel=1e-3)


@pytest.mark.parametrize("channels", [2, 3])
def test_weights_of_pairs_solve_correlations(channels: int) -> None:
    count, orders = 700, 8
    planes = _walk("pairs", channels, count, 16)
    planes[1] = (planes[0] + planes[1]) >> 1
    fitter = Fitter(channels, 16)
    row = fitter.weights(planes, Shape(9, orders))[0, 1]
    x = np.pad(planes * _window(count).astype(float), ((0, 0), (orders + 1, orders + 1)))
    # The first channel is known at the same instant when the second is predicted.
    known = np.array([np.roll(x[c], d) for d in range(orders) for c, d in ((1, d + 1), (0, d))])
    wanted = np.linalg.solve(known @ known.T + 0.5 * np.eye(2 * orders), known @ x[1])
    found = np.stack([row[1 : 1 + orders], row[1 + MOST : 1 + MOST + orders]], 1).reshape(-1)
    left = [np.square(x[1] - w @ known).sum() for w in (found / 2.0 ** row[0], wanted)]
    assert left[1] < left[0] < 1.1 * left[1] < 0.1 * np.square(x[1]).sum()


@pytest.mark.parametrize("count", [1040, 1041, 1055, 1152])
def test_weights_do_not_depend_on_what_was_in_memory(count: int) -> None:
    planes = _walk("memory", 3, count, 16)
    found = []
    for byte in (0, 0x7F):
        fitter = Fitter(3, 16)
        fitter._work.words[:] = byte
        rows = fitter.weights(planes, Shape(9, MOST))
        found.append((rows.tolist(), fitter._work.own.tolist(), fitter._work.both.tolist()))
    assert found[0] == found[1]
