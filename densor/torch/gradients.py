"""Gradients that are packed while they travel: a communication hook for DistributedDataParallel,
and a reduce-scatter for FSDP2.

As in TAGC (arXiv 2504.05638), without what it loses: each rank sums one part of a bucket, which it
gets packed from all others, and sends the sum packed to all. Parts are summed in the order of
ranks, whatever comes first, so that the result is the same bits as without packing.

>>> model = DistributedDataParallel(model)  # doctest: +SKIP
>>> model.register_comm_hook(PackedReduce(), packed_hook)  # doctest: +SKIP

>>> fully_shard(model)  # doctest: +SKIP
>>> model.set_custom_reduce_scatter(PackedReduceScatter())  # doctest: +SKIP
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import densor
from densor import dtypes
from densor.codec.adam.scaled import split, widened
from densor.errors import ArgumentError, DensorError, FormatError
from densor.formats.container.entry import EntryMeta
from densor.formats.container.tensor_blob import pack_matrices
from densor.formats.io.sources import Bytes, as_bytes
from densor.options import WriteOptions
from densor.runtime.arguments import need
from densor.runtime.beside import Beside

DEFAULT_LEVEL = 1
Shape = tuple[int, ...]
Piece = tuple[Shape, int, int]  # elements `begin` to `end` - 1 of a tensor of this shape
_MAGIC = b"\x89DGRAD\r\n"  # of a part that is BF16 times a factor
_SCALED = struct.Struct("<8sf")
_MIN_BYTES = 1 << 12  # of a part that is worth packing
_NAMES = ("F64", "F32", "F16", "BF16")
_CODES = {name: i for i, name in enumerate(_NAMES)}


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
        self._options, self._pack = WriteOptions(level=level, threads=threads), pack
        self._threads = threads
        self._beside = Beside("densor-gradients")
        self.original = self.sent = 0

    def start(
        self, flat: torch.Tensor, shapes: Sequence[Shape] = ()
    ) -> "torch.futures.Future[torch.Tensor]":
        """Begins to average one-dimensional gradients over all ranks, in place; see `average`."""
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()

        def work() -> None:
            try:
                future.set_result(self.average(flat, shapes))
            except Exception as error:  # handed on to whoever waits
                future.set_exception(error)  # type: ignore[arg-type]

        self._beside.raise_failure()  # forgets what is done
        self._beside.submit(work)
        return future

    def average(self, flat: torch.Tensor, shapes: Sequence[Shape] = ()) -> torch.Tensor:
        """Averages one-dimensional gradients over all ranks, in place; see `start`.

        `shapes`: of the tensors that lie in `flat`, one after the other, which are packed as
        matrices; what is behind them, or all where nothing is known, has no rows.

        A DensorError where another rank has sent what cannot be decoded, or has another dtype or
        number of elements.
        """
        parts, own, dtype = self._parts(flat)
        ranks, form = len(parts), [_CODES[dtype], flat.numel()]
        lengths = [part.numel() for part in parts]
        pieces = _pieces(shapes, lengths)
        total = self._sum(parts, own, form, pieces).div_(ranks)
        parts[own].copy_(total)
        packed = self._packed(total, dtype, pieces[own])
        incoming = self._exchange([b"" if r == own else packed for r in range(ranks)], form)
        for rank, data in enumerate(incoming):
            if rank != own:
                parts[rank].copy_(self._unpacked(data, parts[rank], rank))
        return flat

    def sum_of_own_part(self, flat: torch.Tensor, shapes: Sequence[Shape] = ()) -> torch.Tensor:
        """The sum over all ranks of this rank's part of one-dimensional gradients.

        Parts are of the same number of elements, the last one of what is left. `shapes`: of the
        tensors in each part. Errors as above.
        """
        parts, own, dtype = self._parts(flat)
        pieces = [_pieces(shapes, [part.numel()])[0] for part in parts]
        return self._sum(parts, own, [_CODES[dtype], flat.numel()], pieces)

    def _parts(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], int, str]:
        """Parts of all ranks, the number of this one, and the dtype."""
        dtype = dtypes.from_torch(flat.dtype)
        if dtype not in _CODES or flat.device.type != "cpu":
            raise ArgumentError(f"cannot exchange gradients of {flat.dtype}, {flat.device}")
        ranks, own = dist.get_world_size(self._group), dist.get_rank(self._group)
        step = -(-flat.numel() // ranks)
        return [flat[r * step : (r + 1) * step] for r in range(ranks)], own, dtype

    def _sum(
        self, parts: list[torch.Tensor], own: int, form: list[int], pieces: list[list[Piece]]
    ) -> torch.Tensor:
        """The sum of this rank's part, in the order of ranks."""
        dtype = _NAMES[form[0]]
        outgoing = [
            b"" if rank == own else self._packed(part, dtype, within)
            for rank, (part, within) in enumerate(zip(parts, pieces, strict=True))
        ]
        incoming = self._exchange(outgoing, form)
        total: torch.Tensor | None = None
        for rank, data in enumerate(incoming):
            part = parts[own] if rank == own else self._unpacked(data, parts[own], rank)
            total = part.clone() if total is None else total.add_(part)
        assert total is not None
        return total

    def _packed(self, part: torch.Tensor, dtype: str, pieces: list[Piece]) -> bytes:
        """A part as it is sent: as its bytes where packing makes them no fewer."""
        data = _bytes_of(part)
        self.original += data.size
        if self._pack and data.size >= _MIN_BYTES:
            packed = self._packed_anew(data, dtype, pieces)
            if len(packed) < data.size:
                self.sent += len(packed)
                return packed
        self.sent += data.size
        return data.tobytes()

    def _packed_anew(self, data: Bytes, dtype: str, pieces: list[Piece]) -> bytes:
        """An archive of a part; of FP32 that is BF16 times one factor, of that, behind the factor.

        As gradients of autocast are, and after clipping.
        """
        halves = split(data.view(np.float32)) if dtype == "F32" else None
        if halves is None:
            return self._archive(data, dtype, pieces)
        bits, factor = halves
        return b"".join(
            (_SCALED.pack(_MAGIC, factor), self._archive(as_bytes(bits), "BF16", pieces))
        )

    def _archive(self, data: Bytes, dtype: str, pieces: list[Piece]) -> bytes:
        return pack_matrices(EntryMeta("", "bytes", data.size), data, dtype, pieces, self._options)

    def _unpacked(self, data: Bytes, like: torch.Tensor, rank: int) -> torch.Tensor:
        """A part that rank `rank` has sent, in the form of `like`."""
        size = like.nbytes
        if data.size != size and data[: len(_MAGIC)].tobytes() == _MAGIC:
            return self._scaled(data, like, rank)
        found = np.empty(size, np.uint8)
        if data.size == size:
            found[:] = data
        else:
            try:
                densor.decompress(data, self._threads, out=found, max_output_size=size)
            except DensorError as error:
                raise FormatError(f"gradients from rank {rank}: {error}") from error
        return torch.from_numpy(found).view(like.dtype) if size else torch.empty_like(like)

    def _scaled(self, data: Bytes, like: torch.Tensor, rank: int) -> torch.Tensor:
        """Likewise, where it is BF16 times a factor."""
        if data.size < _SCALED.size or like.dtype != torch.float32:
            raise FormatError(f"gradients from rank {rank}: a factor that is for others")
        _, factor = _SCALED.unpack_from(data)
        halves = torch.empty(like.numel(), dtype=torch.bfloat16)
        bits = self._unpacked(data[_SCALED.size :], halves, rank).view(torch.int16).numpy()
        if factor == 1:  # which the sender has not multiplied by: signalling NaNs would change
            return torch.from_numpy(bits.astype(np.int32) << 16).view(torch.float32)
        return torch.from_numpy(widened(bits.view(np.uint16), np.float32(factor)))

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


class PackedReduceScatter:
    """For `FSDPModule.set_custom_reduce_scatter` of FSDP2 on CPUs, over gloo.

    `level`, `threads`, `pack`: as for `PackedReduce`. `model`: what was given to `fully_shard`,
    parts of it too, whose gradients are packed as the matrices that they are. Sums are taken in the
    order of ranks, so that they are the same bits with and without packing. `original`, `sent`:
    bytes of this rank.
    """

    def __init__(
        self,
        level: int = DEFAULT_LEVEL,
        threads: int = 1,
        *,
        pack: bool = True,
        model: torch.nn.Module | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {"level": level, "threads": threads, "pack": pack}
        self._groups = [] if model is None else _groups_of(model)
        self._reduce: dict[Any, PackedReduce] = {}  # by group

    @property
    def original(self) -> int:
        """Bytes that this rank had to send."""
        return sum(reduce.original for reduce in self._reduce.values())

    @property
    def sent(self) -> int:
        """Bytes that it has sent."""
        return sum(reduce.sent for reduce in self._reduce.values())

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Memory for gradients, as FSDP2 asks for it."""
        return torch.empty(size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Fills `output_tensor` with this rank's part of the sum, or average, of all inputs."""
        average = op in (dist.ReduceOp.AVG, "avg")
        if not average and op != dist.ReduceOp.SUM:
            raise ArgumentError(f"cannot reduce gradients by {op}, only by sum or average")
        reduce = self._reduce.get(group)
        if reduce is None:
            reduce = self._reduce[group] = PackedReduce(group, **self._settings)
        flat = input_tensor.reshape(-1)
        ranks = dist.get_world_size(group)
        if flat.numel() != ranks * output_tensor.numel():
            raise ArgumentError("gradients do not divide into equal parts of all ranks")
        total = reduce.sum_of_own_part(flat, self._shapes_of(output_tensor.numel(), ranks))
        if average:
            total.div_(ranks)
        output_tensor.copy_(total.reshape(output_tensor.shape))

    def _shapes_of(self, part: int, ranks: int) -> list[Shape]:
        """Of the parts of parameters in a part of so many elements, where that is known."""
        for shapes in self._groups:
            parts = [(-(-shape[0] // ranks), *shape[1:]) for shape in shapes if shape]
            if sum(map(math.prod, parts)) == part:
                return parts
        return []


def _groups_of(model: torch.nn.Module) -> list[list[Shape]]:
    """Shapes of the parameters whose gradients FSDP2 reduces together."""
    from torch.distributed.fsdp import FSDPModule

    groups: dict[int, list[Shape]] = {}
    owner: dict[str, int] = {}
    seen: set[int] = set()  # weights that are used twice have one gradient
    for number, (name, module) in enumerate(model.named_modules()):
        outer = owner.get(name.rpartition(".")[0], 0) if name else 0
        owner[name] = number if isinstance(module, FSDPModule) else outer
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups.setdefault(owner[name], []).append(tuple(parameter.shape))
    return list(groups.values())


def packed_hook(
    state: PackedReduce,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """For `DistributedDataParallel.register_comm_hook`: the average of a bucket over all ranks."""
    need(state, PackedReduce, "state")
    flat: torch.Tensor = bucket.buffer()
    return state.start(flat, _shapes_in(bucket, flat))


def _shapes_in(bucket: dist.GradBucket, flat: torch.Tensor) -> list[Shape]:  # type: ignore[name-defined]
    """Shapes of the gradients in a bucket, as far as they lie in it one after the other."""
    at, shapes = flat.data_ptr(), []
    for gradient in bucket.gradients():
        if gradient.data_ptr() != at or not gradient.is_contiguous():
            break
        shapes.append(tuple(gradient.shape))
        at += gradient.nbytes
    return shapes


def _pieces(shapes: Sequence[Shape], lengths: Sequence[int]) -> list[list[Piece]]:
    """Which elements of which tensors parts of these lengths hold, one after the other.

    `shapes`: of the tensors; what is behind them is one more, of one dimension.
    """
    left, known = sum(lengths), []
    for shape in shapes:
        if math.prod(shape) > left:
            break
        known.append(shape)
        left -= math.prod(shape)
    known.append((left,))
    found: list[list[Piece]] = [[] for _ in lengths]
    ends = np.cumsum(lengths).tolist()
    part = begin = 0  # of what is to be told
    for shape in known:
        first, end = begin, begin + math.prod(shape)
        while begin < end:
            stop = min(end, ends[part])
            if stop > begin:
                found[part].append((shape, begin - first, stop - first))
            begin = stop
            part += begin == ends[part] and part + 1 < len(ends)
    return found


def _most(form: list[int]) -> int:
    """Bytes that gradients of this form have at most."""
    return 8 * form[1]


def _bytes_of(part: torch.Tensor) -> Bytes:
    found: Bytes = part.contiguous().view(torch.uint8).numpy() if part.numel() else _NOTHING
    return found


_NOTHING = np.empty(0, np.uint8)
