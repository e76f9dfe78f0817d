"""Images to streams under a model and back: the binding of the kernel, which proves its bounds.

Neighbours, links and parents are samples of the image by the geometry's construction, features and
leaves were checked when the circuit was parsed, and streams lie within the data that are given.
Those of a network go to `ardm.coding`.
"""

import numpy as np
import numpy.typing as npt

from densor.codec.ardm import coding as ardm
from densor.codec.ardm.model import NetworkTables
from densor.codec.circuit.model import Tables
from densor.entropy.deferred import Kernels
from densor.errors import FormatError

kernels = Kernels("densor.codec.circuit.kernels")

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
ImageTables = Tables | NetworkTables
_BYTES_OF_SAMPLE, _BYTES_OF_IMAGE = 5, 16  # of a stream, at most

_TOGETHER = 1 << 22  # samples that are measured at a time


def encode_images(tables: ImageTables, images: Bytes) -> tuple[Bytes, Places]:
    """The streams of uint8[count * samples], one after the other, and int64[count] their sizes."""
    samples = tables.size.samples
    count = images.size // samples
    data = np.empty(images.size * _BYTES_OF_SAMPLE + count * _BYTES_OF_IMAGE, np.uint8)
    ends = np.zeros(count + 1, np.int64)
    _code(True, tables, np.require(images, np.uint8, ["C", "W"]), data, ends)
    return data[: ends[-1]], np.diff(ends)


def decode_images(tables: ImageTables, data: Bytes, sizes: Places, out: Bytes) -> None:
    """Decodes streams of these sizes, which are all of `data`, into uint8[count * samples].

    FormatError for a stream that no image has.
    """
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if out.size != sizes.size * tables.size.samples or (sizes < 0).any() or ends[-1] != data.size:
        raise FormatError("streams of images do not fit")
    images = out if out.flags.c_contiguous else np.empty(out.size, np.uint8)
    done = _code(False, tables, images, np.require(data, np.uint8, ["C", "W"]), ends)
    if done != sizes.size:
        raise FormatError("stream of an image does not decode to its end")
    if images is not out:
        out[:] = images


def bytes_of(tables: ImageTables, images: Bytes) -> int:
    """Bytes of the streams of uint8[count, samples]."""
    step = max(1, _TOGETHER // tables.size.samples)
    parts = (images[at : at + step].ravel() for at in range(0, len(images), step))
    return sum(encode_images(tables, part)[0].size for part in parts)


def _code(coding: bool, tables: ImageTables, images: Bytes, data: Bytes, ends: Places) -> int:
    if isinstance(tables, NetworkTables):
        return ardm.code(coding, tables, images, data, ends)
    at, states = tables.geometry, tables.states
    work = np.zeros((2 * tables.size.samples + 2) * states + 4, np.int64)
    done: int = kernels.code_images(
        *(coding, images, data, ends, ends.size - 1, states, tables.residual),
        *(at.order, at.ended, at.parents, at.near.ravel(), at.links.ravel(), tables.weights),
        *(tables.features, tables.thresholds, tables.upper, tables.ends, tables.inner),
        *(tables.prior, tables.emissions, tables.transitions, work, np.zeros(3, np.uint64)),
    )
    return done
