"""Linear prediction that is learned from a window of two dimensions about each sample, in integers.

A row is cut into sections. Each has correlations of its own, which forget a part of themselves
from row to row. A window is a section, what lies to its left in this row, and what lies to its
right in the row above, both weighing less the farther they are: a few sums of matrices, whatever
its size. Least squares over windows are those of X. Wu, E. Barthel, W. Zhang, "Piecewise 2D
autoregression for predictive image coding", 1998; here weights move along coordinates as in
`recursive`, whose arrays hold the window at hand. See docs/format/image.md, section 6.1.
"""

import numba

from densor.codec.image.recursive import FEATURES, adapt, descend, linear
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
def _end_section(r, m, c, k, section, count):
    """Adds what a row has shown to a section, and the section to what lies to the left."""
    first, _ = _section_at(r, m, c, k)
    own = first + section * CELLS
    now, window = (c * m.linear + 1 + k) * CELLS, (c * WINDOWS + k) * CELLS
    rows, columns = _forget(k)
    for i in range(count * FEATURES):
        old, left = r.sections[index(own + i)], r.left[index(window + i)]
        shown = r.correlations[index(now + i)] - r.window[index(window + i)]
        new = old - (old >> rows) + shown
        r.sections[index(own + i)] = new
        r.left[index(window + i)] = left - (left >> columns) + new


@inlined
def _begin_section(r, m, c, k, section, count):
    """Makes the window of a section, and weights that suit it."""
    first, apart = _section_at(r, m, c, k)
    own, right = first + section * CELLS, first + apart + (section + 1) * CELLS
    which = c * m.linear + 1 + k
    now, window = which * CELLS, (c * WINDOWS + k) * CELLS
    _, columns = _forget(k)
    if section == 0:
        for i in range(CELLS):
            r.left[index(window + i)] = 0
    else:
        _end_section(r, m, c, k, section - 1, count)
    for i in range(count * FEATURES):
        left, after = r.left[index(window + i)], r.sections[index(right + i)]
        value = left - (left >> columns) + r.sections[index(own + i)] + after - (after >> columns)
        r.window[index(window + i)] = value
        r.correlations[index(now + i)] = value
    weights = which * FEATURES
    for i in range(count):
        row = now + i * FEATURES
        total = int64(0)
        for j in range(count):
            a = int64(r.weights[index(weights + j)])
            total += int64(r.correlations[index(row + j)]) * a
        goal = int64(r.correlations[index(row + FEATURES - 1)])
        r.gradients[index(weights + i)] = 16 * goal - (total >> 12)
    descend(r, FEATURES, which, count, _RIDGE, int64(FEATURES))


@inlined
def begin_sections(r, m, c, x, count):
    """Before the sample in column x of plane c: where a section begins, so do its windows."""
    if x & ((1 << SECTION) - 1) == 0:
        for k in range(WINDOWS):
            _begin_section(r, m, c, k, x >> SECTION, count)


@inlined
def learn_sections(r, m, c, x, count, goal):
    """After that sample. `goal`: what was to be predicted, in units of 2^-4, scaled as features."""
    for k in range(WINDOWS):
        settings = int64(_EXACT), int64(_RIDGE), m.steps
        which = c * m.linear + 1 + k
        said = linear(r.weights, which * FEATURES, r.scaled, count)
        adapt(r, FEATURES, which, r.scaled, count, goal - said, settings)
    if x + 1 == m.width:
        for k in range(WINDOWS):
            _end_row(r, m, c, k, x >> SECTION, count)


@inlined
def _end_row(r, m, c, k, section, count):
    """Sums up what lies to the right of each section, from the last one on."""
    _end_section(r, m, c, k, section, count)
    first, apart = _section_at(r, m, c, k)
    _, columns = _forget(k)
    for back in range(section + 1):
        own = first + (section - back) * CELLS
        right = own + apart
        for i in range(count * FEATURES):
            after = r.sections[index(right + CELLS + i)]
            r.sections[index(right + i)] = r.sections[index(own + i)] + after - (after >> columns)
