"""Linear prediction that is learned from a window of two dimensions about each sample, in integers.

A row is cut into sections. Each has correlations of its own, which forget a part of themselves
from row to row. A window is a section, what lies to its left in this row, and what lies to its
right in the row above, both weighing less the farther they are: a few sums of matrices, whatever
its size. Least squares over windows are those of X. Wu, E. Barthel, W. Zhang, "Piecewise 2D
autoregression for predictive image coding", 1998; here weights move along coordinates as in
`recursive`, whose arrays hold the window at hand. See docs/format/image.md, section 6.1.
"""

import numba
from numba import types
from numba.extending import intrinsic

from densor.codec.byte_cm.vectors import Lanes, Row, over
from densor.codec.image.recursive import FEATURES, follow, linear, step
from densor.entropy.jit import index, inlined

int64 = numba.int64

WINDOWS = 3
SECTION = 3  # logarithm of the columns of a section
CELLS = FEATURES * FEATURES  # of a matrix; its last column is of what is to be predicted
GREY_FEATURES = 12  # of one channel; more would need wider windows
_RIDGE = 64
_EXACT = 31  # nothing is forgotten within a section: correlations are below 2^30


def sections_of(width: int) -> int:
    """Of a row."""
    return (width + (1 << SECTION) - 1) >> SECTION


@inlined
def _forget(k):
    """What a section forgets from row to row, and neighbours weigh less from one to the next."""
    if k == 0:
        return int64(2), int64(0)
    if k == 1:
        return int64(3), int64(2)
    return int64(1), int64(1)


@inlined
def _section_at(r, m, c, k):
    """Where the matrices of the first section are, and how far from there those of the right."""
    size = ((m.width + 7) >> SECTION) + 1
    return (c * WINDOWS + k) * 2 * size * CELLS, size * CELLS


@inlined
def _end_section(r, m, c, section, count):
    """Adds what a row has shown to a section, and the section to what lies to the left.

    That is the same for all windows: each has begun with a matrix of its own.
    """
    now = (c * m.linear + 1) * CELLS
    for k in range(WINDOWS):
        first, _ = _section_at(r, m, c, k)
        own = first + section * CELLS
        left = (c * WINDOWS + k) * CELLS
        rows, columns = _forget(k)
        for i in range(count * FEATURES):
            old, before = r.sections[index(own + i)], r.left[index(left + i)]
            shown = r.correlations[index(now + i)] - r.window[index(c * CELLS + i)]
            new = old - (old >> rows) + shown
            r.sections[index(own + i)] = new
            r.left[index(left + i)] = before - (before >> columns) + new


@inlined
def _begin_section(r, m, c, k, section, count):
    """Makes the window of a section, and the gradient of its weights."""
    first, apart = _section_at(r, m, c, k)
    own, right = first + section * CELLS, first + apart + (section + 1) * CELLS
    which = c * m.linear + 1 + k
    now, left = which * CELLS, (c * WINDOWS + k) * CELLS
    _, columns = _forget(k)
    if section == 0:
        for i in range(CELLS):
            r.left[index(left + i)] = 0
    for i in range(count * FEATURES):
        before, after = r.left[index(left + i)], r.sections[index(right + i)]
        value = before - (before >> columns) + r.sections[index(own + i)]
        r.correlations[index(now + i)] = value + after - (after >> columns)
    weights = which * FEATURES
    for i in range(count):
        row = now + i * FEATURES
        total = int64(0)
        for j in range(count):
            a = int64(r.weights[index(weights + j)])
            total += int64(r.correlations[index(row + j)]) * a
        goal = int64(r.correlations[index(row + FEATURES - 1)])
        r.gradients[index(weights + i)] = 16 * goal - (total >> 12)


@inlined
def begin_sections(r, m, c, x, count):
    """Before the sample in column x of plane c: where a section begins, so do its windows."""
    section = x >> SECTION
    if x & ((1 << SECTION) - 1) == 0:
        if section > 0:
            _end_section(r, m, c, section - 1, count)
        for k in range(WINDOWS):
            _begin_section(r, m, c, k, section, count)
        now = (c * m.linear + 1) * CELLS
        for i in range(count * FEATURES):
            r.window[index(c * CELLS + i)] = r.correlations[index(now + i)]
        _descend(r, c * m.linear + 1, count, int64(FEATURES))


@inlined
def _descend(r, which, count, steps):
    """Moves the weights of all windows along as many coordinates.

    They take turns, so that a processor works on all of them at once.
    """
    at = r.next[index(which)]
    for _ in range(steps):
        if at >= count:
            at = int64(0)
        for k in range(WINDOWS):
            step(r, FEATURES, (which + k) * FEATURES, at, _RIDGE)
        at += 1
    r.next[index(which)] = at


@intrinsic
def _correlate(typingctx, correlations, first, apart, features, room, feature):
    """Adds a feature times all of them to a row of correlations of each window.

    The rows are `apart`. Nothing is forgotten within a section.
    """

    def codegen(context, builder, signature, args):
        array, features = signature.args[0], signature.args[3]
        into = []
        first = args[1]
        for _ in range(WINDOWS):
            into.append(Row(context, builder, array, args[0], first, args[4]))
            first = builder.add(first, args[2])
        features = Row(context, builder, features, args[3], args[4].type(0), args[4])
        feature = Lanes.all(builder, args[5])

        def update(at):
            shown = features.load(at) * feature
            for row in into:
                row.store(at, row.load(at) + shown)

        over(builder, args[4], FEATURES, update)
        return context.get_dummy_value()

    return types.void(
        correlations, types.intp, types.intp, features, types.intp, types.int32
    ), codegen


@inlined
def learn_sections(r, m, c, x, count, goal):
    """After that sample. `goal`: what was to be predicted, in units of 2^-4, scaled as features."""
    which = c * m.linear + 1
    for k in range(WINDOWS):
        weights = (which + k) * FEATURES
        error = goal - linear(r.weights, weights, r.scaled, count)
        follow(r, weights, r.scaled, count, error, int64(_EXACT))
    for i in range(count):
        row = which * CELLS + i * FEATURES
        room = int64(FEATURES)
        _correlate(r.correlations, row, int64(CELLS), r.scaled, room, r.scaled[index(i)])
    _descend(r, which, count, m.steps)
    if x + 1 == m.width:
        _end_section(r, m, c, x >> SECTION, count)
        for k in range(WINDOWS):
            _end_row(r, m, c, k, x >> SECTION, count)


@inlined
def _end_row(r, m, c, k, section, count):
    """Sums up what lies to the right of each section, from the last one on."""
    first, apart = _section_at(r, m, c, k)
    _, columns = _forget(k)
    for back in range(section + 1):
        own = first + (section - back) * CELLS
        right = own + apart
        for i in range(count * FEATURES):
            after = r.sections[index(right + CELLS + i)]
            r.sections[index(right + i)] = r.sections[index(own + i)] + after - (after >> columns)
