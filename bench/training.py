"""Training with packed weights beside ordinary training: the same bits, in how much memory.

    python -m bench.training --million 60 --steps 50

A Llama of random weights in BF16 learns random text. Each way is a process of its own. "Weights
and gradients" is the most that these took together at any time, as PyTorch counts bytes: of
gradients that were kept or just made, of weights as they are held, and of what was decoded of them.
Anonymous memory is RssAnon of /proc/self/status while steps are taken; it and the peak RSS are
those of the whole process, with all imports, and plain ways do not import Densor.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from bench.hf import Peak
from bench.machine import describe
from bench.resident import trim

WAYS = (
    "plain",
    "plain, large blocks mapped",  # as PackedOptimizer with pack_state has them
    "packed",
    "packed, its state too",
    "packed, state and activations too",
)


def model_of(million: int) -> Any:
    """A Llama of about so many million parameters in BF16, a quarter of them in its ends."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_hidden_layers=max(1, round(million * 0.75e6 / 3.41e6)),
        vocab_size=int(million * 0.25e6 / 2 / 512),
    )
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16)


class Watch:
    """The most bytes of weights and gradients at any time."""

    def __init__(self, model: Any) -> None:
        self._parameters = list(model.parameters())
        self.weights = 0
        self.most = 0
        for parameter in self._parameters:
            parameter.register_hook(partial(self._made, parameter))

    def _made(self, parameter: Any, gradient: Any) -> None:
        """When a gradient has just been computed; the parameter will be updated with it."""
        held = [getattr(p, "stored", p.nbytes) for p in self._parameters]
        kept = [p.grad.nbytes for p in self._parameters if p.grad is not None]
        decoded = parameter.nbytes if hasattr(parameter, "stored") else 0
        self.weights = sum(held)
        self.most = max(self.most, self.weights + sum(kept) + gradient.nbytes + decoded)


def train(way: str, million: int, steps: int, threads: int, tokens: int) -> dict[str, Any]:
    """Trains in this process, and measures."""
    import torch

    torch.set_num_threads(threads)
    options: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}
    model = model_of(million)
    around: Callable[[], Any] = nullcontext
    if way.startswith("plain"):
        if way == WAYS[1]:
            from densor.runtime.buffers import map_large_blocks

            map_large_blocks()
        opt: Any = torch.optim.AdamW(model.parameters(), **options)
    else:
        from densor.torch import PackedOptimizer, pack_activations, pack_module

        pack_module(model)
        state = way != "packed"
        opt = PackedOptimizer(model.parameters(), torch.optim.AdamW, pack_state=state, **options)
        if way == WAYS[-1]:
            around = partial(pack_activations, model)
    watch = Watch(model)
    losses, times, cpu = [], [], []
    trim()
    with Peak() as peak:
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            ids = torch.randint(0, model.config.vocab_size, (2, tokens), generator=generator)
            start, used = time.perf_counter(), time.process_time()
            with around():
                loss = model(ids, labels=ids).loss
            loss.backward()
            opt.step()
            opt.zero_grad()
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
            losses.append(loss.item())
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # hashing decodes all weights
    hasher = hashlib.sha256()
    for value in model.state_dict().values():
        hasher.update(value.view(torch.uint8).numpy().tobytes())
    return {
        "losses": losses,
        "digest": hasher.hexdigest(),
        "plain": sum(p.nbytes for p in model.parameters()),
        "weights": watch.weights,
        "most": watch.most,
        "peak": peak.peak,
        "rss": rss,
        "ms": statistics.median(times) * 1e3,
        "cpu": statistics.median(cpu) * 1e3,
    }


def measured(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """`train` in a process of its own."""
    command = [sys.executable, "-m", "bench.training", "--way", way]
    for name in ("million", "steps", "threads", "tokens"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", type=int, default=60, help="parameters")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2, help="that PyTorch computes with")
    parser.add_argument("--tokens", type=int, default=64, help="of each of two texts in a step")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(train(args.way, args.million, args.steps, args.threads, args.tokens)))
        return
    for key, value in describe().items():
        print(f"- {key}: {value}")
    runs = {way: measured(args, way) for way in args.ways}
    plain = runs[args.ways[0]]
    print(f"- threads of PyTorch: {args.threads}")
    print(
        f"- steps: {args.steps}; loss from {plain['losses'][0]:.4f} to {plain['losses'][-1]:.4f}\n"
    )
    print(
        "| training | weights, MB | weights and gradients, MB | of plain "
        "| peak anonymous of the process, MB | of plain | peak RSS of the process, MB "
        "| of plain | ms per step | CPU ms per step "
        "| losses and final weights |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for way, run in runs.items():
        same = run["losses"] == plain["losses"] and run["digest"] == plain["digest"]
        print(
            f"| {way} | {run['weights'] / 1e6:.1f} | {run['most'] / 1e6:.1f} "
            f"| {run['most'] / plain['most']:.3f} | {run['peak'] / 1e6:.0f} "
            f"| {run['peak'] / plain['peak']:.3f} | {run['rss'] / 1e6:.0f} "
            f"| {run['rss'] / plain['rss']:.3f} | {run['ms']:.0f} "
            f"| {run['cpu']:.0f} | {'identical' if same else 'DIFFERENT'} |"
        )


if __name__ == "__main__":
    main()
