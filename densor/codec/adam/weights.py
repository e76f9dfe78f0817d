"""Weights as functions of those before a step and of Adam's moments after it, bit for bit.

AdamW (arXiv 1711.05101) makes w (1 - lr wd) - lr m̂ / (√v̂ + eps). As PyTorch does it, each operation
is one of IEEE 754 in binary32, of numbers that were computed in binary64 and rounded once; what
`replay` says of operations holds here too.
"""

from typing import NamedTuple

import numpy as np

from densor.codec.adam.replay import BLOCK, Step, Words, clean, denormals, fused, predicted
from densor.codec.adam.scaled import Floats, Halves

FORMS = 2  # see `_next_w`


class Update(NamedTuple):
    """How weights are made, by numbers in binary32.

    `kept`: 1 - lr wd; `scale`: -lr / (1 - b1^t); `bias`: √(1 - b2^t); `epsilon`.
    """

    kept: np.float32
    scale: np.float32
    bias: np.float32
    epsilon: np.float32
    form: int = 0


def update_of(
    betas: tuple[float, float], rate: float, decay: float, epsilon: float, number: float
) -> Update:
    """The update of step `number`, 1 for the first: differences are taken in binary64, as Python
    does; `decay`: of weights, decoupled."""
    f = np.float32
    scale = -(rate / (1 - betas[0] ** number))
    return Update(f(1 - rate * decay), f(scale), f((1 - betas[1] ** number) ** 0.5), f(epsilon))


def _next_w(w: Floats, m: Floats, v: Floats, update: Update) -> Floats:
    """Form 0 rounds all; 1 divides first, and fuses the product with the sum."""
    root: Floats = np.sqrt(v)
    divisor: Floats = root / update.bias + update.epsilon
    if update.form == 1:
        ratio: Floats = m / divisor
        return fused(update.scale, ratio, w * update.kept)
    return update.scale * m / divisor + w * update.kept


def moved(w: Words, m: Words, v: Words, update: Update) -> Words:
    """Bits of weights after a step, from those before and of the moments after it, all flat."""
    made = np.empty_like(w)
    with np.errstate(all="ignore"), denormals(False):
        for at in range(0, w.size, BLOCK):
            a, b, c = (some[at : at + BLOCK].view(np.float32) for some in (w, m, v))
            made[at : at + BLOCK] = clean(_next_w(a, b, c, update))
    return made


def predicted_w(
    w: Words, m: Words, v: Words, gradient: Halves, step: Step, update: Update
) -> Words:
    """Weights after a step, from what was before it and the BF16 gradient."""
    return moved(w, *predicted(m, v, gradient, step), update)


def with_form(w: Words, next_w: Words, m: Words, v: Words, update: Update) -> tuple[Update, float]:
    """The update in the form that makes the most of these weights, and their share.

    `m`, `v`: after the step.
    """
    forms = [update._replace(form=form) for form in range(FORMS)]
    shares = [float(np.mean(moved(w, m, v, one) == next_w)) for one in forms]
    best = int(np.argmax(shares))
    return forms[best], shares[best]
