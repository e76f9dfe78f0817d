"""Types that every part of the package speaks of."""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
