"""Gradients that travel packed: the same bits as the same reduction without packing."""

import datetime
import os
from pathlib import Path

import numpy as np
import pytest

from densor.errors import ArgumentError, FormatError

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

from densor.torch import PackedReduce, PackedReduceScatter, packed_hook  # noqa: E402

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
        reduce._packed = lambda part, dtype: b"\x89DNSR\r\n\x1a" + bytes(500)  # type: ignore
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
    for reduce in [*reduces, None] if ranks == 2 else reduces:  # of two, any order is the same
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 9)
        ).bfloat16()
        for part in (model[0], model[2], model):
            fully_shard(part, mesh=mesh)
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
