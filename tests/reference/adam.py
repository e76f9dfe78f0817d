"""Packed optimizer states, after docs/optimizer-format.md and nothing else.

The rest of a state, which torch.save wrote, is left as it is.
"""

from typing import Any

import numpy as np
import xxhash

from reference import container
from reference.adam_arithmetic import Moments, stepped
from reference.entries import is_integer_list, parse_json
from reference.reading import Cursor, Refused, decode_zstd, fail


def decode(data: bytes, before: dict[Any, Moments]) -> dict[tuple[Any, ...], Moments]:
    """The moments of all groups by their keys; `before`: those one step earlier, by parameter."""
    if xxhash.xxh3_128_digest(data[:-16]) != data[-16:]:
        raise Refused("checksum", "an optimizer state")
    cursor = Cursor(data[:-16])
    if cursor.take(8) != b"\x89DADAM\r\n":
        fail("no optimizer state")
    version, reserved, stored, size = cursor.fields("<HHII")
    if version != 1 or reserved:
        fail("the head of an optimizer state")
    table = parse_json(decode_zstd(cursor.take(stored), size))
    rest = table.get("rest")
    if not isinstance(rest, list) or not is_integer_list(rest) or len(rest) != 2:
        fail("the table of an optimizer state")
    decode_zstd(cursor.take(rest[0]), rest[1])
    groups = table.get("groups")
    if not isinstance(groups, list):
        fail("the table of an optimizer state")
    found: dict[tuple[Any, ...], Moments] = {}
    keys = [key for group in groups for key in group["keys"]]
    if len(set(keys)) < len(keys):
        fail("moments of a parameter twice")
    for group in groups:
        found[tuple(group["keys"])] = _group(group, cursor, before)
    cursor.finish()
    return found


def _group(group: dict[str, Any], cursor: Cursor, before: dict[Any, Moments]) -> Moments:
    way, lengths = group["way"], group["lengths"]
    counts = {"alone": 2, "changes": 2, "relative": 3, "replay": 3}
    if way not in counts or len(lengths) != counts[way]:
        fail("the way of a group")
    pieces = [cursor.take(length) for length in lengths]
    old: Moments | None = None
    if way in ("changes", "replay"):
        parts = [before[key] for key in group["keys"]]
        old = b"".join(m for m, _ in parts), b"".join(v for _, v in parts)
        if _digest(old) != group["before"]:
            fail("the state before is another one")
    if way == "replay":
        assert old is not None
        made = stepped(old, _piece(pieces[0], None), group["step"])
        m, v = (
            _piece(piece, base) if piece else base
            for piece, base in zip(pieces[1:], made, strict=True)
        )
        new = m, v
    elif way == "relative":
        m = _piece(pieces[2], None)
        numbers, distances = (_piece(one, None) for one in pieces[:2])
        new = m, _from_scales(group["shapes"], numbers, distances, m)
    else:
        bases = old or (None, None)
        new = _piece(pieces[0], bases[0]), _piece(pieces[1], bases[1])
    if _digest(new) != group["digest"]:
        raise Refused("checksum", "the moments of a group")
    return new


def _from_scales(shapes: list[list[int]], scales: bytes, piece: bytes, m: bytes) -> bytes:
    """v, of a group of one matrix."""
    if len(shapes) != 1 or len(shapes[0]) < 2 or not piece:
        fail("no matrix")
    rows = shapes[0][0]
    columns = len(piece) // 4 // rows
    if columns > 1 << 20:
        fail("rows that are too long")
    numbers = np.frombuffer(scales, "<i2").tolist()
    if len(numbers) != rows + columns + 24:
        fail("the number of scales")
    found = []
    pairs = zip(np.frombuffer(piece, "<u4").tolist(), np.frombuffer(m, "<u4").tolist(), strict=True)
    for place, (bits, own) in enumerate(pairs):
        row = numbers[place // columns]
        e = (row + numbers[rows + place % columns]) << 20
        k = min(23, max(0, (2 * (own % 2**31 - 0x1FC00000) - e >> 23) + 16))
        more = e + (numbers[rows + columns + k] << 20) - (127 << 23)
        found.append((bits + (0 if row == -(2**15) else more)) % 2**32)
    return np.array(found, "<u4").tobytes()


def _digest(moments: Moments) -> str:
    return xxhash.xxh3_128_hexdigest(moments[0] + moments[1])


def _piece(archive: bytes, base: bytes | None) -> bytes:
    (entry,) = container.decode(archive, base)
    return entry.data
