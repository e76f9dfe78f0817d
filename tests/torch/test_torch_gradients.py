"""Gradients that travel packed: the same bits as the same reduction without packing."""

import datetime
import math
import os
from pathlib import Path

import numpy as np
import pytest

from densor.errors import ArgumentError, FormatError

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

from densor.torch import PackedReduce, PackedReduceScatter, packed_hook  # noqa: E402
from densor.torch import gradients as gradients_module  # noqa: E402

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def gradients(rank: int, size: int, dtype) -> "torch.Tensor":
    generator = torch.Generator().manual_seed(rank)
    found = (torch.randn(size, generator=generator) * 1e-3).to(dtype)
    if size > 5:
        found[3] = float("nan") if rank == 1 else 1.0
        found[4] = float("inf")
        found[5] = -0.0
    return found


def join(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=60),
    )


def check_sums(rank: int, ranks: int, folder: str) -> None:
    join(rank, ranks, folder)
    packed, plain = PackedReduce(), PackedReduce(pack=False)
    for dtype, integer in INTEGERS.items():
        for size in (0, 1, 7, 5003, 40000):
            found = packed.average(gradients(rank, size, dtype))
            wanted = plain.average(gradients(rank, size, dtype))
            assert torch.equal(found.view(integer), wanted.view(integer)), (dtype, size)
            total = gradients(0, size, dtype)
            for other in range(1, ranks):
                total += gradients(other, size, dtype)
            total /= ranks
            assert torch.equal(found.view(integer), total.view(integer)), (dtype, size)
    assert packed.sent < 0.95 * packed.original and plain.sent == plain.original
    with pytest.raises(ArgumentError):
        packed.average(torch.zeros(4, dtype=torch.int64))
    dist.destroy_process_group()


def check_shapes(rank: int, ranks: int, folder: str) -> None:
    """Matrices whose rows and columns differ in scale take less where shapes are told."""
    join(rank, ranks, folder)
    generator = torch.Generator().manual_seed(rank)
    shapes = [(300, 256), (7,), (128, 300)]
    tensors = []
    for shape in shapes:
        scales = torch.ones(())
        for dim, size in enumerate(shape):
            wide = [size if other == dim else 1 for other in range(len(shape))]
            scales = scales * torch.randn(wide, generator=generator).exp()
        tensors.append((torch.randn(shape, generator=generator) * scales).bfloat16().flatten())
    tensors.append(torch.randn(1000, generator=generator).bfloat16())  # no shape is told
    sent, results = [], []
    for told in ([], shapes, [(2, 2)], [*shapes, (1 << 20,)]):
        reduce, flat = PackedReduce(), torch.cat(tensors)
        results.append(reduce.start(flat, told).wait())
        sent.append(reduce.sent)
    for other in results[1:]:
        assert torch.equal(results[0].view(torch.int16), other.view(torch.int16))
    assert sent[1] < 0.97 * sent[0] and sent[3] == sent[1]
    dist.destroy_process_group()


@pytest.mark.parametrize("factor", [1.0, 0.731, 2.0**-7 * 0.9])
def test_fp32_that_is_bf16_times_a_factor(factor: float) -> None:
    reduce = PackedReduce("no group")
    generator = torch.Generator().manual_seed(0)
    halves = (torch.randn(50000, generator=generator) * 1e-3).bfloat16()
    halves[:3] = torch.tensor([0.0, -0.0, 1e-30]).bfloat16()
    part = halves.float() * torch.tensor(factor)
    packed = reduce._packed(part, "F32", [((50000,), 0, 50000)])
    assert len(packed) < 0.36 * part.nbytes
    found = reduce._unpacked(np.frombuffer(packed, np.uint8), part, 1)
    assert torch.equal(found.view(torch.int32), part.view(torch.int32))
    part[7] *= 1.001
    other = reduce._packed(part, "F32", [((50000,), 0, 50000)])
    found = reduce._unpacked(np.frombuffer(other, np.uint8), part, 1)
    assert torch.equal(found.view(torch.int32), part.view(torch.int32))
    for bad in (packed[:10], packed[:-1], packed[:12], packed[:12] + packed):
        with pytest.raises(FormatError, match="rank 5"):
            reduce._unpacked(np.frombuffer(bad, np.uint8), part, 5)
    with pytest.raises(FormatError, match="rank 5"):
        reduce._unpacked(np.frombuffer(packed, np.uint8), halves, 5)


def test_fp32_of_all_bf16_there_are() -> None:
    """Also signalling NaNs, and numbers that a processor may be told to take for zero."""
    reduce = PackedReduce("no group")
    part = torch.from_numpy(np.arange(1 << 16, dtype=np.uint32) << 16).view(torch.float32)
    packed = reduce._packed(part, "F32", [((1 << 16,), 0, 1 << 16)])
    assert packed.startswith(gradients_module._MAGIC)
    for flushed in (False, True):
        torch.set_flush_denormal(flushed)
        found = reduce._unpacked(np.frombuffer(packed, np.uint8), part, 1)
        torch.set_flush_denormal(False)
        assert torch.equal(found.view(torch.int32), part.view(torch.int32))


class Bucket:
    """As the hook is given one."""

    def __init__(self, shapes) -> None:
        self._flat = torch.randn(sum(math.prod(shape) for shape in shapes))
        self._shapes = shapes

    def buffer(self):
        return self._flat

    def gradients(self):
        parts = self._flat.split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


def test_shapes_of_a_bucket() -> None:
    shapes = [(3, 5), (4,), (2, 3, 4)]
    bucket = Bucket(shapes)
    assert gradients_module._shapes_in(bucket, bucket.buffer()) == shapes
    found = gradients_module._shapes_in(bucket, bucket.buffer()[1:])
    assert found == []  # they do not begin where it does


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 60])
@pytest.mark.parametrize("shapes", [[], [(5, 7), (1,), (0, 3), (2, 2)], [(43,)], [(44,)]])
def test_pieces_cover_all_parts(ranks: int, shapes) -> None:
    step = -(-43 // ranks)
    lengths = [max(0, min(step, 43 - rank * step)) for rank in range(ranks)]
    found = gradients_module._pieces(shapes, lengths)
    assert [sum(end - begin for _, begin, end in part) for part in found] == lengths
    told = [(shape, at) for part in found for shape, begin, end in part for at in range(begin, end)]
    known = [shape for shape in shapes if math.prod(shape) <= 43]
    wanted = [(shape, at) for shape in known for at in range(math.prod(shape))]
    assert told[: len(wanted)] == wanted
    left = 43 - len(wanted)
    assert told[len(wanted) :] == [((left,), at) for at in range(left)]


def test_groups_that_are_reduced_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn
    from torch.distributed import fsdp

    class Block(nn.Sequential):
        pass

    monkeypatch.setattr(fsdp, "FSDPModule", Block)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    model = Block(Block(nn.Linear(5, 3), frozen), nn.Sequential(nn.Linear(3, 2)), nn.Linear(2, 9))
    model.append(nn.Linear(2, 9, bias=False))
    model[3].weight = model[2].weight
    scatter = PackedReduceScatter(model=model)
    assert scatter._shapes_of(3 * 5 + 3, 1) == [(3, 5), (3,)]
    assert scatter._shapes_of(2 * 5 + 2, 2) == [(2, 5), (2,)]
    assert scatter._shapes_of(6 + 2 + 18 + 9, 1) == [(2, 3), (2,), (9, 2), (9,)]
    assert scatter._shapes_of(1, 1) == PackedReduceScatter()._shapes_of(18, 1) == []


def check_training(rank: int, ranks: int, folder: str) -> None:
    join(rank, ranks, folder)
    results = []
    for pack in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8)
        ).bfloat16()
        model = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.01)
        model.register_comm_hook(PackedReduce(pack=pack), packed_hook)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(rank)
        for _ in range(4):
            model(torch.randn(32, 64).bfloat16()).float().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach().clone() for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.view(torch.int16), other.view(torch.int16))
    dist.destroy_process_group()


def check_bad_ranks(rank: int, ranks: int, folder: str) -> None:
    join(rank, ranks, folder)
    reduce = PackedReduce()
    with pytest.raises(ArgumentError):  # another dtype, of as many bytes
        reduce.average(gradients(rank, 4000, torch.float16 if rank else torch.bfloat16))
    with pytest.raises(ArgumentError):
        reduce.average(gradients(rank, 4000 + rank, torch.float32))
    if rank == 1:  # garbage
        reduce._packed = lambda part, dtype, pieces: b"\x89DNSR\r\n\x1a" + bytes(500)  # type: ignore
        reduce._unpacked = lambda data, like, rank: like  # type: ignore
        reduce.average(gradients(rank, 4000, torch.float32))
    else:
        exchange, done = reduce._exchange, []

        def recorded(outgoing, form):
            done.append(1)
            return exchange(outgoing, form)

        reduce._exchange = recorded  # type: ignore
        with pytest.raises(FormatError, match="rank 1"):
            reduce.average(gradients(rank, 4000, torch.float32))
        exchange([b"", b""], [1, 4000])  # which the other one waits for
    dist.destroy_process_group()


def dies(rank: int, ranks: int, folder: str) -> None:
    join(rank, ranks, folder)
    reduce = PackedReduce()
    dist.barrier()  # else it may be gone before the other one has connected
    if rank == 1:
        os._exit(0)
    with pytest.raises(RuntimeError):
        reduce.start(gradients(rank, 4000, torch.float32)).wait()
    os._exit(0)


def check_sharded(rank: int, ranks: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    join(rank, ranks, folder)
    mesh = init_device_mesh("cpu", (ranks,))
    results, reduces = [], [PackedReduceScatter(), PackedReduceScatter(pack=False)]
    told = PackedReduceScatter()
    reduces.append(told)
    for reduce in [*reduces, None] if ranks == 2 else reduces:  # of two, any order is the same
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 9)
        ).bfloat16()
        for part in (model[0], model[2], model):
            fully_shard(part, mesh=mesh)
        if reduce is told:
            told._groups = PackedReduceScatter(model=model)._groups
            assert told._groups == [[(256, 64), (256,)], [(9, 256), (9,)]]
        for part in (model[0], model[2], model) if reduce is not None else ():
            part.set_custom_reduce_scatter(reduce)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(rank)
        for _ in range(3):
            model(torch.randn(32, 64).bfloat16()).float().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.to_local().detach().clone() for p in model.parameters()])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one.view(torch.int16), two.view(torch.int16))
    assert reduces[0].sent < 0.95 * reduces[0].original == 0.95 * reduces[1].original
    with pytest.raises(ArgumentError):
        reduces[0](torch.zeros(2), torch.zeros(2 * ranks), dist.group.WORLD, dist.ReduceOp.MAX)
    with pytest.raises(ArgumentError):
        reduces[0](torch.zeros(2), torch.zeros(ranks), dist.group.WORLD, dist.ReduceOp.SUM)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("check", "ranks"),
    [
        (check_sums, 2),
        (check_sums, 3),
        (check_shapes, 2),
        (check_training, 2),
        (check_sharded, 2),
        pytest.param(check_sharded, 4, marks=pytest.mark.slow),
        (check_bad_ranks, 2),
        (dies, 2),
    ],
)
def test_between_processes(check, ranks: int, tmp_path: Path) -> None:
    context = mp.get_context("fork")
    assert np.array_equal(warm(), warm())
    children = [
        context.Process(target=check, args=(rank, ranks, str(tmp_path))) for rank in range(ranks)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0


def warm() -> np.ndarray:
    """Kernels are loaded before the fork."""
    import densor

    data = np.arange(3000, dtype=np.float32)
    return densor.decompress(densor.compress(data, 1, 1), 1)
