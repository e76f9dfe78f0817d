"""What compiled scans of JSON are made of: literals, numbers, strings, and what many parts share.

They read JSON as it is mostly written, without escapes; what is not just so is for the parser.
"""

import numpy as np
from numba import njit

MAX_FORM = 512  # bytes
_MAX_DIGITS = 18
_PRIME = np.uint64(0x100000001B3)  # of the hash FNV-1a
_COMPARED = 4  # bytes of forms for each of a text; beyond, forms were made to have equal hashes
QUOTE, BACKSLASH, COMMA = np.uint8(34), np.uint8(92), np.uint8(44)
OPEN, CLOSE = np.uint8(91), np.uint8(93)  # square brackets
BEGIN, END = np.uint8(123), np.uint8(125)  # braces
COLON = np.uint8(58)
ZERO, SPACE = np.uint8(48), np.uint8(32)  # the digit 0


def literal(text: str) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """A text to compare with."""
    return np.frombuffer(text.encode(), np.uint8)


@njit
def goes_on(text, at, wanted):
    """Whether the text goes on so."""
    if at + wanted.size > text.size:
        return False
    for i in range(wanted.size):  # noqa: SIM110
        if text[at + i] != wanted[i]:
            return False
    return True


@njit
def number(text, at, out, place):
    """Reads digits into `out[place]`; where they end, -1 where there is no number for this."""
    value, begin = 0, at
    while at < text.size and at - begin <= _MAX_DIGITS and ZERO <= text[at] < ZERO + 10:
        value = 10 * value + np.int64(text[at] - ZERO)
        at += 1
    digits = at - begin
    if digits == 0 or digits > _MAX_DIGITS or (digits > 1 and text[begin] == ZERO):
        return -1
    out[place] = value
    return at


@njit
def string_end(text, at):
    """Where a string ends that begins at `at`: its quote, -1 where it has escapes or has no end."""
    while at < text.size and text[at] != QUOTE:
        if text[at] == BACKSLASH or text[at] < SPACE:
            return -1
        at += 1
    return at if at < text.size else -1


@njit
def _is_form(text, begin, end, forms, form):
    """Whether the text is that of a form."""
    at = forms[form, 0]
    if forms[form, 1] - at != end - begin:
        return False
    for i in range(end - begin):  # noqa: SIM110
        if text[at + i] != text[begin + i]:
            return False
    return True


@njit
def form_number(text, begin, end, forms, state):
    """The number of a form, which is added where it is new; -1 where there are too many."""
    size = end - begin
    count = state[0]
    if count and _is_form(text, begin, end, forms, state[1]):  # the last one, mostly
        return state[1]
    mixed = np.uint64(0)
    for i in range(begin, end):
        mixed = (mixed ^ np.uint64(text[i])) * _PRIME
    hashed = np.int64(mixed ^ mixed >> np.uint64(32))
    for form in range(count):
        if forms[form, 2] == hashed:
            state[8] += size
            if state[8] > _COMPARED * text.size:
                return -1
            if _is_form(text, begin, end, forms, form):
                state[1] = form
                return form
    if count == forms.shape[0] or size > MAX_FORM:
        return -1
    forms[count, 0], forms[count, 1], forms[count, 2] = begin, end, hashed
    state[0], state[1] = count + 1, count
    return count
