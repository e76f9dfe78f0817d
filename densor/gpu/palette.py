"""BF16 matrices in a resident format of fixed width, and products with them; see palette.cu.

Larger than Huffman codes (about .76 of BF16 against .67) but every element is where it is, so that
a matrix–vector product reads the packed weights once and nothing is written but its result. The
weights it uses are those of the matrix, bit for bit; they are summed in another order than by other
libraries, so that sums differ in their last bits. The tests run all of it in the emulator; no GPU
has run it yet.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError
from densor.gpu.backend import Backend, upload
from densor.gpu.block import Block
from densor.gpu.tensors import Packed

Bits = npt.NDArray[np.uint16]
TILE = 256
ESCAPE = 15
BATCHES = (1, 2, 4, 8)
_THREADS = 256
_BLOCKS = 8  # of threads, per processor
MATRIX = np.dtype(
    [(f, "<u8") for f in ("palette", "ranks", "first_escapes", "escaped", "rest")]
    + [(f, "<u4") for f in ("rows", "columns", "tiles", "unused")]
)


class Parts(NamedTuple):
    """The arrays of the format; tiles are those of all rows, one after the other."""

    palette: npt.NDArray[np.uint8]  # uint8[16], exponents, the most frequent first
    ranks: npt.NDArray[np.uint32]  # uint32[tiles, 32], eight ranks of 4 bits each
    first_escapes: npt.NDArray[
        np.uint32
    ]  # uint32[tiles], index of a tile's first exponent in `escaped`
    escaped: npt.NDArray[np.uint8]  # exponents that are not in the palette, in order
    rest: npt.NDArray[np.uint8]  # uint8[tiles, 256], sign and mantissa


def split(bits: Bits) -> Parts:
    """The parts of a matrix of BF16 bits, uint16[rows, columns]."""
    rows, columns = bits.shape
    tiles = -(-columns // TILE)
    padded = np.zeros((rows, tiles * TILE), np.uint16)
    padded[:, :columns] = bits
    exponents = (padded >> 7).astype(np.uint8)
    counts = np.bincount((bits >> 7).astype(np.uint8).reshape(-1), minlength=256)
    palette = np.zeros(16, np.uint8)
    palette[:ESCAPE] = np.argsort(-counts, kind="stable")[:ESCAPE]
    rank_of = np.full(256, ESCAPE, np.uint8)
    rank_of[palette[:ESCAPE]] = np.arange(ESCAPE)
    ranks = rank_of[exponents]
    ranks[:, columns:] = 0
    by_tile = (ranks == ESCAPE).reshape(-1, TILE)
    first_escapes = np.cumsum(by_tile.sum(axis=1)) - by_tile.sum(axis=1)
    shifts = 4 * np.arange(8, dtype=np.uint32)
    packed = np.bitwise_or.reduce(ranks.reshape(-1, 8).astype(np.uint32) << shifts, axis=1)
    return Parts(
        palette,
        packed.astype(np.uint32).reshape(-1, 32),
        first_escapes.astype(np.uint32),
        exponents[ranks == ESCAPE],
        (padded >> 8 & 128 | padded & 127).astype(np.uint8).reshape(-1, TILE),
    )


class PaletteMatrix:
    """A matrix of BF16 in a backend's memory. `bits`: uint16[rows, columns]."""

    def __init__(self, bits: Bits, backend: Backend) -> None:
        if bits.ndim != 2 or bits.dtype != np.uint16:
            raise ArgumentError("a matrix of BF16 has two dimensions, its bits are of uint16")
        self.shape: tuple[int, int] = bits.shape
        rows, columns = bits.shape
        self._backend = backend
        parts = split(bits)
        self._memory = [upload(backend, part) for part in parts]
        pointers = [memory.pointer for memory in self._memory]
        described = np.array((*pointers, rows, columns, -(-columns // TILE), 0), MATRIX)
        self._described = upload(backend, described)
        self._tiles = rows * -(-columns // TILE)

    @classmethod
    def from_packed(cls, packed: Packed, backend: Backend) -> "PaletteMatrix":
        """From a packed tensor of two dimensions, which is decoded on the backend on the way."""
        (place,) = packed.tensors
        if place.dtype != "BF16" or len(place.shape) != 2:
            raise ArgumentError(f"{place.name}: is no matrix of BF16")
        out = backend.empty(packed.size)
        Block([packed], backend).decode_into([out])
        data = backend.read(out)[place.skip : place.skip + place.size]
        return cls(data.view("<u2").reshape(place.shape), backend)

    @property
    def resident(self) -> int:
        """Bytes of the backend's memory that it takes."""
        return sum(memory.size for memory in self._memory) + self._described.size

    def decode(self, out: Any = None) -> Any:
        """The matrix, in `out` or a new array of the backend."""
        if out is None:
            out = self._backend.new("BF16", self.shape)
        target = self._backend.wrap(out)
        if target.size < 2 * self.shape[0] * self.shape[1]:
            raise ArgumentError("memory is too small for the matrix")
        if self._tiles:
            blocks = min(-(-self._tiles // 8), _BLOCKS * self._backend.processors)
            args = [np.uint64(self._described.pointer), np.uint64(target.pointer)]
            self._backend.launch("palette_decode", blocks, _THREADS, args)
        return out

    def multiply(self, x: Any, out: Any = None) -> Any:
        """`x @ matrix.T`, of FP32: [batch, rows].

        `x`: BF16 [batch, columns] of the backend, contiguous, at a multiple of 16 bytes; batches of
        1, 2, 4 or 8, columns a multiple of 8. ArgumentError for anything else.
        """
        rows, columns = self.shape
        batch = int(x.shape[0]) if len(x.shape) == 2 else 0
        if batch not in BATCHES or x.shape[1] != columns or columns % 8:
            raise ArgumentError(
                f"x must be [batch, {columns}] for a batch of 1, 2, 4 or 8 and columns in eights"
            )
        if out is None:
            out = self._backend.new("F32", (batch, rows))
        source, target = self._backend.wrap(x), self._backend.wrap(out)
        fits = source.size == 2 * batch * columns and target.size == 4 * batch * rows
        if not fits or source.pointer % 16 or target.pointer % 4:
            raise ArgumentError("x must be of BF16 and the result of FP32, both aligned")
        if rows:
            args = [np.uint64(p) for p in (self._described.pointer, source.pointer, target.pointer)]
            blocks = min(-(-rows // 8), _BLOCKS * self._backend.processors)
            self._backend.launch(f"palette_product_{batch}", blocks, _THREADS, args)
        return out
