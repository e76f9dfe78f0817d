"""The coding side of images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import ChunkEncoder, CountingEncoder
from densor.codec.image import kernels
from densor.codec.image.adaptive import code
from densor.codec.image.fitting import (
    Modelled,
    bits_by_gradients,
    gradient_model,
    mixing_model,
    modelled,
    plain_bits,
    share_of_plain,
)
from densor.codec.image.layout import Layout
from densor.codec.image.params import CONTEXTS, pack_model, reduced
from densor.codec.image.zoom import NONE, Zoom, find_zoom, reduce, reduced_layout
from densor.codec.interfaces import Estimate
from densor.codec.levels import Level
from densor.entropy.rans.constants import FIRST
from densor.entropy.rans.encode import encode_table
from densor.entropy.rans.tables import quantise

MAX_PARAMETERS = 1 << 11  # bytes, mostly
MAX_SHARE_OF_GUESS = 0.9  # of what samples by themselves take, see `share_of_plain`
MIXING_SAMPLE = 1 << 15  # bytes
SMALL_IMAGE = 1 << 12  # pixels of one of a stack
MIN_BITS_OF_RESIDUALS = 0.3  # of a sample, by gradients
# Contexts and steps of context mixing; residuals by decisions have no such contexts
FULL, LIGHT, RESIDUALS = (16, 4), (3, 3), (0, 2)


class GradientEncoder(CountingEncoder):
    """An `Encoder` by the fast method. `share`: what is expected of plain bytes."""

    def __init__(self, batch: Batch, level: Level, layout: Layout, share: float) -> None:
        zoom = find_zoom(layout, batch.data, batch.chunk_bytes)
        super().__init__(GradientCoder(layout, batch.data, zoom), batch, level.zstd)
        self._share = share

    def estimate(self) -> Estimate:
        """By some rows, and what parameters take at most."""
        size = self.batch.data.size
        return Estimate(self._share * size + MAX_PARAMETERS, size)


class MixingEncoder(ChunkEncoder):
    """An `Encoder` by models that adapt. `share`: what is expected of plain bytes, or more."""

    def __init__(self, batch: Batch, level: Level, layout: Layout, share: float) -> None:
        zoom = find_zoom(layout, batch.data, batch.chunk_bytes)
        super().__init__(mixing_coder(layout, batch.data, level, zoom), batch, level.zstd)
        self._share = share

    def estimate(self) -> Estimate:
        """By some rows under the fast method, and what parameters take at most."""
        size = self.batch.data.size
        return Estimate(self._share * size + MAX_PARAMETERS, size)


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for rows of an image; None where an array does not look like one.

    Nor is there one for padding that is not zero.
    """
    layout = batch.kind.image
    assert layout is not None
    share = share_of_plain(layout, batch.data)
    unlike = batch.kind.guessed and share > MAX_SHARE_OF_GUESS
    if unlike and (level.images == "gradient" or not _mixes_well(layout, batch.data, level)):
        return None
    if layout.padding and batch.data.reshape(-1, layout.stride)[:, -layout.padding :].any():
        return None
    if level.images == "gradient":
        return GradientEncoder(batch, level, layout, share)
    return MixingEncoder(batch, level, layout, share)


def _mixes_well(layout: Layout, data: Bytes, level: Level) -> bool:
    """Whether rows that gradients do not suit, such as those of scans or digits, suit mixing."""
    count = max(1, MIXING_SAMPLE // layout.stride) * layout.stride
    begin = max(0, data.size - count) // 2 // layout.stride * layout.stride
    some = data[begin : begin + count]
    coded = mixing_coder(layout, some, level).encode(some, 0)
    return 8 * coded.size < MAX_SHARE_OF_GUESS * plain_bits(layout, some)


def mixing_coder(layout: Layout, data: Bytes, level: Level, zoom: Zoom = NONE) -> "MixingCoder":
    """The coder of a level that has models that adapt.

    Drawings and stacks of small images have little for decisions about residuals to learn from.
    """
    if level.images == "full":
        return MixingCoder(layout, data, *FULL, zoom)
    stacked = (
        0 < layout.height * layout.width <= SMALL_IMAGE
        and layout.height * layout.stride < data.size
    )
    few = stacked or bits_by_gradients(layout, data) < MIN_BITS_OF_RESIDUALS
    return MixingCoder(layout, data, *(LIGHT if few else RESIDUALS), zoom)


class GradientCoder:
    """A `BatchCoder` of rows by the fast method. `data`: all of the batch, or its larger part."""

    repeats = True

    def __init__(self, layout: Layout, data: Bytes, zoom: Zoom = NONE) -> None:
        small = reduced_layout(layout, zoom)
        self._layout, self._zoom = layout, zoom
        self._model = replace(gradient_model(small, reduce(layout, zoom, data)), zoom=zoom)
        self._starts = np.empty(0, np.uint32)
        self._tallies: Sequence[Modelled] = ()

    def count(self, chunk: Bytes) -> Modelled:
        """Tokens and contexts of a chunk."""
        return modelled(self._model, reduce(self._layout, self._zoom, chunk))

    def decide(self, tallies: Sequence[Modelled]) -> None:
        """Settles the frequencies."""
        self._tallies = tallies
        counts: npt.NDArray[np.int64] = np.zeros((CONTEXTS, 256), np.int64)
        for tally in tallies:
            counts += tally.counts()
        self._model = replace(self._model, freqs=quantise(counts))
        self._starts = encode_table(self._model.freqs)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack_model(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        found = self._tallies[index]
        model = self._model
        states = np.full(model.wavefront * model.layout.channels, FIRST, np.int64)
        words = np.empty(4 * (found.tokens.size + states.size + 4), np.uint8)
        shape = model.shape(chunk.size // self._zoom.factor)
        at = int(kernels.put_rows(shape, model.wavefront, *found, self._starts, states, words))
        at -= 4 * states.size
        words[at : at + 4 * states.size] = states.astype("<u4").view(np.uint8)
        return words[at:]


class MixingCoder:
    """A `ChunkCoder` of rows under a model that adapts within each chunk.

    `data`: all of the batch; `contexts`, `steps`: see `mixing.Image`, of residuals without
    contexts; `zoom`: of all rows.
    """

    repeats = True

    def __init__(
        self, layout: Layout, data: Bytes, contexts: int, steps: int, zoom: Zoom = NONE
    ) -> None:
        small, some = reduced_layout(layout, zoom), reduce(layout, zoom, data)
        self._layout, self._zoom = layout, zoom
        self._model = replace(mixing_model(small, some, contexts, steps), zoom=zoom)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack_model(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a chunk; the chunk itself where that is not longer."""
        small = reduced(self._model, reduce(self._layout, self._zoom, chunk))
        data = np.empty(chunk.size, np.uint8)
        size = code(True, self._model, data, np.require(small, None, "W"))
        return data[:size] if size < chunk.size else chunk
