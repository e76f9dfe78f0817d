"""A training step with packed activations beside an ordinary one; and masks of dropout.

    python -m bench.activations MODEL TEXT...

MODEL is that of `bench.training_data` in BF16: of an encoder, a batch of 16 × 128 tokens, dropout
as it is; of a causal model in a GGUF file, the first three blocks and 2 × 512 tokens. Memory is
what autograd holds, storages counted once; gradients are compared bit by bit, and times are by the
clock. Masks: shares that 16 × 128 × 384 values of a dropout of .1 take, by level.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.training_data import Causal, loss_of, sentences

_BLOCKS, _TEXTS, _TOKENS = 3, 2, 512


def encoder(folder: Path, texts: list[Path], attention: str) -> tuple[Any, Callable[[], Any]]:
    """A sentence encoder, and what computes the loss."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation=attention
    )
    model.pooler = None
    lines = [" ".join(sentences(texts)[i : i + 14]) for i in range(0, 160, 10)]
    tokens = tokenizer(lines, padding=True, truncation=True, max_length=128, return_tensors="pt")
    return model, lambda: loss_of(model, tokens)


def blocks(path: Path, texts: list[Path]) -> tuple[Any, Callable[[], Any]]:
    """The first blocks of a causal model, without its head, and what computes a loss."""
    import torch

    causal = Causal(path, texts)
    model = causal.model.model.to(torch.bfloat16)
    model.layers = model.layers[:_BLOCKS]
    batch = torch.stack([ids[:_TOKENS] for ids in causal.ids[:_TEXTS]])
    return model, lambda: model(batch, use_cache=False).last_hidden_state.float().pow(2).mean()


def measure(name: str, model: Any, loss_of_step: Callable[[], Any]) -> None:
    """Prints what a step takes, and holds, as PyTorch does it and packed."""
    import torch

    from densor.torch import pack_activations
    from densor.torch.activations import KINDS

    model.train()

    def step(kinds: tuple[str, ...]) -> Any:
        torch.manual_seed(1)
        model.zero_grad()
        begin, saved = time.perf_counter(), None
        if kinds:
            with pack_activations(model, kinds=kinds) as saved:
                loss = loss_of_step()
        else:
            loss = loss_of_step()
        loss.backward()
        seconds = time.perf_counter() - begin
        return seconds, saved, [p.grad for p in model.parameters() if p.grad is not None]

    plain = min((step(()) for _ in range(2)), key=lambda found: found[0])
    ways = {"packed": KINDS, "nothing again": tuple(k for k in KINDS if k != "again")}
    for way, kinds in ways.items():
        packed = min((step(kinds) for _ in range(2)), key=lambda found: found[0])
        same = all(
            torch.equal(a.view(torch.int16), b.view(torch.int16))
            for a, b in zip(plain[2], packed[2], strict=True)
        )
        saved = packed[1]
        print(
            f"{name}, {way}: saved {saved.peak_plain / 2**20:.1f} MiB, to {saved.ratio:.3f}, "
            f"step {plain[0]:.2f} s, packed {packed[0]:.2f} s "
            f"(packing {saved.packing:.2f}, unpacking {saved.unpacking:.2f}), same bits: {same}",
            flush=True,
        )
        for kind, (before, after) in sorted(saved.kinds.items()):
            print(f"    {kind}: {before / 2**20:.1f} MiB, {after / before:.3f}")


def masks() -> None:
    """Prints what masks take."""
    import torch

    import densor

    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(torch.ones(16 * 128 * 384), 0.1)
    for name, mask in (("BF16", kept.bfloat16()), ("bool", kept > 0)):
        shares = [len(densor.compress(mask, level, 1)) / mask.nbytes for level in (1, 3, 6, 9)]
        print(f"mask, {name}, levels 1, 3, 6, 9:", ", ".join(f"{share:.4f}" for share in shares))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.model.is_dir():
        for attention in ("sdpa", "eager"):
            measure(attention, *encoder(arguments.model, arguments.texts, attention))
    else:
        measure("sdpa", *blocks(arguments.model, arguments.texts))
    masks()


if __name__ == "__main__":
    main()
