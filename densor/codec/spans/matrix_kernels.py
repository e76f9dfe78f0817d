"""The compiled loops that encode floats in matrices under scale contexts: a batch as frames.

The second of two passes, after that of `matrix_plan_kernels`. It goes over each chunk from its end,
as rANS does: tile by tile, from elements to words, with nothing in between that would not stay in
the cache.
"""

import numpy as np
from numba import types

from densor.codec.scale_context.payload import COLUMN_STEPS, COLUMNS, HEAD, PART, ROW_STEPS, ROWS
from densor.codec.spans import matrix_table as m
from densor.codec.spans import table as t
from densor.codec.spans.chunk_kernels import put_frame
from densor.codec.spans.jit import once, part
from densor.codec.spans.low_kernels import (
    LOW_RULE,
    code_low_halves,
    put_low_halves,
    put_one,
)
from densor.codec.spans.matrix_plan_kernels import (
    _AHEAD,
    _MASK,
    _RULE,
    _STEPS,
    _fill,
    _high_bits,
    _places,
    _symbol,
)
from densor.entropy import vectors as v
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    prefetch,
    store_u16,
    store_u32,
)
from densor.entropy.jit import R8, R32, W8, W32, kernel
from densor.entropy.rans.constants import FIRST, STATES
from densor.entropy.rans.kernels import put_lanes

I64_2D = types.int64[:, ::1]
_HEAD, _PART = HEAD.size, PART.size

_put_lanes = part(put_lanes.py_func)


@part
def _escape(symbol, high_bits, rule, escapes, count):
    """Notes the escape bits of a symbol, their number above them."""
    _, top, _, main, low_exponents = rule
    if symbol > main + low_exponents:
        bits = np.int64(11 if rule[0] == m.FORM_BF16 or rule[0] == m.FORM_FP32 else 8)
        bits = np.int64(7) if rule[0] == m.FORM_FP8 else bits
        escapes[count] = np.uint32(bits << 16 | high_bits)
        return count + 1
    if symbol > main:
        escapes[count] = np.uint32(top << 16 | (high_bits & ((1 << top) - 1)))
        return count + 1
    return count


@part
def _start_of(high_bits, scale, base, rule, starts, escapes, count):
    """What codes an element, see `rans.kernels.build_starts`; and the number of escapes."""
    symbol = _symbol(high_bits, scale, base, rule)
    context = (scale & _MASK) << 8
    start = starts[context | symbol]
    if start >> np.uint32(16) == np.uint32(0):
        symbol = rule[3] + 1 + rule[4]
        start = starts[context | symbol]
    return start, _escape(symbol, high_bits, rule, escapes, count)


@part
def _put_rare(start0, start1, tile, i, scales, base, rule, starts, lanes, escapes, count):
    """Finds what codes elements without a joint symbol, the last one first; to `lanes`."""
    v.store_u32(lanes, 0, start0)
    v.store_u32(lanes, 16, start1)
    for k in range(STATES - 1, -1, -1):
        if lanes[k] == np.uint32(0):
            high_bits = np.int64(load_u16(tile, 2 * (i + k)))
            start, count = _start_of(
                high_bits, np.int64(scales[i + k]), base, rule, starts, escapes, count
            )
            lanes[k] = start
    return count


@part
def _put_tile(
    tile, scales, count, base, rule, starts, joint, states, lanes, places, words, at, escapes, e,
    data, before, size,
):  # fmt: skip
    """Codes whole blocks of a tile, the last one first; returns where words begin, and escapes.

    Meanwhile it asks for the tile at byte `before`, since processors expect what lies behind.
    """
    _, top, first, _, _ = rule
    offset = v.splat((base + first) << top)
    zero = v.splat(0)
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    for i in range(0, count, 16):
        v.store_u16(places, 2 * i, _places(tile, i, scales, i, offset, top))
    for i in range(count - STATES, -1, -STATES):
        for line in range(0, STATES * size, 64):
            prefetch(data, before + i * size + line)
        start1 = v.gather_u32_at(joint, places, 2 * i + 32)
        start0 = v.gather_u32_at(joint, places, 2 * i)
        if (v.bits_of(v.equal(start0, zero)) | v.bits_of(v.equal(start1, zero))) != 0:
            e = _put_rare(start0, start1, tile, i, scales, base, rule, starts, lanes, escapes, e)
            start0 = v.load_u32(lanes, 0)
            start1 = v.load_u32(lanes, 16)
        x1, at = _put_lanes(x1, start1, v.reciprocal(v.shift_right(start1, 16)), words, at)
        x0, at = _put_lanes(x0, start0, v.reciprocal(v.shift_right(start0, 16)), words, at)
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return at, e


@part
def _fill_tile(parts, p, begin, count, scales, element_scales):
    """Scales of the elements `begin` to `begin + count` of a batch, of which `p` is the matrix."""
    done = 0
    while done < count:
        line = parts[p]
        columns = line[m.COLUMNS]
        inside = begin + done - line[m.ELEMENT]
        if inside >= line[m.ROWS] * columns:
            p += 1
            continue
        r = inside // columns
        j = inside - r * columns
        some = min(columns - j, count - done)
        first = line[m.COLUMN_AT] + j
        _fill(
            scales[line[m.ROW_AT] + r], scales[first : first + some],
            element_scales[done : done + some],
        )  # fmt: skip
        done += some


@once
def _put_elements(
    data, rule, size, parts, chunk, scales, starts, joint, states, lanes, words, at, escapes, tile,
    element_scales, places,
):  # fmt: skip
    """Codes the elements of a chunk, the last one first; returns where words begin, and escapes."""
    count = chunk[m.COUNT]
    base = chunk[m.BASE]
    e = np.int64(0)
    p = chunk[m.FIRST_PART] + chunk[m.PARTS] - 1
    for begin in range((count - 1) // m.TILE * m.TILE, -1, -m.TILE):
        some = min(m.TILE, count - begin)
        element = chunk[m.BEGIN] + begin
        while parts[p, m.ELEMENT] > element:
            p -= 1
        _fill_tile(parts, p, element, some, scales, element_scales)
        _high_bits(rule[0], data, element, some, tile)
        whole = some & ~(STATES - 1)
        for i in range(some - 1, whole - 1, -1):
            high_bits = np.int64(load_u16(tile, 2 * i))
            start, e = _start_of(
                high_bits, np.int64(element_scales[i]), base, rule, starts, escapes, e
            )
            if start >> np.uint32(16) == np.uint32(0):
                return np.int64(-1), e
            states[i - whole], at = put_one(states[i - whole], start, words, at)
        at, e = _put_tile(
            tile, element_scales, whole, base, rule, starts, joint, states, lanes, places, words,
            at, escapes, e, data, (element - m.TILE) * size, size,
        )  # fmt: skip
    return at, e


@once
def _put_sides(parts, chunk, scales, starts, states, words, at):
    """Codes the scales of rows and columns, the last one first; returns where words begin."""
    coded = np.int64(0)
    first = chunk[m.FIRST_PART]
    for p in range(first, first + chunk[m.PARTS]):
        coded += parts[p, m.ROWS] * ((parts[p, m.FLAGS] & ROWS) != 0)
        coded += parts[p, m.COLUMNS] * ((parts[p, m.FLAGS] & COLUMNS) != 0)
    i = coded - 1
    for p in range(first + chunk[m.PARTS] - 1, first - 1, -1):
        line = parts[p]
        for side in range(1, -1, -1):
            if line[m.FLAGS] & (COLUMNS if side else ROWS) == 0:
                continue
            begin = line[m.COLUMN_AT] if side else line[m.ROW_AT]
            size = line[m.COLUMNS] if side else line[m.ROWS]
            centre = line[m.COLUMN_CENTRE] if side else line[m.ROW_CENTRE]
            in_steps = line[m.FLAGS] & (COLUMN_STEPS if side else ROW_STEPS)
            for k in range(size - 1, -1, -1):
                before = centre
                if in_steps != 0 and k > 0:
                    before = np.int64(scales[begin + k - 1])
                symbol = (np.int64(scales[begin + k]) - before + 128) & 255
                start = starts[(_STEPS + side) << 8 | symbol]
                if start >> np.uint32(16) == np.uint32(0):
                    return np.int64(-1)
                lane = i & (STATES - 1)
                states[lane], at = put_one(states[lane], start, words, at)
                i -= 1
    return at


@once
def _put_escapes(escapes, count, out, at):
    """Escape bits in the order of elements, the last noted first; returns their end."""
    buffer = np.uint64(0)
    filled = np.uint64(0)
    for k in range(count - 1, -1, -1):
        one = np.uint64(escapes[k])
        buffer |= (one & np.uint64(0xFFFF)) << filled
        filled += one >> np.uint64(16)
        if filled >= np.uint64(32):
            store_u32(out, at, np.uint32(buffer & np.uint64(0xFFFFFFFF)))
            at += 4
            buffer >>= np.uint64(32)
            filled -= np.uint64(32)
    while filled > np.uint64(0):
        out[at] = np.uint8(buffer & np.uint64(255))
        at += 1
        buffer >>= np.uint64(8)
        filled -= min(filled, np.uint64(8))
    return at


@part
def _put_rest_of_bf16(x0, x1, out, rest, signs):
    minus = v.bits_of(v.less(v.splat(0x7FFF), x0)) | v.bits_of(v.less(v.splat(0x7FFF), x1)) << 16
    store_u32(out, signs, np.uint32(minus))
    low = v.splat(15)
    v.store_u8(out, rest, v.either(v.both(x0, low), v.shift_left(v.both(x1, low), 4)))


@part
def _put_block(form, data, at, out, rest, signs):
    """Signs and low mantissa bits of 32 elements."""
    if form == m.FORM_BF16:
        _put_rest_of_bf16(v.load_u16(data, at), v.load_u16(data, at + 32), out, rest, signs)
    elif form == m.FORM_FP16:
        for k in range(2):
            x = v.load_u16(data, at + 32 * k)
            sign = v.both(v.shift_right(x, 8), v.splat(128))
            v.store_u8(out, rest + 16 * k, v.either(sign, v.both(x, v.splat(127))))
    elif form == m.FORM_FP8:
        high = v.splat(127)
        minus = v.bits_of(v.less(high, v.load_u8(data, at)))
        minus |= v.bits_of(v.less(high, v.load_u8(data, at + 16))) << 16
        store_u32(out, signs, np.uint32(minus))
    else:
        x0 = v.shift_right(v.load_u32_bytes(data, at), 16)
        x1 = v.shift_right(v.load_u32_bytes(data, at + 64), 16)
        _put_rest_of_bf16(x0, x1, out, rest, signs)


@once
def _put_rest(form, size, data, begin, count, out, rest, rest_bytes, signs, sign_bytes, edge):
    """What is stored as it is, but for low halves."""
    whole = count & ~(STATES - 1)
    for i in range(0, whole, STATES):
        block = i // STATES
        prefetch(data, (begin + i) * size + _AHEAD)
        _put_block(
            form, data, (begin + i) * size, out, rest + block * rest_bytes,
            signs + block * sign_bytes,
        )  # fmt: skip
    if whole < count:
        edge[:] = 0
        copy_bytes(edge, 0, data, (begin + whole) * size, (count - whole) * size)
        block = whole // STATES
        _put_block(form, edge, 0, out, rest + block * rest_bytes, signs + block * sign_bytes)


@once
def _put_halves(data, begin, count, out, at):
    """The low halves of elements of 4 bytes."""
    whole = count & ~15
    for i in range(0, whole, 16):
        v.store_u16(out, at + 2 * i, v.load_u32_bytes(data, 4 * (begin + i)))
    for i in range(whole, count):
        store_u16(out, at + 2 * i, load_u16(data, 4 * (begin + i)))


@once
def _put_head(parts, chunk, escapes, stream, out, at):
    """The head of a payload; returns its end."""
    store_u16(out, at, np.uint16(chunk[m.PARTS]))
    store_u16(out, at + 2, np.uint16(chunk[m.BASE]))
    store_u32(out, at + 4, np.uint32(escapes))
    store_u32(out, at + 8, np.uint32(stream))
    at += _HEAD
    for p in range(chunk[m.FIRST_PART], chunk[m.FIRST_PART] + chunk[m.PARTS]):
        store_u32(out, at, np.uint32(parts[p, m.ROWS]))
        store_u32(out, at + 4, np.uint32(parts[p, m.COLUMNS]))
        store_u32(
            out, at + 8,
            np.uint32(
                parts[p, m.FLAGS] | parts[p, m.ROW_CENTRE] << 8 | parts[p, m.COLUMN_CENTRE] << 16
            ),
        )  # fmt: skip
        at += _PART
    return at


@kernel(
    types.int64(
        R8, _RULE, types.UniTuple(types.int64, 3), I64_2D, I64_2D, R8, R32, R32, LOW_RULE,
        types.uint8[:, ::1], W32, W8, I64_2D, W8, W32, W8, W8, W8, W32, W8, W8, W8, W8, I64_2D,
    ),
    counted=False,
)  # fmt: skip
def encode_matrices(
    data, rule, sizes, parts, chunks, scales, starts, joint, low_rule, low_runs, low_starts, out,
    made, words, escapes, tile, element_scales, places, states, edge, low_planes, low_places,
    low_words, sections,
):  # fmt: skip
    """Encodes the chunks of a batch, whose scales are known, as frames.

    `sizes`: bytes of an element; of the rest, and of the signs of a block. `starts`:
    uint32[CONTEXTS * 256], see `rans.kernels.build_starts`; `joint`: the same, 0 for all but joint
    symbols. `low_rule`, `low_runs`, `low_starts`: see `low_kernels.code_low_halves`. Other
    arguments: see `plan_matrices`.

    Results: `out`, uint8[], the frames one after the other, but for their model numbers and header
    checks; `made`, int64[chunks, 3], of each frame its offset, its payload, and 1 if it uses the
    batch's parameters, 0 if it is raw. Returns the bytes of all, or -1 where a symbol has no
    frequency.

    Work space: `words`, uint8[2 * (elements, rows and columns of a chunk) + 64]; `escapes`,
    uint32[elements of a chunk]; `tile`, uint8[2 * TILE]; `element_scales`, uint8[TILE + 32];
    `places`, uint8[2 * TILE]; `states`, uint32[2 * 32]; `edge`, uint8[EDGE]; `low_planes`,
    `low_places`, `low_words`, `sections`: see `low_kernels.code_low_halves`.
    """
    size, rest_bytes, sign_bytes = sizes
    form = rule[0]
    at = np.int64(0)
    for c in range(chunks.shape[0]):
        chunk = chunks[c]
        count = chunk[m.COUNT]
        states[:STATES] = np.uint32(FIRST)
        lanes = states[STATES:]
        place, e = _put_elements(
            data, rule, size, parts, chunk, scales, starts, joint, states, lanes, words, words.size,
            escapes, tile, element_scales, places,
        )  # fmt: skip
        if place >= 0:
            place = _put_sides(parts, chunk, scales, starts, states, words, place)
        if place < 0:
            return np.int64(-1)
        bits = np.int64(0)
        for k in range(e):
            bits += np.int64(escapes[k] >> np.uint32(16))
        stream = words.size - place + 4 * STATES
        blocks = (count + STATES - 1) // STATES
        stored = _HEAD + _PART * chunk[m.PARTS] + ((bits + 7) >> 3) + stream
        stored += blocks * (rest_bytes + sign_bytes)
        low = np.int64(2 * count if form == m.FORM_FP32 else 0)
        if low_rule[0] != 0:
            low = code_low_halves(
                data, chunk[m.BEGIN], count, chunk[m.FIRST_RUN], low_rule, low_runs, low_starts,
                low_planes, low_places, low_words, lanes, sections,
            )  # fmt: skip
        stored += low
        original = count * size
        payload = at + t.FRAME
        made[c, 0] = at
        made[c, 1] = min(stored, original)
        made[c, 2] = stored < original
        if stored >= original:
            copy_bytes(out, payload, data, chunk[m.BEGIN] * size, original)
        else:
            to = _put_head(parts, chunk, (bits + 7) >> 3, stream, out, payload)
            rest = _put_escapes(escapes, e, out, to)
            signs = rest + blocks * rest_bytes
            to = signs + blocks * sign_bytes
            _put_rest(
                form, size, data, chunk[m.BEGIN], count, out, rest, rest_bytes, signs, sign_bytes,
                edge,
            )  # fmt: skip
            for k in range(STATES):
                store_u32(out, to + 4 * k, states[k])
            copy_bytes(out, to + 4 * STATES, words, place, words.size - place)
            if low_rule[0] != 0:
                put_low_halves(sections, low_planes, low_words, out, to + stream)
            elif form == m.FORM_FP32:
                _put_halves(data, chunk[m.BEGIN], count, out, to + stream)
        put_frame(out, at, made[c, 1], original)
        at = payload + made[c, 1]
    return at
