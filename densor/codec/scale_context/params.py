"""The parameters of a scale-context chunk: the alphabet of symbols and their frequencies."""

import struct
from dataclasses import dataclass

import numpy as np

from densor.codec import registry
from densor.codec.scale_context.split_format import SplitFormat, split_format_numbered
from densor.entropy.rans.tables import Freqs, pack, unpack
from densor.errors import FormatError, UnsupportedError

MAX_PHASE = 6
_HEAD = struct.Struct("<BBBbBB")


@dataclass(frozen=True)
class Alphabet:
    """Which exponents, relative to the expected one, have which symbols.

    `phase`: low bits of a scale that are the context. `exponents` of them from `first` on have a
    symbol for each value of the top mantissa bits; the `low_exponents` below, one each.
    """

    phase: int
    first: int
    exponents: int
    low_exponents: int

    @property
    def contexts(self) -> int:
        """Contexts of elements, then those of row and of column scales."""
        return (1 << self.phase) + 2

    def main(self, form: SplitFormat) -> int:
        """Number of joint symbols; that many is the symbol of high bits of 0."""
        return self.exponents << form.top

    def rule(self, form: SplitFormat, base: int) -> tuple[int, ...]:
        """What `kernels.decode_bf16` goes by."""
        return (
            form.coded_size,
            form.low,
            self.phase,
            form.top,
            form.exponent,
            base,
            self.first,
            self.main(form),
            self.low_exponents,
        )


@dataclass(frozen=True, eq=False)
class Parameters:
    """All that a chunk's payload needs to be decoded. `low`: the model of low halves, if any."""

    form: SplitFormat
    alphabet: Alphabet
    freqs: Freqs
    low: bytes = b""


def pack_model(model: Parameters) -> bytes:
    """The payload of a MODEL frame."""
    a = model.alphabet
    head = _HEAD.pack(
        registry.CODEC_SCALE_CONTEXT,
        model.form.number,
        a.phase,
        a.first,
        a.exponents,
        a.low_exponents,
    )
    return head + pack(model.freqs) + model.low


def parse(payload: bytes) -> Parameters:
    """The model in a MODEL frame; FormatError or UnsupportedError for a bad one."""
    if len(payload) < _HEAD.size:
        raise FormatError("model is too short")
    codec, number, phase, first, exponents, low_exponents = _HEAD.unpack_from(payload)
    if codec != registry.CODEC_SCALE_CONTEXT:
        raise UnsupportedError(f"unknown codec {codec}; a newer densor may read this")
    form = split_format_numbered(number)
    alphabet = Alphabet(phase, first, exponents, low_exponents)
    if phase > MAX_PHASE or not exponents or alphabet.main(form) + low_exponents + 2 > 256:
        raise FormatError("model has an impossible alphabet")
    freqs, size = unpack(np.frombuffer(payload, np.uint8)[_HEAD.size :], alphabet.contexts)
    low = payload[_HEAD.size + size :]
    if low and not form.half:
        raise FormatError("model is too long")
    return Parameters(form, alphabet, freqs, low)
