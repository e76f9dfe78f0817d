"""Matrices of BF16 or FP16, packed for products; the bounds of what the kernels read and write.

Elements are uint16 everywhere here: numpy has no BF16.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, ChecksumError
from densor.products import entry_kernels as entry
from densor.products import kernels
from densor.products.kernels import ROWS, Layout
from densor.products.team import TEAM, parts_for, threads_of
from densor.products.vector_kernels import COLUMNS

Words = npt.NDArray[np.uint16]
MAX_TOKENS = 8  # inputs that are multiplied at a time
_EDGE = 64
_MAX_ESCAPES = 1 << 32
_SAMPLE_ROWS = 64
_CHECKED_BYTES = 1 << 24  # that are unpacked and compared at a time


class Products(NamedTuple):
    """What a job of products is about, besides the matrix: addresses, and strides in bytes.

    Inputs are rows of as many elements as the matrix has columns, in whole tiles. `bias`: one
    element for each row, or 0.
    """

    inputs: int
    outputs: int
    bias: int
    tokens: int
    input_stride: int
    output_stride: int


def best_layout(half_floats: bool) -> Layout:
    """The layout that is fastest on this processor."""
    if half_floats:
        return entry.FP16_3
    return entry.BF16_3 if _expands_bytes() else entry.BF16_4


def _expands_bytes() -> bool:
    """Whether code is generated for AVX-512 VBMI2, which puts escapes in their place at once."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return "+avx512vbmi2" in features.split(",")


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    memory = np.zeros(size + _EDGE, np.uint8)
    skip = -memory.ctypes.data % _EDGE
    return memory[skip : skip + size]


class Matrix:
    """A matrix in one of the layouts, [rows, columns]; immutable.

    `memory`: all that it takes, uint8. `nbytes`: the size of that.
    """

    def __init__(self, words: Words, layout: Layout | None = None, threads: int = 0) -> None:
        """Packs `words`, or, for a plain layout, copies them into whole tiles.

        ArgumentError for what is no matrix with elements, ChecksumError if what was packed is not
        what it was, which is compared bit for bit.
        """
        if words.ndim != 2 or words.dtype != np.uint16 or not words.size:
            raise ArgumentError("a matrix to multiply has two dimensions, and elements of 16 bits")
        self.layout = best_layout(False) if layout is None else layout
        self.rows, self.columns = words.shape
        self.tiles = -(-self.columns // COLUMNS)
        self.threads = threads
        self._job = np.zeros(kernels.FIELDS, np.int64)
        self._job[kernels.TILES] = self.tiles
        self._job[kernels.MATRIX_ROWS] = self.rows
        self._job[kernels.MATRIX_COLUMNS] = self.columns
        if self.layout.plain:
            self._take(words)
        else:
            self._pack(np.ascontiguousarray(words))

    def __deepcopy__(self, memo: Any) -> "Matrix":
        return self

    def __reduce__(self) -> Any:
        return Matrix, (self.unpack(), self.layout, self.threads)

    def _take(self, words: Words) -> None:
        self.memory = _aligned(self.rows * self.tiles * 2 * COLUMNS)
        held = self.memory.view(np.uint16).reshape(self.rows, -1)
        held[:, : self.columns] = words
        self._job[kernels.PACKED] = self.memory.ctypes.data

    def _pack(self, words: Words) -> None:
        layout, rows = self.layout, -(-self.rows // ROWS) * ROWS
        chosen = _commonest(words, layout)
        palette = np.tile(_in_palette(chosen, layout), 4)
        sizes = [_EDGE, 4 * rows, rows // ROWS * self.tiles * layout.tile_bytes]
        begins = np.cumsum([0, *(-(-size // _EDGE) * _EDGE for size in sizes)]).tolist()
        starts = np.zeros(rows, np.uint32)
        self._job[kernels.FILLER] = chosen[0] << (10 if layout.half_floats else 7)
        self._job[kernels.PALETTE] = palette.ctypes.data
        self._job[kernels.STARTS] = starts.ctypes.data
        self._job[kernels.INPUT] = words.ctypes.data
        self._run("count", rows // ROWS, words.nbytes)
        ends = np.cumsum(starts, dtype=np.int64)
        escaped = int(ends[-1])
        if escaped >= _MAX_ESCAPES:
            raise ArgumentError("a matrix with so many different exponents is not packed")
        self.memory = _aligned(begins[-1] + escaped + _EDGE)
        self.memory[:_EDGE] = palette
        held = self.memory[begins[1] : begins[1] + 4 * rows].view(np.uint32)
        held[0], held[1:] = 0, ends[:-1]
        for field, begin in zip(
            (kernels.PALETTE, kernels.STARTS, kernels.PACKED, kernels.ESCAPES), begins, strict=True
        ):
            self._job[field] = self.memory.ctypes.data + begin
        self._run("pack", rows // ROWS, words.nbytes)
        self._job[kernels.INPUT] = 0
        self._check(words)

    def _check(self, words: Words) -> None:
        """ChecksumError unless the matrix is what was packed."""
        step = max(1, _CHECKED_BYTES // (2 * self.columns))
        for begin in range(0, self.rows, step):
            some = words[begin : begin + step]
            if not np.array_equal(self.unpack(begin, begin + len(some)), some):
                raise ChecksumError("a packed matrix is not what was packed")

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.memory.nbytes

    def _run(self, what: str, groups: int, work: int) -> None:
        threads = threads_of(self.threads)
        parts = self._job[kernels.PARTS] = parts_for(groups, work, threads)
        TEAM.run(entry.address(self.layout, what), self._job.ctypes.data, int(parts), threads)

    def unpack(self, begin: int = 0, end: int | None = None, out: Words | None = None) -> Words:
        """Rows `begin` to `end`, [end - begin, columns], in `out` or new memory."""
        rows = np.arange(begin, self.rows if end is None else end, dtype=np.int64)
        return self.gather(rows, out)

    def gather(self, numbers: npt.NDArray[np.int64], out: Words | None = None) -> Words:
        """Rows by their numbers, [numbers, columns], in `out` or new memory.

        IndexError for a number of no row.
        """
        numbers = np.ascontiguousarray(numbers, np.int64).reshape(-1)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < self.rows):
            raise IndexError("number of no row")
        if out is None:
            out = np.empty((numbers.size, self.columns), np.uint16)
        if out.shape != (numbers.size, self.columns) or not out.flags.c_contiguous:
            raise ArgumentError("out must be a contiguous matrix of the rows")
        if out.dtype != np.uint16 or not out.flags.writeable:
            raise ArgumentError("out must take elements of 16 bits")
        if self.layout.plain:
            held = self.memory.view(np.uint16).reshape(self.rows, -1)
            np.take(held[:, : self.columns], numbers, axis=0, out=out)
        elif numbers.size:
            self._gather(numbers, out)
        return out

    def _gather(self, numbers: npt.NDArray[np.int64], out: Words) -> None:
        job = self._job.copy()  # other threads multiply by this matrix meanwhile
        threads = threads_of(self.threads)
        parts = parts_for(numbers.size, out.nbytes, threads)
        job[kernels.OUTPUT], job[kernels.OUTPUT_STRIDE] = out.ctypes.data, 2 * self.columns
        job[kernels.BIAS], job[kernels.TOKENS] = numbers.ctypes.data, numbers.size
        job[kernels.PARTS] = parts
        function = entry.address(self.layout, "gather")
        TEAM.run(function, job.ctypes.data, parts, threads)

    def multiply(self, given: Products, threads: int) -> None:
        """Products with 1 to 8 inputs; who calls answers for the memory at these addresses."""
        job = self._job.copy()
        parts = parts_for(-(-self.rows // ROWS), self.memory.nbytes, threads)
        job[kernels.PARTS : kernels.OUTPUT_STRIDE + 1] = (parts, *given)
        function = entry.product_address(self.layout, given.tokens)
        TEAM.run(function, job.ctypes.data, parts, threads)

    def times(self, inputs: Words, bias: Words | None = None, threads: int = 0) -> Words:
        """Rows of `inputs`, [tokens, columns], times the transpose, plus the bias: [tokens, rows].

        All rounded to the elements' type.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.columns or inputs.dtype != np.uint16:
            raise ArgumentError(f"inputs must be rows of {self.columns} elements of 16 bits")
        if bias is not None and (bias.shape != (self.rows,) or bias.dtype != np.uint16):
            raise ArgumentError(f"the bias must have {self.rows} elements of 16 bits")
        padded = np.zeros((len(inputs), self.tiles * COLUMNS), np.uint16)
        padded[:, : self.columns] = inputs
        bias = None if bias is None else np.ascontiguousarray(bias)
        out = np.empty((len(inputs), self.rows), np.uint16)
        for begin in range(0, len(inputs), MAX_TOKENS):
            some = padded[begin : begin + MAX_TOKENS]
            given = Products(
                some.ctypes.data,
                out[begin:].ctypes.data,
                0 if bias is None else bias.ctypes.data,
                len(some),
                padded.strides[0],
                out.strides[0],
            )
            self.multiply(given, threads_of(threads))
        return out


def _commonest(words: Words, layout: Layout) -> npt.NDArray[np.uint8]:
    """The commonest exponents of a matrix, by some of its rows, ascending."""
    sample = words[:: max(1, len(words) // _SAMPLE_ROWS)].reshape(-1)
    exponents = sample >> 10 & 31 if layout.half_floats else sample >> 7 & 255
    counts = np.bincount(exponents, minlength=256)
    chosen = np.argsort(-counts, kind="stable")[: layout.escape]
    return np.sort(chosen).astype(np.uint8)


def _in_palette(chosen: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.uint8]:
    """16 bytes of the palette."""
    found = np.zeros(16, np.uint8)
    found[: chosen.size] = chosen << 2 if layout.half_floats else chosen >> 1 | (chosen & 1) << 7
    return found
