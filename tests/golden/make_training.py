"""Golden files of what is packed for training; never run again on old ones.

    python tests/golden/make_training.py

The state before is packed by itself, the one after as a step from it; both have digests of what
they must give. `former.snapshot` is of version 0.7.
"""

import copy
from collections import OrderedDict
from pathlib import Path

import torch

from densor.torch import pack_page, pack_snapshot, pack_state
from densor.torch.pages import KEYS, VALUES, Page
from densor.torch.stripes import Stripes

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


def snapshot():
    """A state with all kinds of nodes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 20, generator=generator).bfloat16()
    odd = torch.tensor([float("nan"), -0.0, 5e-324], dtype=torch.float64)
    numbers = [0, -1, 2**63 - 1, -(2**63), 2**80, -(2**70), -0.0, float("-inf"), 1 - 2j]
    model = OrderedDict(w=weight, t=weight.t(), empty=torch.zeros(0, 3), odd=odd)
    return {
        "model": model,
        "optimizer": {0: (0.1, None, True), (1, "a"): numbers, b"\x89": [], "x\ud800": {}},
        "scalar": torch.tensor(3),
        "bytes": b"\x89bytes",
    }


def parity():
    """What four ranks hold of each other, end to end in the order of stripes; two can be lost."""
    data = [bytes(i * i * (rank + 1) % 251 for i in range(77 * rank)) for rank in range(4)]
    stripes, sizes = Stripes(4, 2), [len(part) for part in data]
    found = []
    for stripe in range(4):
        blocks = [stripes.piece(rank, data[rank], sizes, stripe) for rank in range(4)]
        found += [stripes.parity(stripe, blocks, number).tobytes() for number in range(2)]
    return data, b"".join(found)


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
        "state.snapshot": pack_snapshot(snapshot(), -7),
        "ranks.parity": parity()[1],
    }
    for name, data in made.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
