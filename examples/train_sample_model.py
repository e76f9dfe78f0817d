"""Train the sample model that Densor ships: a byte-level language model of Llama architecture.

The script was run once to make ``densor/data/sample``; the package itself never runs it.  It needs
only torch, numpy and safetensors, and one CPU core for as long as ``--minutes`` says.

The model reads bytes (ids 0 to 255) after a ``<bos>`` id; ``<eos>`` and ``<pad>`` have ids too but
never occur in training.  It learns from two texts, neither of which is part of this repository:

* the GNU version of the Collaborative International Dictionary of English, from the Debian package
  ``dict-gcide``, whose ``gcide.dict.dz`` (a gzip file) is what ``--gcide`` expects;
* the Python sources of SymPy, from the wheel ``sympy==1.14.0``, which ``--sympy`` expects as it is.

To get them and train::

    apt-get download dict-gcide
    dpkg-deb -x dict-gcide_*.deb gcide
    pip download --no-deps sympy==1.14.0
    python train_sample_model.py --gcide gcide/usr/share/dictd/gcide.dict.dz \\
        --sympy sympy-1.14.0-py3-none-any.whl --out sample

The last 2 % of each text is held out.  The figures printed at the end, and written to
``report.json``, are bits per byte of that held-out text under the weights as stored, that is,
rounded to BF16.

The learning rate follows the clock and not a step count, so a run fits its time budget on a busy
machine too; two runs therefore do not give the same bits.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

BOS, EOS, PAD, VOCAB = 256, 257, 258, 272
HELD_OUT = 0.02

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """The sizes of the model; the names are those of a Llama ``config.json``."""

    hidden_size: int = 192
    intermediate_size: int = 448
    num_hidden_layers: int = 3
    num_attention_heads: int = 3
    max_position_embeddings: int = 256
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def config(self) -> dict[str, object]:
        """The ``config.json`` with which transformers' ``LlamaForCausalLM`` loads the model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "vocab_size": VOCAB,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.head_dim,
            **asdict(self),
        }


@dataclass(frozen=True)
class Recipe:
    """How to train: the clock, the batch and the optimizer."""

    minutes: float = 45.0
    batch: int = 8
    peak_rate: float = 1.5e-3
    final_fraction: float = 0.01
    warm_up: float = 0.03
    weight_decay: float = 0.1
    seed: int = 20240229

    def rate(self, progress: float) -> float:
        """The learning rate at ``progress`` (0 to 1): a linear warm-up, then half a cosine."""
        if progress < self.warm_up:
            return self.peak_rate * max(progress / self.warm_up, 0.01)
        angle = math.pi * min(1.0, (progress - self.warm_up) / (1.0 - self.warm_up))
        cosine = 0.5 * (1.0 + math.cos(angle))
        return self.peak_rate * (self.final_fraction + (1.0 - self.final_fraction) * cosine)


# ---------------------------------------------------------------------------------------------
# The model.  Attribute names give the tensor names, so that the state is saved without renaming.


class Norm(nn.Module):
    """Root-mean-square normalisation with a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x`` to unit mean square along its last axis."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position encoding, pairing element i of a head with element i + half."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions and no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads = shape.num_attention_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Attend from every position to itself and those before it."""

        def split(flat: Tensor) -> Tensor:
            return flat.view(*flat.shape[:2], self.heads, -1).transpose(1, 2)

        query = rotate(split(self.q_proj(x)), cos, sin)
        key = rotate(split(self.k_proj(x)), cos, sin)
        value = split(self.v_proj(x))
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        mixed = torch.softmax(scores.float() + mask, dim=-1) @ value
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """The gated feed-forward block (SwiGLU)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's contribution to the residual stream."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Add attention, then the feed-forward block, to the residual stream."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """The embedding, the layers and the last norm."""

    cos: Tensor
    sin: Tensor
    mask: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        exponents = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        positions = torch.arange(shape.max_position_embeddings).float()
        angles = torch.outer(positions, shape.rope_theta**-exponents)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        future = torch.full((len(positions), len(positions)), -math.inf).triu(1)
        self.register_buffer("mask", future, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the normalised last hidden states."""
        length = ids.shape[1]
        places = self.cos[:length], self.sin[:length], self.mask[:length, :length]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, *places)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """A causal language model whose output matrix is its embedding (tied)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Decoder(shape)
        residual = (2 * shape.num_hidden_layers) ** -0.5
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                std = 0.02 if "embed" in name else weight.shape[1] ** -0.5
                ends_block = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=std * residual if ends_block else std)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the id that follows each position."""
        return F.linear(self.model(ids), self.model.embed_tokens.weight)


# ---------------------------------------------------------------------------------------------
# The texts.


def read_gcide(path: Path) -> bytes:
    """The dictionary's text; ``gcide.dict.dz`` is an ordinary gzip file with an extra field."""
    with gzip.open(path) as stream:
        return stream.read()


def read_sympy(path: Path) -> bytes:
    """Every Python file of the wheel, in the order of the file names, one after another."""
    with zipfile.ZipFile(path) as wheel:
        names = sorted(name for name in wheel.namelist() if name.endswith(".py"))
        return b"".join(wheel.read(name) for name in names)


def split_text(text: bytes) -> tuple[Bytes, Bytes]:
    """Cut a text into what is trained on and its held-out end."""
    cut = len(text) - int(len(text) * HELD_OUT)
    array = np.frombuffer(text, dtype=np.uint8)
    return array[:cut], array[cut:]


def inputs_for(targets: Tensor) -> Tensor:
    """The ids the model sees when it predicts ``targets``: ``<bos>``, then all but the last."""
    return torch.cat((torch.full_like(targets[:, :1], BOS), targets[:, :-1]), dim=1)


def batches(text: Bytes, rows: int, length: int, seed: int) -> Iterator[Tensor]:
    """Yield shuffled windows of the text for ever; within one epoch no byte comes twice."""
    rng = np.random.default_rng(seed)
    while True:
        shifted = text[int(rng.integers(length)) :]
        windows = shifted[: len(shifted) // length * length].reshape(-1, length)
        order = rng.permutation(len(windows))
        for start in range(0, len(order) - rows + 1, rows):
            yield torch.from_numpy(windows[order[start : start + rows]].astype(np.int64))


# ---------------------------------------------------------------------------------------------
# Measuring, saving and training.


def rounded_copy(model: Llama, shape: Shape) -> Llama:
    """A copy in float32 arithmetic whose weights have gone through BF16, as the file's have."""
    copy = Llama(shape)
    copy.load_state_dict({k: v.bfloat16().float() for k, v in model.state_dict().items()})
    return copy.eval()


@torch.no_grad()
def bits_per_byte(model: Llama, text: Bytes, length: int, stride: int) -> float:
    """Mean cost of a byte of ``text``, predicted in windows of ``length`` bytes.

    Each window starts ``stride`` bytes after the one before, and only the bytes that no earlier
    window covered are counted: with ``stride == length`` a window knows nothing of what precedes
    it; with a smaller one each byte, the first few aside, is predicted from at least
    ``length - stride`` bytes.  An incomplete window at the end of the text is left out.
    """
    count = (len(text) - length) // stride + 1
    windows = np.lib.stride_tricks.sliding_window_view(text, length)[::stride][:count]
    total, counted = 0.0, 0
    for start in range(0, count, 64):
        targets = torch.from_numpy(windows[start : start + 64].astype(np.int64))
        costs = F.cross_entropy(model(inputs_for(targets)).mT, targets, reduction="none")
        total += float(costs[:, length - stride :].double().sum())
        counted += len(targets) * stride
        if start == 0:
            total += float(costs[0, : length - stride].double().sum())
            counted += length - stride
    return total / counted / math.log(2.0)


def save_model(model: Llama, shape: Shape, folder: Path) -> None:
    """Write ``model.safetensors`` in BF16 and the ``config.json`` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.bfloat16().contiguous() for name, value in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    text = json.dumps(shape.config(), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def make_optimizer(model: Llama, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices and none on the norms."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim == 2], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, betas=(0.9, 0.98), fused=True)


def make_loss(model: Llama, compiled: bool) -> Callable[[Tensor], Tensor]:
    """The mean cost of a batch in nats, with the matrix products in BF16."""

    def loss(targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(inputs_for(targets))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    if not compiled:
        return loss
    fast: Callable[[Tensor], Tensor] = torch.compile(loss)
    return fast


@dataclass
class Progress:
    """What a training run has done so far."""

    steps: int = 0
    seconds: float = 0.0
    loss: float = math.nan

    def line(self) -> str:
        """One line for the log, the loss in bits per byte."""
        return f"step {self.steps:6d}  {self.seconds:7.1f} s  {self.loss / math.log(2.0):.4f} bpb"


def train(
    model: Llama,
    data: Iterator[Tensor],
    recipe: Recipe,
    compiled: bool,
    on_minute: Callable[[Progress], None],
) -> Progress:
    """Train until the time is up; call ``on_minute`` once a minute."""
    optimizer = make_optimizer(model, recipe)
    loss_of = make_loss(model, compiled)
    budget = recipe.minutes * 60.0
    done, minute = Progress(), 0
    loss_of(next(data)).backward()  # type: ignore[no-untyped-call]  # compile off the clock
    started = time.perf_counter()
    while done.seconds < budget:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(done.seconds / budget)
        optimizer.zero_grad()
        loss = loss_of(next(data))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        done.loss = value if done.steps == 0 else 0.98 * done.loss + 0.02 * value
        done.steps += 1
        done.seconds = time.perf_counter() - started
        if done.seconds >= 60.0 * (minute + 1):
            minute = int(done.seconds // 60.0)
            on_minute(done)
    return done


def report(
    model: Llama, shape: Shape, recipe: Recipe, done: Progress, held_out: dict[str, Bytes]
) -> dict[str, object]:
    """Everything the model card states, measured on the BF16-rounded weights."""
    stored = rounded_copy(model, shape)
    length = shape.max_position_embeddings
    scores = {
        name: {
            "held_out_bytes": len(text),
            "bits_per_byte_separate_windows": bits_per_byte(stored, text, length, length),
            "bits_per_byte_sliding_windows": bits_per_byte(stored, text, length, length // 2),
        }
        for name, text in held_out.items()
    }
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "steps": done.steps,
        "seconds": round(done.seconds, 1),
        "bytes_read": done.steps * recipe.batch * length,
        "recipe": asdict(recipe),
        "validation": scores,
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    shape, recipe = Shape(), Recipe()
    parser = argparse.ArgumentParser(description="Train Densor's sample model.")
    parser.add_argument("--gcide", type=Path, required=True, help="gcide.dict.dz of dict-gcide")
    parser.add_argument("--sympy", type=Path, required=True, help="the wheel of sympy 1.14.0")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--minutes", type=float, default=recipe.minutes, help="training time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--batch", type=int, default=recipe.batch, help="windows per step")
    parser.add_argument("--rate", type=float, default=recipe.peak_rate, help="peak learning rate")
    parser.add_argument("--width", type=int, default=shape.hidden_size)
    parser.add_argument("--inner", type=int, default=shape.intermediate_size)
    parser.add_argument("--layers", type=int, default=shape.num_hidden_layers)
    parser.add_argument("--heads", type=int, default=shape.num_attention_heads)
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs g++)")
    parser.add_argument("--checkpoints", type=Path, help="folder for a model every five minutes")
    parser.add_argument("--quick", type=int, help="score so few held-out bytes")
    return parser.parse_args()


def main() -> None:
    """Train the model, score it and write it."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    shape = Shape(options.width, options.inner, options.layers, options.heads)
    recipe = Recipe(
        minutes=options.minutes, batch=options.batch, peak_rate=options.rate, seed=options.seed
    )
    texts = {"gcide": read_gcide(options.gcide), "sympy": read_sympy(options.sympy)}
    parts = {name: split_text(text) for name, text in texts.items()}
    training = np.concatenate([part[0] for part in parts.values()])
    held_out = {name: part[1][: options.quick] for name, part in parts.items()}
    model = Llama(shape)

    def on_minute(done: Progress) -> None:
        print(done.line(), flush=True)
        minute = int(done.seconds // 60.0)
        if options.checkpoints and minute % 5 == 0:
            save_model(model, shape, options.checkpoints / f"minute-{minute:02d}")

    data = batches(training, recipe.batch, shape.max_position_embeddings, recipe.seed)
    done = train(model, data, recipe, options.compile, on_minute)
    save_model(model, shape, options.out)
    summary = json.dumps(report(model, shape, recipe, done, held_out), indent=2)
    (options.out / "report.json").write_text(summary + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main()
