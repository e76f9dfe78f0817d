"""What the coding side settles: how a text is cut, and the parameters for its model."""

from densor.codec.byte_cm.params import parse as parse_text
from densor.codec.language_model.params import HASH, Parameters
from densor.codec.language_model.session import Session
from densor.llm.head import rates_of

ROOM = 1024  # bytes that a stream may be longer than its text

_SLOTS = (1 << 14, 2), (1 << 18, 4)  # from how many bytes on a chunk has how many segments
_SEGMENT = 1 << 17  # bytes of a segment, at most
_POSITIONS = 4096


def slots_for(size: int) -> int:
    """Segments of a chunk, in a text of so many bytes."""
    return max([1, *(slots for least, slots in _SLOTS if size >= least)])


def step_of(count: int, size: int, slots: int) -> int:
    """How many of `count` units, of a text of so many bytes, make a chunk."""
    return -(-count // -(-size // (slots * _SEGMENT)))


def settled(session: Session, slots: int, text: bytes) -> Parameters:
    """The parameters for the model of a session; `text`: a MODEL frame of the text codec."""
    weights = session.weights()
    positions = max(32, min(_POSITIONS, weights.positions) // 32 * 32)
    return Parameters(
        slots,
        positions,
        positions * 3 // 4,
        rates_of(weights),
        weights.digest[:HASH],
        weights.vocabulary.digest[:HASH],
        session.name,
        parse_text(text),
    )
