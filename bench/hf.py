"""How long transformers takes to load a packed model beside a plain one, and in how much memory.

    python -m bench.hf MODEL_DIR            a model that is there, such as MiniLM
    python -m bench.hf --random 1000        a Llama of about so many MB, random weights
    python -m bench.hf --whole --random 1000    whole processes, with their imports

Every load is a process of its own; both ways take turns. Times are of `from_pretrained` alone, and
of that and reading every parameter once: transformers maps plain weights into memory and leaves
reading them from the disk to whoever uses them first. CPU seconds are those of both, of all
threads; they tell more than times where others use the machine. "Cold": the file was dropped from
the page cache. Memory is anonymous memory (RssAnon of /proc/self/status) above what there was
before the load, sampled every 5 ms.

`--whole`: times begin with the process, before torch and transformers are imported, in which
"prefetch" begins to decode; memory is the most that was resident, files among it.

`--backed`: every load, of both ways, begins by filling memory in huge pages and giving it back.
Where a hypervisor has taken free memory back from its guest, the first touch of fresh memory takes
10 to 100 times as long as on a machine of one's own.
"""

import argparse
import importlib
import json
import mmap
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.machine import describe

WAYS = ("plain", "packed", "early")  # the last by densor.hf.from_pretrained
WHOLE = (*WAYS, "prefetch")
BEGIN = time.perf_counter()


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    return int(found.group(1)) * 1024 if found else 0


class Peak:
    """The most anonymous memory while a block runs, above that before it."""

    def __enter__(self) -> "Peak":
        self.before = self.peak = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous())

    @property
    def more(self) -> int:
        """Bytes above what there was before."""
        return self.peak - self.before


def back_memory(size: int) -> None:
    """Fills so many bytes of memory and gives them back."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def load(folder: str, way: str, backed: int = 0) -> dict[str, float]:
    """Loads a model in this process, and measures; `backed`: bytes for `back_memory`."""
    importlib.import_module("densor.hf")  # with parts of transformers that plain weights need too
    load_model = loader(way)
    start = time.perf_counter()
    ready()
    started = time.perf_counter() - start
    if backed:
        back_memory(backed)
    with Peak() as memory:
        start, before = time.perf_counter(), time.process_time()
        model = load_model(folder)
        loaded = time.perf_counter()
    read_all(model)
    read, after = time.perf_counter(), time.process_time()
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "load": loaded - start,
        "read": read - start,
        "cpu": after - before,
        "peak": memory.more,
        "parameters": size,
        "started": started,
    }


def whole(folder: str, way: str) -> dict[str, float]:
    """Likewise, of this process from its begin, imports among it."""
    if way == "prefetch":
        import densor

        densor.prefetch(folder)
    model = loader(way)(folder)
    loaded = time.perf_counter()
    read_all(model)
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "load": loaded - BEGIN,
        "read": time.perf_counter() - BEGIN,
        "cpu": time.process_time(),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": size,
    }


def loader(way: str) -> Callable[[str], Any]:
    """What loads the model in a folder in one of the ways; all is imported that it needs."""
    if way != "plain":
        import densor.hf
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model_class = transformers.AutoModel
    if way in ("plain", "packed"):
        return partial(model_class.from_pretrained, dtype="auto")
    return partial(densor.hf.from_pretrained, model_class=model_class, dtype="auto")


def read_all(model: Any) -> None:
    """Reads a byte of each page of the parameters."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.detach().reshape(-1).view(torch.uint8)
            flat[::4096].sum()


def ready() -> None:
    """Lets numba load the compiled kernels, which every process does once."""
    import numpy as np

    from densor.formats.container import tensor_blob

    numbers = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for dtype, data in (("F32", numbers), ("BF16", (numbers.view(np.uint32) >> 16).astype("u2"))):
        tensor = tensor_blob.Tensor("w", dtype, (64, 64), data.nbytes, None)
        packed = tensor_blob.encode(tensor, data.reshape(-1).view(np.uint8))
        tensor_blob.decode(np.frombuffer(packed, np.uint8), tensor)


def drop(folder: Path) -> None:
    """Takes the weights of a folder out of the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path) -> None:
    """Brings the weights of a folder into the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def measured(folder: Path, way: str, options: list[str]) -> dict[str, float]:
    """`load` or `whole` in a process of its own."""
    command = [sys.executable, "-m", "bench.hf", "--load", str(folder), "--way", way, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def random_llama(folder: Path, megabytes: int) -> None:
    """Saves a Llama of about so many MB in BF16."""
    import torch
    import transformers

    layer = 2 * (4 * 1536**2 + 3 * 1536 * 4096)
    ends = 2 * 2 * 32000 * 1536
    config = transformers.LlamaConfig(
        hidden_size=1536,
        intermediate_size=4096,
        num_attention_heads=12,
        num_key_value_heads=12,
        num_hidden_layers=max(1, (megabytes * 10**6 - ends) // layer),
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def run(plain: Path, place: Path, repeats: int, options: list[str]) -> list[str]:
    """Rows of the table for one model."""
    from densor.files.model_folder import pack_model

    packed = place / "packed"
    start = time.perf_counter()
    sizes = pack_model(plain, packed).sizes
    print(f"packed in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    ways = WHOLE if "--whole" in options else WAYS
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for cache in ("warm", "cold"):
        for _ in range(repeats):
            for way in ways:
                folder = plain if way == "plain" else packed
                warm(folder)
                if cache == "cold":
                    drop(folder)
                found.setdefault((cache, way), []).append(measured(folder, way, options))
    rows = []
    for (cache, way), runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        size = sizes.original if way == "plain" else sizes.stored
        rows.append(
            f"| {cache} | {way} | {size / 1e6:.0f} | {middle['load']:.2f} | {middle['read']:.2f} "
            f"| {ratio(found, cache, way, 'read')} | {least(found, cache, way, 'read')} "
            f"| {middle['cpu']:.2f} | {ratio(found, cache, way, 'cpu')} "
            f"| {middle['peak'] / 1e6:.0f} | {middle['parameters'] / 1e6:.0f} |"
        )
    return rows


def ratio(found: Any, cache: str, way: str, key: str) -> str:
    """Time against that of the plain way: the median over pairs that ran one after the other."""
    pairs = zip(found[cache, way], found[cache, "plain"], strict=True)
    return f"{statistics.median(one[key] / other[key] for one, other in pairs):.2f}"


def least(found: Any, cache: str, way: str, key: str) -> str:
    """Likewise, the least of all runs against the least of the plain way."""
    one, other = (min(run[key] for run in found[cache, name]) for name in (way, "plain"))
    return f"{one / other:.2f}"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--random", type=int, metavar="MB")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files may be put")
    parser.add_argument("--backed", action="store_true", help="fill memory before each load")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--way", default="packed", help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help="measure with imports")
    args = parser.parse_args()
    if args.load and args.whole:
        print(json.dumps(whole(args.load, args.way)))
        return
    if args.load:
        size = sum(path.stat().st_size for path in Path(args.load).glob("*.safetensors"))
        print(json.dumps(load(args.load, args.way, 2 * size if args.backed else 0)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        place = Path(name)
        plain = args.model
        if args.random:
            plain = place / "plain"
            random_llama(plain, args.random)
        options = ["--backed"] * args.backed + ["--whole"] * args.whole
        rows = run(plain, place, args.repeats, options)
    for key, value in describe().items():
        print(f"- {key}: {value}")
    print()
    print(
        "| cache | weights | file, MB | load, s | load and read, s | × plain | least | CPU, s "
        f"| × plain | peak {'resident' if args.whole else 'anonymous'}, MB | parameters, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
