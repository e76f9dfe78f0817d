"""What the span decoder of rANS is given beside the table of chunks: parameters as arrays."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes import params as planes
from densor.codec.scale_context import params as scales
from densor.codec.spans.table import Numbers
from densor.entropy.rans.tables import Freqs

BLOCK = 1 << 13  # elements whose symbols are decoded before they are made elements

# Columns of `heads`: what kind of parameters, whether chunks of them are decoded here, bytes of an
# element (of its half, if it has halves), scratch bytes per element; the context that `tables`
# begins with, and which of two parts of it these are
KIND, MINE, SIZE, ROOM, TABLES, PART = range(6)
LAYOUT, RUN, DELTA = range(6, 9)  # of planes
FORM, LOW, PHASE, TOP, EXPONENT = range(9, 14)  # of scale contexts, as in `Alphabet.rule`
FIRST_EXPONENT, MAIN, LOW_EXPONENTS, REST_BYTES, SIGN_BYTES = range(14, 19)
HALF, LOW_MODEL = 19, 20  # whether elements have halves; the row of the parameters of low ones
FIRST = 21  # the first context of each plane, and the end
HEADS = FIRST + 9
PLANAR, MATRICES = 0, 1  # kinds
FORM_BF16, FORM_FP16, FORM_FP8 = range(3)
CONTEXTS = 8 * planes.MAX_CLASSES + (1 << scales.MAX_PHASE) + 2  # of a set, at most

# Columns of the kernel's state of a chunk
AT, END, NEXT, PAYLOAD_END, SECTIONS, ELEMENTS, ERROR = range(7)
BASE, MATRIX_COUNT, CODED, ESCAPES, REST, SIGNS, SIGNS_END, BIT = range(7, 15)
MATRIX_AT = 15
PLANES, RUNS = 16, 24  # addresses
READY, PLACES, BUILT = 32, 33, 35  # of both chunks, in the first row
STATE = BUILT + 16

# Errors of a chunk, beside those of planes and of `table`
STREAM_SHORT, STREAM_BEGIN, STREAM_END, STREAM_LEFT = range(48, 52)
HEAD_SHORT, MATRIX, MATRICES_MANY, MATRICES_FEW = range(52, 56)
SECTIONS_LENGTH, ESCAPES_LENGTH, LOW_LENGTH = range(56, 59)
ERRORS = {
    STREAM_SHORT: "rANS stream is too short",
    STREAM_BEGIN: "rANS stream begins with an impossible state",
    STREAM_END: "rANS stream ends before its last symbol",
    STREAM_LEFT: "rANS stream does not end with its last symbol",
    HEAD_SHORT: "chunk is too short",
    MATRIX: "chunk has an impossible matrix",
    MATRICES_MANY: "chunk has more matrices than elements",
    MATRICES_FEW: "chunk has more elements than its matrices",
    SECTIONS_LENGTH: "sections of a chunk do not fit its payload",
    ESCAPES_LENGTH: "chunk does not hold just the bits that its symbols need",
    LOW_LENGTH: "low halves of a chunk have the wrong length",
}


@dataclass(frozen=True, eq=False)
class RansParameters:
    """Parsed parameters of scale contexts, and of planes under rANS, as the kernel reads them."""

    numbers: Numbers  # int64[parameters], in rising order: what frame headers call them
    heads: Numbers  # int64[parameters and those of low halves, HEADS]
    freqs: Freqs  # uint16[contexts, 256], of all
    contexts: int  # of one set, at most
    serial: int = field(default_factory=itertools.count().__next__)

    @property
    def weight(self) -> int:
        """Bytes."""
        return self.heads.nbytes + self.freqs.nbytes

    @classmethod
    def of(cls, models: Mapping[int, Any]) -> "RansParameters":
        """`models`: `Parameters` of either codec, by the number that frame headers name."""
        numbers = sorted(models)
        packer = _Packer(len(numbers))
        for row, number in enumerate(numbers):
            packer.add(row, models[number])
        freqs = np.concatenate(packer.freqs)
        return cls(
            np.array(numbers, np.int64),
            np.array(packer.heads, np.int64).reshape(-1, HEADS),
            freqs,
            packer.most,
        )


class _Packer:
    """Rows of `heads`, and the frequencies that they refer to."""

    def __init__(self, count: int) -> None:
        self.heads = [np.zeros(HEADS, np.int64) for _ in range(count)]
        self.freqs: list[Freqs] = [np.zeros((0, 256), np.uint16)]
        self.most = 0
        self._contexts = 0

    def add(self, row: int, model: Any) -> None:
        begin = self._contexts
        if isinstance(model, scales.Parameters):
            self._matrices(self.heads[row], model)
        else:
            self._planes(self.heads[row], model, begin, 0)
        self.most = max(self.most, self._contexts - begin)

    def _take(self, freqs: Freqs) -> int:
        """Appends frequencies; how many contexts there are now."""
        self.freqs.append(freqs)
        self._contexts += len(freqs)
        return self._contexts

    def _planes(
        self, head: npt.NDArray[np.int64], model: planes.Parameters[Freqs], tables: int, part: int
    ) -> None:
        head[KIND], head[MINE] = PLANAR, 1
        head[SIZE] = head[ROOM] = model.layout.size
        head[TABLES], head[PART] = tables, part
        head[LAYOUT], head[RUN], head[DELTA] = model.layout.number, model.run, model.delta
        head[FIRST:] = self._contexts
        for p, freqs in enumerate(model.planes):
            if freqs is not None:
                head[FIRST + p + 1 :] = self._take(freqs)

    def _matrices(self, head: npt.NDArray[np.int64], model: scales.Parameters) -> None:
        form, alphabet = model.form, model.alphabet
        head[KIND], head[MINE], head[SIZE] = MATRICES, 1, form.coded_size
        head[ROOM] = 6 if form.half else 4
        head[TABLES] = self._contexts
        head[FORM] = _form(form.coded_size, form.exponent)
        rule = alphabet.rule(form, 0)
        _, head[LOW], head[PHASE], head[TOP], head[EXPONENT], _, *rest = rule
        head[FIRST_EXPONENT], head[MAIN], head[LOW_EXPONENTS] = rest
        head[REST_BYTES], head[SIGN_BYTES] = form.rest, form.signs
        head[HALF], head[LOW_MODEL] = form.half, -1
        head[FIRST] = self._contexts
        head[FIRST + 1 :] = self._take(model.freqs)
        if not model.low:
            return
        parsed = planes.parse(model.low)
        if parsed.codec != registry.CODEC_PLANES_RANS or parsed.layout.size != 2:
            head[MINE] = 0
            return
        low = np.zeros(HEADS, np.int64)
        head[LOW_MODEL] = len(self.heads)
        self.heads.append(low)
        self._planes(low, parsed, int(head[TABLES]), 1)


def _form(size: int, exponent: int) -> int:
    if size == 1:
        return FORM_FP8
    return FORM_FP16 if exponent == 5 else FORM_BF16
