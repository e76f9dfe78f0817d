"""What it costs to keep a model's weights packed in memory: bytes, and time per forward pass.

    python -m bench.resident MODEL              a folder, or a GGUF file, cast to BF16
    python -m bench.resident --random 1000      a Llama of about so many million parameters

Passes of the plain and the packed model take turns; ratios are medians over such pairs. CPU seconds
are those of all threads: they tell more than times where others use the machine. Memory is
measured in a process of its own for each way: anonymous memory (RssAnon of /proc/self/status)
above what there was before the model, at rest and at most during a prefill.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.hf import Peak, anonymous
from bench.machine import describe

WAYS = ("plain", "level 1", "level 1, not ahead", "level 3", "level 6")
CASES = {
    "512-token prefill": (1, 512),
    "1 token, batch 1": (1, 1),
    "1 token, batch 8": (8, 1),
    "1 token, batch 64": (64, 1),
}


def model_of(source: str, random: int) -> Any:
    """The plain model, in BF16."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if random:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=2048,
            intermediate_size=5632,
            num_attention_heads=16,
            num_key_value_heads=16,
            num_hidden_layers=max(1, (random * 10**6 - 2 * 32000 * 2048) // 51_400_000),
        )
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.LlamaForCausalLM(config)
        torch.set_default_dtype(before)
        return model.eval()
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    path = Path(source)
    if path.suffix == ".gguf":
        options["gguf_file"] = path.name
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        path = path.parent
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options).eval()


def packed(model: Any, way: str) -> Any:
    """The model as `way` says, changed in place."""
    from densor.torch import pack_module

    if way == "plain":
        return model
    return pack_module(model, int(way[6]), ahead=not way.endswith("not ahead"))


def memory(source: str, random: int, way: str, threads: int) -> dict[str, float]:
    """Anonymous memory of this process with the model: at rest, and at most in a prefill."""
    import torch

    from densor.torch import memory_of

    torch.set_num_threads(threads)
    warm_up()
    before = anonymous()
    model = packed(model_of(source, random), way)
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter:  # not only mapped from a file
            parameter.data = parameter.data.clone()
    trim()
    rest = anonymous() - before
    with torch.no_grad(), Peak() as peak:
        model(torch.zeros(CASES["512-token prefill"], dtype=torch.int64))
    trim()
    held = memory_of(model)
    again = anonymous() - before
    return {
        "weights": held.packed,
        "of plain": held.ratio,
        "rest": rest,
        "peak": rest + peak.more,
        "after": again,
    }


def warm_up() -> None:
    """Imports and compiles all that the model will use."""
    import torch

    from densor.torch import pack_module

    small = torch.nn.Linear(256, 256).to(torch.bfloat16)
    for level in (1, 3, 6):
        pack_module(small, level)(torch.zeros(1, 256, dtype=torch.bfloat16))


def trim() -> None:
    """Gives free memory back to the system, where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and CPU seconds of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def times(args: argparse.Namespace) -> list[str]:
    """Rows of the table of times; all models compute the same bits."""
    import copy

    import torch

    torch.set_num_threads(args.threads)
    plain = model_of(args.model, args.random)
    models = {"plain": plain}
    for way in args.ways:
        if way != "plain":
            models[way] = packed(copy.deepcopy(plain), way)
    rows = []
    with torch.no_grad():
        for case in args.cases:
            shape = CASES[case]
            ids = torch.randint(0, plain.config.vocab_size, shape)
            wanted = plain(ids).logits.view(torch.int16)
            for model in models.values():
                assert torch.equal(model(ids).logits.view(torch.int16), wanted)
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in models}
            for _ in range(args.repeats):
                for way, model in models.items():
                    found[way].append(timed(partial(model, ids)))
            for way, runs in found.items():
                rows.append(row(case, way, shape[0] * shape[1], runs, found["plain"]))
    return rows


def row(case: str, way: str, tokens: int, runs: Any, plain: Any) -> str:
    """A line of the table."""
    wall = statistics.median(run[0] for run in runs)
    cpu = statistics.median(run[1] for run in runs)
    pairs = list(zip(runs, plain, strict=True))
    by_wall, by_cpu = (statistics.median(one[i] / other[i] for one, other in pairs) for i in (0, 1))
    return (
        f"| {case} | {way} | {wall * 1e3:.1f} | {tokens / wall:.1f} | {by_wall:.2f} "
        f"| {cpu * 1e3:.1f} | {by_cpu:.2f} |"
    )


def measured(args: argparse.Namespace, way: str) -> dict[str, float]:
    """`memory` in a process of its own."""
    command = [sys.executable, "-m", "bench.resident", "--memory", way]
    command += ["--random", str(args.random), "--threads", str(args.threads), args.model or ""]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--random", type=int, default=0, metavar="MILLIONS")
    parser.add_argument("--threads", type=int, default=2, help="that PyTorch computes with")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(memory(args.model, args.random, args.memory, args.threads)))
        return
    for key, value in describe().items():
        print(f"- {key}: {value}")
    print(f"- threads of PyTorch: {args.threads}\n")
    if not args.no_memory:
        print("| weights | held, MB | of plain | at rest, MB | peak of a prefill, MB | after, MB |")
        print("|---|---|---|---|---|---|")
        for way in args.ways:
            found = measured(args, way)
            sizes = [found[key] / 1e6 for key in ("weights", "rest", "peak", "after")]
            held, rest, peak, after = (f"{size:.0f}" for size in sizes)
            print(f"| {way} | {held} | {found['of plain']:.4f} | {rest} | {peak} | {after} |")
        print(flush=True)
    print("| pass | weights | ms | tokens/s | × plain | CPU ms | × plain |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(times(args)))


if __name__ == "__main__":
    main()
