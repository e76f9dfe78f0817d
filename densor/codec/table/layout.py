"""How a table lies in a text."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

MAX_COLUMNS = 4096
MAX_CELLS = 1 << 23  # of a chunk
MAX_BYTES = 1 << 25  # of a chunk


@dataclass(frozen=True)
class Layout:
    """Rows of `columns` cells with a separator between them, a byte.

    `returns`: lines end with a carriage return and a line feed, else with the latter alone.
    `quote`: a byte that cells may stand between, 0 for none. `names`: the first line with its end,
    where it tells what the columns are called.
    """

    columns: int
    separator: int = 44
    returns: bool = False
    quote: int = 34
    names: bytes = b""
