"""The decoding side of images."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.adaptive import code
from densor.codec.image.gradient import levels, planes_of, work_on
from densor.codec.image.params import GRADIENT, MAX_MIXED, Model, parse, restore
from densor.codec.image.zoom import NONE, enlarge, reduced_size
from densor.codec.interfaces import ChunkDecoder
from densor.entropy.rans.constants import FIRST
from densor.entropy.rans.decode import decode_table
from densor.errors import FormatError, LimitError


class GradientDecoder(ChunkDecoder):
    """Decodes rows of one model by the fast method. Safe to use from several threads at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._table = decode_table(model.freqs)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        model = self._model
        shape = model.shape(out.size)
        count = model.wavefront * shape.channels
        if shape.rows * shape.stride != out.size or not out.size:
            raise FormatError("image chunk does not have whole rows")
        if payload.size < 4 * count:
            raise FormatError("image chunk is too short")
        payload = np.ascontiguousarray(payload)
        states = payload[: 4 * count].copy().view("<u4").astype(np.int64)
        if (states < FIRST).any():
            raise FormatError("image chunk begins with an impossible state")
        work = work_on(shape, planes_of(shape), model.wavefront, False)
        at = kernels.take_rows(
            *(shape, work, levels(model.scale), model.scale, model.wavefront),
            *(payload, 4 * count, states, self._table),
        )
        if at != payload.size or (states != FIRST).any():
            raise FormatError("image chunk does not end with its last sample")
        kernels.join_rows(shape, work.planes, out)
        restore(model, out)


class MixingDecoder(ChunkDecoder):
    """Decodes rows of a model that adapts. Safe to use from several threads at once."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        if out.size % self._model.layout.stride or not out.size:
            raise FormatError("image chunk does not have whole rows")
        if out.size > MAX_MIXED:
            raise LimitError(f"image chunk has more than {MAX_MIXED} bytes")
        payload = np.require(payload, np.uint8, ["C", "W"])  # as the kernel's signature has it
        if code(False, self._model, payload, out) != payload.size:
            raise FormatError("image chunk does not decode to its end")
        restore(self._model, out)


class ZoomedDecoder(ChunkDecoder):
    """Decodes rows of which each pixel is there several times."""

    def __init__(self, model: Model, decoder: ChunkDecoder) -> None:
        self._model, self._decoder = model, decoder

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        layout, zoom = self._model.layout, self._model.zoom
        small = np.empty(reduced_size(layout, zoom, out.size), np.uint8)
        self._decoder.decode(payload, small)
        enlarge(layout, zoom, small, out)


def open_decoder(payload: bytes, _: object = None) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or LimitError for a bad one."""
    model = parse(payload)
    decoder = GradientDecoder(model) if model.method == GRADIENT else MixingDecoder(model)
    return decoder if model.zoom == NONE else ZoomedDecoder(model, decoder)
