"""One step of Adam, after docs/optimizer-format.md and docs/format/step.md and nothing else.

Sums are exact, as fractions, and rounded once; so are fused operations.
"""

import struct
from fractions import Fraction
from typing import Any

import numpy as np

from reference.entries import is_integer
from reference.reading import fail

Moments = tuple[bytes, bytes]  # m and v, binary32, those of all parameters of a group
F = np.float32


def _rounded(x: Fraction) -> Any:
    """To binary32, to nearest even; of 2^128 and more, infinity."""
    if x == 0:
        return F(0)
    exponent = max(_log2(abs(x)) - 23, -149)
    unit = Fraction(2) ** exponent
    whole = round(x / unit)  # Python rounds ties to even
    if abs(whole * unit) >= Fraction(2) ** 128:
        return F(np.inf if x > 0 else -np.inf)
    return F(float(whole * unit))


def _log2(x: Fraction) -> int:
    found = x.numerator.bit_length() - x.denominator.bit_length()
    return found if Fraction(2) ** found <= x else found - 1


def _fma(x: Any, y: Any, z: Any) -> Any:
    """x · y + z, rounded once; where one is no number, or the sum is 0, any way gives the same."""
    plain = F(np.float64(x) * np.float64(y) + np.float64(z))
    if not all(np.isfinite(part) for part in (x, y, z)):
        return plain
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    if exact:
        rounded = _rounded(exact)
        return rounded if rounded or exact > 0 else F(-0.0)
    return plain


def _next_v(form: int, v: Any, g: Any, b2: Any, a: Any) -> Any:
    if form == 0:
        return b2 * v + (a * g) * g
    if form == 1:
        return _fma(a * g, g, b2 * v)
    if form == 2:
        return _fma(b2, v, (a * g) * g)
    if form == 3:
        return b2 * v + (g * g) * a
    if form == 4:
        return _fma(g * g, a, b2 * v)
    if form == 5:
        return _fma(b2, v, (g * g) * a)
    return _fma(a, g * g - v, v) if form == 6 else a * (g * g - v) + v


def stepped(old: Moments, gradient: bytes, step: list[int]) -> list[bytes]:
    """m and v after a step, by the tables of forms."""
    if len(step) != 6 or not all(is_integer(number) for number in step):
        fail("the step of a group")
    if step[4] > 1 or step[5] > 7 or max(step[:4]) >= 1 << 32:
        fail("the step of a group")
    w, b2, a, factor = (np.uint32(number).view(F) for number in step[:4])
    halves = np.frombuffer(gradient, "<u2").astype(np.uint32) << 16
    found: list[list[Any]] = [[], []]
    with np.errstate(all="ignore"):
        parts = (np.frombuffer(part, "<f4") for part in old)
        for m, v, half in zip(*parts, halves.view(F), strict=True):
            g = half * factor
            next_m = _fma(w, g - m, m) if step[4] == 0 else w * (g - m) + m
            for made, number in zip(found, (next_m, _next_v(step[5], v, g, b2, a)), strict=True):
                made.append(F(0) if np.isnan(number) else number)
    return [struct.pack(f"<{len(made)}f", *made) for made in found]


def moved(old: bytes, moments: list[bytes], update: list[int]) -> bytes:
    """Weights after a step, from those before and the moments after it."""
    kept, scale, bias, epsilon = (np.uint32(number).view(F) for number in update[:4])
    found: list[Any] = []
    with np.errstate(all="ignore"):
        for w, m, v in zip(*(np.frombuffer(x, "<f4") for x in (old, *moments)), strict=True):
            divisor = np.sqrt(v) / bias + epsilon
            if update[4] == 0:
                number = scale * m / divisor + w * kept
            else:
                number = _fma(scale, m / divisor, w * kept)
            found.append(F(0) if np.isnan(number) else number)
    return struct.pack(f"<{len(found)}f", *found)
