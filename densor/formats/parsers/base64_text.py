"""Long stretches of base64 in a text: buffers of glTF, arrays of Plotly, images of notebooks.

What they hold is not told where it can be found in it, so types are looked for in the bytes.
"""

import re
from collections.abc import Iterator

from densor.codec.notation.layout import BASE64, MAX_PLAIN, PLAIN, Notation
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.contents import Contents, Head, Stretch

_FIRST = 1 << 16  # bytes in which a text says that it has some
_SIGNS = (b";base64,", b'"bdata"', b'"image/png"', b'"image/jpeg"')
_TEXTS = b"{[<"
_BLOCK = 1 << 22
_MIN_BYTES = 1 << 12
# Not tried again from each digit of one that is shorter.
_LONG = re.compile(rb"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{%d,}" % _MIN_BYTES)
_DIGITS = re.compile(rb"[A-Za-z0-9+/]*")
_MOST = 1 << 12  # stretches


def find(head: Head) -> Contents | None:
    """The stretches of base64 in a text that can be read at random; None if it shows none."""
    if head.random is None or head.first(1)[:1] not in tuple(bytes([byte]) for byte in _TEXTS):
        return None
    start = head.first(_FIRST)
    if not any(sign in start for sign in _SIGNS):
        return None
    stretches = []
    for begin, end in _stretches(head.random):
        for at in range(begin, end - 3, MAX_PLAIN):  # a multiple of 4 digits
            size = min(MAX_PLAIN, end - at)
            notation = Notation(BASE64, PLAIN, "", ())
            stretches.append(Stretch(at, size, "U8", (size,), notation=notation))
        if len(stretches) >= _MOST:
            break
    return Contents([], stretches) if stretches else None


def _stretches(random: RandomSource) -> Iterator[tuple[int, int]]:
    """Begin and end of each long one."""
    at, whole = 0, False
    while not whole:
        block = random.read_at(at, min(_BLOCK, random.size - at)).tobytes()
        end, whole = at, at + len(block) == random.size
        for found in _LONG.finditer(block):
            begin, end = at + found.start(), at + found.end()
            if found.end() == len(block):
                end = _end(random, end)
            yield begin, end
        at = max(end, at + len(block) - _MIN_BYTES + 1)


def _end(random: RandomSource, at: int) -> int:
    """Where the digits from `at` on end."""
    while at < random.size:
        block = random.read_at(at, min(_BLOCK, random.size - at)).tobytes()
        more = _DIGITS.match(block)
        at += more.end() if more else 0
        if more is None or more.end() < len(block):
            break
    return at
