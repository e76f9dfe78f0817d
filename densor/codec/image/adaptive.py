"""Coding of rows under models that adapt to each sample, in either direction."""

from densor.codec.batch import Bytes
from densor.codec.image import mixing_state, residual_state
from densor.codec.image.params import RESIDUAL, Model


def code(coding: bool, model: Model, data: Bytes, content: Bytes) -> int:
    """Codes rows, all of `content`, to `data` or back; returns where the stream ends.

    That may be beyond the bytes of `data`. Both are writable.
    """
    by = residual_state.code if model.method == RESIDUAL else mixing_state.code
    return by(coding, model, data, content)
