"""Adam's moments as functions of those before and the gradient, bit for bit.

Adam (arXiv 1412.6980) keeps m and v, of which a step makes m + (1 - b1) (g - m) and
b2 v + (1 - b2) g g. Libraries differ in the order of operations and in which of them are fused, so
that there are several forms; which one it was is found by trying. Here each operation is one of
IEEE 754 in binary32, rounded to nearest even; a fused one is computed in binary64 and rounded to
odd before it is rounded again, which gives the same. No compiler may contract anything: arrays are
worked on one operation at a time, so that results are the same on every machine; and denormals are
kept, also where the process flushes them to zero.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.adam.scaled import Floats, Halves, factor_of, rounded, widened

Words = npt.NDArray[np.uint32]

M_FORMS = 2  # m + w (g - m): fused or not
V_FORMS = 8  # see `_next_v`
BLOCK = 1 << 16  # elements that are worked on at a time
_SAMPLE = 1 << 14  # elements by which forms and factors are found
_NEAR = (0, 1, -1, 2, -2)  # gradients that are tried, in units of the last place


class Step(NamedTuple):
    """How moments are made. `w` is 1 - b1, `a` 1 - b2, as binary32; `factor` was multiplied into
    the BF16 gradient, as by clipping."""

    w: np.float32
    b2: np.float32
    a: np.float32
    factor: np.float32
    m_form: int = 0
    v_form: int = 0


def step_of(beta1: float, beta2: float, factor: float = 1.0) -> Step:
    """The step of these betas: differences are taken in binary64, as Python does."""
    f = np.float32
    return Step(f(1 - beta1), f(beta2), f(1 - beta2), f(factor))


def fused(a: Floats | np.float32, b: Floats, c: Floats) -> Floats:
    """a · b + c, rounded once."""
    product = np.multiply(a, b, dtype=np.float64)  # exact
    wide = c.astype(np.float64)
    total = product + wide
    # What the sum has lost (Knuth's TwoSum), to round to odd
    part = total - product
    lost = (product - (total - part)) + (wide - part)
    bits = total.view(np.int64)
    away = (lost > 0) == (total > 0)
    odd = (lost != 0) & ((bits & 1) == 0) & np.isfinite(total)
    bits += np.where(odd, np.where(away, 1, -1), 0)
    return total.astype(np.float32)


def _next_m(m: Floats, g: Floats, step: Step) -> Floats:
    difference = g - m
    if step.m_form == 0:
        return fused(step.w, difference, m)
    return step.w * difference + m


def _next_v(v: Floats, g: Floats, step: Step) -> Floats:
    """Forms: 0 to 2 multiply g by a first, 3 to 5 g by g; of these the first rounds all, the second
    fuses the sum with the product, the third with the decay; 6 and 7: v + a (g g - v), fused or
    not."""
    form = step.v_form
    if form >= 6:
        difference = g * g - v
        return fused(step.a, difference, v) if form == 6 else step.a * difference + v
    left, right = (step.a * g, g) if form < 3 else (g * g, np.full_like(g, step.a))
    if form % 3 == 0:
        return step.b2 * v + left * right
    if form % 3 == 1:
        return fused(left, right, step.b2 * v)
    return fused(step.b2, v, left * right)


def clean(made: Floats) -> Words:
    """The bits, those of NaN as 0: machines differ in what they make of these."""
    bits = made.view(np.uint32).copy()
    bits[np.isnan(made)] = 0
    return bits


@contextmanager
def denormals(flush: bool) -> Iterator[None]:
    """Has this thread flush denormals to zero or keep them, whatever it does otherwise."""
    # Zero where results are flushed, and where operands are, as the comparison takes it for one
    flushed = bool(np.finfo(np.float32).smallest_normal * np.float32(0.5) == 0)
    if flushed == flush:
        yield
        return
    import torch  # what is known to set it, and to set it back

    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def predicted(
    m: Words, v: Words, gradient: Halves, step: Step, flush: bool = False
) -> tuple[Words, Words]:
    """m and v after a step, from the bits of those before and of the BF16 gradient.

    `flush`: as earlier versions made them where denormals were flushed to zero.
    """
    next_m = _predicted(_next_m, m, gradient, step, flush)
    return next_m, _predicted(_next_v, v, gradient, step, flush)


def predicted_m(m: Words, gradient: Halves, step: Step) -> Words:
    """m alone."""
    return _predicted(_next_m, m, gradient, step)


def predicted_v(v: Words, gradient: Halves, step: Step) -> Words:
    """v alone."""
    return _predicted(_next_v, v, gradient, step)


def _predicted(
    make: Callable[[Floats, Floats, Step], Floats],
    old: Words,
    gradient: Halves,
    step: Step,
    flush: bool = False,
) -> Words:
    made = np.empty_like(old)
    with np.errstate(all="ignore"), denormals(flush):
        for at in range(0, old.size, BLOCK):
            part = slice(at, at + BLOCK)
            g = widened(gradient[part], step.factor)
            made[part] = clean(make(old[part].view(np.float32), g, step))
    return made


class Moments(NamedTuple):
    """Bits of m and v of one parameter before and after a step, flat."""

    m: Words
    v: Words
    next_m: Words
    next_v: Words

    def sample(self) -> "Moments":
        """Elements from all over, of those in which m changes other than by decay."""
        step = max(1, self.m.size // (4 * _SAMPLE))
        few = Moments(*(part[::step] for part in self))
        live = np.flatnonzero(few.next_m)[:_SAMPLE]
        return Moments(*(np.ascontiguousarray(part[live]) for part in few))


def with_forms(moments: Moments, gradient: Halves, step: Step) -> Step:
    """The step in the forms that make the most of a sample of moments."""
    m, v = moments.m.view(np.float32), moments.v.view(np.float32)
    with np.errstate(all="ignore"):
        g = widened(gradient, step.factor)

        def by_m(one: Step) -> int:
            return int(np.count_nonzero(clean(_next_m(m, g, one)) == moments.next_m))

        def by_v(one: Step) -> int:
            return int(np.count_nonzero(clean(_next_v(v, g, one)) == moments.next_v))

        step = max((step._replace(m_form=form) for form in range(M_FORMS)), key=by_m)
        return max((step._replace(v_form=form) for form in range(V_FORMS)), key=by_v)


# Gradients that were not kept


def _about(moments: Moments, step: Step) -> npt.NDArray[np.float64]:
    """Gradients, once multiplied by the factor, as far as m tells them."""
    m = moments.m.view(np.float32).astype(np.float64)
    next_m = moments.next_m.view(np.float32).astype(np.float64)
    found: npt.NDArray[np.float64] = m + (next_m - m) / np.float64(step.w)
    return found


def derived(moments: Moments, step: Step) -> Halves:
    """BF16 gradients from which m and v follow, where there are such; else the nearest ones."""
    gradient = np.empty(moments.m.size, np.uint16)
    with np.errstate(all="ignore"):
        for at in range(0, gradient.size, BLOCK):
            few = Moments(*(part[at : at + BLOCK] for part in moments))
            gradient[at : at + BLOCK] = _derived(few, step)[0]
    return gradient


def derived_block(moments: Moments, step: Step) -> tuple[Halves, int]:
    """Likewise of few, all at once; and of how many m and v do not both follow."""
    with np.errstate(all="ignore"):
        return _derived(moments, step)


def _derived(few: Moments, step: Step) -> tuple[Halves, int]:
    nearest = rounded(_about(few, step) / np.float64(step.factor))
    zeros = np.zeros_like(nearest)
    chosen, open_ = zeros.copy(), np.arange(nearest.size)
    half = nearest.copy()  # those from which only m follows
    for ulps in (None, *_NEAR):
        guess = zeros if ulps is None else nearest + np.uint16(ulps & 0xFFFF)
        guess = guess[open_]
        here = Moments(*(part[open_] for part in few))
        m, v = predicted(here.m, here.v, guess, step)
        right_m = m == here.next_m
        right = right_m & (v == here.next_v)
        half[open_[right_m]] = guess[right_m]
        chosen[open_[right]] = guess[right]
        open_ = open_[~right]
        if not open_.size:
            break
    chosen[open_] = half[open_]
    return chosen, open_.size


def found_step(moments: Moments, step: Step) -> Step:
    """The step with the factor and the forms by which a sample of moments was made, if possible.

    The factor is about what m tells; of its neighbours that one is taken by which most elements are
    made exactly.
    """
    few = moments.sample()
    if not few.m.size:
        return step
    with np.errstate(all="ignore"):
        about = _about(few, step)
        noise = np.abs(few.m.view(np.float32)) > 8 * np.abs(about)
        factor = factor_of(np.where(noise, 0, about), 2.0**-17)
        if factor is None or abs(factor - 1) < 2.0**-16:
            factor = 1.0
        best, chosen = -1, step
        centre = np.float32(factor)
        own = centre.view(np.uint32)
        spread = 24 if factor != 1.0 else 0
        for ulps in range(-spread, spread + 1):
            one = (own + np.uint32(ulps & 0xFFFFFFFF)).astype(np.uint32).view(np.float32)
            trial = step._replace(factor=one)
            g = widened(rounded(about / np.float64(one)), one)
            for form in range(M_FORMS):
                trial = trial._replace(m_form=form)
                made = clean(_next_m(few.m.view(np.float32), g, trial))
                same = int(np.count_nonzero(made == few.next_m))
                if same > best:
                    best, chosen = same, trial
        gradient = rounded(about / np.float64(chosen.factor))
    return with_forms(few, gradient, chosen)


def follows(few: Moments, gradient: Halves, step: Step, share: float) -> bool:
    """Whether m follows in that share of a sample."""
    m = predicted_m(few.m, gradient, step)
    return bool(np.count_nonzero(m == few.next_m) >= share * m.size)


def likely_step(moments: Moments, step: Step, last: Step | None) -> Step:
    """As `found_step`, but `last` if most of a sample follows from that.

    `step`: of the betas; `last`: what another parameter was made by.
    """
    few = moments.sample()
    known = last is not None and last[:3] == step[:3] and few.m.size
    if last is not None and known and follows(few, derived(few, last), last, 0.99):
        return last
    return found_step(moments, step)
