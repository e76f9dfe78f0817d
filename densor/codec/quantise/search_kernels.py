"""Scales and quanta of many groups of weights at a time, one in each lane of a vector.

I. Kawrakow, G. Gerganov: llama.cpp, ggml-quants.c, `make_qkx2_quants`, `make_qx_quants` and
`make_q3_quants`, with the same FP32 operations in the same order for each group. Several vectors go
side by side where each step of one would have to wait for the step before.

`x`: float32[2 * `WEIGHTS`]: weight i of the group in lane g of a vector that begins at `at` is
number `at` + 16 i + g; what it weighs in the least squares, |x| (`mad`), root mean square + |x| or
x², is `WEIGHTS` numbers behind. `quanta`, of the same order, is what comes of them.
"""

import numpy as np

from densor.entropy import float_vectors as v
from densor.entropy import vectors
from densor.entropy.jit import inlined

f32 = np.float32
WEIGHTS = 1024
SCALES = WEIGHTS  # where they are in the work space, behind the quanta
MINIMA = SCALES + 64
_LANES = 16
ROUND = f32(12582912.0)  # 1.5 * 2^23: numbers added to it are rounded to whole ones
_TINY = f32(1e-15)


@inlined
def rounded(x):
    """To nearest, ties to even, where |x| < 2^22."""
    magic = v.splat(ROUND)
    return v.subtract(v.add(x, magic), magic)


@inlined
def quantum(x, least, most):
    """The whole number nearest to x, within both."""
    return v.lesser(v.greater(rounded(x), least), most)


@inlined
def finite(x, instead):
    """What is infinite or no number, replaced."""
    return v.choose(v.less(v.size(x), v.splat(f32(np.inf))), x, instead)


@inlined
def _any(mask):
    return vectors.bits_of(mask) != 0


@inlined
def _error(x, at, scale, least, quantum, mad):
    """The weighted error of one weight in each lane."""
    off = v.subtract(v.add(v.multiply(scale, quantum), least), v.load(x, at))
    off = v.size(off) if mad else v.multiply(off, off)
    return v.multiply(v.load(x, WEIGHTS + at), off)


@inlined
def _measured(x, at, n, mad):
    """The least and the greatest weights; sums of what they weigh, and of it times the weights."""
    zero = v.splat(f32(0.0))
    mean = zero
    if not mad:
        for i in range(n):
            each = v.load(x, at + i * _LANES)
            mean = v.add(mean, v.multiply(each, each))
        mean = v.root(v.divide(mean, v.splat(f32(n))))
    each = v.load(x, at)
    least = each
    most = each
    weight = v.size(each) if mad else v.add(mean, v.size(each))
    v.store(x, WEIGHTS + at, weight)
    sum_w = weight
    sum_x = v.multiply(sum_w, each)
    for i in range(1, n):
        each = v.load(x, at + i * _LANES)
        least = v.lesser(each, least)
        most = v.greater(each, most)
        weight = v.size(each) if mad else v.add(mean, v.size(each))
        v.store(x, WEIGHTS + at + i * _LANES, weight)
        sum_w = v.add(sum_w, weight)
        sum_x = v.add(sum_x, v.multiply(weight, each))
    return v.lesser(least, zero), most, sum_w, sum_x


@inlined
def _begun(x, at, n, levels, least, most, mad):
    """Error, scale and inverse of the plain way: from the least weight to the greatest."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    inverse = v.divide(top, v.subtract(most, least))
    scale = v.divide(v.splat(f32(1.0)), inverse)
    inverse = finite(inverse, zero)  # where the weights are next to nothing
    error = zero
    for i in range(n):
        each = v.load(x, at + i * _LANES)
        found = quantum(v.multiply(inverse, v.subtract(each, least)), zero, top)
        error = v.add(error, _error(x, at + i * _LANES, scale, least, found, mad))
    return error, scale, inverse


@inlined
def _fitted(x, quanta, at, n, levels, inverse, least, sum_w, sum_x):
    """Quanta by one scale, and the scale and minimum that fit them; the divisor of these."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    sum_l = zero
    sum_l2 = zero
    sum_xl = zero
    for i in range(n):
        each = v.load(x, at + i * _LANES)
        found = quantum(v.multiply(inverse, v.subtract(each, least)), zero, top)
        v.store(quanta, at + i * _LANES, found)
        product = v.multiply(v.load(x, WEIGHTS + at + i * _LANES), found)
        sum_l = v.add(sum_l, product)
        sum_l2 = v.add(sum_l2, v.multiply(product, found))
        sum_xl = v.add(sum_xl, v.multiply(product, each))
    divisor = v.subtract(v.multiply(sum_w, sum_l2), v.multiply(sum_l, sum_l))
    above = v.subtract(v.multiply(sum_l2, sum_x), v.multiply(sum_l, sum_xl))
    new_least = v.divide(above, divisor)
    positive = v.less(zero, new_least)
    scale = v.subtract(v.multiply(sum_w, sum_xl), v.multiply(sum_x, sum_l))
    scale = v.divide(v.choose(positive, sum_xl, scale), v.choose(positive, sum_l2, divisor))
    return scale, v.choose(positive, zero, new_least), divisor


@inlined
def _kept(divisor, state, error, scale, inverse, least):
    """The best of what was tried, with this: error, scale, inverse, the minimum that was quantised
    with it, the minimum that fits.
    """
    best, best_scale, best_inverse, best_least, now = state
    better = v.both(v.less(v.splat(f32(0.0)), divisor), v.less(error, best))
    best = v.choose(better, error, best)
    best_scale = v.choose(better, scale, best_scale)
    best_inverse = v.choose(better, inverse, best_inverse)
    best_least = v.choose(better, now, best_least)
    return best, best_scale, best_inverse, best_least, v.choose(better, least, now)


@inlined
def _finished(x, work, number, n, levels, flat, state):
    """Quanta of the best, and scales and negated minima, to the work space."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    _, scale, inverse, best_least, least = state
    for i in range(n):
        at = (number * n + i) * _LANES
        each = v.load(x, at)
        found = quantum(v.multiply(inverse, v.subtract(each, best_least)), zero, top)
        v.store(work, at, v.choose(flat, zero, found))
    v.store(work, SCALES + number * _LANES, v.choose(flat, zero, scale))
    least = v.subtract(zero, v.choose(flat, best_least, least))
    v.store(work, MINIMA + number * _LANES, least)


@inlined
def with_minimum(x, work, number, n, levels, first, step, tries, mad):
    """Scales and negated minima of two vectors of groups, from vector `number` on, to the work
    space, whose quanta are from 0 to `levels`.
    """
    zero = v.splat(f32(0.0))
    a = number * n * _LANES
    b = a + n * _LANES
    a_least, a_most, a_w, a_x = _measured(x, a, n, mad)
    b_least, b_most, b_w, b_x = _measured(x, b, n, mad)
    a_flat = v.equal(a_most, a_least)
    b_flat = v.equal(b_most, b_least)
    a_best, a_scale, a_inverse = _begun(x, a, n, levels, a_least, a_most, mad)
    b_best, b_scale, b_inverse = _begun(x, b, n, levels, b_least, b_most, mad)
    a_state = a_best, a_scale, a_inverse, a_least, a_least
    b_state = b_best, b_scale, b_inverse, b_least, b_least
    for k in range(tries + 1):
        wanted = v.splat(f32(f32(first + f32(step * f32(k))) + f32(levels)))
        a_tried = finite(v.divide(wanted, v.subtract(a_most, a_least)), zero)
        b_tried = finite(v.divide(wanted, v.subtract(b_most, b_least)), zero)
        a_new, a_low, a_divisor = _fitted(x, work, a, n, levels, a_tried, a_least, a_w, a_x)
        b_new, b_low, b_divisor = _fitted(x, work, b, n, levels, b_tried, b_least, b_w, b_x)
        a_error = zero
        b_error = zero
        for i in range(n):
            at = a + i * _LANES
            a_error = v.add(a_error, _error(x, at, a_new, a_low, v.load(work, at), mad))
            at = b + i * _LANES
            b_error = v.add(b_error, _error(x, at, b_new, b_low, v.load(work, at), mad))
        a_state = _kept(a_divisor, a_state, a_error, a_new, a_tried, a_low)
        b_state = _kept(b_divisor, b_state, b_error, b_new, b_tried, b_low)
        a_least, b_least = a_state[4], b_state[4]
    _finished(x, work, number, n, levels, a_flat, a_state)
    _finished(x, work, number + 1, n, levels, b_flat, b_state)


@inlined
def _largest(x, at, n):
    """The first of the largest numbers of each group, and its size."""
    most = v.load(x, at)
    size = v.size(most)
    for i in range(1, n):
        each = v.load(x, at + i * _LANES)
        larger = v.less(size, v.size(each))
        most = v.choose(larger, each, most)
        size = v.choose(larger, v.size(each), size)
    return most, size


@inlined
def symmetric(x, work, number, n, half):
    """Scales of a vector of groups to the work space; quanta from 0 to 2 `half` - 1, `half` is
    none. 19 scales are tried.
    """
    zero = v.splat(f32(0.0))
    low = v.splat(f32(-half))
    top = v.splat(f32(half - 1))
    begin = number * n * _LANES
    cubes = WEIGHTS + n * _LANES
    for i in range(n):
        each = v.load(x, begin + i * _LANES)
        square = v.multiply(each, each)
        v.store(x, WEIGHTS + i * _LANES, square)
        v.store(x, cubes + i * _LANES, v.multiply(square, each))
    most, size = _largest(x, begin, n)
    tiny = v.less(size, v.splat(_TINY))
    scale = zero
    best = zero
    best_inverse = zero
    for k in range(-10, 10):
        if k == 0:
            continue
        change = f32(0.0) if k == -10 else f32(f32(0.1) * f32(k))  # the plain scale comes first
        inverse = v.divide(v.splat(-f32(f32(half) + change)), most)
        sum_xl = zero
        sum_l2 = zero
        for i in range(n):
            found = quantum(v.multiply(inverse, v.load(x, begin + i * _LANES)), low, top)
            sum_xl = v.add(sum_xl, v.multiply(v.load(x, cubes + i * _LANES), found))
            square = v.multiply(v.load(x, WEIGHTS + i * _LANES), found)
            sum_l2 = v.add(sum_l2, v.multiply(square, found))
        if k == -10:
            none = v.equal(sum_l2, zero)
            scale = v.choose(none, zero, v.divide(sum_xl, sum_l2))
            best = v.multiply(scale, sum_xl)
            best_inverse = inverse
        else:
            better = v.less(v.multiply(best, sum_l2), v.multiply(sum_xl, sum_xl))
            better = v.both(v.less(zero, sum_l2), better)
            scale = v.choose(better, v.divide(sum_xl, sum_l2), scale)
            best = v.choose(better, v.multiply(scale, sum_xl), best)
            best_inverse = v.choose(better, inverse, best_inverse)
    for i in range(n):
        at = begin + i * _LANES
        found = quantum(v.multiply(best_inverse, v.load(x, at)), low, top)
        found = v.add(found, v.splat(f32(half)))
        v.store(work, at, v.choose(tiny, zero, found))
    v.store(work, SCALES + number * _LANES, v.choose(tiny, zero, scale))


@inlined
def _first_quanta(x, quanta, at, n, half):
    """Quanta by the plain scale, and two sums over them; which groups are next to nothing."""
    zero = v.splat(f32(0.0))
    low = v.splat(f32(-half))
    top = v.splat(f32(half - 1))
    most, size = _largest(x, at, n)
    inverse = v.divide(low, most)
    sum_xl = zero
    sum_l2 = zero
    for i in range(n):
        each = v.load(x, at + i * _LANES)
        found = quantum(v.multiply(inverse, each), low, top)
        v.store(quanta, at + i * _LANES, found)
        weight = v.multiply(each, each)
        sum_xl = v.add(sum_xl, v.multiply(v.multiply(weight, each), found))
        sum_l2 = v.add(sum_l2, v.multiply(v.multiply(weight, found), found))
    return sum_xl, sum_l2, v.less(size, v.splat(_TINY))


@inlined
def _move(x, quanta, at, low, top, sum_xl, sum_l2, changed):
    """Moves a quantum of each group to where the error is less; the sums that come of it."""
    zero = v.splat(f32(0.0))
    each = v.load(x, at)
    old = v.load(quanta, at)
    weight = v.multiply(each, each)
    cube = v.multiply(weight, each)
    xl = v.subtract(sum_xl, v.multiply(cube, old))
    l2 = v.subtract(sum_l2, v.multiply(v.multiply(weight, old), old))
    new = quantum(v.divide(v.multiply(each, l2), xl), low, top)
    better = v.both(v.less(zero, xl), v.neither(v.equal(new, old)))
    xl = v.add(xl, v.multiply(cube, new))
    l2 = v.add(l2, v.multiply(v.multiply(weight, new), new))
    gain = v.multiply(v.multiply(xl, xl), sum_l2)
    gained = v.less(v.multiply(v.multiply(sum_xl, sum_xl), l2), gain)
    better = v.both(better, v.both(v.less(zero, l2), gained))
    v.store(quanta, at, v.choose(better, new, old))
    sum_xl = v.choose(better, xl, sum_xl)
    return sum_xl, v.choose(better, l2, sum_l2), v.either(changed, better)


@inlined
def _moved(x, work, number, n, half, sum_xl, sum_l2, tiny):
    """Quanta from 0 on, and scales to the work space."""
    zero = v.splat(f32(0.0))
    for i in range(n):
        at = (number * n + i) * _LANES
        found = v.add(v.load(work, at), v.splat(f32(half)))
        v.store(work, at, v.choose(tiny, zero, found))
    scale = v.choose(v.less(zero, sum_l2), v.divide(sum_xl, sum_l2), zero)
    v.store(work, SCALES + number * _LANES, v.choose(tiny, zero, scale))


@inlined
def moved(x, work, n, half):
    """As `symmetric`, of four vectors, but one quantum at a time goes where the error is less, five
    times over.
    """
    low = v.splat(f32(-half))
    top = v.splat(f32(half - 1))
    step = n * _LANES
    a_xl, a_l2, a_tiny = _first_quanta(x, work, 0, n, half)
    b_xl, b_l2, b_tiny = _first_quanta(x, work, step, n, half)
    c_xl, c_l2, c_tiny = _first_quanta(x, work, 2 * step, n, half)
    d_xl, d_l2, d_tiny = _first_quanta(x, work, 3 * step, n, half)
    for _ in range(5):
        changed = v.less(low, low)
        for i in range(n):
            at = i * _LANES
            a_xl, a_l2, changed = _move(x, work, at, low, top, a_xl, a_l2, changed)
            at += step
            b_xl, b_l2, changed = _move(x, work, at, low, top, b_xl, b_l2, changed)
            at += step
            c_xl, c_l2, changed = _move(x, work, at, low, top, c_xl, c_l2, changed)
            at += step
            d_xl, d_l2, changed = _move(x, work, at, low, top, d_xl, d_l2, changed)
        if not _any(changed):
            break
    _moved(x, work, 0, n, half, a_xl, a_l2, a_tiny)
    _moved(x, work, 1, n, half, b_xl, b_l2, b_tiny)
    _moved(x, work, 2, n, half, c_xl, c_l2, c_tiny)
    _moved(x, work, 3, n, half, d_xl, d_l2, d_tiny)
