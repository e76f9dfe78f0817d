"""Floating-point formats: the one description that sizes, layouts, contexts and bounds come from.

A new format is one line here, and one in the document of each codec that is to take it: all tables
by element type follow. Its kernels, where it needs any, are chosen by its bits.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FloatFormat:
    """A number of `sign`, `exponent` and `mantissa` bits, from the highest bit down."""

    name: str  # as element type
    library: str  # as numpy, ml_dtypes and torch call it
    exponent: int
    mantissa: int
    sign: int = 1
    scale_context: int = 0  # number in that codec's parameters, 0 where it does not take it
    float_cm: int = 0  # likewise

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return (self.sign + self.exponent + self.mantissa) // 8

    @property
    def long_name(self) -> str:
        """The name as papers write it, in lower case: `bf16`, `fp16`, `fp8_e4m3`."""
        name = self.name.lower()
        return name if name.startswith("bf") else "fp" + name[1:]


FORMATS = (
    FloatFormat("BF16", "bfloat16", 8, 7, scale_context=1, float_cm=1),
    FloatFormat("F16", "float16", 5, 10, scale_context=2, float_cm=2),
    FloatFormat("F32", "float32", 8, 23, scale_context=5, float_cm=3),
    FloatFormat("F64", "float64", 11, 52),
    FloatFormat("F8_E4M3", "float8_e4m3fn", 4, 3, scale_context=3, float_cm=4),
    FloatFormat("F8_E5M2", "float8_e5m2", 5, 2, scale_context=4, float_cm=5),
    FloatFormat("F8_E8M0", "float8_e8m0fnu", 8, 0, sign=0),
)
PAIRS = {"C64": "F32", "C128": "F64"}  # element types of two numbers
_BY_NAME = {form.name: form for form in FORMATS}


def number_format(dtype: str) -> FloatFormat | None:
    """The format of the numbers of an element type, None where these are no floats."""
    return _BY_NAME.get(PAIRS.get(dtype, dtype))


def by_rows(dtype: str) -> bool:
    """Whether codecs that look at matrices take an element type."""
    form = number_format(dtype)
    return form is not None and form.scale_context > 0
