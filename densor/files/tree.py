"""The tree of an archive's entries: each below the one that it is coded against."""

from collections.abc import Sequence
from typing import NamedTuple

from densor.formats.container.listed_entries import IndexedEntry


class Node(NamedTuple):
    """An entry in the tree of what is coded against what; `depth`: below a root."""

    number: int
    depth: int


def tree(entries: Sequence[IndexedEntry]) -> list[Node]:
    """All entries, each after and below the one of the archive that it is coded against."""
    below: dict[int | None, list[int]] = {}
    for number, entry in enumerate(entries):
        base = entry.meta.base
        below.setdefault(None if base is None else base.entry, []).append(number)
    found: list[Node] = []
    waiting = [Node(number, 0) for number in reversed(below.get(None, []))]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += [Node(k, node.depth + 1) for k in reversed(below.get(node.number, []))]
    return found
