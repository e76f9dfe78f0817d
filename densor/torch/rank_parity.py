"""Snapshots that outlive their rank: parity of all ranks' bytes, spread over all of them.

Bytes of each of n ranks are cut into n - p pieces. Stripe s has a piece of each rank but s, s + 1,
..., s + p - 1 (modulo n), which hold its p blocks of parity (Reed-Solomon by zfec, as recovery data
of archives). Up to p ranks may lose all they have, bytes and parity: each stripe still has n - p of
its n blocks. It costs p / (n - p) of a rank's bytes, and sending these p times.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import xxhash

from densor.errors import ArgumentError, ChecksumError, UnsupportedError
from densor.formats.damage.recovery import coder

Block = npt.NDArray[np.uint8]
_DIGEST = 16


class _Held(NamedTuple):
    """What a rank has of a round: bytes, parity by stripe, and size and digest for all ranks."""

    round: int
    data: bytes
    parity: dict[int, Block]
    sizes: list[int]
    digests: list[bytes]


class RankParity:
    """Keeps bytes of each rank such that those of up to `lost` ranks can be had again.

    `process_group`: of gloo, of more than `lost` ranks; a training that was started again, with
    other processes in the place of those that died, makes another one, see `recover`. All methods
    are to be called on all ranks. `protect` holds, while it runs, the pieces of a stripe beside
    what is kept: the bytes of this rank, and `lost` / (ranks - `lost`) of the longest.
    """

    def __init__(self, process_group: Any = None, lost: int = 1) -> None:
        self._lost = lost
        self._held: _Held | None = None
        self._join(process_group)

    def _join(self, group: Any) -> None:
        if dist.get_backend(group) != "gloo":
            raise UnsupportedError("parity across ranks goes over gloo")
        self._group = group
        self._ranks, self._rank = dist.get_world_size(group), dist.get_rank(group)
        if not 1 <= self._lost < self._ranks or self._ranks > 255:
            raise ArgumentError(f"{self._lost} of {self._ranks} ranks cannot be lost")
        self._pieces = self._ranks - self._lost
        self._encoder, self._decoder = coder(self._pieces, self._ranks)

    def protect(self, data: bytes, round: int) -> None:
        """Keeps the bytes of this rank, which may be of any number, and parity of all.

        `round`: the same on all ranks, such as the step. What was kept before stays if this fails.
        """
        sizes, digests = self._shared(data, round)
        parity: dict[int, Block] = {}
        for stripe in range(self._ranks):
            members = self._members(stripe)
            piece = self._piece(data, sizes, stripe)
            for number in range(self._lost):
                holder = (stripe + number) % self._ranks
                blocks = self._gathered(piece, holder)
                if blocks is not None:
                    own = [blocks[rank].tobytes() for rank in members]
                    (made,) = self._encoder.encode(own, [self._pieces + number])
                    parity[stripe] = np.frombuffer(made, np.uint8)
        self._held = _Held(round, data, parity, sizes, digests)

    def recover(self, process_group: Any = None) -> bytes:
        """The bytes of this rank, those that were lost among them.

        `process_group`: of the ranks as they are now, as many as before, in the same places; those
        that have nothing are new. ChecksumError if more were lost than parity is for, or ranks have
        bytes of different rounds. Call `protect` again after it: parity of who was lost is gone.
        """
        self._join(process_group)
        known = self._known()
        have = [row is not None for row in known]
        if not any(have) or have.count(False) > self._lost:
            raise ChecksumError(f"{have.count(False)} of {self._ranks} ranks were lost")
        found = [row for row in known if row is not None]
        if any(row != found[0] for row in found):
            raise ChecksumError("ranks have bytes of different rounds")
        _, sizes, digests = found[0]
        own = None if self._held is None else self._held.data
        for lost in (rank for rank in range(self._ranks) if not have[rank]):
            data = self._brought_back(lost, have, sizes)
            own = data if lost == self._rank else own  # all help with those of others too
        assert own is not None
        if xxhash.xxh3_128_digest(own) != digests[self._rank]:
            raise ChecksumError("bytes that were brought back are others than those lost")
        return own

    def _brought_back(self, lost: int, have: list[bool], sizes: list[int]) -> bytes:
        pieces = []
        for stripe in range(self._ranks):
            members = self._members(stripe)
            if lost not in members:
                continue
            blocks = self._gathered(self._block(stripe, sizes), lost)
            if blocks is None:
                continue
            order = [*members, *((stripe + k) % self._ranks for k in range(self._lost))]
            numbers = [i for i, rank in enumerate(order) if have[rank]][: self._pieces]
            given = [blocks[order[i]].tobytes() for i in numbers]
            pieces.append(self._decoder.decode(given, numbers)[members.index(lost)])
        return b"".join(pieces)[: sizes[lost]]

    def _members(self, stripe: int) -> list[int]:
        """The ranks whose bytes are in a stripe."""
        return [(stripe + k) % self._ranks for k in range(self._lost, self._ranks)]

    def _length(self, sizes: list[int]) -> int:
        """Bytes of a piece, and of a block of parity."""
        return max(1, -(-max(sizes) // self._pieces))

    def _piece(self, data: bytes, sizes: list[int], stripe: int) -> Block:
        """What this rank has in a stripe; zeros where it has nothing, or no more bytes."""
        length = self._length(sizes)
        block = np.zeros(length, np.uint8)
        stripes = [s for s in range(self._ranks) if self._rank in self._members(s)]
        if stripe in stripes:
            at = stripes.index(stripe) * length
            part = np.frombuffer(data, np.uint8)[at : at + length]
            block[: part.size] = part
        return block

    def _block(self, stripe: int, sizes: list[int]) -> Block:
        """Likewise, or parity; zeros of ranks that have lost all."""
        if self._held is None:
            return np.zeros(self._length(sizes), np.uint8)
        parity = self._held.parity.get(stripe)
        return self._piece(self._held.data, sizes, stripe) if parity is None else parity

    def _gathered(self, block: Block, to: int) -> list[Block] | None:
        """The blocks of all ranks, on one of them."""
        target = to if self._group is None else dist.get_global_rank(self._group, to)
        sent = torch.from_numpy(block.copy())
        rows = [torch.empty_like(sent) for _ in range(self._ranks)] if to == self._rank else None
        dist.gather(sent, rows, target, group=self._group)
        return None if rows is None else [row.numpy() for row in rows]

    def _shared(self, data: bytes, round: int) -> tuple[list[int], list[bytes]]:
        """Sizes and digests of all; ArgumentError where rounds differ."""
        digest = torch.frombuffer(bytearray(xxhash.xxh3_128_digest(data)), dtype=torch.uint8)
        own = torch.cat([torch.tensor([round, len(data)]), digest.long()])
        rows = [torch.empty_like(own) for _ in range(self._ranks)]
        dist.all_gather(rows, own, group=self._group)
        if any(int(row[0]) != round for row in rows):
            raise ArgumentError("ranks give bytes of different rounds")
        return [int(row[1]) for row in rows], [bytes(row[2:].tolist()) for row in rows]

    def _known(self) -> list[tuple[int, list[int], list[bytes]] | None]:
        """Round, sizes and digests as each rank has them; None for those that have nothing."""
        own = torch.zeros(2 + self._ranks * (1 + _DIGEST), dtype=torch.int64)
        held = self._held
        if held is not None:
            if len(held.sizes) != self._ranks:
                raise ArgumentError(f"bytes are of {len(held.sizes)} ranks, not {self._ranks}")
            values = [1, held.round, *held.sizes, *b"".join(held.digests)]
            own = torch.tensor(values, dtype=torch.int64)
        rows = [torch.empty_like(own) for _ in range(self._ranks)]
        dist.all_gather(rows, own, group=self._group)
        return [self._parsed(row.tolist()) for row in rows]

    def _parsed(self, row: list[int]) -> tuple[int, list[int], list[bytes]] | None:
        if not row[0]:
            return None
        sizes, digests = row[2 : 2 + self._ranks], bytes(row[2 + self._ranks :])
        each = [digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST)]
        return row[1], sizes, each
