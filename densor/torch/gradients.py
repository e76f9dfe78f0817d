"""Gradients that are packed while they travel: a communication hook for DistributedDataParallel.

As in TAGC (arXiv 2504.05638), without what it loses: each rank sums one part of a bucket, which it
gets packed from all others, and sends the sum packed to all. Parts are summed in the order of
ranks, whatever comes first, so that the result is the same bits as without packing.

>>> model = DistributedDataParallel(model)  # doctest: +SKIP
>>> model.register_comm_hook(PackedReduce(), packed_hook)  # doctest: +SKIP
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import densor
from densor import dtypes
from densor.errors import ArgumentError, DensorError, FormatError
from densor.formats.io.sources import Bytes

DEFAULT_LEVEL = 1
_MIN_BYTES = 1 << 12  # of a part that is worth packing
_CODES = {name: i for i, name in enumerate(("F64", "F32", "F16", "BF16"))}


class PackedReduce:
    """How gradients are reduced: the state of `packed_hook`.

    `group`: processes of a gloo group that nothing else uses, by default a new one of all.
    `level`, `threads`: of packing. `pack=False` does the same without packing, for comparison.
    `original`, `sent`: bytes that this rank had to send, and that it has sent.

    Buckets are exchanged one after the other by a thread beside, while the backward pass goes on.
    """

    def __init__(
        self, group: Any = None, level: int = DEFAULT_LEVEL, threads: int = 1, *, pack: bool = True
    ) -> None:
        self._group = dist.new_group(backend="gloo") if group is None else group
        self._level, self._threads, self._pack = level, threads, pack
        self._pool = ThreadPoolExecutor(1, "densor-gradients")
        self.original = self.sent = 0

    def start(self, flat: torch.Tensor) -> "torch.futures.Future[torch.Tensor]":
        """Begins to average one-dimensional gradients over all ranks, in place."""
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()

        def work() -> None:
            try:
                future.set_result(self.average(flat))
            except Exception as error:  # handed on to whoever waits
                future.set_exception(error)  # type: ignore[arg-type]

        self._pool.submit(work)
        return future

    def average(self, flat: torch.Tensor) -> torch.Tensor:
        """Averages one-dimensional gradients over all ranks, in place; see `start`.

        A DensorError where another rank has sent what cannot be decoded, or has another dtype or
        number of elements.
        """
        dtype = dtypes.from_torch(flat.dtype)
        if dtype not in _CODES or flat.device.type != "cpu":
            raise ArgumentError(f"cannot exchange gradients of {flat.dtype}, {flat.device}")
        ranks, own = dist.get_world_size(self._group), dist.get_rank(self._group)
        step = -(-flat.numel() // ranks)
        parts = [flat[r * step : (r + 1) * step] for r in range(ranks)]
        form = [_CODES[dtype], flat.numel()]
        outgoing = [b"" if r == own else self._packed(part, dtype) for r, part in enumerate(parts)]
        incoming = self._exchange(outgoing, form)
        total: torch.Tensor | None = None
        for rank, data in enumerate(incoming):
            part = parts[own] if rank == own else self._unpacked(data, parts[own], rank)
            total = part.clone() if total is None else total.add_(part)
        assert total is not None
        total.div_(ranks)
        parts[own].copy_(total)
        packed = self._packed(total, dtype)
        incoming = self._exchange([b"" if r == own else packed for r in range(ranks)], form)
        for rank, data in enumerate(incoming):
            if rank != own:
                parts[rank].copy_(self._unpacked(data, parts[rank], rank))
        return flat

    def _packed(self, part: torch.Tensor, dtype: str) -> bytes:
        """A part as it is sent: as its bytes where packing makes them no fewer."""
        data = _bytes_of(part)
        self.original += data.size
        if self._pack and data.size >= _MIN_BYTES:
            packed = densor.compress(memoryview(data), self._level, self._threads, dtype=dtype)
            if len(packed) < data.size:
                self.sent += len(packed)
                return packed
        self.sent += data.size
        return data.tobytes()

    def _unpacked(self, data: Bytes, like: torch.Tensor, rank: int) -> torch.Tensor:
        """A part that rank `rank` has sent, in the form of `like`."""
        size = like.nbytes
        found = np.empty(size, np.uint8)
        if data.size == size:
            found[:] = data
        else:
            try:
                densor.decompress(data, self._threads, out=found, max_output_size=size)
            except DensorError as error:
                raise FormatError(f"gradients from rank {rank}: {error}") from error
        return torch.from_numpy(found).view(like.dtype) if size else torch.empty_like(like)

    def _exchange(self, outgoing: list[bytes], form: list[int]) -> list[Bytes]:
        """Sends a string of bytes to each rank; what they have sent to this one.

        Sizes go first, with what dtype and how many elements they are of.
        """
        ranks = len(outgoing)
        head = torch.tensor([[*form, len(data)] for data in outgoing], dtype=torch.int64)
        heads = torch.empty_like(head)
        dist.all_to_all_single(heads, head, group=self._group)
        for rank, found in enumerate(heads.tolist()):
            if found[:2] != form or not 0 <= found[2] <= _most(form):
                raise ArgumentError(f"rank {rank} has gradients of another dtype or size")
        sizes = [int(size) for size in heads[:, 2]]
        sent = torch.frombuffer(bytearray(b"".join(outgoing)) or bytearray(1), dtype=torch.uint8)
        sent = sent[: sum(len(data) for data in outgoing)]
        found_bytes = torch.empty(sum(sizes), dtype=torch.uint8)
        dist.all_to_all_single(
            found_bytes, sent, sizes, [len(data) for data in outgoing], group=self._group
        )
        at = np.cumsum([0, *sizes]).tolist()
        memory = found_bytes.numpy()
        return [memory[at[r] : at[r + 1]] for r in range(ranks)]


def packed_hook(
    state: PackedReduce,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """For `DistributedDataParallel.register_comm_hook`: the average of a bucket over all ranks."""
    flat: torch.Tensor = bucket.buffer()
    return state.start(flat)


def _most(form: list[int]) -> int:
    """Bytes that gradients of this form have at most."""
    return 8 * form[1]


def _bytes_of(part: torch.Tensor) -> Bytes:
    found: Bytes = part.contiguous().view(torch.uint8).numpy() if part.numel() else _NOTHING
    return found


_NOTHING = np.empty(0, np.uint8)
