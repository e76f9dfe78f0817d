"""Pages of a key-value cache: what keys and values take, by level.

    python -m bench.cache FILE [--theta 100000]

FILE: by torch.save, a list of (keys, values) of each layer, [batch, heads, tokens, channels] each.
Each is a page. MB/s are of the processor, one thread, beside a copy, the best of three rounds.
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

    from densor.torch import PagedCache, pack_page
    from densor.torch.pages import KEYS, VALUES, Page

    torch.set_num_threads(1)
    layers = torch.load(arguments.file, weights_only=True)
    print("| what | level | as laid out | pages | pack MB/s | unpack MB/s | copy MB/s |")
    for which, name in ((KEYS, "keys"), (VALUES, "values")):
        tensors = [layer[which] for layer in layers]
        none = tensors[0][..., :0]
        size = sum(tensor.nbytes for tensor in tensors)
        for level in (1, 3, 6):
            plain = sum(len(pack_page(Page(VALUES, 0, 0, tensor), level)) for tensor in tensors)
            rounds = []
            for _ in range(3):
                cache = PagedCache(tensors[0].shape[2], level, rope_theta=arguments.theta)
                begin = time.process_time()
                for number, tensor in enumerate(tensors):
                    cache.append(number, *((tensor, none) if which == KEYS else (none, tensor)))
                middle = time.process_time()
                found = [cache.layer(number)[which] for number in range(len(tensors))]
                end = time.process_time()
                copies = [tensor.clone() for tensor in tensors]
                rounds.append((middle - begin, end - middle, time.process_time() - end))
                for one, copy in zip(found, copies, strict=True):
                    assert torch.equal(one.view(torch.int16), copy.view(torch.int16))
            best = [min(parts) for parts in zip(*rounds, strict=True)]
            speeds = " | ".join(f"{size / max(one, 1e-9) / 1e6:.0f}" for one in best)
            packed = cache.packed_bytes
            print(f"| {name} | {level} | {plain / size:.4f} | {packed / size:.4f} | {speeds} |")


if __name__ == "__main__":
    main()
