"""Cost and memory by size: from 1 KB to several GB, and archives of many small tensors.

    python -m bench.scale OUT [--sizes 0.001,1,10,100] [--level 1] [--folder DIR]
    python -m bench.scale OUT --plot

Each size is generated in DIR, packed, tested, restored and compared, by processes that tell the
peak of their memory (VmHWM); small ones seven times, the best counts. Needs room for two and a half
times the largest size. Writes ``OUT/scale.csv`` and ``OUT/scale.md``, with ``--plot``
``OUT/scale.png`` from the CSV (matplotlib). File to file, beside other commands: `bench.commands`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe

ROWS, COLUMNS = 1024, 4096
BLOCK = 2 * ROWS * COLUMNS  # bytes of a tensor
DISTINCT = 8  # blocks that are generated; each tensor is one of them, with a number in it
TENSORS = 100_000

FIELDS = (
    "bytes",
    "level",
    "step",
    "seconds",
    "cpu_seconds",
    "cpu_ns_per_byte",
    "peak_bytes",
    "ratio",
)
STEPS = ("compress", "test", "decompress")

STEP = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import densor

step, source, target, level, threads = sys.argv[1:]
level, threads = int(level), int(threads)
warm = np.random.default_rng(0).standard_normal((1024, 1024), np.float32).view(np.uint16)
densor.decompress(densor.compress(warm, level, threads, dtype="bf16"), threads)  # loads kernels
repeats = 7 if os.path.getsize(source if step == "compress" else target) < 5e7 else 1
times = []
for _ in range(repeats):
    began = time.perf_counter(), time.process_time()
    if step == "compress":
        densor.compress_file(source, target, level, threads, overwrite=True)
    elif step == "test":
        densor.verify_file(target, threads)
    else:
        densor.decompress_file(target, source, threads, overwrite=True)
    times.append((time.process_time() - began[1], time.perf_counter() - began[0]))
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps([*min(times), peak]))
"""


def blocks() -> list[np.ndarray[Any, np.dtype[np.uint16]]]:
    """Weights in BF16 whose rows differ in scale."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(DISTINCT):
        values = rng.standard_normal((ROWS, COLUMNS), np.float32)
        values *= np.exp(rng.standard_normal((ROWS, 1), np.float32) / 2) / 50
        found.append((values.view(np.uint32) >> 16).astype(np.uint16))
    return found


def pieces(size: int) -> Iterator[bytes]:
    """A safetensors file of about `size` bytes; its tensors are like each other, none is equal."""
    count, rest = divmod(size, BLOCK)
    sizes = [BLOCK] * count + ([rest & ~1] if rest else [])
    header: dict[str, Any] = {}
    at = 0
    for number, length in enumerate(sizes):
        rows = length // (2 * COLUMNS)
        whole = rows and length == rows * 2 * COLUMNS
        shape = [rows, COLUMNS] if whole else [length // 2]
        offsets = [at, at + length]
        header[f"layer.{number}"] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        at += length
    text = json.dumps(header).encode()
    yield len(text).to_bytes(8, "little") + text
    models = blocks()
    for number, length in enumerate(sizes):
        block = models[number % DISTINCT].copy()
        block[:, 0] = number & 0xFFFF
        block[:, 1] = number >> 16
        yield block.tobytes()[:length]


def generate(path: Path, size: int) -> None:
    """Writes the file."""
    with path.open("wb") as file:
        for piece in pieces(size):
            file.write(piece)


def is_generated(path: Path, size: int) -> bool:
    """Whether a file is what `generate` writes."""
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in pieces(size)) and not file.read(1)


def measure(folder: Path, size: int, level: int, threads: int) -> Iterator[dict[str, object]]:
    """A row for each step; the files are removed."""
    plain, packed = folder / "plain.safetensors", folder / "plain.densor"
    generate(plain, size)
    original = plain.stat().st_size
    for step in STEPS:
        if step == "decompress":
            plain.unlink()
        done = subprocess.run(
            [sys.executable, "-c", STEP, step, plain, packed, str(level), str(threads)],
            check=True,
            capture_output=True,
            text=True,
        )
        cpu, seconds, peak = json.loads(done.stdout)
        yield {
            "bytes": original,
            "level": level,
            "step": step,
            "seconds": f"{seconds:.4f}",
            "cpu_seconds": f"{cpu:.4f}",
            "cpu_ns_per_byte": f"{1e9 * cpu / original:.4f}",
            "peak_bytes": peak,
            "ratio": f"{packed.stat().st_size / original:.4f}",
        }
    if not is_generated(plain, size):
        raise SystemExit(f"{size} bytes did not come back as they were")
    plain.unlink()
    packed.unlink()


class Counted:
    """A file that counts the calls that read from it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.reads = 0

    def readinto(self, target: Any) -> int:
        self.reads += 1
        return self._file.readinto(target)

    def read(self, count: int) -> bytes:
        self.reads += 1
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def many(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """For 100,000 tensors: how they are written, time for that and to open and list, reads."""
    import densor

    values = np.random.default_rng(1).standard_normal((TENSORS, 256), np.float32)
    tensors = {f"layer.{number}.weight": values[number] for number in range(TENSORS)}
    path = folder / "many.densor"

    def one_by_one() -> None:
        with densor.Writer(path, threads=1, overwrite=True) as writer:
            for name, tensor in tensors.items():
                writer.add_tensor(name, tensor)

    ways: dict[str, Callable[[], None]] = {
        "`save_file`, one file of all": lambda: densor.save_file(tensors, path, threads=1),
        "`Writer.add_tensor`, an entry each": one_by_one,
    }
    for name, write in ways.items():
        began = time.process_time()
        write()
        written = time.process_time() - began
        times = []
        for _ in range(9):
            file = Counted(path)
            began = time.process_time()
            with densor.open(file) as opened:
                assert len(opened.keys()) == TENSORS
            times.append(time.process_time() - began)
        size = path.stat().st_size
        yield name, f"{written:.1f} s, {size / 1e6:.1f} MB", f"{min(times):.2f} s", f"{file.reads}"
    path.unlink()


def write_report(
    out: Path, rows: list[dict[str, object]], listed: Sequence[tuple[str, ...]]
) -> None:
    """The tables as Markdown."""
    lines = ["# Cost and memory by size", "", "Generated BF16 tensors of 8 MiB, whole files,"]
    lines += [
        "read from and written to disk with fsync; by `python -m bench.scale`. Other work on the",
        "machine makes the seconds longer, and processor time a little; writing costs more where",
        "the system's cache is full (test writes nothing).",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in describe().items()]
    lines += [
        "",
        "| bytes | level | step | seconds | CPU seconds | CPU ns/byte | peak MB | ratio |",
    ]
    lines += ["|" + "---|" * 8]
    for row in rows:
        size, peak = int(str(row["bytes"])), int(str(row["peak_bytes"])) / 1e6
        lines.append(
            f"| {size:,} | {row['level']} | {row['step']} | {row['seconds']} | "
            f"{row['cpu_seconds']} | {float(str(row['cpu_ns_per_byte'])):.2f} | {peak:.0f} | "
            f"{row['ratio']} |"
        )
    lines += ["", f"{TENSORS:,} tensors of 1 KB in one archive, seconds of processor time:", ""]
    lines += ["| written by | in, size | open and list all names, best of nine | reads to open |"]
    lines += ["|" + "---|" * 4, *(f"| {' | '.join(row)} |" for row in listed), ""]
    (out / "scale.md").write_text("\n".join(lines))


def plot(out: Path) -> None:
    """Nanoseconds per byte, and peak memory, by size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (out / "scale.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, (cost, memory) = pyplot.subplots(1, 2, figsize=(11, 4.5), dpi=110)
    for step in STEPS:
        mine = [row for row in rows if row["step"] == step]
        sizes = [int(row["bytes"]) for row in mine]
        cost.plot(sizes, [float(row["cpu_ns_per_byte"]) for row in mine], "o-", label=step)
        memory.plot(sizes, [int(row["peak_bytes"]) / 1e6 for row in mine], "o-", label=step)
    for axes, text in (
        (cost, "ns of processor time per byte"),
        (memory, "peak memory of the process, MB"),
    ):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("bytes of the file")
        axes.set_ylabel(text)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"level {rows[0]['level']}")
    figure.tight_layout()
    figure.savefig(out / "scale.png")


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--sizes", default="0.001,1,10,100", help="in MB of 10^6 bytes; 8000 asks for 20 GB of disk"
    )
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    parser.add_argument("--plot", action="store_true", help="only draw what the CSV has")
    args = parser.parse_args(argv)
    if args.plot:
        plot(args.out)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for size in args.sizes.split(","):
            for row in measure(folder, int(float(size) * 10**6), args.level, args.threads):
                print(row, flush=True)
                rows.append(row)
        listed = list(many(folder))
    with (args.out / "scale.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    write_report(args.out, rows, listed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
