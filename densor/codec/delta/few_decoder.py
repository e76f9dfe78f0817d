"""The decoding side of changes of few elements. See docs/format/delta_few.md."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.delta.elements import by_size, is_aligned
from densor.codec.delta.few_params import FewParameters, first_seen
from densor.codec.delta.payload import NEAR, SUMS
from densor.errors import FormatError

_MAX_FIRST = 127
_STATE_BYTES = 8
_APPLY = by_size("few_apply_kernels", "apply")


def apply(few: FewParameters, payload: Bytes, data: Bytes) -> None:
    """Changes `data`, the bytes of the base, in place to what they become.

    `payload`: the code of the first factor and the stream. FormatError if it does not fit; the
    bytes are worth nothing then.
    """
    size = few.method.size
    if data.size % size or payload.size < 1 + _STATE_BYTES or (payload.size - 1) % 4:
        raise FormatError("chunk of changes has an impossible length")
    if payload[0] > _MAX_FIRST:
        raise FormatError("chunk of changes has an impossible factor")
    words = np.empty((payload.size - 1) // 4, np.uint32)
    words.view(np.uint8)[:] = payload[1:]
    target = data if is_aligned(data, size) else data.copy()
    if not _APPLY[size](
        target.view(f"u{size}"),
        words,
        few.shift,
        few.mask,
        few.rates,
        np.empty(NEAR, np.uint32),
        few.mapped,
        few.numbers,
        few.block_bits,
        first_seen(int(payload[0])),
        few.count_starts,
        few.token_starts,
        few.tokens.starts,
        few.tokens.counts,
        np.empty(SUMS, np.uint32),
        np.empty(256, np.uint8),
    ):
        raise FormatError("chunk of changes is malformed")
    if target is not data:
        data[:] = target
