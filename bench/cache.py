"""Pages of a key-value cache: what keys and values take, by level.

    python -m bench.cache FILE [--theta 100000]

FILE: by torch.save, a list of (keys, values) of each layer, [batch, heads, tokens, channels] each.
MB/s are of the processor, one thread, beside a copy.
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
    from densor.torch.pages import KEYS, VALUES, Page

    torch.set_num_threads(1)
    layers = torch.load(arguments.file, weights_only=True)
    print("| what | level | as laid out | pages | pack MB/s | unpack MB/s | copy MB/s |")
    for which, name in ((KEYS, "keys"), (VALUES, "values")):
        for level in (1, 3, 6):
            size = packed = plain = 0
            spent = [0.0, 0.0, 0.0]
            for number, layer in enumerate(layers):
                tensor = layer[which]
                begin = time.process_time()
                page = pack_page(Page(which, number, 0, tensor), level, arguments.theta)
                middle = time.process_time()
                found = unpack_page(page).tensor
                end = time.process_time()
                tensor.clone()
                spent[2] += time.process_time() - end
                spent[0] += middle - begin
                spent[1] += end - middle
                assert torch.equal(found.view(torch.int16), tensor.view(torch.int16))
                size, packed = size + tensor.nbytes, packed + len(page)
                plain += len(pack_page(Page(VALUES, 0, 0, tensor), level))
            speeds = " | ".join(f"{size / max(one, 1e-9) / 1e6:.0f}" for one in spent)
            print(f"| {name} | {level} | {plain / size:.4f} | {packed / size:.4f} | {speeds} |")


if __name__ == "__main__":
    main()
