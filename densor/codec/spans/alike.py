"""Small tensors of one kind coded together: a chunk for each, under parameters that all share."""

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.kind import Kind
from densor.codec.levels import Level
from densor.codec.spans import table as t
from densor.codec.spans.encode import EncodedSpan, encode_batch
from densor.codec.spans.table import Bytes, Numbers
from densor.entropy.deferred import deferred

bytes_apart, head_frames = deferred(
    "densor.codec.spans.alike_kernels", "bytes_apart", "head_frames"
)

MIN_ELEMENTS = 64  # of a tensor
MAX_BYTES = 1 << 12  # of one; of larger ones, parameters of their own do not count
_MAX_ELEMENTS = MAX_BYTES
LOG_SHIFT = 40  # of the kernel's logarithms, bits in fixed point
_local = threading.local()


class Alike(NamedTuple):
    """Tensors that share `parameters`. `payloads`: of each its chunk.

    `raw`: whether that is the tensor as it is; `closer`: whether it may take less by itself.
    """

    parameters: bytes
    payloads: list[Bytes]
    raw: list[bool]
    closer: list[bool]


def run_of(kind: Kind, size: int) -> int | None:
    """Elements of a run of a tensor of `size` bytes that may be coded so; None for others."""
    layout = kind.layout
    if layout is None or not kind.parts or size > MAX_BYTES:
        return None
    elements = size // layout.size
    if elements < MIN_ELEMENTS or elements * layout.size != size:
        return None
    return kind.run if kind.run >= MIN_ELEMENTS and elements % kind.run == 0 else elements


def encode_alike(data: Bytes, size: int, kind: Kind, level: Level) -> Alike | None:
    """Codes tensors of `size` bytes each, which lie in `data` one behind the other.

    None where they are not for this encoder, or take no less than by themselves.
    """
    layout, run = kind.layout, run_of(kind, size)
    assert layout is not None and run is not None
    elements = size // layout.size
    rows, careful = elements // run, level.try_zstd
    coded = encode_batch(data, layout.number, run, rows, level.classes, careful, noise=0.0)
    if coded is None or coded.parameters is None:
        return None
    stored = coded.made[:, 1]
    apart = np.empty(stored.size, np.int64)
    arrays = _work()
    bytes_apart(data, layout.number, layout.size, elements, run, apart, *arrays)
    shared = int(stored.sum()) + registry.FRAME_SIZE + len(coded.parameters)
    if shared >= int(apart.sum()):
        return None
    return Alike(
        coded.parameters, _payloads(coded), (coded.made[:, 2] == 0).tolist(),
        (apart < stored).tolist(),
    )  # fmt: skip


def _payloads(coded: EncodedSpan) -> list[Bytes]:
    begins = coded.made[:, 0] + t.FRAME
    places = zip(begins.tolist(), (begins + coded.made[:, 1]).tolist(), strict=True)
    return [coded.frames[begin:end] for begin, end in places]


def _work() -> tuple[npt.NDArray[Any], ...]:
    """Work space of this thread."""
    work: tuple[npt.NDArray[Any], ...] | None = getattr(_local, "work", None)
    if work is None:
        counts = np.arange(_MAX_ELEMENTS + 1)
        work = _local.work = (
            np.empty(MAX_BYTES + 64, np.uint8),
            np.empty(1024, np.uint64),
            np.empty(1024, np.uint32),
            np.empty(8, np.int64),
            np.rint(counts * np.log2(np.maximum(counts, 1)) * 2.0**LOG_SHIFT).astype(np.int64),
            np.empty(t.EDGE, np.uint8),
        )
    return work


def with_heads(
    frames: list[bytes | Bytes],
    kinds: Numbers,
    models: Numbers,
    stored: Numbers,
    original: Numbers,
) -> bytearray:
    """Frames one behind the other, made of their payloads and what their headers say, int64[]."""
    head = bytes(t.FRAME)
    pieces: list[bytes | Bytes] = [head] * (2 * len(frames))
    pieces[1::2] = frames
    out = bytearray().join(pieces)
    head_frames(np.frombuffer(out, np.uint8), kinds, models, stored, original)
    return out
