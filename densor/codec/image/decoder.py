"""The decoding side of images."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.gradient import levels, planes_of, work_on
from densor.codec.image.params import Model, parse
from densor.entropy.rans.decode import decode_table
from densor.entropy.rans.kernels import FIRST
from densor.errors import FormatError


class GradientDecoder:
    """Decodes rows of one model. Safe to use from several threads at once."""

    weight = 1

    def __init__(self, model: Model) -> None:
        self._model = model
        self._table = decode_table(model.freqs)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        model = self._model
        shape = model.shape(out.size)
        if shape.rows * shape.stride != out.size:
            raise FormatError("image chunk does not have whole rows")
        count = model.lanes * shape.channels
        if payload.size < 4 * count:
            raise FormatError("image chunk is too short")
        payload = np.ascontiguousarray(payload)
        states = payload[: 4 * count].copy().view("<u4").astype(np.int64)
        if (states < FIRST).any():
            raise FormatError("image chunk begins with an impossible state")
        work = work_on(shape, planes_of(shape), model.lanes)
        at = kernels.take_rows(
            *(shape, work, levels(model.scale), model.scale, model.lanes),
            *(payload, 4 * count, states, self._table),
        )
        if at != payload.size or (states != FIRST).any():
            raise FormatError("image chunk does not end with its last sample")
        kernels.join_rows(shape, work.planes, out)
