"""What both sides of the codec need: the MODEL frame, and the state before a segment."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.llm import kernels
from densor.codec.llm.kernels import Said
from densor.codec.text import model as text
from densor.codec.text.kernels import State, end_coder, start_coder
from densor.codec.text.refine import CELLS
from densor.errors import FormatError, LimitError, UnsupportedError
from densor.llm.model import NUMERICS
from densor.llm.vocabulary import Vocabulary

Bytes = npt.NDArray[np.uint8]

MOST_SLOTS = 64
MOST_POSITIONS = 1 << 14
MAX_CHUNK = 1 << 22  # original bytes
HASH = 16  # bytes of SHA-256 that are kept
RAW, TEXT, TOKENS = 0, 1, 2  # how a segment is coded
SEGMENT = struct.Struct("<BIQ")  # mode, bytes, XXH3-64 of the original
_MODEL = struct.Struct(f"<BBHII{HASH}s{HASH}sB")
_TEXT = 8  # bytes of the text codec's MODEL
_VECTOR = 8
_SAID_WEIGHT = 60000  # of the language model at first, 2^-16
_OTHERS_SHARE = 8  # what the weights of all others are divided by


@dataclass(frozen=True)
class Model:
    """The parameters of a MODEL frame.

    `slots`: segments of a chunk, decoded in step. `positions`: tokens that the network sees at
    most; when they are used up, it begins anew with the latest `positions - stride`. `network`,
    `vocabulary`: their digests. `name`: what the network was called. `text`: contexts beside it.
    """

    slots: int
    positions: int
    stride: int
    network: bytes
    vocabulary: bytes
    name: str
    text: text.Model

    @property
    def kept(self) -> int:
        """Tokens that are read again when the network begins anew."""
        return self.positions - self.stride - 1


def pack(model: Model) -> bytes:
    """The payload of a MODEL frame."""
    name = model.name.encode("utf-8", "replace")[:255]
    return (
        _MODEL.pack(
            registry.CODEC_LLM,
            NUMERICS,
            model.slots,
            model.positions,
            model.stride,
            model.network,
            model.vocabulary,
            len(name),
        )
        + name
        + text.pack(model.text)
    )


def parse(payload: bytes) -> Model:
    """The model in a MODEL frame; a DensorError for a bad one."""
    if len(payload) < _MODEL.size or payload[0] != registry.CODEC_LLM:
        raise FormatError("language model has the wrong length")
    _, numerics, slots, positions, stride, network, words, length = _MODEL.unpack_from(payload)
    if numerics != NUMERICS:
        raise UnsupportedError(f"numerics {numerics}; a newer densor may read this")
    end = _MODEL.size + length
    if len(payload) != end + _TEXT:
        raise FormatError("language model has the wrong length")
    try:
        name = payload[_MODEL.size : end].decode()
    except UnicodeDecodeError:
        raise FormatError("language model has a name that is no text") from None
    if not 1 <= slots <= MOST_SLOTS or positions > MOST_POSITIONS:
        raise LimitError(f"language model asks for {slots} times {positions} positions")
    if positions % 32 or not 1 <= stride < positions:
        raise FormatError("language model has impossible positions")
    mixed = text.parse(payload[end:])
    return Model(slots, positions, stride, network, words, name, mixed)


def segments(model: Model, size: int) -> list[slice]:
    """The segments of a chunk of `size` bytes."""
    step = -(-size // model.slots)
    return [slice(at, min(at + step, size)) for at in range(0, size, step)]


class Coder:
    """Codes or decodes the tokens of one segment, `content`, to or from `data`."""

    def __init__(
        self, coding: bool, model: Model, words: Vocabulary, data: Bytes, content: Bytes
    ) -> None:
        self._coding = coding
        self._data = data
        self.content = content
        self.at = 0
        self._chosen = model.text.chosen
        self._state, extra = _widened(text.new_state(model.text, content.size))
        ends = np.tile(text.first_row(), kernels.ENDS)
        assert ends.size == kernels.ENDS * CELLS
        self._said = Said(words.bytes, words.ends, ends, np.array([extra], np.int64))
        self._lengths = np.diff(words.ends)
        start_coder(coding, self._state.coder, data)
        kernels.begin(self._state, self._chosen)

    @property
    def end(self) -> int:
        """Where the stream ends, or has been read to; maybe beyond `data`."""
        return int(self._state.coder[2])

    def token(self, counts: npt.NDArray[np.int64], token: int = 0) -> int:
        """Codes a token or decodes one, see `kernels.code_token`; FormatError if there is none."""
        found: int = kernels.code_token(
            self._coding,
            self._state,
            text.tables(),
            self._said,
            self._data,
            self.content,
            self.at,
            self._chosen,
            counts,
            token,
        )
        if found <= kernels.NO_TOKEN:
            raise FormatError("segment does not decode to tokens")
        self.at += int(self._lengths[found]) if found >= 0 else 1
        return found

    def check_end(self, size: int) -> None:
        """FormatError unless just so many bytes were read."""
        if self.end != size:
            raise FormatError("segment of text does not decode to its end")

    def finish(self) -> None:
        """Ends the stream that is written."""
        end_coder(self._state.coder, self._data)


def _widened(state: State) -> tuple[State, int]:
    """With room for what the network says; and the number of that input."""
    before = state.weights
    weights = np.zeros((before.shape[0], before.shape[1] + _VECTOR), np.int32)
    weights[:, : before.shape[1]] = before // _OTHERS_SHARE
    weights[:, before.shape[1]] = _SAID_WEIGHT
    inputs = np.zeros(weights.shape[1], np.int32)
    return state._replace(inputs=inputs, weights=weights), before.shape[1]
