"""Arrays that begin with a cache line."""

import numpy as np

from densor.runtime.cache_lines import in_lines


def test_arrays_begin_with_a_line() -> None:
    row = np.arange(32, dtype=np.uint16)
    for count in (1, 3, 1000):
        array = in_lines((count, 32), np.uint16, row)
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous and array.flags.writeable
        assert array.shape == (count, 32) and array.dtype == np.uint16
        assert (array == row).all()


def test_all_elements_are_alike() -> None:
    array = in_lines((17,), np.uint32, 1 << 31)
    assert array.ctypes.data % 64 == 0
    assert array.tolist() == [1 << 31] * 17
