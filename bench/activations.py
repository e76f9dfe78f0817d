"""A training step with packed activations beside an ordinary one.

    python -m bench.activations MODEL_FOLDER TEXT...

The model of `bench.training_data` in BF16, a batch of 16 × 128 tokens, dropout as it is. Memory is
what autograd holds, storages counted once; gradients are compared bit by bit.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from bench.training_data import loss_of, sentences


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    arguments = parser.parse_args()
    import torch
    import transformers

    from densor.torch import pack_activations

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    for attention in ("sdpa", "eager"):
        model = transformers.AutoModel.from_pretrained(
            arguments.model, dtype=torch.bfloat16, attn_implementation=attention
        )
        model.pooler = None
        model.train()
        texts = [" ".join(sentences(arguments.texts)[i : i + 14]) for i in range(0, 160, 10)]
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=128, return_tensors="pt"
        )

        def step(packed: bool, model: Any = model, tokens: Any = tokens) -> Any:
            torch.manual_seed(1)
            model.zero_grad()
            begin, saved = time.perf_counter(), None
            if packed:
                with pack_activations(model) as saved:
                    loss = loss_of(model, tokens)
            else:
                loss = loss_of(model, tokens)
            loss.backward()
            seconds = time.perf_counter() - begin
            return seconds, saved, [p.grad for p in model.parameters() if p.grad is not None]

        step(False), step(True)
        plain, packed = step(False), step(True)
        same = all(
            torch.equal(a.view(torch.int16), b.view(torch.int16))
            for a, b in zip(plain[2], packed[2], strict=True)
        )
        saved = packed[1]
        print(
            f"{attention}: saved {saved.peak_plain / 2**20:.1f} MiB, packed {saved.ratio:.3f}, "
            f"step {plain[0]:.2f} s, packed {packed[0]:.2f} s "
            f"(packing {saved.packing:.2f}, unpacking {saved.unpacking:.2f}), same bits: {same}"
        )
        for kind, (before, after) in sorted(saved.kinds.items()):
            print(f"    {kind}: {before / 2**20:.1f} MiB, {after / before:.3f}")


if __name__ == "__main__":
    main()
