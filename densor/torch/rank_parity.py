"""Snapshots that outlive their rank: parity of all ranks' bytes, spread over all of them.

It costs p / (n - p) of a rank's bytes where p of n ranks may be lost, and sending these p times.
How bytes are cut, and what ranks send each other, is in docs/format/rank_parity.md.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from densor.errors import ArgumentError, ChecksumError, UnsupportedError
from densor.torch.stripes import (
    DIGEST,
    MAX_BYTES,
    Block,
    Stripes,
    digest_of,
    parse_row,
    parse_rows,
)


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
    what is kept: the bytes of this rank, and `lost` / (ranks - `lost`) of the longest. A rank that
    sends what cannot be ends in a FormatError on all.
    """

    def __init__(self, process_group: Any = None, lost: int = 1) -> None:
        self._lost = lost
        self._held: _Held | None = None
        self._join(process_group)

    def _join(self, group: Any) -> None:
        if dist.get_backend(group) != "gloo":
            raise UnsupportedError("parity across ranks goes over gloo")
        self._group, self._rank = group, dist.get_rank(group)
        self._stripes = Stripes(dist.get_world_size(group), self._lost)

    def protect(self, data: bytes, round: int) -> None:
        """Keeps the bytes of this rank, up to 1 TiB, and parity of all.

        `round`: the same on all ranks, such as the step. What was kept before stays if this fails.
        """
        if len(data) > MAX_BYTES:
            raise ArgumentError("parity is for bytes of up to 1 TiB")
        sizes, digests = self._shared(data, round)
        parity: dict[int, Block] = {}
        for stripe in range(self._stripes.ranks):
            piece = self._stripes.piece(self._rank, data, sizes, stripe)
            for number, holder in enumerate(self._stripes.holders(stripe)):
                blocks = self._gathered(piece, holder)
                if blocks is not None:
                    parity[stripe] = self._stripes.parity(stripe, blocks, number)
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
            raise ChecksumError(f"{have.count(False)} of {len(have)} ranks were lost")
        found = [row for row in known if row is not None]
        if any(row != found[0] for row in found):
            raise ChecksumError("ranks have bytes of different rounds")
        _, sizes, digests = found[0]
        own = None if self._held is None else self._held.data
        for lost in (rank for rank, has in enumerate(have) if not has):
            data = self._brought_back(lost, have, sizes)
            own = data if lost == self._rank else own  # all help with those of others too
        assert own is not None
        if digest_of(own) != digests[self._rank]:
            raise ChecksumError("bytes that were brought back are others than those lost")
        return own

    def _brought_back(self, lost: int, have: list[bool], sizes: list[int]) -> bytes:
        """The bytes of a lost rank, on that rank."""
        pieces = []
        for stripe in range(self._stripes.ranks):
            if lost not in self._stripes.members(stripe):
                continue
            blocks = self._gathered(self._block(stripe, sizes), lost)
            if blocks is not None:
                there = {i: block for i, block in enumerate(blocks) if have[i]}
                pieces.append(self._stripes.restored(lost, stripe, there))
        return b"".join(pieces)[: sizes[lost]]

    def _block(self, stripe: int, sizes: list[int]) -> Block:
        """What this rank has in a stripe, bytes or parity; zeros if it has lost all."""
        if self._held is None:
            return self._stripes.zeros(sizes)
        parity = self._held.parity.get(stripe)
        if parity is not None:
            return parity
        return self._stripes.piece(self._rank, self._held.data, sizes, stripe)

    def _gathered(self, block: Block, to: int) -> list[Block] | None:
        """The blocks of all ranks, on one of them."""
        target = to if self._group is None else dist.get_global_rank(self._group, to)
        sent = torch.from_numpy(block.copy())
        ranks = range(self._stripes.ranks)
        rows = [torch.empty_like(sent) for _ in ranks] if to == self._rank else None
        dist.gather(sent, rows, target, group=self._group)
        return None if rows is None else [row.numpy() for row in rows]

    def _shared(self, data: bytes, round: int) -> tuple[list[int], list[bytes]]:
        """Sizes and digests of all; ArgumentError where rounds differ."""
        rows = [parse_row(row) for row in self._sent([round, len(data), *digest_of(data)])]
        if any(row[0] != round for row in rows):
            raise ArgumentError("ranks give bytes of different rounds")
        return [row[1] for row in rows], [row[2] for row in rows]

    def _known(self) -> list[tuple[int, list[int], list[bytes]] | None]:
        """Round, sizes and digests as each rank has them; None for those that have nothing."""
        ranks, held = self._stripes.ranks, self._held
        own = [0] * (2 + ranks * (1 + DIGEST))
        if held is not None:
            if len(held.sizes) != ranks:
                raise ArgumentError(f"bytes are of {len(held.sizes)} ranks, not {ranks}")
            own = [1, held.round, *held.sizes, *b"".join(held.digests)]
        return [parse_rows(row, ranks) for row in self._sent(own)]

    def _sent(self, numbers: list[int]) -> list[list[int]]:
        """The integers, as many on each, of all ranks."""
        own = torch.tensor(numbers, dtype=torch.int64)
        rows = [torch.empty_like(own) for _ in range(self._stripes.ranks)]
        dist.all_gather(rows, own, group=self._group)
        return [row.tolist() for row in rows]
