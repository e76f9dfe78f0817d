"""Tokens of a model that stays on disk: Accelerate's offload of plain weights beside packed ones.

    python -m bench.offload MODEL_DIR
    python -m bench.offload --random 1000              a Llama of about so many MB, random weights
    python -m bench.offload --random 1000 --sparse .6  whose blocks have so many zeros (magnitude)

Every way is a process of its own, and they take turns. Each has a control group (version 1) that
holds its memory, page cache included, to `--memory` MB, and what it reads from the disk to `--rate`
MB/s if that is given; making one takes root. Time and bytes read (read_bytes of /proc/self/io) are
of one token after another with a cache of keys and values; the logits of all ways are compared.
"""

import argparse
import hashlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.hf import Peak, drop, random_llama
from bench.machine import describe

GROUPS = Path("/sys/fs/cgroup")
NAME = "densor-bench"
WAYS = ("accelerate", "plain, ahead", "packed", "packed, not ahead")
PROMPT = 8  # tokens


def model_of(way: str, plain: Path, packed: Path, scratch: Path) -> Any:
    """The model, its weights on disk."""
    import accelerate
    import torch
    import transformers

    import densor.hf
    import densor.torch

    auto = transformers.AutoModelForCausalLM
    if way == "accelerate":
        where = {"device_map": {"": "disk"}, "offload_folder": str(scratch)}
        return auto.from_pretrained(plain, dtype="auto", **where)
    if way == "packed":
        return densor.hf.from_pretrained(packed, dtype="auto", device_map="disk")
    with accelerate.init_empty_weights():
        config = transformers.AutoConfig.from_pretrained(plain)
        model = auto.from_config(config, dtype=torch.bfloat16).eval()
    ahead = way == "plain, ahead"
    return densor.torch.offload(model, plain if ahead else packed, ahead=ahead)


def read_so_far() -> int:
    """Bytes that this process has had read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def confine(memory: int, rate: int) -> None:
    """Puts this process into control groups: MB, and MB/s."""
    for kind, value in (("memory", memory), ("blkio", rate)):
        if value:
            (GROUPS / kind / NAME / "cgroup.procs").write_text(str(os.getpid()))


def make_groups(memory: int, rate: int, device: str) -> None:
    """Control groups with these limits."""
    if memory:
        group = GROUPS / "memory" / NAME
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(memory * 10**6))
    if rate:
        group = GROUPS / "blkio" / NAME
        group.mkdir(exist_ok=True)
        (group / "blkio.throttle.read_bps_device").write_text(f"{device} {rate * 10**6}")


def run(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Tokens in this process, measured one by one."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    confine(args.memory, args.rate)
    plain, packed = Path(args.model), Path(args.packed)
    times, reads, cpu = [], [], []
    hasher = hashlib.sha256()
    with tempfile.TemporaryDirectory() as scratch, Peak() as peak, torch.no_grad():
        start = time.perf_counter()
        model = model_of(way, plain, packed, Path(scratch))
        loaded = time.perf_counter() - start
        ids = torch.arange(1, PROMPT + 1).reshape(1, PROMPT)
        known = inspect.signature(type(model).forward).parameters
        name, cache = ("cache" if "cache" in known else "past_key_values"), None  # by version
        for _ in range(args.tokens + 1):
            start, before, used = time.perf_counter(), read_so_far(), time.process_time()
            out = model(ids, use_cache=True, **{name: cache})
            times.append(time.perf_counter() - start)
            reads.append(read_so_far() - before)
            cpu.append(time.process_time() - used)
            cache, last = out[name], out.logits[:, -1]
            ids = last.argmax(-1, keepdim=True)
            hasher.update(last.view(torch.int16).numpy().tobytes())
    return {
        "load": loaded,
        "token": statistics.median(times[1:]),
        "cpu": statistics.median(cpu[1:]),
        "read": statistics.median(reads[1:]),
        "peak": peak.more,
        "digest": hasher.hexdigest(),
    }


def measured(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """`run` in a process of its own."""
    command = [sys.executable, "-m", "bench.offload", str(args.model), "--way", way]
    for name in ("packed", "memory", "rate", "tokens"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_sparse(folder: Path, share: float) -> None:
    """Sets the smallest elements of every matrix of the blocks to 0."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.ndim == 2 and ".layers." in name:
                least = tensor.abs().float().flatten().kthvalue(int(tensor.numel() * share)).values
                tensors[name] = torch.where(tensor.abs() > least, tensor, 0)
        save_file(tensors, path, metadata={"format": "pt"})


def rows(args: argparse.Namespace) -> list[str]:
    """Rows of the table."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    for _ in range(args.repeats):
        for way in args.ways:
            drop(Path(args.model))
            drop(Path(args.packed))
            found[way].append(measured(args, way))
    first = found[args.ways[0]]
    made = []
    for way, runs in found.items():
        middle = {k: statistics.median(r[k] for r in runs) for k in runs[0] if k != "digest"}
        pairs = zip(first, runs, strict=True)
        faster = statistics.median(one["token"] / other["token"] for one, other in pairs)
        same = all(r["digest"] == first[0]["digest"] for r in runs)
        made.append(
            f"| {way} | {middle['read'] / 1e6:.0f} | {middle['token']:.2f} | {faster:.2f} "
            f"| {middle['cpu']:.2f} | {middle['peak'] / 1e6:.0f} | {middle['load']:.1f} "
            f"| {'the same' if same else 'DIFFERENT'} |"
        )
    return made


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--random", type=int, metavar="MB")
    parser.add_argument("--sparse", type=float, default=0.0)
    parser.add_argument("--packed", type=Path, help="the same model packed, if it is there")
    parser.add_argument("--memory", type=int, default=0, metavar="MB")
    parser.add_argument("--rate", type=int, default=0, metavar="MB/S")
    parser.add_argument("--device", default="254:0", help="numbers of the disk, for --rate")
    parser.add_argument("--tokens", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--folder", type=Path, help="where files may be put")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(run(args, args.way)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        place = Path(name)
        if args.random:
            args.model = place / "plain"
            random_llama(args.model, args.random)
        if args.sparse:
            make_sparse(args.model, args.sparse)
        if args.packed is None:
            args.packed = place / "packed"
            # In a process of its own: what this one maps could not be dropped from the cache.
            command = [sys.executable, "-m", "densor", "hf-pack", str(args.model), str(args.packed)]
            subprocess.run(command, check=True)
        make_groups(args.memory, args.rate, args.device)
        table = rows(args)
    for key, value in describe().items():
        print(f"- {key}: {value}")
    print(f"- memory: at most {args.memory} MB; disk: {args.rate or 'as it is'} MB/s\n")
    print(
        "| weights | read per token, MB | s per token | × as fast | CPU, s | peak anonymous, MB "
        "| load, s | logits |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(table))


if __name__ == "__main__":
    main()
