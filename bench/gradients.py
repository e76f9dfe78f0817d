"""Gradients: what buckets take; and over a slow network, packed and plain.

    python -m bench.gradients FILE [RATE...] [--processes 2 4] [--mb 16]
    python -m bench.gradients FILE --sizes

FILE: gradients in BF16, as `bench.training_data` writes them. With `--sizes`, halves of buckets of
25 MiB, as each of two ranks sends them, by level: share of their bytes, MB/s of the processor to
pack and to unpack, the best of five rounds; of all gradients, of matrices that are not embeddings,
and of these in FP32, as autocast has them, and after clipping. Otherwise, of these matrices and
RATE, MB per second that each process may send by a token bucket in front of gloo's loopback (0: as
fast as it goes), the milliseconds that an average over all ranks takes, by the clock, the least of
three, plain and packed; both give the same bits.
"""

import argparse
import math
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.tensors import read_safetensors

_BURST = 1 << 18  # bytes that may be sent at once


class Bucket:
    """Lets bytes pass at a rate, beyond a burst."""

    def __init__(self, rate: float) -> None:
        self._rate, self._tokens, self._last = rate, float(_BURST), time.perf_counter()

    def take(self, size: int) -> None:
        """Waits until so many bytes may pass."""
        if not self._rate:
            return
        now = time.perf_counter()
        self._tokens = min(_BURST, self._tokens + (now - self._last) * self._rate)
        self._last = now
        self._tokens -= size
        if self._tokens < 0:
            time.sleep(-self._tokens / self._rate)


def buckets(tensors: list[Any]) -> list[list[Any]]:
    """As DDP has them, of 25 MiB, in the order of the backward pass."""
    found: list[list[Any]] = [[]]
    for tensor in reversed(tensors):
        if sum(other.data.size for other in found[-1]) > 25 << 20:
            found.append([])
        found[-1].append(tensor)
    return found


def sizes(name: str, tensors: list[Any], factor: float | None = None) -> None:
    """Prints a row for each level; `factor`: in FP32, times this."""
    import torch

    from densor.torch.gradients import PackedReduce, _pieces

    parts = []
    for bucket in buckets(tensors):
        data = np.concatenate([tensor.data for tensor in bucket]).view(np.int16)
        flat: Any = torch.from_numpy(data).view(torch.bfloat16)
        if factor is not None:
            flat = flat.float() * factor
        halves = flat.split(-(-flat.numel() // 2))
        within = _pieces([t.shape for t in bucket], [half.numel() for half in halves])
        parts += list(zip(halves, within, strict=True))
    size = sum(part.nbytes for part, _ in parts)
    dtype = "BF16" if factor is None else "F32"
    for level in (1, 3, 6):
        reduce = PackedReduce("no group", level)
        rounds = []
        for _ in range(5):
            begin = time.process_time()
            packed = [reduce._packed(part, dtype, within) for part, within in parts]
            middle = time.process_time()
            found = [
                reduce._unpacked(np.frombuffer(data, np.uint8), part, 0)
                for data, (part, _) in zip(packed, parts, strict=True)
            ]
            rounds.append((middle - begin, time.process_time() - middle))
            for one, (part, _) in zip(found, parts, strict=True):
                assert torch.equal(one.view(torch.int16), part.view(torch.int16))
        best = [size / min(times) / 1e6 for times in zip(*rounds, strict=True)]
        share = sum(map(len, packed)) / size
        print(f"| {name} | {level} | {share:.4f} | {best[0]:.0f} | {best[1]:.0f} |", flush=True)


def work(
    rank: int, ranks: int, folder: str, data: Any, shapes: list[Any], rates: list[float]
) -> None:
    """One process; the first prints."""
    import torch
    import torch.distributed as dist

    from densor.torch import PackedReduce

    class Slow(PackedReduce):
        bucket = Bucket(0)

        def _exchange(self, outgoing: list[bytes], form: list[int]) -> Any:
            self.bucket.take(sum(map(len, outgoing)))
            return super()._exchange(outgoing, form)

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/r", rank=rank, world_size=ranks)
    generator = torch.Generator().manual_seed(rank)
    own = torch.from_numpy(data.view(np.int16)).view(torch.bfloat16)
    if rank:  # other gradients on each rank
        own = own * (1 + torch.rand(1, generator=generator).bfloat16())
    for rate in rates:
        times, results = {}, {}
        for pack in (False, True):
            reduce = Slow(pack=pack)
            found = []
            for _ in range(3):
                flat = own.clone()
                reduce.bucket = Bucket(rate)
                dist.barrier()
                begin = time.perf_counter()
                reduce.average(flat, shapes)
                dist.barrier()
                found.append(time.perf_counter() - begin)
            times[pack], results[pack] = min(found), flat
        assert torch.equal(results[True].view(torch.int16), results[False].view(torch.int16))
        if rank == 0:
            share = reduce.sent / reduce.original
            print(
                f"| {ranks} | {rate / 1e6:.0f} | {1e3 * times[False]:.0f} | "
                f"{1e3 * times[True]:.0f} | {share:.3f} |",
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("rates", type=float, nargs="*", default=[10, 30, 100, 300, 0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--mb", type=float, default=16)
    parser.add_argument("--sizes", action="store_true")
    arguments = parser.parse_args()
    tensors = list(read_safetensors(arguments.file))
    matrices = [t for t in tensors if len(t.shape) == 2 and "embed" not in t.name]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.sizes:
        print("| gradients | level | share | pack MB/s | unpack MB/s |")
        sizes("all", tensors)
        sizes("matrices", matrices)
        sizes("matrices, FP32 of autocast", matrices, 1.0)
        sizes("matrices, FP32 after clipping", matrices, 0.7312)
        return
    context = multiprocessing.get_context("spawn")
    count = int(arguments.mb * 1e6) // 2
    ends = np.cumsum([math.prod(tensor.shape) for tensor in matrices])
    chosen = matrices[: int(np.searchsorted(ends, count)) + 1]
    data = np.concatenate([tensor.data for tensor in chosen]).view(np.uint16)[:count]
    shapes = [tuple(tensor.shape) for tensor in chosen]
    print("| processes | MB/s | plain, ms | packed, ms | sent |")
    for ranks in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            rates = [rate * 1e6 for rate in arguments.rates]
            children = [
                context.Process(target=work, args=(rank, ranks, folder, data, shapes, rates))
                for rank in range(ranks)
            ]
            for child in children:
                child.start()
            for child in children:
                child.join()


if __name__ == "__main__":
    main()
