"""What the table of a packed state says of its groups. See docs/optimizer-format.md."""

from typing import Any

import numpy as np

from densor.codec.adam import replay
from densor.codec.adam.replay import Step
from densor.errors import FormatError, UnsupportedError
from densor.formats.container import strictjson
from densor.torch.adam.groups import Group
from densor.torch.sealed import Kind, opened

KIND = Kind(b"\x89DADAM\r\n", 1, "optimizer state")
REPLAY, CHANGES, ALONE, RELATIVE = "replay", "changes", "alone", "relative"  # ways
PIECES = {REPLAY: 3, CHANGES: 2, ALONE: 2, RELATIVE: 3}
MOST_COLUMNS = 1 << 20  # of a matrix whose v is relative to scales


def table_of(data: bytes) -> dict[str, Any]:
    """The table of a packed state: its groups, and how each is coded."""
    return opened(KIND, data)[1]


def parse_entry(entry: Any) -> tuple[Group, str, list[int]]:
    """The group that an entry of the table is for, its way, and the lengths of its pieces."""
    if not isinstance(entry, dict):
        raise FormatError("table of an optimizer state is malformed")
    keys, shapes, way = entry.get("keys"), entry.get("shapes"), entry.get("way")
    lengths = entry.get("lengths")
    if not isinstance(keys, list) or not isinstance(shapes, list) or len(keys) != len(shapes):
        raise FormatError("group of an optimizer state is malformed")
    if not keys or any(type(key) not in (int, str) for key in keys):
        raise FormatError("group of an optimizer state has impossible keys")
    if not isinstance(way, str) or way not in PIECES:
        raise UnsupportedError("group is coded in an unknown way; a newer densor may read it")
    if not isinstance(lengths, list) or len(lengths) != PIECES[way]:
        raise FormatError("group of an optimizer state has impossible lengths")
    found = tuple(strictjson.shape(shape, "shape") for shape in shapes)
    group = Group(tuple(keys), found, (0.0, 0.0))
    if group.size > 1 << 40:
        raise FormatError("group of an optimizer state has an impossible shape")
    if way == RELATIVE and not is_matrix(group):
        raise FormatError("group of an optimizer state is no matrix")
    return group, way, [strictjson.integer(length, "length") for length in lengths]


def is_matrix(group: Group) -> bool:
    """Whether v has rows and columns, whose scales it may be relative to.

    Rows are worked on whole, in ten times their memory, so that they must not be longer than that.
    """
    if len(group.shapes) != 1 or len(group.shape) < 2 or not group.size:
        return False
    return group.size // group.shape[0] <= MOST_COLUMNS


def parse_step(numbers: Any) -> Step:
    """The step of an entry."""
    if not isinstance(numbers, list) or len(numbers) != 6:
        raise FormatError("step of an optimizer state is malformed")
    limits = (*[0xFFFFFFFF] * 4, replay.M_FORMS - 1, replay.V_FORMS - 1)
    for number, most in zip(numbers, limits, strict=True):
        strictjson.integer(number, "number of a step", most)
    w, b2, a, factor = (np.uint32(number).view(np.float32) for number in numbers[:4])
    return Step(w, b2, a, factor, numbers[4], numbers[5])
