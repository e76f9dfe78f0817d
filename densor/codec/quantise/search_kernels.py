"""Scales and quanta of many groups of weights at a time, one in each lane of a vector.

I. Kawrakow, G. Gerganov: llama.cpp, ggml-quants.c, `make_qkx2_quants`, `make_qx_quants` and
`make_q3_quants`, with the same FP32 operations in the same order for each group. Several vectors go
side by side where each step of one would have to wait for the step before.

`x`: float32[2 * `WEIGHTS`]: weight i of the group in lane g of a vector that begins at `at` is
number `at` + 16 i + g; what it weighs in the least squares, |x| (`mad`), root mean square + |x| or
x², is `WEIGHTS` numbers behind. `quanta`, of the same order, is what comes of them.
"""

import numpy as np

from densor.codec.quantise.field_kernels import WEIGHTS
from densor.entropy import float_vectors as v
from densor.entropy import vectors
from densor.entropy.jit import inlined

f32 = np.float32
SCALES = WEIGHTS  # where they are in the work space, behind the quanta
MINIMA = SCALES + 64
STATES = MINIMA + 64  # of searches, a few vectors for each of four
_LANES = 16
# Of each: the greatest weights; sums over them; what is best so far, with the minimum that its
# quanta were made with; minima to quantise with, at first and now; what is tried, what fits it.
_MOST, _SUM_W, _SUM_X, _ERROR, _SCALE, _INVERSE, _TAKEN = range(7)
_FIRST, _LEAST, _TRIED, _FITTED, _FITTED_LEAST, _DIVISOR, _FIELDS = range(7, 14)
STATES_SIZE = 4 * _FIELDS * _LANES
ROUND = f32(12582912.0)  # 1.5 * 2^23: numbers added to it are rounded to whole ones
_TINY = f32(1e-15)
# What is off by more than this from a whole number, is so by half after a rounding or two.
NEARLY_HALF = f32(0.5 - 2.0**-14)


@inlined
def rounded(x):
    """To nearest, ties to even, where |x| < 2^22."""
    magic = v.splat(ROUND)
    return v.subtract(v.add(x, magic), magic)


@inlined
def whole(x):
    """Nearest integers, ties to even; 0 where |x| is 2^22 or more."""
    here = v.less(v.size(x), v.splat(f32(4194304.0)))
    return v.integers(v.choose(here, rounded(x), v.splat(f32(0.0))))


@inlined
def within(integers, least, most):
    """Signed integers, within both."""
    low, high = vectors.splat(least), vectors.splat(most)
    integers = vectors.choose(vectors.less_signed(integers, high), integers, high)
    return vectors.choose(vectors.less_signed(integers, low), low, integers)


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
def _put(work, number, field, vector):
    """Sets what is known of vector `number`."""
    v.store(work, STATES + (number * _FIELDS + field) * _LANES, vector)


@inlined
def _get(work, number, field):
    return v.load(work, STATES + (number * _FIELDS + field) * _LANES)


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
def _begin(x, work, number, n, levels, wanted, mad):
    """The plain way, from the least weight to the greatest, and what is tried first."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    at = number * n * _LANES
    least, most, sum_w, sum_x = _measured(x, at, n, mad)
    inverse = v.divide(top, v.subtract(most, least))
    scale = v.divide(v.splat(f32(1.0)), inverse)
    inverse = finite(inverse, zero)  # where the weights are next to nothing
    error = zero
    for i in range(n):
        each = v.load(x, at + i * _LANES)
        found = quantum(v.multiply(inverse, v.subtract(each, least)), zero, top)
        error = v.add(error, _error(x, at + i * _LANES, scale, least, found, mad))
    _put(work, number, _MOST, most)
    _put(work, number, _SUM_W, sum_w)
    _put(work, number, _SUM_X, sum_x)
    _put(work, number, _ERROR, error)
    _put(work, number, _SCALE, scale)
    _put(work, number, _INVERSE, inverse)
    _put(work, number, _TAKEN, least)
    _put(work, number, _LEAST, least)
    _put(work, number, _FIRST, least)
    tried = finite(v.divide(wanted, v.subtract(most, least)), zero)
    _put(work, number, _TRIED, tried)


@inlined
def _fit(x, work, number, n, levels):
    """Quanta by the scale that is tried, and the scale and minimum that fit them best."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    at = number * n * _LANES
    inverse = _get(work, number, _TRIED)
    least = _get(work, number, _LEAST)
    sum_l = zero
    sum_l2 = zero
    sum_xl = zero
    for i in range(n):
        each = v.load(x, at + i * _LANES)
        found = quantum(v.multiply(inverse, v.subtract(each, least)), zero, top)
        v.store(work, at + i * _LANES, found)
        product = v.multiply(v.load(x, WEIGHTS + at + i * _LANES), found)
        sum_l = v.add(sum_l, product)
        sum_l2 = v.add(sum_l2, v.multiply(product, found))
        sum_xl = v.add(sum_xl, v.multiply(product, each))
    sum_w = _get(work, number, _SUM_W)
    sum_x = _get(work, number, _SUM_X)
    divisor = v.subtract(v.multiply(sum_w, sum_l2), v.multiply(sum_l, sum_l))
    above = v.subtract(v.multiply(sum_l2, sum_x), v.multiply(sum_l, sum_xl))
    least = v.divide(above, divisor)
    positive = v.less(zero, least)
    scale = v.subtract(v.multiply(sum_w, sum_xl), v.multiply(sum_x, sum_l))
    scale = v.divide(v.choose(positive, sum_xl, scale), v.choose(positive, sum_l2, divisor))
    _put(work, number, _FITTED, scale)
    _put(work, number, _FITTED_LEAST, v.choose(positive, zero, least))
    _put(work, number, _DIVISOR, divisor)


@inlined
def _judge(x, work, number, n, wanted, mad):
    """Keeps what was fitted where it errs less, and says what is tried next."""
    zero = v.splat(f32(0.0))
    at = number * n * _LANES
    fitted = _get(work, number, _FITTED)
    low = _get(work, number, _FITTED_LEAST)
    error = zero
    for i in range(n):
        here = at + i * _LANES
        error = v.add(error, _error(x, here, fitted, low, v.load(work, here), mad))
    best = _get(work, number, _ERROR)
    least = _get(work, number, _LEAST)
    better = v.both(v.less(zero, _get(work, number, _DIVISOR)), v.less(error, best))
    _put(work, number, _ERROR, v.choose(better, error, best))
    _put(work, number, _SCALE, v.choose(better, fitted, _get(work, number, _SCALE)))
    inverse = v.choose(better, _get(work, number, _TRIED), _get(work, number, _INVERSE))
    _put(work, number, _INVERSE, inverse)
    _put(work, number, _TAKEN, v.choose(better, least, _get(work, number, _TAKEN)))
    least = v.choose(better, low, least)
    _put(work, number, _LEAST, least)
    tried = v.divide(wanted, v.subtract(_get(work, number, _MOST), least))
    _put(work, number, _TRIED, finite(tried, zero))


@inlined
def _finish(x, work, number, n, levels):
    """Quanta of the best, and scales and negated minima, to the work space."""
    zero = v.splat(f32(0.0))
    top = v.splat(f32(levels))
    begin = number * n * _LANES
    inverse = _get(work, number, _INVERSE)
    taken = _get(work, number, _TAKEN)
    flat = v.equal(_get(work, number, _MOST), _get(work, number, _FIRST))
    for i in range(n):
        at = begin + i * _LANES
        each = v.load(x, at)
        found = quantum(v.multiply(inverse, v.subtract(each, taken)), zero, top)
        v.store(work, at, v.choose(flat, zero, found))
    v.store(work, SCALES + number * _LANES, v.choose(flat, zero, _get(work, number, _SCALE)))
    least = v.choose(flat, _get(work, number, _FIRST), _get(work, number, _LEAST))
    v.store(work, MINIMA + number * _LANES, v.subtract(zero, least))


@inlined
def _wanted(first, step, k, levels):
    return v.splat(f32(f32(first + f32(step * f32(k))) + f32(levels)))


@inlined
def with_minimum(x, work, count, n, levels, first, step, tries, mad):
    """Scales and negated minima of `count` vectors of groups to the work space, whose quanta are
    from 0 to `levels`.

    All are fitted before any is judged, so that none waits for its own divisions.
    """
    for number in range(count):
        _begin(x, work, number, n, levels, _wanted(first, step, 0, levels), mad)
    for k in range(1, tries + 2):
        wanted = _wanted(first, step, k, levels)
        for number in range(count):
            _fit(x, work, number, n, levels)
        for number in range(count):
            _judge(x, work, number, n, wanted, mad)
    for number in range(count):
        _finish(x, work, number, n, levels)


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
def _summed(x, begin, n, inverse, half, least, most):
    """Quanta times cubes and times squares and themselves, summed. `least`, `most`: whether quanta
    may leave the range there.
    """
    zero = v.splat(f32(0.0))
    sum_xl = zero
    sum_l2 = zero
    for i in range(n):
        found = rounded(v.multiply(inverse, v.load(x, begin + i * _LANES)))
        if least:
            found = v.greater(found, v.splat(f32(-half)))
        if most:
            found = v.lesser(found, v.splat(f32(half - 1)))
        cube = v.load(x, WEIGHTS + (n + i) * _LANES)
        sum_xl = v.add(sum_xl, v.multiply(cube, found))
        square = v.multiply(v.load(x, WEIGHTS + i * _LANES), found)
        sum_l2 = v.add(sum_l2, v.multiply(square, found))
    return sum_xl, sum_l2


@inlined
def _tried(x, begin, n, half, largest, first, last, least, most, state):
    """The best of what was found and of scales that are `first` to `last` - 1 tenths off; these
    say whether quanta may leave the range, see `_summed`.
    """
    zero = v.splat(f32(0.0))
    scale, best, best_inverse = state
    for k in range(first, last):
        change = f32(f32(0.1) * f32(k))
        inverse = v.divide(v.splat(-f32(f32(half) + change)), largest)
        sum_xl, sum_l2 = _summed(x, begin, n, inverse, half, least, most)
        better = v.less(v.multiply(best, sum_l2), v.multiply(sum_xl, sum_xl))
        better = v.both(v.less(zero, sum_l2), better)
        scale = v.choose(better, v.divide(sum_xl, sum_l2), scale)
        best = v.choose(better, v.multiply(scale, sum_xl), best)
        best_inverse = v.choose(better, inverse, best_inverse)
    return scale, best, best_inverse


@inlined
def symmetric(x, work, number, n):
    """Scales of a vector of groups to the work space; quanta from 0 to 63, 32 is none. 19 scales
    are tried.

    By the plain one no weight is below -32, nor by those that are up to 4 tenths off; from 6
    tenths less on none is outside of -31 and 31.
    """
    half = 32
    zero = v.splat(f32(0.0))
    begin = number * n * _LANES
    for i in range(n):
        each = v.load(x, begin + i * _LANES)
        square = v.multiply(each, each)
        v.store(x, WEIGHTS + i * _LANES, square)
        v.store(x, WEIGHTS + (n + i) * _LANES, v.multiply(square, each))
    largest, size = _largest(x, begin, n)
    tiny = v.less(size, v.splat(_TINY))
    inverse = v.divide(v.splat(f32(-half)), largest)
    sum_xl, sum_l2 = _summed(x, begin, n, inverse, half, False, True)
    none = v.equal(sum_l2, zero)
    scale = v.choose(none, zero, v.divide(sum_xl, sum_l2))
    state = scale, v.multiply(scale, sum_xl), inverse
    state = _tried(x, begin, n, half, largest, -9, -5, False, False, state)
    state = _tried(x, begin, n, half, largest, -5, 0, False, True, state)
    state = _tried(x, begin, n, half, largest, 1, 5, False, True, state)
    scale, _, inverse = _tried(x, begin, n, half, largest, 5, 10, True, True, state)
    for i in range(n):
        at = begin + i * _LANES
        found = v.multiply(inverse, v.load(x, at))
        found = quantum(found, v.splat(f32(-half)), v.splat(f32(half - 1)))
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
