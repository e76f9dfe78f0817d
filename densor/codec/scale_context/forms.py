"""How an element is cut: what is modelled (exponent and top mantissa bits), and the rest."""

from collections.abc import Callable
from dataclasses import dataclass

from densor.codec.scale_context import kernels
from densor.errors import UnsupportedError


@dataclass(frozen=True)
class Form:
    """`exponent` bits and `top` mantissa bits are coded as one number, the top of an element.

    The rest is stored as it is: `rest` bytes and `signs` bytes per block of 32 elements. `half`:
    elements are cut in halves; the high ones are coded as `bf16`, their low halves apart.
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
        """Bits of a top."""
        return self.exponent + self.top

    @property
    def coded_size(self) -> int:
        """Bytes of what has a top: an element, or its high half."""
        return self.size // 2 if self.half else self.size

    @property
    def low(self) -> int:
        """Bits below a top."""
        return 8 * self.coded_size - 1 - self.bits


BLOCK = 32  # elements whose rest is stored together
BF16, FP16, FP8_E4M3, FP8_E5M2, FP32 = 1, 2, 3, 4, 5
_ALL = (
    Form(BF16, "bf16", 2, kernels.split_bf16, kernels.decode_bf16, 8, 3, 16, 4),
    Form(FP16, "fp16", 2, kernels.split_fp16, kernels.decode_fp16, 5, 3, 32, 0),
    Form(FP8_E4M3, "fp8_e4m3", 1, kernels.split_fp8, kernels.decode_fp8, 4, 3, 0, 4),
    Form(FP8_E5M2, "fp8_e5m2", 1, kernels.split_fp8, kernels.decode_fp8, 5, 2, 0, 4),
    Form(FP32, "fp32", 4, kernels.split_bf16, kernels.decode_bf16, 8, 3, 16, 4, half=True),
)
_NUMBERED = {form.number: form for form in _ALL}
_BY_DTYPE = {
    "BF16": BF16,
    "F16": FP16,
    "F8_E4M3": FP8_E4M3,
    "F8_E5M2": FP8_E5M2,
    "F32": FP32,
    "C64": FP32,
}


def form_of(dtype: str) -> Form:
    """The form of an element type; KeyError for a type that is not for this codec."""
    return _NUMBERED[_BY_DTYPE[dtype]]


def form_numbered(number: int) -> Form:
    """The form that a model names; UnsupportedError if there is none."""
    form = _NUMBERED.get(number)
    if form is None:
        raise UnsupportedError(f"unknown form of number {number}; a newer densor may read this")
    return form
