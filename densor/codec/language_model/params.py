"""What both sides of the codec need: the MODEL frame, and the state before a segment."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.byte_cm import params as text
from densor.codec.byte_cm.kernels import State, end_coder, start_coder
from densor.codec.language_model import kernels
from densor.codec.language_model.kernels import TokenPrior
from densor.codec.tokens.params import SIZES
from densor.entropy.arithmetic.state import AT
from densor.errors import FormatError, LimitError, UnsupportedError
from densor.llm.head import MAX_RATE, Rates
from densor.llm.model import CACHE_8, CACHE_16, NUMERICS
from densor.llm.tables import logit_tables
from densor.llm.vocabulary import Vocabulary
from densor.runtime.types import Bytes

MAX_SLOTS = 64
MAX_POSITIONS = 1 << 14
MAX_CHUNK = 1 << 22  # original bytes
HASH = 16  # bytes of SHA-256 that are kept
RAW, TEXT, TOKENS = 0, 1, 2  # how a segment is coded
SEGMENT = struct.Struct("<BIQ")  # mode, bytes, XXH3-64 of the original
_MODEL = struct.Struct(f"<BBHIIIB{HASH}s{HASH}sB")
_LINES = 3  # version: numerics CACHE_8, chunks begin with their form
_TOKENS = 4  # version: numerics CACHE_8, chunks are of tokens
_TEXT = 8  # bytes of the text codec's MODEL
_VECTOR = 8
_PRIOR_WEIGHT = 60000  # of the language model's input at first, 2^-16
_OTHERS_SHARE = 8  # what the weights of all others are divided by
_FINAL_WEIGHTS = 32768, 0, 32768, 0  # of the network, the mixers, what corrects them, a constant


@dataclass(frozen=True)
class Parameters:
    """The parameters of a MODEL frame.

    `slots`: segments of a chunk, decoded in step. `positions`: tokens that the network sees at
    most; when they are used up, it begins anew with the latest `positions - stride`. `rates`: how
    fast its head learns. `network`, `vocabulary`: their digests. `name`: what the network was
    called. `text`: contexts beside it. `numerics`: version of the network's rounding rules.
    `lines`: whether chunks begin with the form of their lines, see `lines.py`. `token_bytes`: where
    chunks are of tokens instead of text, the size of one, else 0; see `token_chunks.py`.
    """

    slots: int
    positions: int
    stride: int
    rates: Rates
    network: bytes
    vocabulary: bytes
    name: str
    text: text.Parameters
    numerics: int = NUMERICS
    lines: bool = False
    token_bytes: int = 0

    @property
    def kept(self) -> int:
        """Tokens that are read again when the network begins anew."""
        return self.positions - self.stride - 1


def pack(model: Parameters) -> bytes:
    """The payload of a MODEL frame."""
    name = model.name.encode("utf-8", "replace")[:255]
    return (
        _MODEL.pack(
            registry.CODEC_LANGUAGE_MODEL,
            _version(model),
            model.slots,
            model.positions,
            model.stride,
            model.rates.change,
            model.rates.offsets,
            model.network,
            model.vocabulary,
            len(name),
        )
        + name
        + text.pack(model.text)
        + (bytes([model.token_bytes]) if model.token_bytes else b"")
    )


def _version(model: Parameters) -> int:
    if model.token_bytes:
        return _TOKENS
    return _LINES if model.lines else model.numerics


def parse(payload: bytes) -> Parameters:
    """The model in a MODEL frame; a DensorError for a bad one."""
    if len(payload) < _MODEL.size or payload[0] != registry.CODEC_LANGUAGE_MODEL:
        raise FormatError("language model has the wrong length")
    _, version, slots, positions, stride, change, offsets, network, words, length = (
        _MODEL.unpack_from(payload)
    )
    if version not in (CACHE_16, CACHE_8, _LINES, _TOKENS):
        raise UnsupportedError(f"version {version}; a newer densor may read this")
    end = _MODEL.size + length
    of_tokens = version == _TOKENS
    if len(payload) != end + _TEXT + of_tokens:
        raise FormatError("language model has the wrong length")
    try:
        name = payload[_MODEL.size : end].decode()
    except UnicodeDecodeError:
        raise FormatError("language model has a name that is no text") from None
    if not 1 <= slots <= MAX_SLOTS or positions > MAX_POSITIONS:
        raise LimitError(f"language model asks for {slots} times {positions} positions")
    if positions % 32 or not 1 <= stride < positions:
        raise FormatError("language model has impossible positions")
    if change > MAX_RATE:
        raise FormatError("language model learns at an impossible rate")
    mixed = text.parse(payload[end : end + _TEXT])
    size = payload[-1] if of_tokens else 0
    if of_tokens and size not in SIZES:
        raise FormatError(f"language model has tokens of {size} bytes")
    rates = Rates(change, offsets)
    lines = version == _LINES
    numerics = CACHE_8 if lines or of_tokens else version
    settings = slots, positions, stride, rates, network, words, name, mixed, numerics, lines, size
    return Parameters(*settings)


def segments(model: Parameters, size: int) -> list[slice]:
    """The segments of a chunk of `size` bytes."""
    step = -(-size // model.slots)
    return [slice(at, min(at + step, size)) for at in range(0, size, step)]


class SharedContexts:
    """The contexts that all segments of a chunk share, and one stream of bits for them.

    `data`: the stream; `size`: of the chunk. `content` is the chunk between zeros, as far as it is
    known.
    """

    def __init__(
        self, coding: bool, model: Parameters, words: Vocabulary, data: Bytes, content: Bytes
    ) -> None:
        self.coding = coding
        self.data = data
        self.content = _framed(np.zeros(content.size, np.uint8))
        self.source = _framed(content) if coding else self.content
        self.chosen = model.text.chosen
        self.state, extra = _widened(text.new_state(model.text, content.size))
        squash, stretch = logit_tables()
        self.prior = TokenPrior(
            words.bytes,
            words.ends,
            ends=np.tile(text.first_row(), kernels.ENDS),
            extra=np.array([extra], np.int64),
            squash=squash,
            stretch=stretch,
            final_weights=np.tile(np.array(_FINAL_WEIGHTS, np.int32), 256 * kernels.FINAL_SETS),
            final_inputs=np.zeros(kernels.FINAL_INPUTS, np.int64),
            final_outputs=np.zeros(2 * kernels.FINAL_SETS, np.int64),
        )
        self.lengths = np.diff(words.ends)
        self.done = 0
        start_coder(coding, self.state.coder, data)

    def know(self, part: slice, segment: Bytes) -> None:
        """Takes in a segment that is coded in another way."""
        begin = part.start + kernels.PREFIX
        self.content[begin : begin + segment.size] = segment

    def known(self, part: slice) -> Bytes:
        """The content of a segment that was decoded, as a view."""
        return self.content[part.start + kernels.PREFIX : part.stop + kernels.PREFIX]

    def finish(self) -> int:
        """Where the stream ends, maybe beyond `data`."""
        if self.coding:
            end_coder(self.state.coder, self.data)
        return int(self.state.coder[AT])


class SegmentCoder:
    """One segment of a `SharedContexts`: what it has read last."""

    def __init__(self, shared: SharedContexts, part: slice) -> None:
        self._shared = shared
        state = shared.state
        own = ("text", "match", "hashes", "wanted", "slots", "states", "places")
        self._state = state._replace(**{name: np.zeros_like(getattr(state, name)) for name in own})
        self._at: int = part.start + kernels.PREFIX
        self._end: int = part.stop + kernels.PREFIX
        kernels.begin(self._state, shared.chosen, self._at)

    @property
    def done(self) -> bool:
        """Whether the whole segment is there."""
        return self._at == self._end

    def token(self, counts: npt.NDArray[np.int64], token: int) -> int:
        """Codes a token or decodes one, see `kernels.code_token`; FormatError if there is none."""
        shared = self._shared
        coded: int = kernels.code_token(
            shared.coding,
            self._state,
            text.tables(),
            shared.prior,
            shared.data,
            shared.content,
            self._at,
            self._end,
            shared.done,
            shared.chosen,
            counts,
            token,
            shared.source,
        )
        if coded <= kernels.NO_TOKEN:
            raise FormatError("chunk does not decode to tokens")
        length = int(shared.lengths[coded]) if coded >= 0 else 1
        self._at += length
        shared.done += length
        return coded


def _framed(content: Bytes) -> Bytes:
    """A copy of `content` between PREFIX and SUFFIX zeros."""
    framed = np.zeros(kernels.PREFIX + content.size + kernels.SUFFIX, np.uint8)
    framed[kernels.PREFIX : kernels.PREFIX + content.size] = content
    return framed


def _widened(state: State) -> tuple[State, int]:
    """The state with two more inputs, for the language model; and the index of the first."""
    before = state.weights
    weights = np.zeros((before.shape[0], before.shape[1] + _VECTOR), np.int32)
    weights[:, : before.shape[1]] = before // _OTHERS_SHARE
    weights[:, before.shape[1]] = _PRIOR_WEIGHT
    inputs = np.zeros(weights.shape[1], np.int32)
    return state._replace(inputs=inputs, weights=weights), before.shape[1]
