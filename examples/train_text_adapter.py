"""Train a low-rank adapter of a language model on texts, for `densor --llm`.

The script was run once to make ``densor/data/smollm2-prose``; the package itself never runs it. It
needs torch, and one or two CPU cores for as long as ``--minutes`` says::

    apt-get download r-cran-janeaustenr dict-gcide
    dpkg-deb -x r-cran-janeaustenr_*.deb austen && dpkg-deb -x dict-gcide_*.deb gcide
    python train_text_adapter.py --base smollm2 --out smollm2-prose --minutes 60 \\
        --janeaustenr austen/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb \\
        --gcide gcide/usr/share/dictd/gcide.dict.dz

Lines of paragraphs are joined first, as the codec does. Nine windows of ten are from the novels,
or from files given by ``--text``, the others from the dictionary. All matrices get factors of rank
``--rank``, all norms new weights. What is written is rounded to eight bits a number, in units of a
power of two for each factor. The learning rate follows the clock, so two runs do not give the same
bits.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from densor.codec.language_model.lines import JOINED, joined
from densor.files.language_models import Parts, parts_of

MATRICES = {
    **{letter: f"self_attn.{letter}_proj" for letter in "qkvo"},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
NORMS = "input_layernorm", "post_attention_layernorm"
WINDOW = 1024  # tokens
DICTIONARY = slice(3_000_000, 3_400_000)  # bytes of it that are read
SHARE = 0.1  # of windows from the dictionary
_STRING = 0x10  # of R: a vector of strings


class Adapted(nn.Module):
    """The model in BF16, whose weights stay as they are, with factors and norms that learn."""

    def __init__(self, parts: Parts, rank: int) -> None:
        super().__init__()
        self.shape, self.vocabulary = parts.shape, parts.vocabulary
        numbers = torch.from_numpy(parts.vocabulary.numbers)
        self.start = int(torch.nonzero(numbers == parts.start)[0])

        def tensor(name: str) -> Tensor:
            values = parts.get(f"{name}.weight")
            assert values is not None
            return torch.from_numpy(values.copy())

        self.embeddings = tensor("model.embed_tokens")[numbers]
        rows = self.embeddings
        if "lm_head.weight" in parts.names:
            rows = tensor("lm_head")[numbers]
        self.head = rows[: parts.vocabulary.count].bfloat16()
        self.fixed: dict[str, Tensor] = {}
        self.learned = nn.ParameterDict()
        for layer in range(self.shape.layers):
            for name in MATRICES.values():
                at = f"model.layers.{layer}.{name}"
                self.fixed[at] = tensor(at).bfloat16()
                outputs, inputs = self.fixed[at].shape
                first = torch.randn(rank, inputs) / math.sqrt(inputs)
                self.learned[_key(f"{at}.lora_A")] = nn.Parameter(first)
                self.learned[_key(f"{at}.lora_B")] = nn.Parameter(torch.zeros(outputs, rank))
            for name in NORMS:
                at = f"model.layers.{layer}.{name}"
                self.learned[_key(at)] = nn.Parameter(tensor(at))
        self.learned[_key("model.norm")] = nn.Parameter(tensor("model.norm"))
        angles = self.shape.theta ** (-torch.arange(0, self.shape.size, 2) / self.shape.size)
        angles = torch.arange(WINDOW)[:, None, None] * angles
        self.turns = torch.cos(angles), torch.sin(angles)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.shape.epsilon)
        found: Tensor = x * scale * self.learned[_key(name)]
        return found.bfloat16()

    def _product(self, x: Tensor, name: str) -> Tensor:
        first, second = (self.learned[_key(f"{name}.lora_{letter}")].bfloat16() for letter in "AB")
        found: Tensor = x @ self.fixed[name].T + (x @ first.T) @ second.T
        return found

    def _turned(self, heads: Tensor) -> Tensor:
        c, s = (table[: heads.shape[0]].bfloat16() for table in self.turns)
        a, b = heads.chunk(2, -1)
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Bits that each of the tokens, but the first, takes."""
        shape = self.shape
        x = self.embeddings[tokens[:-1]]
        for layer in range(shape.layers):
            at = f"model.layers.{layer}."
            name = {key: at + value for key, value in MATRICES.items()}
            h = self._norm(x, at + NORMS[0])
            q, k, v = (
                self._product(h, name[letter]).view(-1, heads, shape.size)
                for letter, heads in zip("qkv", (shape.heads, *[shape.groups] * 2), strict=True)
            )
            q, k = self._turned(q), self._turned(k)
            q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
            found = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + self._product(found[0].transpose(0, 1).flatten(1), name["o"]).float()
            h = self._norm(x, at + NORMS[1])
            inner = F.silu(self._product(h, name["gate"])) * self._product(h, name["up"])
            x = x + self._product(inner, name["down"]).float()
        logits = (self._norm(x, "model.norm") @ self.head.T).float()
        return F.cross_entropy(logits, tokens[1:], reduction="none") / math.log(2)


def _key(name: str) -> str:
    return name.replace(".", "|")  # parameters' names have no dots


def novels(path: Path) -> list[bytes]:
    """The texts in a lazy-load database of R: vectors of lines."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        reader = zlib.decompressobj()
        raw = reader.decompress(data[at + 4 :])
        at = len(data) - len(reader.unused_data)
        (encoding,) = struct.unpack_from(">I", raw, 14)
        kind, count = struct.unpack_from(">II", raw, 18 + encoding)
        if kind & 0xFF != _STRING:
            continue
        lines, place = [], 26 + encoding
        for _ in range(count):
            _, length = struct.unpack_from(">Ii", raw, place)
            lines.append(raw[place + 8 : place + 8 + max(length, 0)])
            place += 8 + max(length, 0)
        found.append(b"\n".join(lines))
    return found


def tokens_of(parts: Parts, text: bytes) -> np.ndarray:
    """The tokens of a text whose lines are joined."""
    content, _ = joined(np.frombuffer(text.replace(b"\r\n", b"\n"), np.uint8), JOINED)
    tokens = parts.vocabulary.tokens(content.tobytes())
    return np.array([token for token in tokens if token >= 0], np.int64)


def learn(model: Adapted, prose: np.ndarray, other: np.ndarray, minutes: float, rate: float) -> int:
    """Trains for so many minutes; returns the number of steps."""
    factors = [p for name, p in model.learned.items() if "lora_" in name]
    norms = [p for name, p in model.learned.items() if "lora_" not in name]
    groups = [{"params": factors, "most": rate}, {"params": norms, "most": rate / 2}]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.98))
    random = np.random.default_rng(5)
    begin, step = time.monotonic(), 0
    while (done := (time.monotonic() - begin) / (60 * minutes)) < 1:
        part = min(1, (step + 1) / 8) * 0.5 * (1 + math.cos(math.pi * done))
        for group in adam.param_groups:
            group["lr"] = group["most"] * part
        source = other if other.size > WINDOW and random.random() < SHARE else prose
        at = int(random.integers(0, source.size - WINDOW))
        tokens = torch.from_numpy(np.append(model.start, source[at : at + WINDOW]))
        bits = model(tokens).mean()
        adam.zero_grad()
        (bits * math.log(2)).backward()
        nn.utils.clip_grad_norm_(factors + norms, 1.0)
        adam.step()
        step += 1
        print(f"step {step}: {float(bits.detach()):.3f} bits per token", flush=True)
    return step


def rounded(values: Tensor) -> Tensor:
    """In whole numbers of at most 127, in units of a power of two; exact in BF16."""
    _, top = math.frexp(float(values.abs().max()) / 127)
    return (torch.round(values * 2.0**-top) * 2.0**top).bfloat16()


def write(model: Adapted, base: str, rank: int, folder: Path) -> None:
    """The adapter as PEFT has it."""
    tensors = {}
    for key, value in model.learned.items():
        values = value.detach()
        kept = rounded(values) if "lora_" in key else values.half()
        tensors[f"base_model.model.{key.replace('|', '.')}.weight"] = kept.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted(name.rsplit(".", 1)[1] for name in MATRICES.values()),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2", help="the model: a name or a path")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="texts to learn from")
    parser.add_argument("--janeaustenr", type=Path, help="Rdata.rdb of this package of R")
    parser.add_argument("--gcide", type=Path, help="gcide.dict.dz")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3, help="the highest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    parts = parts_of(args.base)
    texts = [path.read_bytes() for path in args.text]
    texts += novels(args.janeaustenr) if args.janeaustenr else []
    prose = np.concatenate([tokens_of(parts, text) for text in texts])
    other = np.empty(0, np.int64)
    if args.gcide:
        other = tokens_of(parts, gzip.decompress(args.gcide.read_bytes())[DICTIONARY])
    model = Adapted(parts, args.rank)
    steps = learn(model, prose, other, args.minutes, args.rate)
    write(model, args.base, args.rank, args.out)
    print(f"{steps} steps of {WINDOW} tokens: {args.out}")


if __name__ == "__main__":
    main()
