"""In which order the samples of an image are coded, and which of them a sample is coded from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.errors import FormatError

NEAR = 10  # samples that one is predicted from
CLOSEST = 6  # of these, that features are made of
_REACH = 3  # rows and columns that they may be away
_OFFSETS = (
    *((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)),
    *((0, -2), (0, 2), (-2, 0), (2, 0)),
)  # rows and columns, of samples that are features
LINKS = 1 + len(_OFFSETS) + 2  # the parent, these, and two channels of the same pixel

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Geometry:
    """What follows from the tree. Samples are numbers; -1 stands for none.

    `order`: int32[samples], as they are coded. `ended`: int32[samples], how many samples have all
    that is below them once the one at this place of the order is coded. `parents`: int32[samples],
    -1 for the root. `near`: int32[samples, NEAR], earlier ones near by; `links`:
    int32[samples, LINKS], earlier ones in fixed places.
    """

    order: Ints
    ended: Ints
    parents: Ints
    near: Ints
    links: Ints


def geometry_of(parents: npt.NDArray[np.uint16], height: int, width: int) -> Geometry:
    """The geometry of a tree, whose root is its own parent; FormatError where it is no tree."""
    order, ended = depth_first(parents.astype(np.int64))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    channels = order.size // (height * width)
    ranks = rank.reshape(height, width, channels)
    above = parents.astype(np.int32)
    above[order[0]] = -1
    near = _near(ranks).astype(np.int32)
    links = _links(ranks, above).astype(np.int32)
    return Geometry(order.astype(np.int32), ended.astype(np.int32), above, near, links)


def depth_first(
    parents: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`order` and `ended` of a `Geometry`: smaller parts of the tree first, then lower numbers."""
    count = parents.size
    if (parents >= count).any():
        raise FormatError("circuit has a tree with an unknown sample")
    roots = np.flatnonzero(parents == np.arange(count))
    if roots.size != 1:
        raise FormatError("circuit has a tree without one root")
    children: list[list[int]] = [[] for _ in range(count)]
    for sample, parent in enumerate(parents.tolist()):
        if sample != parent:
            children[parent].append(sample)
    by_depth = [int(roots[0])]
    for sample in by_depth:
        by_depth += children[sample]
    if len(by_depth) != count:
        raise FormatError("circuit has a tree with a circle")
    sizes = np.ones(count, np.int64)
    for sample in reversed(by_depth[1:]):
        sizes[parents[sample]] += sizes[sample]
    order: list[int] = []
    waiting = by_depth[:1]
    left = np.array([len(below) for below in children])
    ended = np.zeros(count, np.int64)
    while waiting:
        sample = waiting.pop()
        waiting += sorted(children[sample], key=lambda child: (sizes[child], child), reverse=True)
        at = len(order)
        order.append(sample)
        while left[sample] == 0:
            ended[at] += 1
            parent = int(parents[sample])
            if parent == sample:
                break
            left[parent] -= 1
            sample = parent
    return np.array(order), ended


def _near(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first `NEAR` of earlier samples, nearest first, then those of lower numbers."""
    height, width, channels = ranks.shape
    number = np.arange(ranks.size).reshape(ranks.shape)
    found = np.full((*ranks.shape, NEAR), -1, np.int64)
    count = np.zeros(ranks.shape, np.int64)
    reach = range(-_REACH, _REACH + 1)
    for channel in range(channels):
        places = sorted(
            (2 * (dy * dy + dx * dx) + (other != channel), dy, dx, other)
            for dy in reach
            for dx in reach
            for other in range(channels)
        )
        for _, dy, dx, other in places:
            here = _inside(dy, height), _inside(dx, width)
            there = _inside(-dy, height), _inside(-dx, width)
            if any(part.start >= part.stop for part in (*here, *there)):
                continue
            earlier = ranks[*there, other] < ranks[*here, channel]
            taken = count[*here, channel]
            rows, columns = np.nonzero(earlier & (taken < NEAR))
            slots = taken[rows, columns]
            part = found[*here, channel]
            part[rows, columns, slots] = number[*there, other][rows, columns]
            taken[rows, columns] += 1
    return found.reshape(-1, NEAR)


def _inside(step: int, size: int) -> slice:
    """Places from which `step` further is inside as well."""
    return slice(max(0, -step), max(0, size - max(0, step)))


def _links(ranks: npt.NDArray[np.int64], parents: Ints) -> npt.NDArray[np.int64]:
    height, width, channels = ranks.shape
    number = np.arange(ranks.size).reshape(ranks.shape)
    found = np.full((*ranks.shape, LINKS), -1, np.int64)
    found[..., 0] = parents.reshape(ranks.shape)
    for at, (dy, dx) in enumerate(_OFFSETS):
        here = _inside(dy, height), _inside(dx, width)
        there = _inside(-dy, height), _inside(-dx, width)
        earlier = ranks[there] < ranks[here]
        found[(*here, slice(None), 1 + at)] = np.where(earlier, number[there], -1)
    for step in (1, 2):
        if step < channels:
            other = np.roll(number, -step, 2)
            earlier = np.roll(ranks, -step, 2) < ranks
            found[..., LINKS - 3 + step] = np.where(earlier, other, -1)
    return found.reshape(-1, LINKS)
