"""Which columns the fast way of tables takes for functions of others."""

import numpy as np
from helpers import random_state

from densor.codec.table.contexts import Context, Parent, Values
from densor.codec.table.functions import MOST_ROWS, Functions


def _columns(keys: int, cells: int) -> tuple[list[Values | None], list[int]]:
    """A key, and what follows from it."""
    rng = random_state("functions", keys, cells)
    key = rng.integers(0, keys, MOST_ROWS).astype(np.int32)
    follows = rng.integers(0, cells, keys).astype(np.int32)[key]
    return [Values(key), Values(follows)], [keys, cells]


def test_keys_of_many_values_need_many_rows() -> None:
    columns, counts = _columns(1200, 200)
    few, many = (Functions(columns, counts, rows) for rows in (MOST_ROWS // 4, MOST_ROWS))
    assert not few.found
    assert many.found == {1: Context((Parent(0, 0),))}


def test_a_function_must_save_a_share_of_what_is_read_for_it() -> None:
    """Decoding a column of 300 cells for one of four is not worth while."""
    assert not Functions(*_columns(300, 4), MOST_ROWS).found
    assert Functions(*_columns(20, 4), MOST_ROWS).found
