"""Weights multiplied as they are packed, on the CPU, beside PyTorch.

    python -m bench.products linear [ROWS COLUMNS]     one linear layer, BF16, 1, 4 and 8 tokens
    python -m bench.products linear --avx2             the same without AVX-512, of PyTorch neither
    python -m bench.products tokens smollm2 | 1b       tokens per second of a Llama, one at a time

All ways take turns in one process. Weights are random, normal with scales of rows that vary as
those of trained models do; of a linear layer there are four, used in turns, so that they come from
memory. "native" is PyTorch without oneDNN. Figures are the fastest of all rounds and the median;
others use the machine, and the fastest says what the processor can do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from bench.machine import describe
from densor.products import entry_kernels as entry
from densor.products.matrix import Matrix, Products, Words

_COPIES = 4
_ROUNDS = 7
_SETTLE = 0.01  # seconds until threads of another library no longer spin
MODELS = {
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "1b": {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def weights(rows: int, columns: int, seed: int) -> Words:
    """A matrix of BF16, as uint16."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.standard_normal((rows, 1)) * 0.25) * 0.02
    numbers = (rng.standard_normal((rows, columns), np.float32) * scales).astype(np.float32)
    found: Words = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return found


def as_torch(words: Words) -> torch.Tensor:
    """The same memory as BF16."""
    return torch.from_numpy(words.view(np.int16)).view(torch.bfloat16)


def without_avx512(arguments: list[str]) -> None:
    """This program anew, numba, PyTorch and oneDNN held to AVX2, with kernels of its own."""
    import llvmlite.binding

    known = llvmlite.binding.get_host_cpu_features()
    wide = ("avx512", "avx10", "evex")
    features = [
        f"{'+' if on and not name.startswith(wide) else '-'}{name}" for name, on in known.items()
    ]
    held = {
        "NUMBA_CPU_NAME": "x86-64-v3",
        "NUMBA_CPU_FEATURES": ",".join(features),
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **held, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-m", "bench.products", *arguments]
        subprocess.run(command, env=environment, check=True)


def timed(ways: dict[str, Callable[[int], Any]], turns: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, all rounds; ways take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, way in ways.items():
                time.sleep(_SETTLE)
                way(turns - 1)
                for turn in range(turns):
                    start = time.perf_counter()
                    way(turn)
                    found[name].append(time.perf_counter() - start)
    return found


def one_linear(rows: int, columns: int, rounds: int) -> None:
    """Prints GB/s of plain weights of one layer, by tokens, threads and way."""
    plain = [weights(rows, columns, seed) for seed in range(_COPIES)]
    held = {
        "loop": [Matrix(words, entry.BF16) for words in plain],
        "4 bits": [Matrix(words, entry.BF16_4) for words in plain],
        "3 bits": [Matrix(words, entry.BF16_3) for words in plain],
    }
    shares = {name: some[0].nbytes / plain[0].nbytes for name, some in held.items()}
    print(json.dumps({"rows": rows, "columns": columns, "share": shares}), flush=True)
    tensors = [as_torch(words) for words in plain]
    for tokens in (1, 4, 8):
        inputs = weights(tokens, columns, 99)
        out = np.empty((tokens, rows), np.uint16)
        given = Products(
            inputs.ctypes.data, out.ctypes.data, 0, tokens, inputs.strides[0], out.strides[0]
        )
        for threads in (1, 2):
            ways = linear_ways(as_torch(inputs), tensors, held, given, threads)
            times = timed(ways, _COPIES, rounds)
            best = {name: plain[0].nbytes / min(some) / 1e9 for name, some in times.items()}
            usual = {
                name: plain[0].nbytes / statistics.median(some) / 1e9
                for name, some in times.items()
            }
            line = {"tokens": tokens, "threads": threads, "best": best, "median": usual}
            print(json.dumps(line, default=float), flush=True)


def linear_ways(
    x: torch.Tensor,
    tensors: list[torch.Tensor],
    held: dict[str, list[Matrix]],
    given: Products,
    threads: int,
) -> dict[str, Callable[[int], Any]]:
    """What is timed, by name."""
    torch.set_num_threads(threads)

    def native(turn: int) -> None:
        with torch.backends.mkldnn.flags(enabled=False):
            linear(x, tensors[turn])

    def by(matrices: list[Matrix]) -> Callable[[int], Any]:
        return lambda turn: matrices[turn].multiply(given, threads)

    ways: dict[str, Callable[[int], Any]] = {
        "torch": lambda turn: linear(x, tensors[turn]),
        "native": native,
    }
    return ways | {name: by(matrices) for name, matrices in held.items()}


def tokens_per_second(name: str, threads: int) -> None:
    """Prints tokens per second of one model, plain and packed, one token at a time."""
    import transformers

    import densor.torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**MODELS[name])
    models = {}
    for way in ("plain", "product"):
        torch.manual_seed(0)
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        model = model.to_empty(device="cpu")
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # has buffers with values
        model.tie_weights()
        with torch.no_grad():
            for seed, parameter in enumerate(model.parameters()):
                rows, columns = parameter.numel() // parameter.shape[-1], parameter.shape[-1]
                made = as_torch(weights(rows, columns, seed))
                parameter.copy_(made.reshape(parameter.shape))
        models[way] = model.eval()
    start = time.perf_counter()
    densor.torch.pack_module(models["product"], mode="product")
    packing = time.perf_counter() - start
    memory = densor.torch.memory_of(models["product"])
    times = {"plain": [], "native": [], "product": []}  # type: ignore[var-annotated]
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for way, some in times.items():
                with torch.backends.mkldnn.flags(enabled=way != "native"):
                    some += passes(models["plain" if way == "native" else way])
    line = {
        "model": name,
        "threads": threads,
        "share": memory.ratio,
        "packed in": packing,
        "best": {way: 1 / min(some) for way, some in times.items()},
        "median": {way: 1 / statistics.median(some) for way, some in times.items()},
    }
    print(json.dumps(line), flush=True)


def passes(model: Any) -> list[float]:
    """Seconds of a few passes of one token each, with a cache of 16 tokens before."""
    cache = model(torch.arange(16)[None], use_cache=True).past_key_values
    found = []
    for token in range(4):
        ids = torch.tensor([[token]])
        start = time.perf_counter()
        model(ids, past_key_values=cache, use_cache=True)
        found.append(time.perf_counter() - start)
    return found[1:]


def main(argv: list[str]) -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["linear", "tokens"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="of linear")
    parser.add_argument("--avx2", action="store_true")
    args = parser.parse_args(argv)
    if args.avx2:
        without_avx512([argument for argument in argv if argument != "--avx2"])
        return
    print(json.dumps({"machine": describe(), "torch": torch.__version__}), flush=True)
    if args.what == "linear":
        rows, columns = (int(n) for n in args.rest) if args.rest else (4096, 4096)
        one_linear(rows, columns, args.rounds)
    else:
        tokens_per_second(args.rest[0] if args.rest else "smollm2", args.threads)


if __name__ == "__main__":
    main(sys.argv[1:])
