"""What is known before each byte: its contexts, as hashes.

All arithmetic is modulo 2^64. The fields of the text are in an int64 array.
"""

import numba
import numpy as np
import numpy.typing as npt

from densor.entropy.jit import index, inlined

int64 = numba.int64

(
    LAST,  # the last eight bytes, the latest lowest
    WORD,  # hash of the letters of the word at hand, 0 outside words
    WORD1,  # of the word before
    WORD2,
    GAP,  # hash of what is no letter since the last word
    COLUMN,  # bytes since the last newline
    LINE,  # where the line begins
    LINE1,  # where the line before begins
    ABOVE,  # the byte above in that line
    LETTERS,  # of the word at hand
    SHAPE,  # classes of the last bytes, four bits each
    FIELDS,
) = range(12)

CONTEXTS = 18
FOLLOWERS = 65536  # the last four bytes that followed each two bytes

_K1 = 0x1E3779B97F4A7C15
_K2 = 0x56E8FEB86659FD93
_K3 = 0x2545F4914F6CDD1D


def _kinds() -> npt.NDArray[np.uint8]:
    """uint8[256]: classes of bytes, 1 to 13; a byte is of the first that has it."""
    lower, upper, digits = range(97, 123), range(65, 91), range(48, 58)
    classes = (
        *(lower, upper, digits, b" ", b"\n", range(128, 256), b".!?", b",;:", range(32)),
        *(b"\"'`", b"([{<", b")]}>", range(256)),
    )
    kinds = np.zeros(256, np.uint8)
    for kind, members in reversed(list(enumerate(classes, 1))):
        kinds[list(members)] = kind
    return kinds


_KINDS = _kinds()


@inlined
def mix(value, salt):
    """A hash of a value and a salt."""
    h = value * _K1 + salt * _K3
    h ^= (h >> 32) & 0xFFFFFFFF
    h *= _K2
    return h ^ ((h >> 29) & 0x7FFFFFFFF)


@inlined
def _pair(a, b):
    return a * _K3 + b


@inlined
def hash_contexts(text, followers, hashes):
    """Sets the values of all contexts, to be hashed with their numbers."""
    last = text[LAST]
    c1 = last & 255
    word = text[WORD]
    gap = text[GAP]
    shape = text[SHAPE] & 0xFFFFFFFF
    followed = int64(followers[index(last & 0xFFFF)])
    hashes[0] = c1
    hashes[1] = last & 0xFFFF
    hashes[2] = last & 0xFFFFFF
    hashes[3] = last & 0xFFFFFFFF
    hashes[4] = last & 0xFFFFFFFFFF
    hashes[5] = last & 0xFFFFFFFFFFFF
    hashes[6] = _pair(word, gap)
    hashes[7] = _pair(_pair(word, text[WORD1]), gap)
    hashes[8] = _pair(_pair(_pair(word, text[WORD1]), text[WORD2]), gap)
    hashes[9] = _pair(word, text[WORD2])
    hashes[10] = _pair(text[ABOVE] << 8 | c1, min(text[COLUMN], 255))
    hashes[11] = followed & 0xFFFFFF
    hashes[12] = shape
    hashes[13] = _pair(shape, c1)
    hashes[14] = (last >> 8) & 0xFFFF
    hashes[15] = last & 0xFF00FF
    hashes[16] = (last >> 8) & 0xFFFFFF
    hashes[17] = _pair(followed & 0xFFFF, c1)


@inlined
def take_in(text, followers, data, at):
    """Takes in the byte at `at` of `data`."""
    c = int64(data[index(at)])
    last = text[LAST]
    i = last & 0xFFFF
    followers[index(i)] = (int64(followers[index(i)]) << 8 | c) & 0xFFFFFFFF
    text[LAST] = last << 8 | c
    kind = int64(_KINDS[index(c)])
    text[SHAPE] = text[SHAPE] << 4 | kind
    if kind == 1 or kind == 2 or kind == 6:
        letter = c + 32 if kind == 2 else c
        text[WORD] = (text[WORD] + letter + 1) * _K3
        text[LETTERS] += 1
        text[GAP] = 0
    else:
        if text[WORD]:
            text[WORD2] = text[WORD1]
            text[WORD1] = text[WORD]
            text[WORD] = 0
            text[LETTERS] = 0
        text[GAP] = (text[GAP] + c + 1) * _K3
    if c == 10:
        text[LINE1] = text[LINE]
        text[LINE] = at + 1
        text[COLUMN] = 0
    else:
        text[COLUMN] += 1
    above = text[LINE1] + text[COLUMN]
    text[ABOVE] = int64(data[index(above)]) if above < text[LINE] else int64(0)
