"""Reference for files that follow from others, from docs/format/derived.md: one group at a time."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.entries import is_hexadecimal, parse_json
from reference.reading import Refused, fail

NAME, SCALES = "densor.derived", "densor.derived.scales"
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
BLOCKS = {
    "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}  # fmt: skip
RECORDS = {"Q2_K": (2, 32), "Q3_K": (1, 16), "Q4_K": (2, 16), "Q5_K": (2, 16), "Q6_K": (1, 16)}
MOST_GROUP = 1 << 28
Tensor = list[Any]
Floats = NDArray[np.float32]
f = np.float32
TOPS = {"Q2_K": 3, "Q4_K": 15, "Q5_K": 31}


# The entry


def recipes(content: bytes) -> list[dict[str, Any]]:
    """What the entry says, verified."""
    files = parse_json(content).get("files")
    if not isinstance(files, list):
        fail("no list of files")
    for recipe in files:
        if not isinstance(recipe, dict) or not isinstance(recipe.get("tensors"), list):
            fail("a file without tensors")
        if not _whole(recipe.get("size")):
            fail("a size that is none")
        digest = recipe.get("digest")
        if not isinstance(digest, list) or len(digest) != 2 or not _whole(digest[0]):
            fail("a digest that is none")
        if not isinstance(digest[1], str) or not is_hexadecimal(digest[1]):
            fail("a digest that is none")
        at = 0
        for tensor in recipe["tensors"]:
            _verify(tensor)
            if tensor[0] < at or tensor[0] + tensor[2] * row_size(tensor) > recipe["size"]:
                fail("tensors that overlap, or go beyond the end")
            at = tensor[0] + tensor[2] * row_size(tensor)
    return files


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _verify(tensor: Tensor) -> None:
    if not isinstance(tensor, list) or len(tensor) not in (8, 9):
        fail("a tensor of other than eight or nine values")
    offset, form, rows, columns, entry, begin, dtype, heads = tensor[:8]
    if not all(map(_whole, (offset, rows, columns, begin, heads, *tensor[8:]))):
        fail("a number that is none")
    if not isinstance(entry, str) or not isinstance(form, str) or not isinstance(dtype, str):
        fail("a name that is none")
    if (form not in WIDTHS and form not in BLOCKS) or dtype not in WIDTHS:
        fail("an unknown type")
    if not rows or not columns or rows * columns > 1 << 40:
        fail("an impossible shape")
    if form in BLOCKS and columns % BLOCKS[form][0]:
        fail("rows of part of a block")
    if len(tensor) > 8 and form not in RECORDS:
        fail("scales of a form that has none")
    if heads and (rows % heads or rows // heads % 2):
        fail("heads that do not divide the rows")
    if (rows // heads if heads else 1) * columns * WIDTHS[dtype] > MOST_GROUP:
        raise Refused("limit", "rows that take too much")


def row_size(tensor: Tensor) -> int:
    """Bytes of a row as it is made."""
    form, columns = tensor[1], tensor[3]
    if form in WIDTHS:
        return int(columns * WIDTHS[form])
    weights, size = BLOCKS[form]
    return int(columns // weights * size)


def base(content: bytes, entries: dict[str, bytes], wanted: tuple[int, int, bytes]) -> bytes:
    """The bytes of that size and hash; `entries`: those without a base."""
    for recipe in recipes(content):
        kind, digest = recipe["digest"]
        if (recipe["size"], kind, digest) == (wanted[0], wanted[1], wanted[2].hex()):
            return part(recipe, entries, 0, recipe["size"])
    raise Refused("base", "nothing says how a base is made")


def part(recipe: dict[str, Any], entries: dict[str, bytes], begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of a base."""
    out = bytearray(end - begin)
    for tensor in recipe["tensors"]:
        source = entries.get(tensor[4])
        needed = tensor[5] + tensor[2] * tensor[3] * WIDTHS[tensor[6]]
        if source is None or needed > len(source):
            fail("made from what is not there")
        scales = entries.get(SCALES, b"")
        if tensor[8:] and tensor[8] + tensor[2] * record_size(tensor) > len(scales):
            fail("told of by what is not there")
        size = row_size(tensor)
        for number in range(tensor[2]):
            at = tensor[0] + number * size
            if at < end and at + size > begin:
                row = made_row(tensor, source, number, scales)
                low, high = max(at, begin), min(at + size, end)
                out[low - begin : high - begin] = row[low - at : high - at]
    return bytes(out)


def record_size(tensor: Tensor) -> int:
    """Bytes that are told of a row."""
    numbers, codes = RECORDS[tensor[1]]
    return int(tensor[3] // 256 * (2 * numbers + codes))


def made_row(tensor: Tensor, source: bytes, number: int, scales: bytes = b"") -> bytes:
    """One row of a tensor."""
    _, form, rows, columns, _, begin, dtype, heads = tensor[:8]
    told = None
    if tensor[8:]:
        size = record_size(tensor)
        told = scales[tensor[8] + number * size : tensor[8] + (number + 1) * size]
    if heads:
        group = rows // heads
        first, within = number // group * group, number % group
        number = first + within % 2 * (group // 2) + within // 2
    width = columns * WIDTHS[dtype]
    words = source[begin + number * width : begin + (number + 1) * width]
    if dtype == "F32":
        weights = np.frombuffer(words, "<f4").astype(f)
    elif dtype == "F16":
        weights = np.frombuffer(words, "<f2").astype(f)
    else:
        weights = (np.frombuffer(words, "<u2").astype(np.uint32) << 16).view(f)
    if not np.isfinite(weights).all():
        return bytes(row_size(tensor))
    return quantise(weights, form, told)


def quantise(weights: Floats, form: str, told: bytes | None = None) -> bytes:
    """A row in another type; `told`: its records, if scales are told."""
    with np.errstate(all="ignore"):
        if told is not None:
            size = len(told) * 256 // weights.size
            blocks = [weights[at : at + 256] for at in range(0, weights.size, 256)]
            records = [told[at : at + size] for at in range(0, len(told), size)]
            each = zip(blocks, records, strict=True)
            return b"".join(_told(block, form, record) for block, record in each)
        if form == "F32":
            return weights.astype("<f4").tobytes()
        if form == "F16":
            return weights.astype("<f2").tobytes()
        if form == "BF16":
            return b"".join(_bf16(int(word)) for word in weights.view(np.uint32))
        size = BLOCKS[form][0]
        parts = (weights[at : at + size] for at in range(0, weights.size, size))
        return b"".join((_long if size == 256 else _short)(block, form) for block in parts)


def _bf16(word: int) -> bytes:
    kept, rest = word >> 16, word & 0xFFFF
    kept += rest > 0x8000 or (rest == 0x8000 and kept & 1)
    return struct.pack("<H", kept & 0xFFFF)


def half(x: Any) -> tuple[bytes, Any]:
    """x as FP16, and that in FP32."""
    kept = np.float16(np.inf if np.isnan(x) else x)
    return kept.tobytes(), f(kept)


# Blocks of 32


def _short(x: Floats, form: str) -> bytes:
    v = x[np.argmax(abs(x))]
    if form == "Q8_0":
        d = f(abs(v) / f(127))
        scaled = x * _inverse(d)
        away = np.trunc(scaled.astype(float) + np.copysign(0.5, scaled))
        return half(d)[0] + bytes(int(q) & 255 for q in away)
    top = 31 if form in ("Q5_0", "Q5_1") else 15
    stored = b""
    if form in ("Q4_0", "Q5_0"):
        middle = (top + 1) // 2
        d = f(v / f(-middle))
        q = np.trunc(x * _inverse(d) + f(middle + 0.5))
    else:
        least = x[np.argmax(x == x.min())]  # the first of those that are 0 and -0
        d = f((x.max() - least) / f(top) + f(0))
        q = np.trunc((x - least) * _inverse(d) + f(0.5))
        stored = half(least)[0]
    codes = [min(int(each), top) for each in q]
    packed = bytes((codes[i] & 15) | (codes[i + 16] & 15) << 4 for i in range(16))
    fifth = sum((code >> 4 & 1) << i for i, code in enumerate(codes))
    return half(d)[0] + stored + (struct.pack("<I", fifth) if top == 31 else b"") + packed


def _inverse(d: Any) -> Any:
    inverse = f(1) / d
    return inverse if np.isfinite(inverse) else f(0)


# Blocks of 256


def near(x: Any) -> Any:
    """The nearest whole number, ties to even."""
    return f(np.rint(x)) if abs(x) < 2**22 else f(0)


def clip(x: Any, least: int, most: int) -> int:
    """The nearest whole number within both, ties to even; `least` for what is no number."""
    return int(min(np.rint(x), most)) if x >= least else least


def total(terms: Iterator[Any]) -> Any:
    """A sum from left to right."""
    found = f(0)
    for term in terms:
        found = f(found + term)
    return found


# Scales that are told


def _told(x: Floats, form: str, record: bytes) -> bytes:
    """A block by its record."""
    count, _ = RECORDS[form]
    numbers, bytes_ = struct.unpack_from(f"<{count}H", record), record[2 * count :]
    groups = x.reshape(8 if form in ("Q4_K", "Q5_K") else 16, -1)
    least = groups.min(1)
    greatest = [group.max() if group.any() else group[-1] for group in groups]
    if count == 1:
        middle, reach = (4, 32) if form == "Q3_K" else (32, 128)
        v = [m if m2 < -m else m2 for m, m2 in zip(least, greatest, strict=True)]
        guesses = [[-each / f(middle) for each in v]]
        high, low = max(guesses[0]), min(guesses[0])  # of zeros, the first
        tops = [-(low if high < -low else high) / f(reach)]
        span = (-reach, reach - 1)
    else:
        least = np.where(least < 0, least, f(0))
        guesses = [list((greatest - least) / f(TOPS[form])), list(f(0) - least)]
        span = (0, 15 if form == "Q2_K" else 63)
        tops = [max(each) / f(span[1]) for each in guesses]
    codes: list[list[int]] = []
    stored, steps = [], []
    for guess, top, number in zip(guesses, tops, numbers, strict=True):
        off = number >> 1 ^ -(number & 1)
        stored.append(struct.pack("<H", int.from_bytes(half(top)[0], "little") + off & 0xFFFF))
        d = f(np.frombuffer(stored[-1], "<f2")[0])
        d = d if np.isfinite(d) else f(0)
        codes.append([])
        for g in guess:
            byte = bytes_[len(codes) * len(guess) - len(guess) + len(codes[-1])]
            guessed = min(max(int(near(g * (f(1) / d))), span[0]), span[1])
            codes[-1].append((guessed + byte - span[0]) % (span[1] - span[0] + 1) + span[0])
        steps.append([d * f(code) for code in codes[-1]])
    quanta: list[int] = []
    for number, group in enumerate(groups):
        z = steps[0][number]
        if z == 0:
            quanta += [0] * len(group)
        elif count == 2:
            quanta += [clip((each + steps[1][number]) / z, 0, TOPS[form]) for each in group]
        else:
            quanta += [clip(each / z, -middle, middle - 1) + middle for each in group]
    if count == 2:
        return _with_minima(form, codes, stored, quanta)
    return _without_minima(form == "Q3_K", codes[0], stored[0], quanta)


def _with_minimum(x: Floats, form: str) -> tuple[Any, Any, list[int]]:
    top, first, tries = {"Q2_K": (3, -0.5, 16), "Q4_K": (15, -1, 21), "Q5_K": (31, -0.5, 16)}[form]
    root = f(0) if form == "Q2_K" else np.sqrt(total(each * each for each in x) / f(32))
    w = [root + abs(each) for each in x]

    def error(s: Any, m: Any, quanta: Sequence[int]) -> Any:
        off = [s * f(q) + m - each for q, each in zip(quanta, x, strict=True)]
        sizes = (abs(t) if form == "Q2_K" else t * t for t in off)
        return total(a * e for a, e in zip(w, sizes, strict=True))

    def quanta_of(i: Any, m: Any) -> list[int]:
        i = i if np.isfinite(i) else f(0)
        return [clip(i * (each - m), 0, top) for each in x]

    m, greatest = min(x.min(), f(0)), x.max()
    if m == greatest:
        return f(0), -m, [0] * x.size
    sum_w = total(iter(w))
    sum_x = total(a * each for a, each in zip(w, x, strict=True))
    i = f(top) / (greatest - m)
    s = f(1) / i
    kept = quanta_of(i, m)
    best = error(s, m, kept)
    for k in range(tries):
        q = quanta_of((f(first) + f(0.1) * f(k) + f(top)) / (greatest - m), m)
        a = total(weight * f(c) for weight, c in zip(w, q, strict=True))
        b = total(weight * f(c) * f(c) for weight, c in zip(w, q, strict=True))
        c = total(weight * f(code) * each for weight, code, each in zip(w, q, x, strict=True))
        divisor = sum_w * b - a * a
        if not divisor > 0:
            continue
        new_s, new_m = (sum_w * c - sum_x * a) / divisor, (b * sum_x - a * c) / divisor
        if new_m > 0:
            new_s, new_m = c / b, f(0)
        found = error(new_s, new_m, q)
        if found < best:
            best, s, m, kept = found, new_s, new_m, q
    return s, -m, kept


def _sums(x: Floats, quanta: Sequence[int]) -> tuple[Any, Any]:
    return (
        total(each * each * each * f(q) for each, q in zip(x, quanta, strict=True)),
        total(each * each * f(q) * f(q) for each, q in zip(x, quanta, strict=True)),
    )


def _six_bits(x: Floats) -> tuple[Any, list[int]]:
    v = x[np.argmax(abs(x))]
    if abs(v) < f(1e-15):
        return f(0), [0] * x.size
    s = most = f(0)
    kept: list[int] = []
    for k in (0, *range(-9, 0), *range(1, 10)):
        i = -(f(32) + f(0.1) * f(k)) / v
        q = [clip(i * each, -32, 31) for each in x]
        c, b = _sums(x, q)
        if k == 0:
            s, kept = c / b if b else f(0), q
            most = s * c
        elif b > 0 and c * c > most * b:
            s, kept = c / b, q
            most = s * c
    return s, [q + 32 for q in kept]


def _three_bits(x: Floats) -> tuple[Any, list[int]]:
    v = x[np.argmax(abs(x))]
    if abs(v) < f(1e-15):
        return f(0), [0] * x.size
    q = [clip(f(-4) / v * each, -4, 3) for each in x]
    c, b = _sums(x, q)
    for _ in range(5):
        for j, each in enumerate(x):
            c1 = c - each * each * each * f(q[j])
            b1 = b - each * each * f(q[j]) * f(q[j])
            if not c1 > 0:
                continue
            new = clip(each * b1 / c1, -4, 3)
            if new == q[j]:
                continue
            c2 = c1 + each * each * each * f(new)
            b2 = b1 + each * each * f(new) * f(new)
            if b2 > 0 and c2 * c2 * b > c * c * b2:
                q[j], c, b = new, c2, b2
    return c / b if b > 0 else f(0), [each + 4 for each in q]


def _long(x: Floats, form: str) -> bytes:
    n = 32 if form in ("Q4_K", "Q5_K") else 16
    groups = x.reshape(-1, n)
    if form in ("Q3_K", "Q6_K"):
        return _centred(groups, form)
    found = [_with_minimum(group, form) for group in groups]
    most = 15 if form == "Q2_K" else 63
    stored, codes, products = [], [], []
    for numbers in ([each[0] for each in found], [each[1] for each in found]):
        greatest = max(f(0), *numbers)
        factor = f(most) / greatest if greatest > 0 else f(0)
        low = [int(near(factor * number)) & (15 if most == 15 else 255) for number in numbers]
        codes.append([min(code, most) for code in low])
        bits, d = half(greatest / f(most) if greatest > 0 else f(0))
        stored.append(bits)
        products.append([d * f(code) for code in codes[-1]])
    top = TOPS[form]
    quanta: list[int] = []
    for group, z, minimum, each in zip(groups, *products, found, strict=True):
        if z == 0:
            quanta += each[2]
        elif not np.isfinite(minimum):
            quanta += [0] * n
        else:
            quanta += [clip((weight + minimum) / z, 0, top) for weight in group]
    return _with_minima(form, codes, stored, quanta)


def _with_minima(
    form: str, codes: list[list[int]], stored: list[bytes], quanta: list[int]
) -> bytes:
    if form == "Q2_K":
        scales = bytes(a | b << 4 for a, b in zip(*codes, strict=True))
        return scales + _pairs(quanta) + stored[0] + stored[1]
    fifth = _bit(quanta, 4) if form == "Q5_K" else b""
    nibbles = bytes(
        (quanta[64 * p + i] & 15) | (quanta[64 * p + 32 + i] & 15) << 4
        for p in range(4)
        for i in range(32)
    )
    return stored[0] + stored[1] + _twelve(*codes) + fifth + nibbles


def _twelve(scales: list[int], minima: list[int]) -> bytes:
    out = bytearray(scales[:4] + minima[:4] + [0] * 4)
    for j in range(4, 8):
        out[4 + j] = (scales[j] & 15) | (minima[j] & 15) << 4
        out[j - 4] |= scales[j] >> 4 << 6
        out[j] |= minima[j] >> 4 << 6
    return bytes(out)


def _centred(groups: Floats, form: str) -> bytes:
    three = form == "Q3_K"
    found = [(_three_bits if three else _six_bits)(group) for group in groups]
    scales = [each[0] for each in found]
    extreme = f(0)
    for scale in scales:
        extreme = scale if abs(scale) > abs(extreme) else extreme
    lowest, middle = (-32, 4) if three else (-128, 32)
    if not three and abs(extreme) < f(1e-15):
        return bytes(210)
    bits, d = half(f(0))
    codes = [lowest] * 16
    if extreme != 0:
        factor = f(lowest) / extreme
        bits, d = half(f(1) / factor)
        codes = [clip(near(factor * scale), lowest, -lowest - 1) for scale in scales]
    quanta: list[int] = []
    for group, code, each in zip(groups, codes, found, strict=True):
        z = d * f(code)
        if z == 0:
            quanta += each[1]
        else:
            quanta += [clip(x / z, -middle, middle - 1) + middle for x in group]
    return _without_minima(three, codes, bits, quanta)


def _without_minima(three: bool, codes: list[int], bits: bytes, quanta: list[int]) -> bytes:
    if three:
        packed = bytearray(12)
        for j, code in enumerate(codes):
            packed[j % 8] |= (code + 32 & 15) << 4 * (j // 8)
            packed[8 + j % 4] |= (code + 32 >> 4) << 2 * (j // 4)
        return _bit(quanta, 2) + _pairs(quanta) + bytes(packed) + bits
    low = bytearray()
    for first in (0, 32, 128, 160):
        low += bytes(
            (quanta[first + i] & 15) | (quanta[first + 64 + i] & 15) << 4 for i in range(32)
        )
    high = _pairs([q >> 4 for q in quanta])
    return bytes(low) + high + bytes(code & 255 for code in codes) + bits


def _pairs(quanta: list[int]) -> bytes:
    return bytes(
        sum((quanta[128 * h + 32 * k + i] & 3) << 2 * k for k in range(4))
        for h in range(2)
        for i in range(32)
    )


def _bit(quanta: list[int], bit: int) -> bytes:
    return bytes(sum((quanta[32 * k + i] >> bit & 1) << k for k in range(8)) for i in range(32))
