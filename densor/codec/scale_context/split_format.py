"""How an element is cut: what is modelled (exponent and top mantissa bits), and the rest."""

from collections.abc import Callable
from dataclasses import dataclass

from densor.entropy.deferred import Kernels
from densor.errors import UnsupportedError
from densor.float_formats import FORMATS, FloatFormat, number_format

kernels = Kernels("densor.codec.scale_context.kernels")


@dataclass(frozen=True)
class SplitFormat:
    """`exponent` bits and `top` mantissa bits are coded as one number, the high bits.

    The rest is stored as it is: `rest` bytes and `signs` bytes per block of 32 elements. `half`:
    elements are cut in halves; the high ones are coded as `bf16`, their low halves by themselves.
    """

    number: int
    name: str
    size: int  # bytes of an element
    split: Callable[..., None]
    decode: Callable[..., int]
    exponent: int
    top: int
    rest: int
    signs: int
    half: bool = False

    @property
    def bits(self) -> int:
        """Number of high bits of an element."""
        return self.exponent + self.top

    @property
    def coded_size(self) -> int:
        """Bytes of what is cut: an element, or its high half."""
        return self.size // 2 if self.half else self.size

    @property
    def low(self) -> int:
        """Bits below the high bits."""
        return 8 * self.coded_size - 1 - self.bits


BLOCK = 32  # elements whose rest is stored together
_FP16_EXPONENT = 5
_TOP = 3  # leading mantissa bits that are coded, where there are that many


def _split_format(of: FloatFormat) -> SplitFormat:
    number, name, size, exponent = of.scale_context, of.long_name, of.size, of.exponent
    if size == 1:
        split, decode = kernels.split_fp8, kernels.decode_fp8
        return SplitFormat(number, name, size, split, decode, exponent, of.mantissa, 0, 4)
    if exponent == _FP16_EXPONENT:
        split, decode = kernels.split_fp16, kernels.decode_fp16
        return SplitFormat(number, name, size, split, decode, exponent, _TOP, 32, 0)
    split, decode = kernels.split_bf16, kernels.decode_bf16
    return SplitFormat(number, name, size, split, decode, exponent, _TOP, 16, 4, half=size == 4)


_NUMBERED = {of.scale_context: _split_format(of) for of in FORMATS if of.scale_context}


def split_format_of(dtype: str) -> SplitFormat:
    """The form of an element type; KeyError for a type that is not for this codec."""
    form = number_format(dtype)
    return _NUMBERED[form.scale_context if form else 0]


def split_format_numbered(number: int) -> SplitFormat:
    """The form that a model names; UnsupportedError if there is none."""
    form = _NUMBERED.get(number)
    if form is None:
        raise UnsupportedError(f"unknown form of number {number}; a newer densor may read this")
    return form
