"""State and constant tables of the mixing kernel, and a chunk's tokens through it."""

import struct
from functools import cache

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.tokens import mixing_fields as of
from densor.codec.tokens.params import (
    FLAG_INPUTS,
    FLAG_SETS,
    INPUTS,
    PLACES,
    ROOM,
    SETS,
    SPECIAL_FLAGS,
    Mixed,
)
from densor.codec.tokens.state import Tokens
from densor.entropy.arithmetic.logistic import squash_table, stretch_table
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.runtime.memory import MEMORY

code_mixed = deferred("densor.codec.tokens.mixing_kernels", "code_mixed")

States = npt.NDArray[np.int64]
_LENGTH = struct.Struct("<I")
_START = 6  # bytes that a decoder begins with
_FLAG_WEIGHT, _WEIGHT = 19660, 26214  # of each input at first, of 65536


@cache
def _constants() -> tuple[npt.NDArray[np.generic], ...]:
    """The logistic domain, rates of flags and of nodes, levels of counts and trust in them."""
    squash = squash_table()
    rates = np.array([(65536 * 5) // (5 * n + 8) for n in range(1024)], np.int64)
    steps = np.array([65536 // (n + 2) for n in range(16)], np.int64)
    levels = [c if c < 3 else 3 if c < 5 else 4 if c < 9 else 5 for c in range(64)]
    trust = [8 + min(n, 8) if n else 0 for n in range(16)]
    bytes_ = np.array(levels, np.uint8), np.array(trust, np.uint8)
    return stretch_table(squash), squash, rates, steps, *bytes_


def _weights() -> npt.NDArray[np.int32]:
    weights = np.full(FLAG_SETS * FLAG_INPUTS + SETS * INPUTS, _WEIGHT, np.int32)
    weights[: FLAG_SETS * FLAG_INPUTS] = _FLAG_WEIGHT
    return weights


def _states(parameters: Mixed, count: int, ranges: list[tuple[int, int]]) -> States:
    """The state of each stream at its begin, which lies in a range of bytes."""
    part = max(-(-count // parameters.streams), 1)
    states = np.zeros((parameters.streams, of.FIELDS), np.int64)
    states[:, of.NEXT] = np.minimum(np.arange(parameters.streams) * part, count)
    states[:, of.END] = np.minimum(states[:, of.NEXT] + part, count)
    states[:, of.WIDTH] = (1 << 48) - 1
    states[:, [of.AT, of.LIMIT]] = ranges
    states[:, of.SLOT3] = PLACES << parameters.bits
    return states


def _run(encoding: bool, parameters: Mixed, tokens: Tokens, stream: Bytes, states: States) -> bool:
    """Codes a chunk's tokens, or fills them; False where a stream has no room left."""
    p = parameters
    own = (16**p.digits - 1) // 15 * 16
    with MEMORY.borrowed((8 * PLACES + 8 << p.bits) + 2 * own + (32 << p.node_bits)):
        done = code_mixed(
            *(encoding, tokens, p.digits, p.streams, states.reshape(-1), stream),
            np.zeros(2 * PLACES << p.bits, np.uint32),
            np.zeros(1 << p.bits, np.uint64),
            np.full(2 * SPECIAL_FLAGS, 1 << 31, np.uint32),
            np.zeros(own, np.uint16),
            np.zeros(16 << p.node_bits, np.uint16),
            *(_weights(), np.zeros(16, np.uint32), *_constants()),
        )
    return bool(done == 0)


def coded(parameters: Mixed, tokens: Tokens, most: int) -> Bytes | None:
    """The payload of a chunk's tokens; None where it takes `most` bytes or more."""
    streams = parameters.streams
    room = most // streams + most // 4 + ROOM
    stream = np.empty(streams * room, np.uint8)
    ranges = [(s * room, (s + 1) * room) for s in range(streams)]
    states = _states(parameters, tokens.size, ranges)
    if not _run(True, parameters, tokens, stream, states):
        return None
    pieces = [stream[begin:end] for (begin, _), end in zip(ranges, states[:, of.AT], strict=True)]
    lengths = b"".join(_LENGTH.pack(piece.size) for piece in pieces[:-1])
    payload = np.concatenate([np.frombuffer(lengths, np.uint8), *pieces])
    return payload if payload.size < most else None


def decoded(parameters: Mixed, payload: Bytes, tokens: Tokens) -> None:
    """Fills `tokens` from the payload of a chunk; FormatError if it does not fit."""
    ranges = _ranges(payload, parameters.streams)
    states = _states(parameters, tokens.size, ranges)
    for state, (begin, end) in zip(states, ranges, strict=True):
        if state[of.NEXT] < state[of.END]:
            first = payload[begin : min(begin + _START, end)].tobytes().ljust(_START, b"\0")
            state[of.VALUE] = int.from_bytes(first, "big")
            state[of.AT] += _START
    _run(False, parameters, tokens, payload, states)
    if (states[:, of.AT] != states[:, of.LIMIT]).any():
        raise FormatError("chunk of tokens does not decode to its end")


def _ranges(payload: Bytes, streams: int) -> list[tuple[int, int]]:
    """Where each stream begins and ends in a payload; FormatError where one cannot be there."""
    begin = _LENGTH.size * (streams - 1)
    if begin > payload.size:
        raise FormatError("chunk of tokens ends in the lengths of its streams")
    ranges = []
    for (length,) in _LENGTH.iter_unpack(payload[:begin].tobytes()):
        ranges.append((begin, begin + length))
        begin += length
    ranges.append((begin, payload.size))
    if begin > payload.size:
        raise FormatError("chunk of tokens ends in one of its streams")
    return ranges
