"""Packed optimizer states, after docs/optimizer-format.md and nothing else.

The rest of a state, which torch.save wrote, is left as it is. Sums are exact, as fractions, and
rounded once; so are fused operations.
"""

import struct
from fractions import Fraction
from typing import Any

import numpy as np
import xxhash

from reference import container
from reference.entries import is_integer, is_integer_list, parse_json
from reference.reading import Cursor, Refused, decode_zstd, fail

Moments = tuple[bytes, bytes]  # m and v, binary32, those of all parameters of a group
F = np.float32


def decode(data: bytes, before: dict[Any, Moments]) -> dict[tuple[Any, ...], Moments]:
    """The moments of all groups by their keys; `before`: those one step earlier, by parameter."""
    if xxhash.xxh3_128_digest(data[:-16]) != data[-16:]:
        raise Refused("checksum", "an optimizer state")
    cursor = Cursor(data[:-16])
    if cursor.take(8) != b"\x89DADAM\r\n":
        fail("no optimizer state")
    version, reserved, stored, size = cursor.fields("<HHII")
    if version != 1 or reserved:
        fail("the head of an optimizer state")
    table = parse_json(decode_zstd(cursor.take(stored), size))
    rest = table.get("rest")
    if not isinstance(rest, list) or not is_integer_list(rest) or len(rest) != 2:
        fail("the table of an optimizer state")
    decode_zstd(cursor.take(rest[0]), rest[1])
    groups = table.get("groups")
    if not isinstance(groups, list):
        fail("the table of an optimizer state")
    found: dict[tuple[Any, ...], Moments] = {}
    keys = [key for group in groups for key in group["keys"]]
    if len(set(keys)) < len(keys):
        fail("moments of a parameter twice")
    for group in groups:
        found[tuple(group["keys"])] = _group(group, cursor, before)
    cursor.finish()
    return found


def _group(group: dict[str, Any], cursor: Cursor, before: dict[Any, Moments]) -> Moments:
    way, lengths = group["way"], group["lengths"]
    counts = {"alone": 2, "changes": 2, "relative": 3, "replay": 3}
    if way not in counts or len(lengths) != counts[way]:
        fail("the way of a group")
    pieces = [cursor.take(length) for length in lengths]
    old: Moments | None = None
    if way in ("changes", "replay"):
        parts = [before[key] for key in group["keys"]]
        old = b"".join(m for m, _ in parts), b"".join(v for _, v in parts)
        if _digest(old) != group["before"]:
            fail("the state before is another one")
    if way == "replay":
        assert old is not None
        made = stepped(old, _piece(pieces[0], None), group["step"])
        m, v = (
            _piece(piece, base) if piece else base
            for piece, base in zip(pieces[1:], made, strict=True)
        )
        new = m, v
    elif way == "relative":
        m = _piece(pieces[2], None)
        numbers, distances = (_piece(one, None) for one in pieces[:2])
        new = m, _from_scales(group["shapes"], numbers, distances, m)
    else:
        bases = old or (None, None)
        new = _piece(pieces[0], bases[0]), _piece(pieces[1], bases[1])
    if _digest(new) != group["digest"]:
        raise Refused("checksum", "the moments of a group")
    return new


def _from_scales(shapes: list[list[int]], scales: bytes, piece: bytes, m: bytes) -> bytes:
    """v, of a group of one matrix."""
    if len(shapes) != 1 or len(shapes[0]) < 2 or not piece:
        fail("no matrix")
    rows = shapes[0][0]
    columns = len(piece) // 4 // rows
    if columns > 1 << 20:
        fail("rows that are too long")
    numbers = np.frombuffer(scales, "<i2").tolist()
    if len(numbers) != rows + columns + 24:
        fail("the number of scales")
    found = []
    pairs = zip(np.frombuffer(piece, "<u4").tolist(), np.frombuffer(m, "<u4").tolist(), strict=True)
    for place, (bits, own) in enumerate(pairs):
        row = numbers[place // columns]
        e = (row + numbers[rows + place % columns]) << 20
        k = min(23, max(0, (2 * (own % 2**31 - 0x1FC00000) - e >> 23) + 16))
        more = e + (numbers[rows + columns + k] << 20) - (127 << 23)
        found.append((bits + (0 if row == -(2**15) else more)) % 2**32)
    return np.array(found, "<u4").tobytes()


def _digest(moments: Moments) -> str:
    return xxhash.xxh3_128_hexdigest(moments[0] + moments[1])


def _piece(archive: bytes, base: bytes | None) -> bytes:
    (entry,) = container.decode(archive, base)
    return entry.data


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
