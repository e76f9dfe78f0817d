"""The compiled loop that counts the symbols of planes, over many chunks at once."""

import numpy as np
from numba import types

from densor.codec.planes.search_kernels import _tally
from densor.codec.spans.chunk_kernels import is_constant
from densor.codec.spans.split import split_any
from densor.entropy.jit import I64, R8, W8, W16, W32, kernel

_AT_ONCE = 4096  # elements, where runs are not counted by themselves


@kernel(
    types.void(
        R8, types.int64, types.int64, types.int64, I64, types.uint16[:, :, ::1], types.int64,
        types.int64[:, ::1], W8, W32, W16, I64, W8,
    ),
    counted=False,
)  # fmt: skip
def count_planes(
    data, layout, size, run, wanted, runs, first, totals, planes, tallies, halves, addresses, edge
):
    """Histograms of some planes of elements, `wanted`, int64[planes].

    `data`: uint8[elements * size]. `runs`: uint16[planes, runs, 256], whose rows from `first` on
    become the histograms of each run, of 65535 elements at most; or uint16[planes, 0, 256] where
    these are not asked for. `totals`: int64[planes, 256], of all runs.

    Work space: `planes`, uint8[size * elements of a run, or 4096]; `tallies`, uint32[planes *
    1024]; `halves`, uint16[1024]; `addresses`, int64[8]; `edge`, uint8[9 * 64].
    """
    n = data.size // size
    apart = runs.shape[1] > 0
    step = run if apart else _AT_ONCE
    tallies[:] = np.uint32(0)
    for begin in range(0, n, step):
        count = min(step, n - begin)
        if size > 1:
            split_any(layout, size, data, begin * size, count, planes, count, addresses, edge)
        for i in range(wanted.size):
            plane = data[begin : begin + count]
            if size > 1:
                plane = planes[wanted[i] * count : (wanted[i] + 1) * count]
            some = tallies[1024 * i : 1024 * (i + 1)]
            if not apart:
                if plane[0] == plane[count - 1] and is_constant(plane):
                    some[plane[0]] += np.uint32(count)
                else:
                    _tally(plane, some)
                continue
            halves[:] = np.uint16(0)
            _tally(plane, halves)
            row = runs[i, first + begin // run]
            for s in range(256):
                row[s] = halves[s] + halves[256 + s] + halves[512 + s] + halves[768 + s]
            for s in range(256):
                some[s] += row[s]
    for i in range(wanted.size):
        for s in range(256):
            at = 1024 * i + s
            totals[i, s] = np.int64(tallies[at]) + tallies[at + 256] + tallies[at + 512]
            totals[i, s] += tallies[at + 768]
