"""The compiled scan of a large safetensors header: JSON as writers of the format write it.

What is not just so is for the JSON parser. Spaces may follow colons and commas.
"""

from numba import njit, types

from densor.entropy.jit import I64, R8, kernel
from densor.formats.container.json_kernels import (
    BACKSLASH,
    BEGIN,
    CLOSE,
    COLON,
    COMMA,
    END,
    MAX_FORM,
    OPEN,
    QUOTE,
    SPACE,
    form_number,
    goes_on,
    literal,
    number,
    string_end,
)

_METADATA = literal('"__metadata__"')
_OFFSETS = literal('"data_offsets"')


@njit
def _behind(text, at, character):
    """What follows a character and a space, if one stands there; -1 where they do not."""
    if at < 0 or at >= text.size or text[at] != character:
        return -1
    at += 1
    return at + 1 if at < text.size and text[at] == SPACE else at


@njit
def _object_end(text, at):
    """Where an object ends that begins at `at`."""
    depth = 0
    while at < text.size:
        if text[at] == QUOTE:
            at += 1
            while at < text.size and text[at] != QUOTE:
                at += 2 if text[at] == BACKSLASH else 1
        elif text[at] == BEGIN:
            depth += 1
        elif text[at] == END:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return -1


@njit
def _tensor(text, at, row, forms, state):
    """A tensor behind its name, from its brace on; where it ends, -1 where it is not as usual."""
    begin = at + 1
    limit = min(text.size, begin + MAX_FORM)
    at = begin
    while at < limit and not (text[at] == QUOTE and goes_on(text, at, _OFFSETS)):
        if text[at] == BEGIN or text[at] == END:
            return -1
        at += 1
    if at >= limit:
        return -1
    row[0] = form_number(text, begin, at, forms, state)
    if row[0] < 0:
        return -1
    at = _behind(text, at + _OFFSETS.size, COLON)
    if at < 0 or at >= text.size or text[at] != OPEN:
        return -1
    at = _behind(text, number(text, at + 1, row, 3), COMMA)
    if at < 0:
        return -1
    at = number(text, at, row, 4)
    if at < 0 or at + 1 >= text.size or text[at] != CLOSE or text[at + 1] != END:
        return -1
    return at + 2


@kernel(types.int64(R8, types.int64[:, ::1], types.int64[:, ::1], I64))
def scan_header(text, tensors, forms, state):
    """Where the parts of a header lie; 0, or -1 where it is not written as usual.

    `text`: behind the length field. `tensors`: int64[most, 5], a row for each tensor: its form,
    begin and end of the name, begin and end of the data as the header tells them. `forms`:
    int64[most, 3], begin, end and hash of what tensors have in common behind their names. `state`:
    int64[9], set to: number of forms, (unused), number of tensors, begin and end of the metadata,
    0 where there are none, (unused) and bytes of forms that were compared.
    """
    state[:] = 0
    at = 0
    while at < text.size and text[at] == (COMMA if at else BEGIN):
        begin = _behind(text, at, text[at])
        if begin < 0 or begin >= text.size or text[begin] != QUOTE:
            return -1
        end = string_end(text, begin + 1)
        if end < 0:
            return -1
        at = _behind(text, end + 1, COLON)
        if at < 0 or at >= text.size or text[at] != BEGIN:
            return -1
        if end + 1 - begin == _METADATA.size and goes_on(text, begin, _METADATA):
            if state[4]:
                return -1
            state[3] = at
            at = state[4] = _object_end(text, at)
        else:
            if state[2] == tensors.shape[0]:
                return -1
            row = tensors[state[2]]
            row[1], row[2] = begin + 1, end
            state[2] += 1
            at = _tensor(text, at, row, forms, state)
        if at < 0:
            return -1
    if at >= text.size or text[at] != END:
        return -1
    for i in range(at + 1, text.size):
        if text[i] != SPACE:
            return -1
    return 0
