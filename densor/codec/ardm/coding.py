"""The binding of the kernel, which proves its bounds.

Samples that are seen and the order are of the image by the geometry's construction, weights and
layers have the sizes that their shape gives, and streams lie within the data that are given.
"""

import numpy as np
import numpy.typing as npt

from densor.codec.ardm.model import VALUES, NetworkTables
from densor.entropy.deferred import Kernels
from densor.llm.tables import exp2_table

kernels = Kernels("densor.codec.ardm.kernels")

_ROWS = 4  # as in kernels
_LARGEST = 1 << 30  # weight of the most likely value


def code(
    coding: bool,
    tables: NetworkTables,
    images: npt.NDArray[np.uint8],
    data: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
) -> int:
    """Codes or decodes images, see `kernels.code_images`; returns how many were sound."""
    at, shape, layers = tables.geometry, tables.shape, tables.layers
    inputs = shape.inputs + shape.inputs % 2
    rows = np.zeros(_ROWS * (inputs + shape.first + shape.second), np.int16)
    done: int = kernels.code_images(
        *(coding, images, data, ends, ends.size - 1, at.order, at.calls, at.seen.ravel()),
        *(at.window, np.array([layer.places for layer in layers], np.int64)),
        *(layer.weights for layer in layers),
        *(layer.offsets for layer in layers),
        *(exp2_table(_LARGEST), rows, np.zeros(_ROWS * VALUES, np.int32)),
        *(np.zeros(VALUES + 1, np.int64), np.zeros(3, np.uint64)),
    )
    return done
