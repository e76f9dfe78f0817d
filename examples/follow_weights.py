"""A trainer, and a process that follows its weights over a socket.

    python examples/follow_weights.py [STEPS]

The trainer keeps the latest messages in memory and serves them; the other process starts later,
takes the full copy and the changes since, and goes on from change to change. In the end both have
the same bits. With a folder or a URL that both can reach, no server is needed.
"""

import hashlib
import multiprocessing
import sys

import torch
from torch import nn

from densor.sync import MemoryStore, Publisher, StoreServer, Subscriber


def model() -> nn.Module:
    """The same on both sides, but for its weights."""
    found = nn.Sequential(nn.Embedding(2000, 128), nn.Linear(128, 512), nn.GELU())
    return found.append(nn.Linear(512, 2000)).bfloat16()


def digest(module: nn.Module) -> str:
    """SHA-256 of all weights."""
    hasher = hashlib.sha256()
    for value in module.state_dict().values():
        hasher.update(value.view(torch.uint8).numpy())
    return hasher.hexdigest()


def follow(url: str, last: int, answers: "multiprocessing.Queue[str]") -> None:
    """What runs beside the training, such as the generation of samples."""
    served = model()
    subscriber = Subscriber(served, url)
    subscriber.wait_for(last, timeout=300)
    answers.put(digest(served))


def main() -> None:
    """Trains, and compares."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.manual_seed(0)
    trained = model()
    masters = [p.detach().float().requires_grad_() for p in trained.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=1e-4)
    store = MemoryStore()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with StoreServer(store) as server, Publisher(trained, store, wait=True) as publisher:
        follower = context.Process(target=follow, args=(server.url, steps, answers))
        for step in range(steps + 1):
            ids = torch.randint(0, 2000, (256,))
            nn.functional.cross_entropy(trained(ids).float(), ids.roll(1)).backward()
            for master, parameter in zip(masters, trained.parameters(), strict=True):
                assert parameter.grad is not None
                master.grad = parameter.grad.float()
                parameter.grad = None
            optimizer.step()
            with torch.no_grad():
                for master, parameter in zip(masters, trained.parameters(), strict=True):
                    parameter.copy_(master)
            publisher.step(step)
            if step == steps // 2:
                follower.start()
        publisher.wait()
        sizes = {name: len(store.get(name, 1 << 40) or b"") for name in sorted(store.names())}
        found = answers.get(timeout=300)
        follower.join()
    weights = sum(p.nbytes for p in trained.parameters())
    for name, size in sizes.items():
        print(f"{name}: {size / weights:.4f} of {weights} bytes of weights")
    assert found == digest(trained)
    print("the other process has the same weights")


if __name__ == "__main__":
    main()
