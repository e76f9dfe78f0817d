"""Cells that are numbers or times: what they stand for, and how they are written."""

import numba
from numba import types

from densor.codec.table.state import MAX_DECIMALS, MAX_VALUE, QUOTED, TRIMMED
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

int64 = numba.int64


@kernel(types.void(R8, I32, I32, types.int64, I64, I64))
def read_numbers(data, places, lengths, quote, values, decimals):
    """The cells that are numbers as one would write them, without their point.

    `decimals`: digits behind the point, or -1 for what is no number; 32 more if it is quoted, 64
    more if the last of these digits is a 0.
    """
    for cell in range(places.size):
        at = int64(places[index(cell)])
        end = at + int64(lengths[index(cell)])
        flags = int64(0)
        if end - at > 2 and int64(data[index(at)]) == quote:
            at += 1
            end -= 1
            flags = int64(32)
        minus = at < end and data[index(at)] == 45
        at += minus
        value = int64(0)
        digits = int64(0)
        point = int64(-1)
        begin = at
        good = 0 < end - at <= MAX_DECIMALS + 1
        while good and at < end:
            c = int64(data[index(at)])
            if c == 46 and point < 0 and at > begin and at + 1 < end:
                point = at
            elif 48 <= c <= 57:
                value = 10 * value + c - 48
                digits += 1
            else:
                good = False
            at += 1
        whole = (point if point >= 0 else end) - begin
        if not good or digits > MAX_DECIMALS or (whole > 1 and data[index(begin)] == 48):
            decimals[index(cell)] = -1
            values[index(cell)] = 0
            continue
        if minus and value == 0:
            decimals[index(cell)] = -1
            values[index(cell)] = 0
            continue
        places_behind = end - point - 1 if point >= 0 else int64(0)
        if point >= 0 and data[index(end - 1)] == 48:
            flags |= 64
        decimals[index(cell)] = places_behind | flags if places_behind < 32 else int64(-1)
        values[index(cell)] = -value if minus else value


@kernel(types.int64(I64, I64))
def scale_numbers(values, decimals):
    """Chooses how numbers of a column are written, as most are; -1 if half of them are none.

    Takes what `read_numbers` sets, and sets `decimals` to 1 for the numbers that are written so,
    whose `values` are then integers over one power of ten, to 0 for the others, whose are 0.
    Returns that power, with `TRIMMED` if zeros at the end are left out, and `QUOTED`.
    """
    good = int64(0)
    quoted = int64(0)
    most = int64(0)
    for i in range(values.size):
        if decimals[index(i)] >= 0:
            good += 1
            quoted += decimals[index(i)] >> 5 & 1
            most = max(most, decimals[index(i)] & 31)
    if 2 * good <= values.size or most > MAX_DECIMALS:
        return int64(-1)
    quotes = int64(2 * quoted > good)
    trimmed = int64(0)
    fixed = int64(0)
    for i in range(values.size):
        found = decimals[index(i)]
        if found >= 0 and found >> 5 & 1 == quotes:
            trimmed += found & 64 == 0
            fixed += found & 31 == most
    trims = trimmed >= fixed
    good = 0
    for i in range(values.size):
        found = decimals[index(i)]
        fits = found & 64 == 0 if trims else found & 31 == most
        fits = fits and found >= 0 and found >> 5 & 1 == quotes
        scale = int64(1)
        if fits:
            for _ in range(most - (found & 31)):
                scale *= 10
            fits = abs(values[index(i)]) < MAX_VALUE // scale
        decimals[index(i)] = int64(fits)
        values[index(i)] = values[index(i)] * scale if fits else int64(0)
        good += fits
    if 2 * good <= values.size:
        return int64(-1)
    return most | (TRIMMED if trims else 0) | (QUOTED if quotes else 0)


@kernel(types.void(I64, types.int64, types.boolean, types.int64, W8, W8, I64))
def write_numbers(values, decimals, trimmed, quote, digits, out, offsets):
    """Writes numbers as cells one after the other, each at most 23 bytes; sets `offsets[1:]`.

    `decimals`: digits behind the point, of which those that are 0 at the end are left out where
    `trimmed`. `quote`: before and behind each, -1 for none. `digits`: work space, uint8[24].
    """
    at = int64(0)
    for i in range(values.size):
        value = abs(values[index(i)])
        left = decimals
        if trimmed:
            while left > 0 and value % 10 == 0:
                value //= 10
                left -= 1
        count = int64(0)
        while value > 0 or count <= left:
            digits[index(count)] = 48 + value % 10
            value //= 10
            count += 1
        if quote >= 0:
            out[index(at)] = quote
            at += 1
        if values[index(i)] < 0:
            out[index(at)] = 45
            at += 1
        while count > 0:
            count -= 1
            out[index(at)] = digits[index(count)]
            at += 1
            if count == left and left > 0:
                out[index(at)] = 46
                at += 1
        if quote >= 0:
            out[index(at)] = quote
            at += 1
        offsets[index(i + 1)] = at


@inlined
def _put_digits(out, at, value, count):
    for i in range(count - 1, -1, -1):
        out[index(at + i)] = 48 + value % 10
        value //= 10


@kernel(types.void(I64, types.boolean, types.int64, R8, types.int64, W8))
def write_times(values, is_days, middle, ending, quote, out):
    """Writes days or seconds since 1970, of years 1 to 9999, as cells of one length.

    `middle`: between day and time; `ending`: behind each; `quote`: before each, -1 for none.
    """
    at = int64(0)
    for i in range(values.size):
        value = values[index(i)]
        days = value if is_days else value // 86400
        seconds = value - 86400 * days
        since = days + 719468  # 1 March of the year 0: months are counted from March on
        era = since // 146097  # of 400 years
        day = since - 146097 * era
        year = (day - day // 1460 + day // 36524 - day // 146096) // 365
        day -= 365 * year + year // 4 - year // 100
        month = (5 * day + 2) // 153
        day -= (153 * month + 2) // 5
        if quote >= 0:
            out[index(at)] = quote
            at += 1
        _put_digits(out, at, year + 400 * era + (month >= 10), 4)
        _put_digits(out, at + 5, month + (3 if month < 10 else -9), 2)
        _put_digits(out, at + 8, day + 1, 2)
        out[index(at + 4)] = 45
        out[index(at + 7)] = 45
        at += 10
        if not is_days:
            out[index(at)] = middle
            _put_digits(out, at + 1, seconds // 3600, 2)
            _put_digits(out, at + 4, seconds // 60 % 60, 2)
            _put_digits(out, at + 7, seconds % 60, 2)
            out[index(at + 3)] = 58
            out[index(at + 6)] = 58
            at += 9
        for j in range(ending.size):
            out[index(at + j)] = ending[index(j)]
        at += ending.size
