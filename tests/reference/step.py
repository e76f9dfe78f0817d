"""Reference for bases that are a step further, from docs/format/step.md."""

import struct

from reference.adam_arithmetic import moved
from reference.adam_arithmetic import stepped as after
from reference.entries import is_integer, parse_json
from reference.reading import Refused, fail


def stepped(base: bytes, content: bytes, weights: bool = False) -> bytes:
    """The base after the step that an entry tells of; `weights`: one of kind `update`."""
    if len(content) < 4:
        fail("an entry of a step that is too short")
    (length,) = struct.unpack_from("<I", content)
    if length > 1 << 24:
        raise Refused("limit", "the table of a step")
    at = 4 + length
    if at > len(content):
        fail("an entry of a step that is too short")
    table = parse_json(content[4:at])
    listed = table.get("moments")
    if not isinstance(listed, list):
        fail("no list of moments")
    others = table.get("weights") if weights else [None] * len(listed)
    if not isinstance(others, list) or len(others) != len(listed):
        fail("no list of as many weights")
    out, taken = bytearray(base), []
    parts = []
    for item, other in zip(listed, others, strict=True):
        if not isinstance(item, list) or len(item) != 9 or not all(map(is_integer, item)):
            fail("moments of a step")
        m, v, elements, *step = item  # of the step, `after` refuses what is wrong
        if not elements:  # too many are no gradients, and places beyond 2^62 not in the base
            fail("moments of a step")
        taken += [(m, m + 4 * elements), (v, v + 4 * elements)]
        if other is not None:
            if not isinstance(other, list) or len(other) != 6 or not all(map(is_integer, other)):
                fail("weights of a step")
            if max(other[1:5]) >= 1 << 32 or other[5] > 1:
                fail("weights of a step")
            taken.append((other[0], other[0] + 4 * elements))
        parts.append((m, v, 4 * elements, at, step, other))
        at += 2 * elements
    if at != len(content):
        fail("not as many gradients as moments")
    taken.sort()
    if any(one[1] > other[0] for one, other in zip(taken, taken[1:])):  # noqa: B905, RUF007
        fail("moments that overlap")
    if taken and taken[-1][1] > len(base):
        fail("moments that are not in the base")
    for m, v, size, begin, step, other in parts:
        old = base[m : m + size], base[v : v + size]
        made = after(old, content[begin : begin + size // 2], step)
        out[m : m + size], out[v : v + size] = made
        if other is not None:
            w = other[0]
            out[w : w + size] = moved(base[w : w + size], made, other[1:])
    return bytes(out)
