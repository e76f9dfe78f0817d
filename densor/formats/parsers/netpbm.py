"""The header of a PGM, PPM or PAM file, with samples in binary.

Format: https://netpbm.sourceforge.net/doc/pgm.html, ppm.html, pam.html. Only the first image of a
file is found; what follows it is just bytes.
"""

import math
import re

from densor.codec.image.layout import MAX_CHANNELS, Layout
from densor.formats.parsers.contents import Contents, Head, Stretch

_MAX_HEADER = 1 << 12
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(rb"P([56])" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")
_PAM_END = b"\nENDHDR\n"
_PAM = {b"WIDTH": 0, b"HEIGHT": 0, b"DEPTH": 0, b"MAXVAL": 0}
_MAX_VALUE = (1 << 16) - 1


def find(head: Head) -> Contents | None:
    """The samples of a binary PGM, PPM or PAM file; None if it is none."""
    magic = head.first(2)
    if magic not in (b"P5", b"P6", b"P7"):
        return None
    text = head.first(_MAX_HEADER)
    found = _of_pam(text) if magic == b"P7" else _of_pnm(text)
    if found is None:
        return None
    begin, width, height, channels, most = found
    if not (width and height and 1 <= channels <= MAX_CHANNELS and 1 <= most <= _MAX_VALUE):
        return None
    layout = Layout(width, channels, 1 if most < 256 else 2, big=most >= 256)
    dtype = "U16" if layout.size == 2 else "U8"
    shape = (height, width, channels)
    size = math.prod(shape) * layout.size
    return Contents([], [Stretch(begin, size, dtype, shape, image=layout)])


def _of_pnm(text: bytes) -> tuple[int, int, int, int, int] | None:
    """Begin of the samples, width, height, channels and greatest sample."""
    match = _PNM.match(text)
    if match is None or any(len(match[i]) > 10 for i in (2, 3, 4)):
        return None
    return match.end(), int(match[2]), int(match[3]), 3 if match[1] == b"6" else 1, int(match[4])


def _of_pam(text: bytes) -> tuple[int, int, int, int, int] | None:
    end = text.find(_PAM_END)
    if end < 0:
        return None
    fields = dict(_PAM)
    for line in text[3 : end + 1].split(b"\n"):
        words = line.split()
        if len(words) == 2 and words[0] in fields and re.fullmatch(rb"\d{1,10}", words[1]):
            fields[words[0]] = int(words[1])
    width, height, channels, most = fields.values()
    return end + len(_PAM_END), width, height, channels, most
