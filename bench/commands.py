"""File to file: the `densor` command beside `zstd` and `cp`, process start included.

    python -m bench.commands [--sizes 0.001,1,100] [--levels 1,3,6] [--rounds 3] [--folder DIR]
    python -m bench.commands --files FILE,FILE [--levels 1,3,6] [--rounds 3] [--folder DIR]

For each size (in MB of 10^6 bytes) a safetensors file of BF16 is made; all commands take turns, the
file in the system's cache, targets removed before. Prints seconds (the median) and processor time
(the least), then for each level how much of the work one thread has to do alone:

- *serial*: from the times of one and of all threads, by Amdahl's law; at (1 + serial) / serial
  cores half of each one's time is lost. Other work on the machine makes it look larger.
- *under the GIL*: share of one thread's processor time outside of kernels, hashes, reads and
  writes, which all let other threads run; no more cores than 1 / share can be busy. Without the
  start of the process.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import densor
from bench.machine import describe, usable_cores
from bench.scale import generate

RELEASED = ("posix.", "readinto", "write' of", "update", "digest", "acquire")


class Run(NamedTuple):
    """One run of a command, in seconds: of the clock, and of the processor."""

    wall: float
    processor: float


def run(command: Sequence[str], target: Path) -> Run:
    """Runs a command that makes `target`, which is removed before."""
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(wall, used.ru_utime + used.ru_stime)


def commands(folder: Path, levels: Sequence[int]) -> dict[str, tuple[list[str], Path]]:
    """Commands and their targets, by what they are called, in an order that works."""
    plain, out = folder / "plain", folder / "out"
    found: dict[str, tuple[list[str], Path]] = {}
    program = [sys.executable, "-m", "densor", "-q"]
    for level in levels:
        packed = folder / f"plain.{level}.densor"
        for threads in (1, 0):
            flags = [f"-T{threads}", "-o"]
            packs = [*program, f"-{level}", *flags, str(packed), str(plain)]
            found[f"densor -{level} -T{threads}"] = packs, packed
            unpacks = [*program, "-d", *flags, str(out), str(packed)]
            found[f"densor -d -T{threads}, of -{level}"] = unpacks, out
    if shutil.which("zstd"):
        zstd = folder / "plain.zst"
        found["zstd -3 -T0"] = ["zstd", "-3", "-T0", "-q", str(plain), "-o", str(zstd)], zstd
        found["zstd -d"] = ["zstd", "-d", "-q", str(zstd), "-o", str(out)], out
    found["cp"] = ["cp", str(plain), str(out)], out
    return found


def serial_share(one: float, all_of_them: float, threads: int) -> float:
    """The share of the work that is not divided, by Amdahl's law."""
    if threads < 2:
        return 1.0
    return min(1.0, max(0.0, (threads * all_of_them / one - 1) / (threads - 1)))


def share_under_gil(source: Path, target: Path, level: int | None) -> float:
    """The share of one thread's time in which no other can run Python, the kernels being loaded.

    `level`: None for restoring.
    """
    shares: list[float] = []
    for _ in range(7):  # the first loads kernels
        target.unlink(missing_ok=True)
        if level is None:
            stats = profiled(lambda: densor.decompress_file(source, target, 1))
        else:
            stats = profiled(lambda: densor.compress_file(source, target, level, 1))
        rows = stats.stats.items()  # type: ignore[attr-defined]
        free = sum(row[2] for (file, _, name), row in rows if _lets_others_run(file, name))
        calls: int = stats.total_calls  # type: ignore[attr-defined]
        total = stats.total_tt - calls * cost_of_a_call()  # type: ignore[attr-defined]
        shares.append(1 - free / total)
    return max(0.0, statistics.median(shares[1:]))


def profiled(work: Callable[[], object]) -> pstats.Stats:
    """Where the processor time of some work goes."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(work)
    return pstats.Stats(profile)


@functools.cache
def cost_of_a_call() -> float:
    """Seconds that profiling adds to each call, most of them to ask for the processor time."""

    def calls() -> None:
        for _ in range(20_000):
            len(())

    plain: list[float] = []
    looked_at: list[float] = []
    for _ in range(7):
        began = time.process_time()
        calls()
        plain.append(time.process_time() - began)
        looked_at.append(profiled(calls).total_tt)  # type: ignore[attr-defined]
    return max(0.0, min(looked_at) - min(plain)) / 20_000


def _lets_others_run(file: str, name: str) -> bool:
    """Whether a function does so: kernels, what is called through ctypes, others by name."""
    if file != "~":
        return name == "_allocate"
    kernel = not name.startswith(("<built-in", "<method", "<class"))
    return kernel or any(word in name for word in RELEASED)


def measure(folder: Path, title: str, levels: Sequence[int], rounds: int) -> list[str]:
    """Lines of Markdown for the file `plain` in the folder."""
    listed = commands(folder, levels)
    runs: dict[str, list[Run]] = {name: [] for name in listed}
    for _ in range(rounds):
        for name, (command, target) in listed.items():
            runs[name].append(run(command, target))
    lines = [
        f"## {title}",
        "",
        "| command | seconds | CPU seconds |",
        "|" + "---|" * 3,
    ]
    for name, found in runs.items():
        wall = statistics.median(one.wall for one in found)
        processor = min(one.processor for one in found)
        lines.append(f"| {name} | {wall:.3f} | {processor:.3f} |")
    threads = len(usable_cores())
    lines += ["", "| level | direction | serial | cores until half is lost | under the GIL |"]
    lines += ["|" + "---|" * 5]
    for level in levels:
        packed = folder / f"plain.{level}.densor"
        for way, one, every in (
            ("compress", f"densor -{level} -T1", f"densor -{level} -T0"),
            ("restore", f"densor -d -T1, of -{level}", f"densor -d -T0, of -{level}"),
        ):
            share = serial_share(
                min(r.wall for r in runs[one]), min(r.wall for r in runs[every]), threads
            )
            cores = f"{(1 + share) / share:.0f}" if share else "any"
            source = packed if way == "restore" else folder / "plain"
            gil = share_under_gil(source, folder / "again", level if way == "compress" else None)
            lines.append(f"| {level} | {way} | {share:.2f} | {cores} | {gil:.3f} |")
    return [*lines, ""]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.commands")
    parser.add_argument("--sizes", default="0.001,1,100", help="in MB of 10^6 bytes")
    parser.add_argument("--files", help="that are measured instead, which are copied")
    parser.add_argument("--levels", default="1,3,6")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    args = parser.parse_args(argv)
    levels = [int(level) for level in args.levels.split(",")]
    print("# File to file\n")
    print("\n".join(f"- {name}: {value}" for name, value in describe().items()), "\n")
    given = args.files.split(",") if args.files else args.sizes.split(",")
    for one in given:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            plain = Path(name, "plain")
            if args.files:
                shutil.copyfile(one, plain)
                title = f"{Path(one).name}, {plain.stat().st_size:,} bytes"
            else:
                generate(plain, int(float(one) * 1e6))
                title = f"{int(float(one) * 1e6):,} bytes"
            print("\n".join(measure(Path(name), title, levels, args.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
