"""Coding of rows under models that adapt to each sample, in either direction."""

from densor.codec.batch import Bytes
from densor.codec.image import mixing_state, residual_state
from densor.codec.image.params import RESIDUAL, Model


def code(coding: bool, model: Model, data: Bytes, content: Bytes) -> int:
    """Codes rows, all of `content`, to `data` or back; returns where the stream ends.

    That may be beyond the bytes of `data`. Both are writable.
    """
    method = residual_state if model.method == RESIDUAL else mixing_state
    return method.code(coding, model, data, content)
