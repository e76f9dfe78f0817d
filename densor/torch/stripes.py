"""Parity of several ranks' bytes, spread over all of them. See docs/format/rank_parity.md.

Bytes of each of n ranks are cut into n - p pieces. Stripe s has a piece of each rank but s, s + 1,
..., s + p - 1 (modulo n), which hold its p blocks of parity (Reed-Solomon by zfec, as recovery data
of archives). Up to p ranks may lose all they have, bytes and parity: each stripe still has n - p of
its n blocks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from densor.errors import ArgumentError, FormatError, LimitError
from densor.formats.damage.recovery import coder

Block = npt.NDArray[np.uint8]
DIGEST = 16
MAX_RANKS = 255
MAX_BYTES = 1 << 40  # of a rank
SLICE = 1 << 24  # bytes of blocks that are sent at once
MAX_ROUNDS = 2  # that a rank has at once


class Round(NamedTuple):
    """What all ranks know of a round: its number, and size and digest of each rank's bytes."""

    number: int
    sizes: list[int]
    digests: list[bytes]


class Stripes:
    """Which rank has what of each stripe, and its parity; `lost`: so many ranks may be lost."""

    def __init__(self, ranks: int, lost: int) -> None:
        if not 1 <= lost < ranks or ranks > MAX_RANKS:
            raise ArgumentError(f"{lost} of {ranks} ranks cannot be lost")
        self.ranks, self.lost = ranks, lost
        self._pieces = ranks - lost
        self._encoder, self._decoder = coder(self._pieces, ranks)

    def members(self, stripe: int) -> list[int]:
        """The ranks whose bytes are in a stripe."""
        return [(stripe + k) % self.ranks for k in range(self.lost, self.ranks)]

    def holders(self, stripe: int) -> list[int]:
        """The ranks that hold its parity, in the order of the blocks."""
        return [(stripe + k) % self.ranks for k in range(self.lost)]

    def length(self, sizes: Sequence[int]) -> int:
        """Bytes of a piece, and of a block of parity; `sizes`: of all ranks' bytes."""
        return max(1, -(-max(sizes) // self._pieces))

    def zeros(self, sizes: Sequence[int]) -> Block:
        """A block of nothing."""
        return zeros(self.length(sizes))

    def piece(self, rank: int, data: bytes, sizes: Sequence[int], stripe: int) -> Block:
        """What a rank has in a stripe; zeros where it has nothing, or no more bytes."""
        block = self.zeros(sizes)
        stripes = self._stripes(rank)
        if stripe in stripes:
            at = stripes.index(stripe) * block.size
            part = np.frombuffer(data, np.uint8)[at : at + block.size]
            block[: part.size] = part
        return block

    def parity(self, stripe: int, blocks: Sequence[Block], number: int) -> Block:
        """Block `number` of a stripe's parity; `blocks`: what each rank has in it."""
        own = [blocks[rank] for rank in self.members(stripe)]
        (made,) = self._encoder.encode(own, [self._pieces + number])
        return np.frombuffer(made, np.uint8)

    def restored(self, lost: int, stripe: int, blocks: Mapping[int, Block]) -> bytes:
        """The piece that a lost rank had in a stripe.

        `blocks`: what the ranks that have something have in it, as many as there are pieces.
        """
        members = self.members(stripe)
        order = [*members, *self.holders(stripe)]
        numbers = [i for i, rank in enumerate(order) if rank in blocks][: self._pieces]
        given = [blocks[order[i]] for i in numbers]
        piece: bytes = self._decoder.decode(given, numbers)[members.index(lost)]
        return piece

    def _stripes(self, rank: int) -> list[int]:
        """Those that have a piece of a rank, in the order of its bytes."""
        return [stripe for stripe in range(self.ranks) if rank in self.members(stripe)]


def parse_row(row: Sequence[int]) -> tuple[int, int, bytes]:
    """Round, size and digest of a rank's bytes, from what it says of them."""
    return row[0], _size(row[1]), _digest(row[2:])


def row_length(ranks: int) -> int:
    """Integers in which a rank says what rounds it has."""
    return 1 + MAX_ROUNDS * _round_length(ranks)


def parse_rows(row: Sequence[int], ranks: int) -> list[Round]:
    """The rounds that a rank has, the newest first, from the integers in which it says so."""
    if not 0 <= row[0] <= MAX_ROUNDS:
        raise FormatError("a rank says something impossible of what it has")
    length = _round_length(ranks)
    return [_round(row[1 + i * length :][:length], ranks) for i in range(row[0])]


def _round_length(ranks: int) -> int:
    return 1 + ranks * (1 + DIGEST)


def _round(row: Sequence[int], ranks: int) -> Round:
    digests = row[1 + ranks :]
    each = [_digest(digests[at : at + DIGEST]) for at in range(0, ranks * DIGEST, DIGEST)]
    return Round(row[0], [_size(size) for size in row[1 : 1 + ranks]], each)


def zeros(size: int) -> Block:
    """A block of nothing, of so many bytes."""
    try:
        return np.zeros(size, np.uint8)
    except MemoryError:
        raise LimitError(f"not enough memory for blocks of {size} bytes") from None


def digest_of(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def _size(size: int) -> int:
    if not 0 <= size <= MAX_BYTES:
        raise FormatError("a rank has an impossible number of bytes")
    return size


def _digest(numbers: Sequence[int]) -> bytes:
    if any(not 0 <= number < 256 for number in numbers):
        raise FormatError("a rank has an impossible digest")
    return bytes(numbers)
