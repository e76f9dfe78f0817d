"""The compiled loop that decodes a span of chunks under rANS: scale contexts, and byte planes.

Two chunks at a time where they have the same parameters: what a state of rANS becomes waits for a
look-up, so that two streams take little longer than one. It trusts nothing but its binding's work
space: frames, sections and places are all checked here.
"""

import numpy as np
from numba import types

from densor.codec import registry
from densor.codec.planes import kernels as planes_kernels
from densor.codec.scale_context import kernels as scales
from densor.codec.scale_context.payload import COLUMN_STEPS, COLUMNS, HEAD, PART, ROW_STEPS, ROWS
from densor.codec.spans import rans_table as r
from densor.codec.spans import table as t
from densor.codec.spans.frame_checks import check_frame, outside
from densor.codec.spans.jit import part
from densor.codec.spans.join_kernels import join_bf16, join_fp8, join_fp16
from densor.codec.spans.merge import address_of, merge_run, undo_differences
from densor.entropy import vectors as v
from densor.entropy.intrinsics import copy_bytes, load_u16, load_u32, store_u32
from densor.entropy.jit import R8, W8, W32, inlined, kernel
from densor.entropy.rans.kernels import (
    BITS,
    FIRST,
    LOOK,
    STATES,
    build_table,
    decode_groups_of_two,
    decode_symbols,
    refill,
    step,
    step_beside,
)

R16_2D = types.Array(types.uint16, 2, "C", readonly=True)
I64_2D = types.int64[:, ::1]
_HEAD, _PART = HEAD.size, PART.size
_STATE_BYTES = 4 * STATES
_WAITS = -1  # a chunk that is yet to be decoded

_build_table = part(build_table.__wrapped__)
_symbols_of_one = part(decode_symbols.py_func)
_symbols_of_two = part(decode_groups_of_two.py_func)
_patch_lanes = part(scales._patch_lanes.py_func)


# Streams. `state`: int64[2, STATE], of two chunks: AT is the place of the next word in `data`, END
# where the stream ends, ERROR what is wrong with the chunk.


@part
def _open_stream(data, state, states):
    """Reads the states at the begin of a stream from AT to END."""
    at = state[r.AT]
    if state[r.END] - at < _STATE_BYTES:
        state[r.ERROR] = r.STREAM_SHORT
        return
    impossible = False
    for k in range(STATES):
        x = load_u32(data, at + 4 * k)
        states[k] = x
        impossible |= x < np.uint32(FIRST)
    state[r.AT] = at + _STATE_BYTES
    if impossible:
        state[r.ERROR] = r.STREAM_BEGIN


@part
def _take(data, state, states, tail, table, contexts, symbols):
    """Decodes symbols of a stream, unless something was wrong before."""
    if state[r.ERROR] == 0 and symbols.size > 0:
        words = data[: state[r.END]]
        at = _symbols_of_one(words, state[r.AT], tail, states, table, contexts, symbols)
        state[r.AT] = at
        if at < 0:
            state[r.ERROR] = r.STREAM_END


@part
def _take_two(data, state, states, tail, table, contexts_a, symbols_a, contexts_b, symbols_b):
    """Decodes symbols of both streams, of which one may have none."""
    done = 0
    both = min(symbols_a.size, symbols_b.size)
    if both > 0 and state[0, r.ERROR] == 0 and state[1, r.ERROR] == 0:
        words_a = data[: state[0, r.END]]
        words_b = data[: state[1, r.END]]
        done, state[0, r.AT], state[1, r.AT] = _symbols_of_two(
            words_a, state[0, r.AT], words_a.size - 2 * LOOK, words_b, state[1, r.AT],
            words_b.size - 2 * LOOK, states, table, contexts_a, contexts_b, both, symbols_a,
            symbols_b,
        )  # fmt: skip
    _take(data, state[0], states[:STATES], tail, table, contexts_a[done:], symbols_a[done:])
    _take(data, state[1], states[STATES:], tail, table, contexts_b[done:], symbols_b[done:])


@part
def _close_stream(state, states):
    """Whether a stream ends with its last symbol."""
    if state[r.ERROR] == 0:
        sound = state[r.AT] == state[r.END]
        for k in range(STATES):
            sound &= states[k] == np.uint32(FIRST)
        if not sound:
            state[r.ERROR] = r.STREAM_LEFT


# Byte planes


@part
def _contexts_of_plane(data, at, end, classes, n, run, contexts):
    """The class of each element by the class map at `at`; the bytes of the map, or an error < 0."""
    if classes == 1:
        contexts[:n] = 0
        return 0
    bits = 1 if classes == 2 else 2 if classes <= 4 else 4
    per_byte = 8 // bits
    runs = (n - 1) // run + 1
    size = (runs * bits + 7) // 8
    if size > end - at:
        return -planes_kernels.MAP_TOO_SHORT
    good = True
    for k in range(runs):
        c = (np.int64(data[at + k // per_byte]) >> (k % per_byte * bits)) & ((1 << bits) - 1)
        good &= c < classes
        contexts[k * run : min((k + 1) * run, n)] = c
    left = runs % per_byte
    if left != 0:
        good &= np.int64(data[at + size - 1]) >> (left * bits) == 0
    return size if good else -planes_kernels.MAP_CONTENT


@part
def _plane(data, state, states, p, head, n, scratch, contexts):
    """Prepares plane `p` of a chunk; whether it has a stream, which is open then.

    NEXT: where its section begins. The plane will lie at an address that is noted.
    """
    mode = data[state[r.SECTIONS] + 5 * p]
    at = state[r.NEXT]
    end = at + np.int64(load_u32(data, state[r.SECTIONS] + 5 * p + 1))
    if end > state[r.PAYLOAD_END]:
        state[r.ERROR] = planes_kernels.PLANE_BEYOND_CHUNK
        return False
    state[r.NEXT] = end
    state[r.PLANES + p] = address_of(scratch, p * n, n)
    if mode == registry.PLANE_RAW:
        if end - at != n:
            state[r.ERROR] = planes_kernels.RAW_LENGTH
        else:
            state[r.PLANES + p] = address_of(data, at, n)
    elif mode == registry.PLANE_CONSTANT:
        if end - at != 1:
            state[r.ERROR] = planes_kernels.CONSTANT_LENGTH
        else:
            scratch[p * n : (p + 1) * n] = data[at]
    elif mode == registry.PLANE_RANS:
        classes = head[r.FIRST + p + 1] - head[r.FIRST + p]
        if classes == 0:
            state[r.ERROR] = planes_kernels.NO_CLASSES
            return False
        size = _contexts_of_plane(data, at, end, classes, n, head[r.RUN], contexts)
        if size < 0:
            state[r.ERROR] = -size
            return False
        state[r.AT] = at + size
        state[r.END] = end
        _open_stream(data, state, states)
        return state[r.ERROR] == 0
    else:
        state[r.ERROR] = planes_kernels.UNKNOWN_MODE
    return False


@part
def _planes(data, count, state, head, freqs, tables, states, tail, scratch, contexts, begin):
    """Decodes the planes of `count` chunks, 1 or 2, whose payload lies from NEXT to PAYLOAD_END.

    To `scratch`, uint8[2, most], from byte `begin` of each chunk's row on.
    """
    planes = head[r.SIZE]
    for s in range(count):
        state[s, r.SECTIONS] = state[s, r.NEXT]
        state[s, r.NEXT] += 5 * planes
        if state[s, r.NEXT] > state[s, r.PAYLOAD_END]:
            state[s, r.ERROR] = planes_kernels.CHUNK_TOO_SHORT
    for p in range(planes):
        low = head[r.FIRST + p] - head[r.TABLES]
        high = head[r.FIRST + p + 1] - head[r.TABLES]
        table = tables[low << BITS : high << BITS]
        n_a = 0
        n_b = 0
        if state[0, r.ERROR] == 0:
            n = state[0, r.ELEMENTS]
            if _plane(data, state[0], states[:32], p, head, n, scratch[0, begin:], contexts[0]):
                n_a = n
        if count > 1 and state[1, r.ERROR] == 0:
            n = state[1, r.ELEMENTS]
            if _plane(data, state[1], states[32:], p, head, n, scratch[1, begin:], contexts[1]):
                n_b = n
        if n_a + n_b == 0:
            continue
        if state[0, r.BUILT + 8 * head[r.PART] + p] == 0:
            state[0, r.BUILT + 8 * head[r.PART] + p] = 1
            _build_table(freqs[head[r.FIRST + p] : head[r.FIRST + p + 1]], table)
        symbols_a = scratch[0, begin + p * n_a : begin + (p + 1) * n_a]
        symbols_b = scratch[1, begin + p * n_b : begin + (p + 1) * n_b]
        _take_two(
            data, state, states, tail, table, contexts[0, :n_a], symbols_a, contexts[1, :n_b],
            symbols_b,
        )  # fmt: skip
        if n_a > 0:
            _close_stream(state[0], states[:32])
        if n_b > 0:
            _close_stream(state[1], states[32:])
    for s in range(count):
        if state[s, r.ERROR] == 0 and state[s, r.NEXT] != state[s, r.PAYLOAD_END]:
            state[s, r.ERROR] = planes_kernels.CHUNK_TOO_LONG


@part
def _merge(state, head, out, place, edge):
    """Planes at the addresses that are noted to elements."""
    n = state[r.ELEMENTS]
    for p in range(8):
        state[r.RUNS + p] = state[r.PLANES + p]
    addresses = state[r.RUNS : r.RUNS + 8]
    merge_run(head[r.LAYOUT], head[r.SIZE], addresses, n, out, place, edge)
    if head[r.DELTA] != 0:
        undo_differences(out, place, head[r.SIZE], n)


# Scale contexts


@part
def _open_matrices(data, state, head):
    """Looks at the head of a chunk, and notes where its sections are."""
    at = state[r.NEXT]
    payload_end = state[r.PAYLOAD_END]
    n = state[r.ELEMENTS]
    state[r.ERROR] = r.HEAD_SHORT
    if payload_end - at < _HEAD:
        return
    count = np.int64(load_u16(data, at))
    state[r.BASE] = np.int64(np.int16(load_u16(data, at + 2)))
    escapes = np.int64(load_u32(data, at + 4))
    stream = np.int64(load_u32(data, at + 8))
    at += _HEAD
    state[r.MATRIX_AT] = at
    state[r.MATRIX_COUNT] = count
    if payload_end - at < _PART * count:
        return
    left = n
    coded = 0
    for _ in range(count):
        rows = np.int64(load_u32(data, at))
        columns = np.int64(load_u32(data, at + 4))
        flags = data[at + 8]
        if rows == 0 or columns == 0 or flags > 15 or data[at + 11] != 0:
            state[r.ERROR] = r.MATRIX
            return
        if rows > left or columns > left or rows * columns > left:
            state[r.ERROR] = r.MATRICES_MANY
            return
        left -= rows * columns
        coded += rows * ((flags & ROWS) != 0) + columns * ((flags & COLUMNS) != 0)
        at += _PART
    if left > 0:
        state[r.ERROR] = r.MATRICES_FEW
        return
    blocks = (n + STATES - 1) // STATES
    state[r.CODED] = coded
    state[r.ESCAPES] = at
    state[r.REST] = at + escapes
    state[r.SIGNS] = state[r.REST] + head[r.REST_BYTES] * blocks
    state[r.AT] = state[r.SIGNS] + head[r.SIGN_BYTES] * blocks
    state[r.END] = state[r.AT] + stream
    state[r.NEXT] = state[r.END]
    fits = state[r.END] == payload_end or (head[r.HALF] != 0 and state[r.END] < payload_end)
    state[r.ERROR] = 0 if fits else r.SECTIONS_LENGTH


@part
def _steps(symbols, centre, steps):
    """Symbols to scales, in place: differences to the centre, or to the one before."""
    value = np.uint8(centre)
    for i in range(symbols.size):
        offset = np.uint8(symbols[i] - np.uint8(128))
        if steps != 0:
            value = np.uint8(value + offset)
            symbols[i] = value
        else:
            symbols[i] = np.uint8(value + offset)


@part
def _fill_scales(data, state, symbols, element_scales):
    """The scale of each element, from the symbols of rows and columns."""
    at = state[r.MATRIX_AT]
    side = 0
    begin = 0
    for _ in range(state[r.MATRIX_COUNT]):
        rows = np.int64(load_u32(data, at))
        columns = np.int64(load_u32(data, at + 4))
        flags = data[at + 8]
        coded_rows = rows if flags & ROWS != 0 else 0
        coded_columns = columns if flags & COLUMNS != 0 else 0
        of_rows = symbols[side : side + coded_rows]
        side += coded_rows
        of_columns = symbols[side : side + coded_columns]
        side += coded_columns
        _steps(of_rows, data[at + 9], flags & ROW_STEPS)
        _steps(of_columns, data[at + 10], flags & COLUMN_STEPS)
        for k in range(rows):
            scale = of_rows[k] if coded_rows > 0 else data[at + 9]
            row = element_scales[begin : begin + columns]
            if coded_columns > 0:
                for j in range(columns):
                    row[j] = np.uint8(of_columns[j] + scale)
            else:
                row[:] = np.uint8(data[at + 10] + scale)
            begin += columns
        at += _PART


@part
def _sides(data, state, head, states, tail, table, scratch, element_scales):
    """Opens the stream, and decodes scales of rows and columns from its first run."""
    _open_stream(data, state, states)
    coded = state[r.CODED]
    contexts = scratch[:coded]
    symbols = scratch[coded : 2 * coded]
    at = state[r.MATRIX_AT]
    begin = 0
    of_rows = np.uint8(1 << head[r.PHASE])
    for _ in range(state[r.MATRIX_COUNT]):
        flags = data[at + 8]
        if flags & ROWS != 0:
            rows = np.int64(load_u32(data, at))
            contexts[begin : begin + rows] = of_rows
            begin += rows
        if flags & COLUMNS != 0:
            columns = np.int64(load_u32(data, at + 4))
            contexts[begin : begin + columns] = of_rows + np.uint8(1)
            begin += columns
        at += _PART
    _take(data, state, states, tail, table, contexts, symbols)
    if state[r.ERROR] == 0:
        _fill_scales(data, state, symbols, element_scales)


@inlined
def _join_block(form, first, second, scales, k, rest, signs, out, at, rule):
    """Elements `k` to `k + 32` of a chunk; see `join`."""
    phase, top, base, mask, main = rule
    if form == r.FORM_BF16:
        return join_bf16(
            first, second, scales, k, rest, k >> 1, signs, k >> 3, out, at, phase, top, base, mask,
            main,
        )  # fmt: skip
    if form == r.FORM_FP16:
        return join_fp16(
            first, second, scales, k, rest, k, signs, 0, out, at, phase, top, base, mask, main
        )
    return join_fp8(
        first, second, scales, k, rest, 0, signs, k >> 3, out, at, phase, top, base, mask, main
    )


@part
def _rules(state, head):
    """What `join` goes by, and what escapes go by; see `scale_context.kernels.decode_bf16`."""
    phase = head[r.PHASE]
    top = head[r.TOP]
    exponent = head[r.EXPONENT]
    base = state[r.BASE]
    first = head[r.FIRST_EXPONENT]
    main = head[r.MAIN]
    rule = phase, top, (base + first) << top, (1 << (exponent + top)) - 1, main
    low = head[r.LOW]
    more = head[r.LOW_EXPONENTS]
    return rule, (head[r.SIZE], low, phase, top, exponent, base, first, main, more)


@part
def _join(data, state, head, symbols, element_scales, begin, end, out, place, edge):
    """Elements `begin` to `end` from their symbols, `symbols[0]` on, to `out` from `place` on."""
    size = head[r.SIZE]
    rule, whole_rule = _rules(state, head)
    rest = data[state[r.REST] : state[r.SIGNS]]
    signs = data[state[r.SIGNS] : state[r.SIGNS_END]]
    escapes = data[state[r.ESCAPES] : state[r.REST]]
    work = edge[:64]
    bit = state[r.BIT]
    form = head[r.FORM]
    target = out[place:]
    for i in range(begin, end, STATES):
        left = min(end - i, STATES)
        to = target
        at = i * size
        if left < STATES:
            to = work
            at = np.int64(0)
        hits = _join_block(
            form, v.load_u8(symbols, i - begin), v.load_u8(symbols, i - begin + 16),
            element_scales, i, rest, signs, to, at, rule,
        )  # fmt: skip
        if left < STATES:
            copy_bytes(target, i * size, work, 0, left * size)
            hits &= (1 << left) - 1
        if hits != 0:
            lanes = symbols[i - begin : i - begin + STATES]
            bit = _patch_lanes(hits, escapes, bit, lanes, element_scales, whole_rule, target, i)
    state[r.BIT] = bit


@inlined
def _join_and_patch(
    form, first, second, lanes, scales, k, rest, signs, escapes, bit, to, place, size, rule,
    whole_rule,
):  # fmt: skip
    """Whole elements `k` to `k + 32` of a chunk that begins at `place`; the next escape bit."""
    hits = _join_block(form, first, second, scales, k, rest, signs, to, place + k * size, rule)
    if hits != 0:
        v.store_u8(lanes, 0, first)
        v.store_u8(lanes, 16, second)
        bit = _patch_lanes(hits, escapes, bit, lanes, scales, whole_rule, to[place:], k)
    return bit


@part
def _join_two(data, state, head, table, states, lanes, scales_a, scales_b, to_a, to_b, places):
    """Decodes whole blocks of two chunks as long as both have some; returns how many elements."""
    words_a = data[: state[0, r.END]]
    words_b = data[: state[1, r.END]]
    last_a = words_a.size - 2 * LOOK
    last_b = words_b.size - 2 * LOOK
    a = state[0, r.AT]
    b = state[1, r.AT]
    end = min(state[0, r.ELEMENTS], state[1, r.ELEMENTS])
    size = head[r.SIZE]
    form = head[r.FORM]
    rule_a, whole_a = _rules(state[0], head)
    rule_b, whole_b = _rules(state[1], head)
    rest_a = data[state[0, r.REST] : state[0, r.SIGNS]]
    rest_b = data[state[1, r.REST] : state[1, r.SIGNS]]
    signs_a = data[state[0, r.SIGNS] : state[0, r.SIGNS_END]]
    signs_b = data[state[1, r.SIGNS] : state[1, r.SIGNS_END]]
    escapes_a = data[state[0, r.ESCAPES] : state[0, r.REST]]
    escapes_b = data[state[1, r.ESCAPES] : state[1, r.REST]]
    place_a = places[0]
    place_b = places[1]
    bit_a = np.int64(0)
    bit_b = np.int64(0)
    mask = v.splat((1 << head[r.PHASE]) - 1)
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    y0 = v.load_u32(states, 32)
    y1 = v.load_u32(states, 48)
    i = np.int64(0)
    while i + STATES <= end and a <= last_a and b <= last_b:
        base0 = v.shift_left(v.both(v.load_u8(scales_a, i), mask), BITS)
        base2 = v.shift_left(v.both(v.load_u8(scales_b, i), mask), BITS)
        base1 = v.shift_left(v.both(v.load_u8(scales_a, i + 16), mask), BITS)
        base3 = v.shift_left(v.both(v.load_u8(scales_b, i + 16), mask), BITS)
        entry0, x0 = step(x0, table, base0)
        entry2, y0 = step(y0, table, base2)
        entry1, x1 = step_beside(x1, table, base1)
        entry3, y1 = step_beside(y1, table, base3)
        x0, a = refill(x0, words_a, a)
        y0, b = refill(y0, words_b, b)
        x1, a = refill(x1, words_a, a)
        y1, b = refill(y1, words_b, b)
        bit_a = _join_and_patch(
            form, entry0, entry1, lanes, scales_a, i, rest_a, signs_a, escapes_a, bit_a, to_a,
            place_a, size, rule_a, whole_a,
        )  # fmt: skip
        bit_b = _join_and_patch(
            form, entry2, entry3, lanes, scales_b, i, rest_b, signs_b, escapes_b, bit_b, to_b,
            place_b, size, rule_b, whole_b,
        )  # fmt: skip
        i += STATES
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    v.store_u32(states, 32, y0)
    v.store_u32(states, 48, y1)
    state[0, r.AT] = a
    state[1, r.AT] = b
    state[0, r.BIT] = bit_a
    state[1, r.BIT] = bit_b
    return i


@part
def _join_one(data, state, head, table, states, lanes, scales, to, place, begin):
    """Likewise of one chunk, from element `begin` on; returns where it ends."""
    words = data[: state[r.END]]
    last = words.size - 2 * LOOK
    at = state[r.AT]
    end = state[r.ELEMENTS]
    size = head[r.SIZE]
    form = head[r.FORM]
    rule, whole_rule = _rules(state, head)
    rest = data[state[r.REST] : state[r.SIGNS]]
    signs = data[state[r.SIGNS] : state[r.SIGNS_END]]
    escapes = data[state[r.ESCAPES] : state[r.REST]]
    bit = state[r.BIT]
    mask = v.splat((1 << head[r.PHASE]) - 1)
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    i = np.int64(begin)
    while i + STATES <= end and at <= last:
        base0 = v.shift_left(v.both(v.load_u8(scales, i), mask), BITS)
        base1 = v.shift_left(v.both(v.load_u8(scales, i + 16), mask), BITS)
        entry0, x0 = step(x0, table, base0)
        entry1, x1 = step_beside(x1, table, base1)
        x0, at = refill(x0, words, at)
        x1, at = refill(x1, words, at)
        bit = _join_and_patch(
            form, entry0, entry1, lanes, scales, i, rest, signs, escapes, bit, to, place, size,
            rule, whole_rule,
        )  # fmt: skip
        i += STATES
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    state[r.AT] = at
    state[r.BIT] = bit
    return i


@part
def _check_escapes(data, state):
    """Whether there were just the bits that symbols need, and others are 0."""
    size = state[r.REST] - state[r.ESCAPES]
    bit = state[r.BIT]
    sound = bit >= 0 and (bit + 7) >> 3 == size
    if sound and bit & 7 != 0:
        sound = data[state[r.REST] - 1] >> (bit & 7) == 0
    if not sound and state[r.ERROR] == 0:
        state[r.ERROR] = r.ESCAPES_LENGTH


@part
def _mask(element_scales, mask, contexts):
    """The contexts of elements of such scales."""
    for i in range(contexts.size):
        contexts[i] = element_scales[i] & mask


@part
def _join_rest(
    data, state, head, table, states, tail, block, element_scales, begin, out, place, edge
):  # fmt: skip
    """Decodes elements from `begin` on of a chunk, those that a loop cannot look beyond."""
    n = state[r.ELEMENTS]
    mask = np.uint8((1 << head[r.PHASE]) - 1)
    while begin < n and state[r.ERROR] == 0:
        end = min(begin + r.BLOCK, n)
        under = block[0, : end - begin]
        _mask(element_scales[begin:end], mask, under)
        _take(data, state, states, tail, table, under, block[1, : end - begin])
        if state[r.ERROR] == 0:
            _join(data, state, head, block[1], element_scales, begin, end, out, place, edge)
        begin = end


@part
def _matrices(
    data, count, state, head, table, states, tail, scratch, contexts, block, out, places, edge
):
    """Decodes high bits and what goes with them of `count` chunks, 1 or 2.

    To `places` in `out`; or, of halves, to the begin of each row of `scratch`.
    """
    for s in range(count):
        _open_matrices(data, state[s], head)
        if state[s, r.ERROR] == 0:
            state[s, r.BIT] = 0
            state[s, r.SIGNS_END] = state[s, r.AT]
            _sides(
                data, state[s], head, states[32 * s : 32 * s + 32], tail, table, scratch[s],
                contexts[s],
            )  # fmt: skip
    to_a = out
    to_b = out
    if head[r.HALF] != 0:
        to_a = scratch[0]
        to_b = scratch[1]
        places[:] = 0
    done = 0
    if count > 1 and state[0, r.ERROR] == 0 and state[1, r.ERROR] == 0:
        done = _join_two(
            data, state, head, table, states, block[1], contexts[0], contexts[1], to_a, to_b, places
        )
    for s in range(count):
        if state[s, r.ERROR] == 0:
            under = states[32 * s : 32 * s + 32]
            to, place = (scratch[s], 0) if head[r.HALF] != 0 else (out, places[s])
            begin = _join_one(
                data, state[s], head, table, under, block[1], contexts[s], to, place, done
            )
            _join_rest(
                data, state[s], head, table, under, tail, block, contexts[s], begin, to, place, edge
            )
            _close_stream(state[s], under)
            _check_escapes(data, state[s])


@part
def _merge_halves(high, low, at, n, out, place):
    """High halves, and low ones from byte `at` of `low` on."""
    for i in range(n):
        word = np.uint32(load_u16(high, 2 * i)) << np.uint32(16)
        word |= np.uint32(load_u16(low, at + 2 * i))
        store_u32(out, place + 4 * i, np.uint32(word))


@part
def _low_halves(
    data, count, state, heads, head, freqs, tables, states, tail, scratch, contexts, out, places,
    edge,
):  # fmt: skip
    """Decodes the low halves of chunks whose high halves stand in `scratch`, and merges both."""
    if head[r.LOW_MODEL] < 0:
        for s in range(count):
            n = state[s, r.ELEMENTS]
            if state[s, r.ERROR] != 0:
                continue
            if state[s, r.PAYLOAD_END] - state[s, r.NEXT] != 2 * n:
                state[s, r.ERROR] = r.LOW_LENGTH
                continue
            _merge_halves(scratch[s], data, state[s, r.NEXT], n, out, places[s])
        return
    low = heads[head[r.LOW_MODEL]]
    most = max(state[0, r.ELEMENTS], state[1, r.ELEMENTS] if count > 1 else 0)
    _planes(data, count, state, low, freqs, tables, states, tail, scratch, contexts, 2 * most)
    for s in range(count):
        if state[s, r.ERROR] == 0:
            n = state[s, r.ELEMENTS]
            _merge(state[s], low, scratch[s], 4 * most, edge)
            _merge_halves(scratch[s], scratch[s], 4 * most, n, out, places[s])


@part
def _with_zstd(data, at, end, planes):
    """Whether one of the planes of a payload is stored with Zstandard."""
    found = False
    for p in range(planes):
        found |= at + 5 * p < end and data[at + 5 * p] == registry.PLANE_ZSTD
    return found


@part
def _begin(data, row, heads, out, scratch, contexts):
    """Checks a chunk; what becomes of it, or `_WAITS`."""
    if outside(data, row, out):
        return t.OUTSIDE
    error = check_frame(data, row)
    if error != 0:
        return error
    parameters = row[t.PARAMETERS]
    if parameters == t.RAW:
        if row[t.STORED] != row[t.SIZE]:
            return t.RAW_LENGTH
        copy_bytes(out, row[t.PLACE], data, row[t.PAYLOAD], row[t.SIZE])
        return 0
    if parameters < 0 or parameters >= heads.shape[0] or heads[parameters, r.MINE] == 0:
        return t.NOT_MINE
    head = heads[parameters]
    size = head[r.SIZE] * (1 + head[r.HALF])
    n = row[t.SIZE] // size
    if n * size != row[t.SIZE]:
        return t.IMPOSSIBLE
    if n * head[r.ROOM] > scratch.shape[1] or n + STATES > contexts.shape[1]:
        return t.OUTSIDE
    planar = head[r.KIND] == r.PLANAR
    if planar and _with_zstd(data, row[t.PAYLOAD], row[t.PAYLOAD] + row[t.STORED], head[r.SIZE]):
        return t.NOT_MINE
    return _WAITS


@part
def _ask(state, row, head):
    """Notes where a chunk's payload is."""
    state[r.ERROR] = 0
    state[r.NEXT] = row[t.PAYLOAD]
    state[r.PAYLOAD_END] = row[t.PAYLOAD] + row[t.STORED]
    state[r.ELEMENTS] = row[t.SIZE] // (head[r.SIZE] * (1 + head[r.HALF]))


@part
def _decode_chunks(
    data, count, table, chunk, other, heads, freqs, state, tables, states, tail, scratch, contexts,
    block, out, edge,
):  # fmt: skip
    """Decodes `chunk`, and `other` if `count` is 2, of the same parameters.

    ERROR tells what became of them.
    """
    parameters = table[chunk, t.PARAMETERS]
    head = heads[parameters]
    if state[0, r.READY] != parameters:
        state[0, r.READY] = parameters
        state[0, r.BUILT : r.BUILT + 16] = 0
    places = state[0, r.PLACES : r.PLACES + 2]
    for s in range(count):
        one = chunk if s == 0 else other
        _ask(state[s], table[one], head)
        places[s] = table[one, t.PLACE]
    if head[r.KIND] == r.PLANAR:
        _planes(
            data, count, state, head, freqs, tables, states, tail, scratch, contexts, np.int64(0)
        )
        for s in range(count):
            if state[s, r.ERROR] == 0:
                _merge(state[s], head, out, places[s], edge)
        return
    first = head[r.FIRST] - head[r.TABLES]
    under = tables[first << BITS : (first + (1 << head[r.PHASE]) + 2) << BITS]
    if state[0, r.BUILT] == 0:
        state[0, r.BUILT] = 1
        _build_table(freqs[head[r.FIRST] : head[r.FIRST + 1]], under)
    _matrices(
        data, count, state, head, under, states, tail, scratch, contexts, block, out, places, edge
    )
    if head[r.HALF] != 0:
        for s in range(count):
            places[s] = table[chunk if s == 0 else other, t.PLACE]
        _low_halves(
            data, count, state, heads, head, freqs, tables, states, tail, scratch, contexts, out,
            places, edge,
        )  # fmt: skip


@kernel(
    types.int64(
        R8, I64_2D, types.int64, types.int64, I64_2D, R16_2D, W8, W8,
        types.uint8[:, ::1], types.uint8[:, ::1], types.uint8[:, ::1], W32, W32, I64_2D, W8, W8,
    ),
    counted=False,
)  # fmt: skip
def decode_rans_span(
    data, table, begin, end, heads, freqs, out, status,
    scratch, contexts, block, tables, states, state, tail, edge,
):  # fmt: skip
    """Decodes chunks `begin` to `end` of `table` as far as they are coded by rANS, or raw.

    `data`: uint8[], the archive or a piece of it. `table`: int64[chunks, COLUMNS], see `table`.
    `heads`: int64[parameters, HEADS] and `freqs`: uint16[contexts, 256], see `rans_table`. `out`:
    uint8[], the result. `status`: uint8[chunks], set to 0, the number of an error or `NOT_MINE`; an
    error leaves anything in the place of its chunk. Returns how many are not 0.

    Work space, for two chunks of up to n elements: `scratch`, uint8[2, ROOM * n]; `contexts`,
    uint8[2, n + 32]; `block`, uint8[2, BLOCK + 32]; `tables`, uint32[contexts of one set of
    parameters * 4096]; `states`, uint32[64]; `state`, int64[2, STATE], of which READY tells what
    parameters `tables` are of, or -1; `tail`, uint8[192]; `edge`, uint8[EDGE].
    """
    failed = 0
    chunk = begin
    waiting = np.int64(-1)  # a chunk that another one may be decoded with
    while chunk <= end:
        error = 0
        if chunk < end:
            error = _begin(data, table[chunk], heads, out, scratch, contexts)
        count = 1
        if waiting >= 0 and (chunk == end or error == _WAITS):
            if chunk < end and table[waiting, t.PARAMETERS] == table[chunk, t.PARAMETERS]:
                count = 2
            _decode_chunks(
                data, count, table, waiting, chunk, heads, freqs, state, tables, states, tail,
                scratch, contexts, block, out, edge,
            )  # fmt: skip
            for s in range(count):
                one = waiting if s == 0 else chunk
                status[one] = state[s, r.ERROR]
                failed += state[s, r.ERROR] != 0
            waiting = np.int64(-1)
        if chunk < end and count == 1:
            if error == _WAITS:
                waiting = chunk
            else:
                status[chunk] = error
                failed += error != 0
        chunk += 1
    return failed
