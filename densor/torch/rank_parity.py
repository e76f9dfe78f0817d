"""Snapshots that outlive their rank: parity of all ranks' bytes, spread over all of them.

It costs p / (n - p) of a rank's bytes where p of n ranks may be lost, and sending these p times.
How bytes are cut, and what ranks send each other, is in docs/format/rank_parity.md.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from densor.errors import ArgumentError, ChecksumError, LimitError, UnsupportedError
from densor.torch.stripes import (
    MAX_BYTES,
    MAX_ROUNDS,
    SLICE,
    Block,
    Round,
    Stripes,
    digest_of,
    parse_row,
    parse_rows,
    row_length,
    zeros,
)


class _Held(NamedTuple):
    """What a rank has of a round: what all know of it, its own bytes, and parity by stripe."""

    known: Round
    data: bytes
    parity: dict[int, Block]


class RankParity:
    """Keeps bytes of each rank such that those of up to `lost` ranks can be had again.

    `process_group`: of gloo, of more than `lost` ranks; a training that was started again, with
    other processes in the place of those that died, makes another one, see `recover`. All methods
    are to be called on all ranks. What is kept are the bytes of this rank, and parity of `lost` /
    (ranks - `lost`) of the longest. While `protect` runs, what was kept before is held beside it,
    a piece of 1 / (ranks - `lost`) of the longest, and 2 ranks + 1 slices of at most 16 MiB: those
    of a stripe, twice, as gloo gathers them into memory of its own first. A rank that sends what
    cannot be ends in a FormatError on all, sizes that any rank has no memory for in a LimitError on
    all of them.
    """

    def __init__(self, process_group: Any = None, lost: int = 1) -> None:
        self._lost = lost
        self._held: list[_Held] = []  # from new to old; two if not all are known to have the new
        self._join(process_group)

    def _join(self, group: Any) -> None:
        if dist.get_backend(group) != "gloo":
            raise UnsupportedError("parity across ranks goes over gloo")
        self._group, self._rank = group, dist.get_rank(group)
        self._stripes = Stripes(dist.get_world_size(group), self._lost)

    def protect(self, data: bytes, round: int) -> None:
        """Keeps the bytes of this rank, up to 1 TiB, and parity of all.

        `round`: the same on all ranks, such as the step. What was kept before stays until all ranks
        have the new round: if this fails, on any rank, call `recover` before `protect` again.
        """
        if len(data) > MAX_BYTES:
            raise ArgumentError("parity is for bytes of up to 1 TiB")
        known = self._shared(data, round)
        self._agree_on_memory(self._stripes.length(known.sizes), 1 + self._lost)
        parity: dict[int, Block] = {}
        for stripe in range(self._stripes.ranks):
            piece = self._stripes.piece(self._rank, data, known.sizes, stripe)
            for number, holder in enumerate(self._stripes.holders(stripe)):
                made = self._parity_at(holder, piece, stripe, number)
                if made is not None:
                    parity[stripe] = made
        self._held = [_Held(known, data, parity), *self._held][:MAX_ROUNDS]
        dist.barrier(group=self._group)
        del self._held[1:]

    def _parity_at(self, holder: int, piece: Block, stripe: int, number: int) -> Block | None:
        """A block of a stripe's parity, on the rank that holds it; `piece`: what this rank has."""
        made = zeros(piece.size) if holder == self._rank else None
        for begin, blocks in self._slices(piece, holder):
            part = self._stripes.parity(stripe, blocks, number)
            assert made is not None
            made[begin : begin + part.size] = part
        return made

    def recover(self, process_group: Any = None) -> bytes:
        """The bytes of this rank, those that were lost among them.

        `process_group`: of the ranks as they are now, as many as before, in the same places; those
        that have nothing are new. The round is the one that most ranks have, the newest of several;
        ranks that lack it count as lost. ChecksumError if more are than parity is for. Call
        `protect` again after it: parity of who was lost is gone.
        """
        self._join(process_group)
        chosen, have = self._chosen()
        held = [one for one in self._held if one.known == chosen]
        own = held[0].data if held else None
        length = self._stripes.length(chosen.sizes)
        whole = 0 if have[self._rank] else 2 * (self._stripes.ranks - self._lost)
        self._agree_on_memory(length, 1 + whole)
        for lost in (rank for rank, has in enumerate(have) if not has):
            data = self._brought_back(lost, have, chosen, held)
            own = data if lost == self._rank else own  # all help with those of others too
        assert own is not None
        wrong = self._where(digest_of(own) != chosen.digests[self._rank])
        if wrong:
            raise ChecksumError(f"bytes that were brought back on ranks {wrong} are others")
        self._held = held
        return own

    def _chosen(self) -> tuple[Round, list[bool]]:
        """The round to go back to, and which ranks have it."""
        known = self._known()
        newest_first = [row[i] for i in range(MAX_ROUNDS) for row in known if i < len(row)]
        missing = known.count([])
        if not newest_first or missing > self._lost:
            raise ChecksumError(f"{missing} of {len(known)} ranks were lost")
        chosen = max(newest_first, key=lambda one: sum(one in row for row in known))
        have = [chosen in row for row in known]
        if have.count(False) > self._lost:
            raise ChecksumError("ranks have bytes of different rounds")
        return chosen, have

    def _brought_back(self, lost: int, have: list[bool], chosen: Round, held: list[_Held]) -> bytes:
        """The bytes of a lost rank, on that rank; `held`: what this rank has of the round."""
        pieces = []
        for stripe in range(self._stripes.ranks):
            if lost not in self._stripes.members(stripe):
                continue
            for _, blocks in self._slices(self._block(stripe, chosen.sizes, held), lost):
                there = {i: block for i, block in enumerate(blocks) if have[i]}
                pieces.append(self._stripes.restored(lost, stripe, there))
        return b"".join(pieces)[: chosen.sizes[lost]]

    def _block(self, stripe: int, sizes: list[int], held: list[_Held]) -> Block:
        """What this rank has in a stripe, bytes or parity; zeros if it has lost all."""
        if not held:
            return self._stripes.zeros(sizes)
        parity = held[0].parity.get(stripe)
        if parity is not None:
            return parity
        return self._stripes.piece(self._rank, held[0].data, sizes, stripe)

    def _slices(self, block: Block, to: int) -> Iterator[tuple[int, list[Block]]]:
        """The blocks of all ranks slice by slice, on one of them, and where each slice begins."""
        for begin in range(0, block.size, SLICE):
            blocks = self._gathered(block[begin : begin + SLICE], to)
            if blocks is not None:
                yield begin, blocks

    def _gathered(self, block: Block, to: int) -> list[Block] | None:
        """Slices of the blocks of all ranks, on one of them."""
        target = to if self._group is None else dist.get_global_rank(self._group, to)
        try:
            sent = torch.from_numpy(np.require(block, requirements="W"))  # parity is read-only
            ranks = range(self._stripes.ranks)
            rows = [torch.empty_like(sent) for _ in ranks] if to == self._rank else None
            dist.gather(sent, rows, target, group=self._group)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise LimitError(f"not enough memory for blocks of {block.size} bytes") from None
            raise
        return None if rows is None else [row.numpy() for row in rows]

    def _shared(self, data: bytes, round: int) -> Round:
        """Sizes and digests of all; ArgumentError where rounds differ."""
        rows = [parse_row(row) for row in self._sent([round, len(data), *digest_of(data)])]
        if any(row[0] != round for row in rows):
            raise ArgumentError("ranks give bytes of different rounds")
        return Round(round, [row[1] for row in rows], [row[2] for row in rows])

    def _known(self) -> list[list[Round]]:
        """The rounds that each rank has, the newest first."""
        ranks = self._stripes.ranks
        others = {len(held.known.sizes) for held in self._held} - {ranks}
        own = [-1 if others else len(self._held)]
        for held in () if others else self._held:
            number, sizes, digests = held.known
            own += [number, *sizes, *b"".join(digests)]
        own += [0] * (row_length(ranks) - len(own))
        rows = self._sent(own)
        if others:  # which all others find impossible
            raise ArgumentError(f"bytes are of {others.pop()} ranks, not {ranks}")
        return [parse_rows(row, ranks) for row in rows]

    def _agree_on_memory(self, length: int, blocks: int) -> None:
        """LimitError on all ranks where one of them, or more, cannot have so many blocks and all
        slices of a stripe, twice: an error of one alone would leave the others waiting."""
        part = min(length, SLICE)
        try:
            memory = [np.empty(length, np.uint8) for _ in range(blocks)]
            memory += [np.empty(part, np.uint8) for _ in range(2 * self._stripes.ranks + 1)]
            lacking = False
        except MemoryError:
            lacking = True
        memory = []
        missing = self._where(lacking)
        if missing:
            text = f"not enough memory for blocks of {length} bytes on ranks {missing}"
            raise LimitError(text)

    def _where(self, true: bool) -> list[int]:
        """The ranks on which something is true."""
        return [rank for rank, row in enumerate(self._sent([int(true)])) if row[0]]

    def _sent(self, numbers: list[int]) -> list[list[int]]:
        """The integers, as many on each, of all ranks."""
        own = torch.tensor(numbers, dtype=torch.int64)
        rows = [torch.empty_like(own) for _ in range(self._stripes.ranks)]
        dist.all_gather(rows, own, group=self._group)
        return [row.tolist() for row in rows]
