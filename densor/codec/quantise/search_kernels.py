"""Scales and quanta of 16 groups of weights at a time, one in each lane of a vector.

I. Kawrakow, G. Gerganov: llama.cpp, ggml-quants.c, `make_qkx2_quants`, `make_qx_quants` and
`make_q3_quants`, with the same FP32 operations in the same order for each group.

`x`: float32[16 * n], weight i of group g at 16 i + g; `quanta`, of the same shape, is what comes of
them. The weights of the least squares are |x| (`MAD`), or root mean square + |x|.
"""

import numpy as np

from densor.entropy import float_vectors as v
from densor.entropy import vectors
from densor.entropy.jit import inlined

f32 = np.float32
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
def _weight(x, mean, mad):
    return v.size(x) if mad else v.add(mean, v.size(x))


@inlined
def _error(x, scale, least, quanta, mad):
    off = v.subtract(v.add(v.multiply(scale, quanta), least), x)
    return v.size(off) if mad else v.multiply(off, off)


@inlined
def with_minimum(x, quanta, n, levels, first, step, tries, mad):
    """Scale and negated minimum of each group, both FP32; quanta from 0 to `levels`."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    mean = zero
    if not mad:
        for i in range(n):
            each = v.load(x, i * _LANES)
            mean = v.add(mean, v.multiply(each, each))
        mean = v.root(v.divide(mean, v.splat(f32(n))))
    each = v.load(x, 0)
    least = each
    most = each
    sum_w = _weight(each, mean, mad)
    sum_x = v.multiply(sum_w, each)
    for i in range(1, n):
        each = v.load(x, i * _LANES)
        least = v.lesser(each, least)
        most = v.greater(each, most)
        weight = _weight(each, mean, mad)
        sum_w = v.add(sum_w, weight)
        sum_x = v.add(sum_x, v.multiply(weight, each))
    least = v.lesser(least, zero)
    flat = v.equal(most, least)
    inverse = v.divide(top, v.subtract(most, least))
    scale = v.divide(v.splat(f32(1.0)), inverse)
    inverse = finite(inverse, zero)  # where the weights are next to nothing
    best = zero
    for i in range(n):
        each = v.load(x, i * _LANES)
        found = quantum(v.multiply(inverse, v.subtract(each, least)), zero, top)
        error = _error(each, scale, least, found, mad)
        best = v.add(best, v.multiply(_weight(each, mean, mad), error))
    best_inverse = inverse
    best_least = least
    for k in range(tries + 1):
        wanted = f32(f32(first + f32(step * f32(k))) + f32(levels))
        inverse = finite(v.divide(v.splat(wanted), v.subtract(most, least)), zero)
        sum_l = zero
        sum_l2 = zero
        sum_xl = zero
        for i in range(n):
            each = v.load(x, i * _LANES)
            found = quantum(v.multiply(inverse, v.subtract(each, least)), zero, top)
            v.store(quanta, i * _LANES, found)
            product = v.multiply(_weight(each, mean, mad), found)
            sum_l = v.add(sum_l, product)
            sum_l2 = v.add(sum_l2, v.multiply(product, found))
            sum_xl = v.add(sum_xl, v.multiply(product, each))
        divisor = v.subtract(v.multiply(sum_w, sum_l2), v.multiply(sum_l, sum_l))
        new_scale = v.divide(
            v.subtract(v.multiply(sum_w, sum_xl), v.multiply(sum_x, sum_l)), divisor
        )
        new_least = v.divide(
            v.subtract(v.multiply(sum_l2, sum_x), v.multiply(sum_l, sum_xl)), divisor
        )
        above = v.less(zero, new_least)
        new_least = v.choose(above, zero, new_least)
        new_scale = v.choose(above, v.divide(sum_xl, sum_l2), new_scale)
        error = zero
        for i in range(n):
            each = v.load(x, i * _LANES)
            off = _error(each, new_scale, new_least, v.load(quanta, i * _LANES), mad)
            error = v.add(error, v.multiply(_weight(each, mean, mad), off))
        better = v.both(v.less(zero, divisor), v.less(error, best))
        best = v.choose(better, error, best)
        scale = v.choose(better, new_scale, scale)
        best_inverse = v.choose(better, inverse, best_inverse)
        best_least = v.choose(better, least, best_least)
        least = v.choose(better, new_least, least)
    for i in range(n):
        each = v.load(x, i * _LANES)
        found = quantum(v.multiply(best_inverse, v.subtract(each, best_least)), zero, top)
        v.store(quanta, i * _LANES, v.choose(flat, zero, found))
    return v.choose(flat, zero, scale), v.subtract(zero, v.choose(flat, best_least, least))


@inlined
def _largest(x, n):
    """The first of the largest numbers of each group, and its size."""
    most = v.load(x, 0)
    size = v.size(most)
    for i in range(1, n):
        each = v.load(x, i * _LANES)
        larger = v.less(size, v.size(each))
        most = v.choose(larger, each, most)
        size = v.choose(larger, v.size(each), size)
    return most, size


@inlined
def symmetric(x, quanta, n, half):
    """Scale of each group; quanta from 0 to 2 `half` - 1, `half` is none. 19 scales are tried."""
    zero = v.splat(f32(0.0))
    low = v.splat(f32(-half))
    top = v.splat(f32(half - 1))
    most, size = _largest(x, n)
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
            each = v.load(x, i * _LANES)
            found = quantum(v.multiply(inverse, each), low, top)
            weight = v.multiply(each, each)
            sum_xl = v.add(sum_xl, v.multiply(v.multiply(weight, each), found))
            sum_l2 = v.add(sum_l2, v.multiply(v.multiply(weight, found), found))
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
        found = quantum(v.multiply(best_inverse, v.load(x, i * _LANES)), low, top)
        found = v.add(found, v.splat(f32(half)))
        v.store(quanta, i * _LANES, v.choose(tiny, zero, found))
    return v.choose(tiny, zero, scale)


@inlined
def moved(x, quanta, n, half):
    """As `symmetric`, but one quantum at a time goes where the error is less, five times over."""
    zero = v.splat(f32(0.0))
    low = v.splat(f32(-half))
    top = v.splat(f32(half - 1))
    most, size = _largest(x, n)
    tiny = v.less(size, v.splat(_TINY))
    inverse = v.divide(v.splat(f32(-half)), most)
    sum_xl = zero
    sum_l2 = zero
    for i in range(n):
        each = v.load(x, i * _LANES)
        found = quantum(v.multiply(inverse, each), low, top)
        v.store(quanta, i * _LANES, found)
        weight = v.multiply(each, each)
        sum_xl = v.add(sum_xl, v.multiply(v.multiply(weight, each), found))
        sum_l2 = v.add(sum_l2, v.multiply(v.multiply(weight, found), found))
    for _ in range(5):
        changed = v.less(zero, zero)
        for i in range(n):
            each = v.load(x, i * _LANES)
            old = v.load(quanta, i * _LANES)
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
            v.store(quanta, i * _LANES, v.choose(better, new, old))
            sum_xl = v.choose(better, xl, sum_xl)
            sum_l2 = v.choose(better, l2, sum_l2)
            changed = v.either(changed, better)
        if not _any(changed):
            break
    for i in range(n):
        found = v.add(v.load(quanta, i * _LANES), v.splat(f32(half)))
        v.store(quanta, i * _LANES, v.choose(tiny, zero, found))
    scale = v.choose(v.less(zero, sum_l2), v.divide(sum_xl, sum_l2), zero)
    return v.choose(tiny, zero, scale)
