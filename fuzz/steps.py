"""Entries of steps of Adam: what they make of a base, against the reference."""

import json
import struct
from random import Random
from typing import Any

import numpy as np
from reference import step as reference
from reference.reading import Refused

from densor.errors import DensorError
from densor.formats.container import step
from densor.formats.container.entry import STEP, UPDATE
from densor.formats.io.sources import MemoryRandomSource
from densor.runtime.types import Bytes
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_BASE = np.random.default_rng(11).integers(0, 256, 1200, np.uint8).tobytes()
_W, _B2, _A, _ONE = 0x3DCCCCD0, 0x3F7FBE77, 0x3A831200, 0x3F800000
_MOVED = [0x3F7FFF58, 0xBB03126F, 0x3D016873, 0x322BCC77]


def run(content: bytes) -> object:
    """What is made does not depend on how much is asked for, and is what the reference makes."""

    def read(begin: int, end: int) -> Bytes:
        if not 0 <= begin <= end <= len(content):
            raise Wrong("a read beyond the end of the entry")
        return np.frombuffer(content[begin:end], np.uint8)

    try:
        kind = UPDATE if b'"weights"' in content else STEP
        right = reference.stepped(_BASE, content, kind == UPDATE)
    except Refused:
        right = None
    try:
        base = MemoryRandomSource(np.frombuffer(_BASE, np.uint8))
        made = step.SteppedBase(base, step.parse(kind, len(content), read), read)
    except DensorError:
        if right is not None:
            raise Wrong("refused, though the reference takes it") from None
        raise
    if right is None:
        raise Wrong("taken, though the reference refuses it")
    cut = len(content) * 7 % (len(_BASE) + 1)
    parts = made.read_at(0, cut), made.read_at(cut, len(_BASE) - cut)
    if b"".join(part.tobytes() for part in parts) != right:
        raise Wrong("other bytes than the reference makes")
    return right != _BASE


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a number of the table, mostly for one that is allowed; seldom bytes as they are."""
    try:
        end = 4 + struct.unpack_from("<I", data)[0]
        table = json.loads(data[4:end])
        item = rng.choice([*table["moments"], *filter(None, table.get("weights", ()))])
        place = rng.randrange(len(item))
        old = item[place]
        item[place] = rng.choice(
            (
                old + 1,
                old - 1,
                rng.randrange(1200),
                rng.randrange(8),
                rng.getrandbits(32),
                None,
                1.5,
            )
        )
    except (ValueError, KeyError, TypeError, IndexError, struct.error):
        return mutated(data, rng, others)
    if rng.random() < 0.2:
        return mutated(data, rng, others)
    text = json.dumps(table).encode()
    return struct.pack("<I", len(text)) + text + data[end:]


def seeds() -> list[bytes]:
    """Steps of both forms of m and w and all of v, with one parameter and several."""
    rng = np.random.default_rng(12)
    found = []
    for form in range(8):
        m, v = form % 4, 100 + form
        moments = [[m, v, 20, _W, _B2, _A, _ONE, form % 2, form]]
        if form % 3 == 0:
            moments.append([300, 700, 90, _W, _B2, _A, 0x3F3D70A4, 0, 7 - form])
        parts: dict[str, Any] = {"moments": moments}
        if form % 2:
            parts["weights"] = [[200 + form, *_MOVED, form // 2 % 2], None][: len(moments)]
        table = json.dumps(parts).encode()
        gradients = rng.integers(0, 256, 2 * sum(item[2] for item in moments), np.uint8)
        found.append(struct.pack("<I", len(table)) + table + gradients.tobytes())
    return found


TARGETS = (Target("steps", run, seeds, mutate, most_memory=1 << 25),)
