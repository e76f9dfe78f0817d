"""Pages of a key-value cache: what keys and values take, by level.

    python -m bench.cache FILE [--theta 100000]

FILE: by torch.save, a list of (keys, values) of each layer, [batch, heads, tokens, channels] each.
Each is a page. MB/s are of the processor, one thread, beside a copy, the best of five rounds.
"""

import argparse
import time
from pathlib import Path


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--theta", type=float, default=100000.0)
    arguments = parser.parse_args()
    import torch

    from densor.torch import pack_page, unpack_page
    from densor.torch.pages import KEYS, VALUES, Choice, Page

    torch.set_num_threads(1)
    layers = torch.load(arguments.file, weights_only=True)
    print("| what | level | as laid out | pages | pack MB/s | unpack MB/s | copy MB/s |")
    for which, name in ((KEYS, "keys"), (VALUES, "values")):
        tensors = [layer[which] for layer in layers]
        size = sum(tensor.nbytes for tensor in tensors)
        for level in (1, 3, 6):
            plain = sum(len(pack_page(Page(VALUES, 0, 0, tensor), level)) for tensor in tensors)
            rounds = []
            for _ in range(5):
                choice = Choice()  # as a cache has it
                begin = time.process_time()
                packed = [
                    choice.pack(Page(which, number, 0, tensor), level, arguments.theta)
                    for number, tensor in enumerate(tensors)
                ]
                middle = time.process_time()
                found = [unpack_page(page).tensor for page in packed]
                end = time.process_time()
                copies = [tensor.clone() for tensor in tensors]
                rounds.append((middle - begin, end - middle, time.process_time() - end))
                for one, copy in zip(found, copies, strict=True):
                    assert torch.equal(one.view(torch.int16), copy.view(torch.int16))
            best = [min(parts) for parts in zip(*rounds, strict=True)]
            speeds = " | ".join(f"{size / max(one, 1e-9) / 1e6:.0f}" for one in best)
            share = sum(map(len, packed)) / size
            print(f"| {name} | {level} | {plain / size:.4f} | {share:.4f} | {speeds} |")


if __name__ == "__main__":
    main()
