"""State and constant tables of the kernel, and a chunk's tokens through it."""

from functools import cache

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.tokens.params import PLACES, ROOM, SPECIAL_BITS, Parameters
from densor.entropy.deferred import deferred
from densor.errors import FormatError

code_tokens = deferred("densor.codec.tokens.kernels", "code_tokens")

Tokens = npt.NDArray[np.uint32]
_FLAGS = 1 << 16
_MAX_TABLES = 32  # distributions by row
_WEIGHTS = (0, 18, 20, 22, 24, 26, 27, 28, 28)  # of the context's node, of 32, by bits of its count
_SHIFTS = ((2, 2), (4, 3), (12, 4), (40, 5), (256, 6))  # up to which count, shift


@cache
def _constants() -> tuple[npt.NDArray[np.int64], Bytes, Bytes, Bytes, Bytes]:
    """Rates of flags, levels of counts, shifts and weights of nodes, and what digits move to."""
    rates = np.array([(65536 * 5) // (5 * n + 8) for n in range(1024)], np.int64)
    levels = np.array([c if c < 3 else 3 if c < 5 else 4 if c < 9 else 5 for c in range(64)])
    shifts = np.array([next(s for most, s in _SHIFTS if n < most) for n in range(256)])
    weights = np.array([_WEIGHTS[min((n + 1).bit_length() - 1, 8)] for n in range(256)])
    k = np.arange(16)
    targets = (k + 65520 * (k > k[:, None])).astype("<u2").view(np.uint8).reshape(-1)
    small = [table.astype(np.uint8) for table in (levels, shifts, weights)]
    return rates, small[0], small[1], small[2], targets


def _nodes(count: int) -> Bytes:
    """So many nodes of 16 equally likely digits."""
    nodes = np.empty((count, 16), "<u2")
    nodes[:] = np.arange(16) * 4096
    return nodes.view(np.uint8).reshape(-1)


def run(encoding: bool, parameters: Parameters, tokens: Tokens, stream: Bytes) -> int:
    """Codes a chunk's tokens, or fills them; what `code_tokens` returns."""
    p, rates = parameters, _constants()
    rows, columns = p.shape_of(tokens.size)
    per_row = (16**p.digits - 1) // 15
    tables = min(rows, _MAX_TABLES) if p.digits <= 3 else 1
    slots = [np.zeros(2 << min(p.bits, 16), np.uint32)]
    slots += [np.zeros(PLACES << p.bits, np.uint32) for _ in range(2)]
    return int(
        code_tokens(
            *(encoding, tokens, rows, columns, p.digits, stream, *slots),
            np.zeros(1 << p.bits, np.uint32),
            np.full(_FLAGS + (1 << min(p.bits, SPECIAL_BITS)), 1 << 31, np.uint32),
            *(_nodes(tables * per_row), _nodes(1 << p.bits)),
            *(np.zeros(16, np.uint32), *rates),
        )
    )


def coded(parameters: Parameters, tokens: Tokens, most: int) -> Bytes | None:
    """The stream of a chunk's tokens; None where it takes `most` bytes or more."""
    stream = np.empty(most + ROOM, np.uint8)
    end = run(True, parameters, tokens, stream)
    return stream[:end] if 0 <= end < most else None


def decoded(parameters: Parameters, stream: Bytes, tokens: Tokens) -> None:
    """Fills `tokens` from the stream of a chunk; FormatError if it does not fit."""
    if run(False, parameters, tokens, stream) != stream.size:
        raise FormatError("chunk of tokens does not decode to its end")
