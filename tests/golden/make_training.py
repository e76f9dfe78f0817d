"""Golden files of packed optimizer states and of pages of caches; never run again on old ones.

    python tests/golden/make_training.py

The state before is packed by itself, the one after as a step from it; both have digests of what
they must give.
"""

import copy
from pathlib import Path

import torch

from densor.torch import pack_page, pack_state
from densor.torch.pages import KEYS, VALUES, Page

FOLDER = Path(__file__).parent
THETA = 10000.0


def states():
    """Two states, a step apart, which was taken with BF16 gradients, clipped."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(60, 61), (9,)]
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = torch.optim.AdamW(parameters)
    before = None
    for _ in range(2):
        before = copy.deepcopy(optimizer.state_dict())
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.bfloat16().float() * 0.625123
        optimizer.step()
    return before, optimizer.state_dict()


def scaled():
    """A state whose v follows from the scales of rows and columns, about."""
    generator = torch.Generator().manual_seed(7)
    size = 10.0 ** (torch.randn(40, 1, generator=generator) + torch.randn(50, generator=generator))
    m = size * torch.randn(40, 50, generator=generator)
    v = size**2 * (0.5 + torch.rand(40, 50, generator=generator))
    v[7] = 0
    slot = {"exp_avg": m, "exp_avg_sq": v}
    return {"state": {0: slot}, "param_groups": [{"params": [0], "betas": (0.9, 0.999)}]}


def pages():
    """Keys that suit means, and values."""
    generator = torch.Generator().manual_seed(6)
    x = 3 * torch.randn(1, 2, 1, 32, generator=generator)
    x = x + torch.randn(1, 2, 400, 32, generator=generator)
    angle = torch.arange(400)[:, None] * THETA ** (-torch.arange(0, 32, 2) / 32)
    a, b = x.split(16, -1)
    keys = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
    return Page(KEYS, 1, 0, keys.bfloat16()), Page(VALUES, 1, 0, x[:, :, :50].half())


def main() -> None:
    """Writes files that are not there."""
    before, after = states()
    keys, values = pages()
    made = {
        "adam-before.state": pack_state(before, level=3),
        "adam-after.state": pack_state(after, before, level=3),
        "adam-relative.state": pack_state(scaled(), level=3),
        "keys-coded.page": pack_page(keys, rope_theta=THETA),  # keys.page is of version 0.6
        "values.page": pack_page(values),
    }
    for name, data in made.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
