"""The compiled scan of a large index: JSON as this package writes it, nothing else.

What is not just so is for the JSON parser, which says what is wrong with it, if anything is.
"""

import numpy as np
from numba import njit, types

from densor.entropy.jit import I64, R8, kernel
from densor.formats.container.json_kernels import (
    BACKSLASH,
    BEGIN,
    CLOSE,
    COMMA,
    END,
    MAX_FORM,
    OPEN,
    QUOTE,
    ZERO,
    form_number,
    goes_on,
    literal,
    number,
    string_end,
)

_LETTER = np.uint8(97)  # a

_NAME = literal('{"name":"')
_KIND = literal(',"kind":"tensor",')
_FRAMES = literal(',"frames":[')
_DIGEST = literal('],"digest":[')
_TENSORS = literal(',"tensors":[[')
_ENTRIES = literal('{"entries":[')
_COLUMNS = literal('],"kinds":[],"models":[],"stored":[],"original":[]}')
_PLACES = np.array([0, 11, 23, 35, 49, 51])  # of what stands between columns


@njit
def _digits_end(text, at):
    """Where hexadecimal digits of whole bytes end that begin at `at`, -1 where none are there."""
    begin = at
    while at < text.size and (
        ZERO <= text[at] < ZERO + 10 or _LETTER <= text[at] < _LETTER + 6
    ):  # fmt: skip
        at += 1
    return at if at < text.size and text[at] == QUOTE and (at - begin) % 2 == 0 else -1


@njit
def _small_entry(text, at, row, forms, state):
    """An entry that is a tensor; where it ends, -1 where it is none of the usual form."""
    if not goes_on(text, at, _NAME):
        return -1
    row[1] = at + _NAME.size
    row[2] = end = string_end(text, row[1])
    if end < 0 or not goes_on(text, end + 1, _KIND):
        return -1
    at = end + 1 + _KIND.size
    limit = min(text.size, at + MAX_FORM)
    while at < limit and text[at] != BEGIN and not (
        text[at] == COMMA and goes_on(text, at, _FRAMES)
    ):  # fmt: skip
        at += 1
    if at >= limit or text[at] == BEGIN:
        return -1
    row[0] = form_number(text, end + 1, at, forms, state)
    if row[0] < 0:
        return -1
    at = number(text, at + _FRAMES.size, row, 3)
    if at < 0 or at >= text.size or text[at] != COMMA:
        return -1
    at = number(text, at + 1, row, 4)
    if at < 0 or not goes_on(text, at, _DIGEST):
        return -1
    at = number(text, at + _DIGEST.size, row, 5)
    if at < 0 or at + 1 >= text.size or text[at] != COMMA or text[at + 1] != QUOTE:
        return -1
    row[6] = at + 2
    row[7] = at = _digits_end(text, at + 2)
    if at < 0 or at + 2 >= text.size or text[at + 1] != CLOSE or text[at + 2] != END:
        return -1
    return at + 3


@njit
def _tensor(text, at, row, forms, state):
    """A tensor in a list of them, from its bracket on; where it ends, -1 as before."""
    if at + 1 >= text.size or text[at] != OPEN or text[at + 1] != QUOTE:
        return -1
    row[1] = at + 2
    row[2] = at = string_end(text, at + 2)
    if at < 0:
        return -1
    begin = at + 1
    limit = min(text.size - 1, begin + MAX_FORM)
    while at < limit and text[at] != CLOSE and text[at] != BEGIN:
        at += 1
    if at >= limit or text[at] == BEGIN or text[at + 1] != COMMA:
        return -1
    row[0] = form_number(text, begin, at + 1, forms, state)
    if row[0] < 0:
        return -1
    at = number(text, at + 2, row, 3)
    if at < 0 or at >= text.size or text[at] != COMMA:
        return -1
    at = number(text, at + 1, row, 4)
    if at < 0 or at >= text.size or text[at] != CLOSE:
        return -1
    return at + 1


@njit
def _list(text, at, tensors, state, forms):
    """Tensors, from the first one's bracket to the bracket that ends the list; where it ends."""
    while True:
        if state[2] == tensors.shape[0]:
            return -1
        at = _tensor(text, at, tensors[state[2]], forms, state)
        if at < 0 or at >= text.size:
            return -1
        state[2] += 1
        if text[at] == CLOSE:
            return at + 1
        if text[at] != COMMA:
            return -1
        at += 1


@njit
def _other_entry(text, at, row, tensors, state, forms):
    """Any other entry; where it ends. Its list of tensors is read, if it has one."""
    row[0], row[1], row[3], row[4] = -1, at, 0, 0
    row[5] = row[6] = state[2]
    depth = 0
    while at < text.size:
        c = text[at]
        if c == QUOTE:
            at += 1
            while at < text.size and text[at] != QUOTE:
                at += 2 if text[at] == BACKSLASH else 1
        elif c in (BEGIN, OPEN):
            depth += 1
        elif c in (END, CLOSE):
            depth -= 1
            if depth == 0:
                row[2] = at + 1
                return at + 1
        elif c == COMMA and depth == 1 and row[3] == 0 and goes_on(text, at, _TENSORS):
            row[3] = at
            at = row[4] = _list(text, at + _TENSORS.size - 1, tensors, state, forms)
            if at < 0:
                return -1
            row[6] = state[2]
            continue
        at += 1
    return -1


@njit
def _column(text, at, out, count):
    """Numbers up to a bracket; where that is, and how many there are in `count[0]`."""
    found = 0
    while at < text.size and text[at] != CLOSE:
        if found:
            if text[at] != COMMA:
                return -1
            at += 1
        if found == out.size:
            return -1
        at = number(text, at, out, found)
        if at < 0:
            return -1
        found += 1
    count[0] = found
    return at


@kernel(
    types.int64(R8, types.int64[:, ::1], types.int64[:, ::1], types.int64[:, ::1],
                types.int64[:, ::1], I64)
)  # fmt: skip
def scan_index(text, entries, tensors, forms, columns, state):
    """Where the parts of an index lie; 0, or -1 where it is not written as usual.

    `entries`: int64[most, 8], a row for each entry. Tensors: form, begin and end of the name, first
    frame, frames, kind of hash, begin and end of the digest. Others: -1; begin and end; begin and
    end of its list of tensors from the comma before it on, 0 where it has none; rows of these from,
    to. `tensors`: int64[most, 5], form, begin and end of the name, offset, bytes. `forms`:
    int64[most, 3], begin, end and hash of what entries or tensors have in common behind their
    names. `columns`: int64[4, most]. `state`: int64[9], set to counts: of forms, (unused), tensors,
    entries, of each column, and of bytes of forms that were compared.
    """
    state[:] = 0
    if not goes_on(text, 0, _ENTRIES):
        return -1
    at = _ENTRIES.size
    while at < text.size and text[at] == BEGIN:
        if state[3] == entries.shape[0]:
            return -1
        row = entries[state[3]]
        end = _small_entry(text, at, row, forms, state)
        if end < 0:
            end = _other_entry(text, at, row, tensors, state, forms)
        if end < 0 or end >= text.size:
            return -1
        state[3] += 1
        at = end
        if text[at] == COMMA:
            at += 1
            if at >= text.size or text[at] != BEGIN:
                return -1
        elif text[at] == BEGIN:
            return -1
    for column in range(4):
        between = _COLUMNS[_PLACES[column] : _PLACES[column + 1]]
        if not goes_on(text, at, between):
            return -1
        at = _column(text, at + between.size, columns[column], state[4 + column : 5 + column])
        if at < 0:
            return -1
    last = _COLUMNS[_PLACES[4] : _PLACES[5]]
    return 0 if goes_on(text, at, last) and at + last.size == text.size else -1
