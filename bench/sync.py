"""Weights sent from step to step: sizes of messages, and what sender and receiver take.

    python -m bench.sync DIR [STEP...]

DIR: what `bench.training_data` wrote. For each learning rate and step, the weights in BF16 against
those of the step before, as share of them: a message of `densor.sync`; the same with each tensor in
a message of its own, without names and hashes; the file by `--base`; index and value as int32 and
BF16; gaps and exclusive or through Zstandard 3. Times are of the processor, one thread, best of
five, beside a copy of as many bytes.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

import densor
from bench.tensors import read_safetensors
from bench.training_data import RATES
from densor.sync import changes, message
from densor.sync.weights import Copy, Described, Table, copy_all

Arrays = dict[str, Any]


def load(path: Path) -> tuple[list[Described], list[Any]]:
    """Tensors of a file, and their bytes."""
    tensors = sorted(read_safetensors(path), key=lambda t: t.name)
    return [Described(t.name, t.dtype, tuple(t.shape)) for t in tensors], [t.data for t in tensors]


def best(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Seconds of the processor, the least of five."""
    found = []
    for _ in range(5):
        before()
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def gaps_and_bits(new: list[Any], old: list[Any]) -> int:
    """Bytes of positions as gaps and of exclusive or, both through Zstandard."""
    total = 0
    for one, other in zip(new, old, strict=True):
        different = one.view(np.uint16) ^ other.view(np.uint16)
        at = np.flatnonzero(different)
        gaps = np.diff(at, prepend=-1).astype(np.uint32)
        both = gaps.astype("<u2").tobytes() + different[at].tobytes()
        total += len(zstandard.ZstdCompressor(3).compress(both))
    return total


def measure(rate: str, step: int, folder: Path) -> None:
    """Prints a line of each table."""
    tensors, old = load(folder / f"w-{rate}-{step - 1}.safetensors")
    _, new = load(folder / f"w-{rate}-{step}.safetensors")
    size = sum(data.size for data in new)
    every = [i for i in range(len(new)) if not np.array_equal(new[i], old[i])]
    coder = changes.Coder(threads=1)
    pieces = list(changes.encode(tensors, new, old, every, coder))
    body = message.pack_pieces(pieces)
    whole = len(body) + message.OVERHEAD
    single = sum(
        len(piece.payload) for i in every for piece in changes.encode(tensors, new, old, [i], coder)
    )
    base, later = ((folder / f"w-{rate}-{s}.safetensors").read_bytes() for s in (step - 1, step))
    target = io.BytesIO()
    densor.compress_file(io.BytesIO(later), target, base=io.BytesIO(base), threads=1)
    changed = sum(int((a.view("u2") != b.view("u2")).sum()) for a, b in zip(new, old, strict=True))
    shares = (
        2 * changed / size,
        whole / size,
        single / size,
        len(target.getvalue()) / size,
        6 * changed / size,
        gaps_and_bits(new, old) / size,
    )
    work = [data.copy() for data in old]

    def reset() -> None:
        for one, other in zip(work, old, strict=True):
            one[:] = other

    def apply() -> None:
        for piece in pieces:
            changes.apply(piece, tensors, work, 1, True, lambda _: None)

    code = best(lambda: list(changes.encode(tensors, new, old, every, coder)))
    applied = best(apply, reset)
    copied = best(reset)
    assert all(np.array_equal(a, b) for a, b in zip(work, old, strict=True))
    print(
        f"| {rate} | {step} | {100 * shares[0]:.2f} % | "
        + " | ".join(f"{share:.5f}" for share in shares[1:])
        + f" | {size / code / 1e6:.0f} | {size / applied / 1e6:.0f} | {size / copied / 1e6:.0f} |",
        flush=True,
    )


def blocked(folder: Path, step: int) -> None:
    """How long a trainer waits, beside a plain copy, by the clock: medians of turns."""
    import torch

    from densor.formats.io.sources import as_bytes

    tensors, old = load(folder / f"w-5e-6-{step}.safetensors")
    table = Table(tuple(tensors), {})
    copy = Copy(table)
    views = [
        torch.from_numpy(as_bytes(data.copy())).view(torch.bfloat16).reshape(tensor.shape)
        for tensor, data in zip(tensors, old, strict=True)
    ]
    flat = torch.cat([view.reshape(-1) for view in views])
    there = torch.empty_like(flat)
    found, plain = [], []
    for _ in range(31):  # threads of torch that have nothing to do take time of the processor
        begin = time.perf_counter()
        copy_all(list(zip(views, tensors, copy.data, strict=True)))
        found.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        there.copy_(flat)
        plain.append(time.perf_counter() - begin)
    size = sum(data.size for data in old)
    print(
        f"the trainer waits {np.median(found) / size * 1e12:.0f} ms per GB, "
        f"a plain copy takes {np.median(plain) / size * 1e12:.0f} ms"
    )


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int, nargs="*", default=[50])
    arguments = parser.parse_args()
    print(
        "| rate | step | changed | message | tensor by tensor | --base | index, value | gaps, zstd"
    )
    print("| | code MB/s | apply MB/s | copy MB/s |")
    for rate in RATES:
        for step in arguments.steps:
            measure(rate, step, arguments.folder)
    blocked(arguments.folder, arguments.steps[0])


if __name__ == "__main__":
    main()
