"""The compiled scan of a large index: JSON as this package writes it, nothing else.

What is not just so is for the JSON parser, which says what is wrong with it, if anything is.
"""

import numpy as np
from numba import njit, types

from densor.entropy.jit import I64, R8, kernel

_MAX_DIGITS = 18
_MAX_FORM = 512  # bytes
_PRIME = np.uint64(0x100000001B3)  # of the hash FNV-1a
_COMPARED = 4  # bytes of forms for each of an index; beyond, forms were made to have equal hashes
_QUOTE, _BACKSLASH, _COMMA = np.uint8(34), np.uint8(92), np.uint8(44)
_OPEN, _CLOSE = np.uint8(91), np.uint8(93)  # square brackets
_BEGIN, _END = np.uint8(123), np.uint8(125)  # braces
_ZERO, _LETTER, _SPACE = np.uint8(48), np.uint8(97), np.uint8(32)  # 0, a


def _literal(text: str) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.frombuffer(text.encode(), np.uint8)


_NAME = _literal('{"name":"')
_KIND = _literal(',"kind":"tensor",')
_FRAMES = _literal(',"frames":[')
_DIGEST = _literal('],"digest":[')
_TENSORS = _literal(',"tensors":[[')
_ENTRIES = _literal('{"entries":[')
_COLUMNS = _literal('],"kinds":[],"models":[],"stored":[],"original":[]}')
_PLACES = np.array([0, 11, 23, 35, 49, 51])  # of what stands between columns


@njit
def _is(text, at, literal):
    """Whether the text goes on so."""
    if at + literal.size > text.size:
        return False
    for i in range(literal.size):  # noqa: SIM110
        if text[at + i] != literal[i]:
            return False
    return True


@njit
def _number(text, at, out, place):
    """Reads digits into `out[place]`; where they end, -1 where there is no number for this."""
    value, begin = 0, at
    while at < text.size and at - begin <= _MAX_DIGITS and _ZERO <= text[at] < _ZERO + 10:
        value = 10 * value + np.int64(text[at] - _ZERO)
        at += 1
    digits = at - begin
    if digits == 0 or digits > _MAX_DIGITS or (digits > 1 and text[begin] == _ZERO):
        return -1
    out[place] = value
    return at


@njit
def _string_end(text, at):
    """Where a string ends that begins at `at`: its quote, -1 where it has escapes or has no end."""
    while at < text.size and text[at] != _QUOTE:
        if text[at] == _BACKSLASH or text[at] < _SPACE:
            return -1
        at += 1
    return at if at < text.size else -1


@njit
def _digits_end(text, at):
    """Where hexadecimal digits of whole bytes end that begin at `at`, -1 where none are there."""
    begin = at
    while at < text.size and (
        _ZERO <= text[at] < _ZERO + 10 or _LETTER <= text[at] < _LETTER + 6
    ):  # fmt: skip
        at += 1
    return at if at < text.size and text[at] == _QUOTE and (at - begin) % 2 == 0 else -1


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
def _form(text, begin, end, forms, state):
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
    if count == forms.shape[0] or size > _MAX_FORM:
        return -1
    forms[count, 0], forms[count, 1], forms[count, 2] = begin, end, hashed
    state[0], state[1] = count + 1, count
    return count


@njit
def _small_entry(text, at, row, forms, state):
    """An entry that is a tensor; where it ends, -1 where it is none of the usual form."""
    if not _is(text, at, _NAME):
        return -1
    row[1] = at + _NAME.size
    row[2] = end = _string_end(text, row[1])
    if end < 0 or not _is(text, end + 1, _KIND):
        return -1
    at = end + 1 + _KIND.size
    limit = min(text.size, at + _MAX_FORM)
    while at < limit and text[at] != _BEGIN and not (
        text[at] == _COMMA and _is(text, at, _FRAMES)
    ):  # fmt: skip
        at += 1
    if at >= limit or text[at] == _BEGIN:
        return -1
    row[0] = _form(text, end + 1, at, forms, state)
    if row[0] < 0:
        return -1
    at = _number(text, at + _FRAMES.size, row, 3)
    if at < 0 or at >= text.size or text[at] != _COMMA:
        return -1
    at = _number(text, at + 1, row, 4)
    if at < 0 or not _is(text, at, _DIGEST):
        return -1
    at = _number(text, at + _DIGEST.size, row, 5)
    if at < 0 or at + 1 >= text.size or text[at] != _COMMA or text[at + 1] != _QUOTE:
        return -1
    row[6] = at + 2
    row[7] = at = _digits_end(text, at + 2)
    if at < 0 or at + 2 >= text.size or text[at + 1] != _CLOSE or text[at + 2] != _END:
        return -1
    return at + 3


@njit
def _tensor(text, at, row, forms, state):
    """A tensor in a list of them, from its bracket on; where it ends, -1 as before."""
    if at + 1 >= text.size or text[at] != _OPEN or text[at + 1] != _QUOTE:
        return -1
    row[1] = at + 2
    row[2] = at = _string_end(text, at + 2)
    if at < 0:
        return -1
    begin = at + 1
    limit = min(text.size - 1, begin + _MAX_FORM)
    while at < limit and text[at] != _CLOSE and text[at] != _BEGIN:
        at += 1
    if at >= limit or text[at] == _BEGIN or text[at + 1] != _COMMA:
        return -1
    row[0] = _form(text, begin, at + 1, forms, state)
    if row[0] < 0:
        return -1
    at = _number(text, at + 2, row, 3)
    if at < 0 or at >= text.size or text[at] != _COMMA:
        return -1
    at = _number(text, at + 1, row, 4)
    if at < 0 or at >= text.size or text[at] != _CLOSE:
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
        if text[at] == _CLOSE:
            return at + 1
        if text[at] != _COMMA:
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
        if c == _QUOTE:
            at += 1
            while at < text.size and text[at] != _QUOTE:
                at += 2 if text[at] == _BACKSLASH else 1
        elif c in (_BEGIN, _OPEN):
            depth += 1
        elif c in (_END, _CLOSE):
            depth -= 1
            if depth == 0:
                row[2] = at + 1
                return at + 1
        elif c == _COMMA and depth == 1 and row[3] == 0 and _is(text, at, _TENSORS):
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
    while at < text.size and text[at] != _CLOSE:
        if found:
            if text[at] != _COMMA:
                return -1
            at += 1
        if found == out.size:
            return -1
        at = _number(text, at, out, found)
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
    if not _is(text, 0, _ENTRIES):
        return -1
    at = _ENTRIES.size
    while at < text.size and text[at] == _BEGIN:
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
        if text[at] == _COMMA:
            at += 1
            if at >= text.size or text[at] != _BEGIN:
                return -1
        elif text[at] == _BEGIN:
            return -1
    for column in range(4):
        between = _COLUMNS[_PLACES[column] : _PLACES[column + 1]]
        if not _is(text, at, between):
            return -1
        at = _column(text, at + between.size, columns[column], state[4 + column : 5 + column])
        if at < 0:
            return -1
    last = _COLUMNS[_PLACES[4] : _PLACES[5]]
    return 0 if _is(text, at, last) and at + last.size == text.size else -1
