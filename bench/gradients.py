"""Gradients over a slow network: packed and plain, on two and four processes.

    python -m bench.gradients FILE [RATE...] [--processes 2 4] [--mb 16]

FILE: gradients in BF16, as `bench.training_data` writes them; of these, matrices that are not
embeddings. RATE: MB per second that each process may send, by a token bucket in front of gloo's
loopback; 0: as fast as it goes. For each, the milliseconds that an average over all ranks takes,
by the clock, the least of three, plain and packed; both give the same bits.
"""

import argparse
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


def work(rank: int, ranks: int, folder: str, data: Any, rates: list[float]) -> None:
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
    own = own[torch.arange(own.numel()).roll(1 << 14 << rank)]  # other gradients on each rank
    if rank:
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
                reduce.average(flat)
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
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    parts = [
        tensor.data
        for tensor in read_safetensors(arguments.file)
        if len(tensor.shape) == 2 and "embedding" not in tensor.name
    ]
    data = np.concatenate(parts)[: int(arguments.mb * 1e6) // 2 * 2].view(np.uint16)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| processes | MB/s | plain, ms | packed, ms | sent |")
    for ranks in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            rates = [rate * 1e6 for rate in arguments.rates]
            children = [
                context.Process(target=work, args=(rank, ranks, folder, data, rates))
                for rank in range(ranks)
            ]
            for child in children:
                child.start()
            for child in children:
                child.join()


if __name__ == "__main__":
    main()
