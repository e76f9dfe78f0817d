"""How long vLLM takes to load the weights of a packed model, beside a plain one.

    python -m bench.vllm_load PLAIN PACKED

Run with the interpreter of vLLM's environment (`docs/serving.md`), for folders of one model. Every
engine is a process of its own, forked off one that has imported vLLM; both ways take turns.
Measured is the loader's `load_weights`, which reads, decodes and copies into the model's
parameters, and imports what decodes: seconds, processor seconds of all threads, and those of the
thread that copies, which is what loading takes where another processor is free to decode meanwhile,
and others do not use the machine. Then one engine loads both folders in turns into the parameters
that it has, which leaves out fresh memory. Files are in the page cache.

`--backed`, as in `bench.hf`: engines load with memory at hand that the hypervisor has given.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.hf import back_memory, warm

Seconds = tuple[float, ...]  # by the clock, of all threads, of the one that loads
CLOCKS = (time.perf_counter, time.process_time, time.thread_time)


def now() -> Seconds:
    """All clocks."""
    return tuple(clock() for clock in CLOCKS)


def since(start: Seconds) -> Seconds:
    """What has passed by all clocks."""
    return tuple(b - a for a, b in zip(start, now(), strict=True))


def noted(loader: Any, found: list[Seconds], backed: int) -> None:
    """Notes how long a class's `load_weights` takes from now on."""
    original = loader.load_weights

    def load_weights(*args: Any, **kwargs: Any) -> Any:
        if backed:
            back_memory(backed)
        start = now()
        result = original(*args, **kwargs)
        found.append(since(start))
        return result

    loader.load_weights = load_weights


def engine_of(folder: str, backed: int = 0) -> tuple[Any, Seconds]:
    """An engine in this process, and what loading its weights took; `backed` for `back_memory`."""
    from vllm import LLM

    from densor.integrations.vllm_loader import DensorModelLoader

    found: list[Seconds] = []
    noted(DensorModelLoader, found, backed)
    engine = LLM(
        folder, skip_tokenizer_init=True, enforce_eager=True, max_model_len=128, dtype="bfloat16"
    )
    return engine, found[0]


def first_load(folder: str, backed: int) -> Seconds:
    """What a new engine takes to load its weights."""
    return engine_of(folder, backed)[1]


def reloaded(engine: Any, folder: str) -> Seconds:
    """What loading weights into an engine that has some takes."""
    start = now()
    engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
    return since(start)


def forked(work: Callable[[], Any]) -> Any:
    """What a function gives in a process of its own, which has what this one imported."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(writing, "w") as file:
                json.dump(work(), file)
        finally:
            os._exit(0)  # engines that end may wait for what the parent has
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)


def import_engine() -> None:
    """What every engine imports, and nothing of Densor's."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("entrypoints.llm", "model_executor.models.llama", "v1.worker.cpu_worker"):
        importlib.import_module(f"vllm.{name}")
    assert "densor.formats" not in sys.modules


def loaded_again(folders: Sequence[str], times: int) -> list[list[Seconds]]:
    """What loading folders in turns takes an engine that has the weights of the first one."""
    engine = engine_of(folders[0])[0]
    return [[reloaded(engine, folder) for folder in folders] for _ in range(times)]


def line(name: str, plain: list[Seconds], packed: list[Seconds]) -> str:
    """A row: least of each, and medians of what one is of the other in the same turn."""
    cells = []
    for unit in range(len(CLOCKS)):
        ones, others = ([run[unit] for run in runs] for runs in (plain, packed))
        ratio = statistics.median(b / a for a, b in zip(ones, others, strict=True))
        cells += [f"{min(ones):.2f}", f"{min(others):.2f}", f"{min(others) / min(ones):.2f}"]
        cells.append(f"{ratio:.2f}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plain", type=Path)
    parser.add_argument("packed", type=Path)
    parser.add_argument("--engines", type=int, default=3, help="of each kind")
    parser.add_argument("--reloads", type=int, default=7, help="of each kind")
    parser.add_argument("--backed", action="store_true", help="fill memory before engines load")
    args = parser.parse_args()
    folders = [str(args.plain.resolve()), str(args.packed.resolve())]
    size = sum(path.stat().st_size for path in Path(folders[0]).glob("*.safetensors"))
    backed = 2 * size if args.backed else 0
    heads = [
        f"{name} plain, s | packed, s | least ÷ least | median"
        for name in ("clock:", "CPU:", "CPU of the thread that copies:")
    ]
    print(f"| | {' | '.join(heads)} |\n|{'---|' * 13}", flush=True)
    import_engine()
    runs: list[list[Seconds]] = []
    for _ in range(args.engines):
        for folder in folders:
            warm(Path(folder))
        runs.append([forked(partial(first_load, folder, backed)) for folder in folders])
    print(line("engine starts", *map(list, zip(*runs, strict=True))), flush=True)
    runs = forked(lambda: loaded_again(folders, args.reloads))
    print(line("loaded again", *map(list, zip(*runs, strict=True))))


if __name__ == "__main__":
    main()
