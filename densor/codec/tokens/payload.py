"""A chunk's tokens to its payload and back, by the method that its parameters stand for."""

from densor.codec.batch import Bytes
from densor.codec.tokens import mixing, ranking, state
from densor.codec.tokens.params import AnyParameters, Mixed, Ranked
from densor.codec.tokens.state import Tokens


def coded(parameters: AnyParameters, tokens: Tokens, most: int) -> Bytes | None:
    """The payload of a chunk's tokens; None where it takes `most` bytes or more."""
    if isinstance(parameters, Mixed):
        return mixing.coded(parameters, tokens, most)
    if isinstance(parameters, Ranked):
        return ranking.coded(parameters, tokens, most)
    return state.coded(parameters, tokens, most)


def decoded(parameters: AnyParameters, payload: Bytes, tokens: Tokens) -> None:
    """Fills `tokens` from the payload of a chunk; FormatError if it does not fit."""
    if isinstance(parameters, Mixed):
        mixing.decoded(parameters, payload, tokens)
    elif isinstance(parameters, Ranked):
        ranking.decoded(parameters, payload, tokens)
    else:
        state.decoded(parameters, payload, tokens)
