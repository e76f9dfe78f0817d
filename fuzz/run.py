"""Runs a target many times in a process of its own, and survives what happens to that."""

import contextlib
import importlib
import json
import mmap
import os
import re
import resource
import signal
import struct
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from densor.errors import DensorError
from fuzz.target import Target, Wrong

HANG = 600.0  # seconds that one input may take before its process is killed
_MEMORY = 2 << 30  # bytes of address space that a process may add
_INPUT = 1 << 18  # bytes of an input that are kept for the case of a crash
_KEPT = 400  # inputs that led to something new
_HEAD = struct.Struct("<QQd")  # executions, bytes of the input, when it began


@dataclass
class Stats:
    """What came of a run."""

    target: str
    executions: int = 0
    accepted: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # DensorErrors, by class
    bugs: Counter[str] = field(default_factory=Counter)  # everything else
    seconds: float = 0.0  # of this processor, as all others here
    worst: float = 0.0  # of one input
    peak: int = 0  # bytes: allocated for one input if that was measured, else resident and new
    ratio: float = 0.0  # of that to the bytes of the input; only if it was measured
    kinds: int = 0  # different outcomes

    def add(self, other: "Stats") -> None:
        """Adds what another run of the same target found."""
        self.executions += other.executions
        self.accepted += other.accepted
        self.errors.update(other.errors)
        self.bugs.update(other.bugs)
        self.seconds += other.seconds
        self.worst = max(self.worst, other.worst)
        self.peak = max(self.peak, other.peak)
        self.ratio = max(self.ratio, other.ratio)
        self.kinds = max(self.kinds, other.kinds)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "errors": dict(self.errors), "bugs": dict(self.bugs)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Stats":
        """Undoes `to_json`."""
        counters = {key: Counter(found[key]) for key in ("errors", "bugs")}
        return cls(**{**found, **counters})

    def line(self) -> str:
        """In words."""
        errors = ", ".join(f"{name} {count}" for name, count in self.errors.most_common())
        bugs = ", ".join(f"{name} {count}" for name, count in self.bugs.most_common())
        return (
            f"{self.target:12} {self.executions:>9} executions in {self.seconds:.0f} s, "
            f"{self.accepted} accepted, {errors or 'no errors'} ({self.kinds} outcomes); "
            f"worst {1000 * self.worst:.0f} ms, memory {self.peak / 1e6:.1f} MB"
            f"{f', ratio {self.ratio:.0f}' if self.ratio else ''}; BUGS: {bugs or 'none'}"
        )


def once(target: Target, data: bytes) -> str | None:
    """The class of the DensorError that an input leads to; None if it is accepted.

    Other exceptions are bugs and pass through.
    """
    try:
        target.run(data)
    except DensorError as error:
        return type(error).__name__
    return None


class Fuzzer:
    """Executions of one target in this process, the same ones for the same `seed`.

    `memory`: measure what each input makes the target allocate, which is slow. `on_bug`: told of
    every input that is not handled as it must be.
    """

    def __init__(
        self,
        target: Target,
        seed: int,
        *,
        memory: bool = False,
        on_bug: Callable[[bytes, BaseException], object] = lambda data, error: None,
    ) -> None:
        self.stats = Stats(target.name)
        self._target = target
        self._rng = Random(f"{target.name} {seed}")
        self._seeds = target.seeds()
        self._grown: list[bytes] = []
        self._known: set[str] = set()
        self._memory = memory
        self._on_bug = on_bug
        if memory:
            self._load_kernels()

    def _load_kernels(self) -> None:
        """What is loaded or compiled once is not memory that an input takes."""
        importlib.import_module("numba")
        for seed in self._seeds:
            with contextlib.suppress(Exception):
                self._target.run(seed)

    def next(self) -> bytes:
        """The next input: the seeds as they are, then changed ones."""
        number = self.stats.executions
        if number < len(self._seeds):
            return self._seeds[number]
        grown = self._grown and self._rng.random() < 0.4
        chosen = self._rng.choice(self._grown if grown else self._seeds)
        return self._target.mutate(chosen, self._rng, self._seeds)

    def execute(self, data: bytes) -> None:
        """Runs the target on an input and keeps the account."""
        stats = self.stats
        began = time.process_time()
        try:
            seen = self._measured(data)
            stats.accepted += 1
            self._learn(data, str(seen))
        except DensorError as error:
            stats.errors[type(error).__name__] += 1
            message = re.sub(r"[0-9]+|'.*'|\".*\"", "", str(error))[:80]
            self._learn(data, f"{type(error).__name__} {message}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise
            stats.bugs[type(error).__name__] += 1
            self._on_bug(data, error)
        elapsed = time.process_time() - began
        stats.executions += 1
        stats.seconds += elapsed
        stats.worst = max(stats.worst, elapsed)

    def _measured(self, data: bytes) -> object:
        if not self._memory:
            return self._target.run(data)
        tracemalloc.start()
        try:
            return self._target.run(data)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.stats.peak = max(self.stats.peak, peak)
            self.stats.ratio = max(self.stats.ratio, peak / max(len(data), 1))
            if peak > self._target.most_memory + self._target.per_byte * len(data):
                raise Wrong(f"{len(data)} bytes of input take {peak} bytes of memory")

    def _learn(self, data: bytes, message: str) -> None:
        """Keeps an input whose outcome is a new one: it got somewhere new."""
        if message not in self._known and len(self._grown) < _KEPT:
            self._known.add(message)
            self._grown.append(data)
            self.stats.kinds = len(self._known)


def run(
    target: Target,
    seed: int,
    executions: int | None,
    seconds: float | None,
    crashes: Path,
    memory: bool = False,
) -> Stats:
    """Executions in processes of their own, one after the other; goes on where one dies."""
    total = Stats(target.name)
    began = time.monotonic()
    for attempt in range(1000):
        left = None if executions is None else executions - total.executions
        time_left = None if seconds is None else seconds - (time.monotonic() - began)
        if (left is not None and left <= 0) or (time_left is not None and time_left <= 0):
            break
        total.add(_in_child(target, seed + 1000 * attempt, left, time_left, crashes, memory))
    return total


def _in_child(
    target: Target,
    seed: int,
    executions: int | None,
    seconds: float | None,
    crashes: Path,
    memory: bool,
) -> Stats:
    shared = mmap.mmap(-1, _HEAD.size + _INPUT)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            stats = _work(target, seed, executions, seconds, crashes, memory, shared)
            os.write(writing, json.dumps(stats.to_json()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    status = _watch(child, shared)
    with open(reading, "rb") as pipe:
        text = pipe.read()
    if status == 0 and text:
        return Stats.from_json(json.loads(text))
    if os.WIFEXITED(status):
        raise RuntimeError("the fuzzer itself has failed")
    count, size, _ = _HEAD.unpack_from(shared)
    data = shared[_HEAD.size : _HEAD.size + size]
    name = f"signal {os.WTERMSIG(status)}"
    keep(crashes, target, data, name)
    return Stats(target.name, max(count, 1), bugs=Counter({name: 1}))


def _watch(child: int, shared: mmap.mmap) -> int:
    """Waits for a process, which is killed if an input takes too long."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        *_, began = _HEAD.unpack_from(shared)
        if began and time.time() - began > HANG:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.05)


def _work(
    target: Target,
    seed: int,
    executions: int | None,
    seconds: float | None,
    crashes: Path,
    memory: bool,
    shared: mmap.mmap,
) -> Stats:
    def on_bug(data: bytes, error: BaseException) -> None:
        keep(crashes, target, data, f"{type(error).__name__}: {error}")

    fuzzer = Fuzzer(target, seed, memory=memory, on_bug=on_bug)
    _limit_memory()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    until = None if seconds is None else time.monotonic() + seconds
    stats = fuzzer.stats
    while executions is None or stats.executions < executions:
        if until is not None and time.monotonic() > until:
            break
        data = fuzzer.next()
        piece = data[:_INPUT]
        _HEAD.pack_into(shared, 0, stats.executions, len(piece), time.time())
        shared[_HEAD.size : _HEAD.size + len(piece)] = piece
        fuzzer.execute(data)
    if not memory:
        stats.peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)
    return stats


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * mmap.PAGESIZE + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def keep(crashes: Path, target: Target, data: bytes, reason: str) -> Path:
    """Writes an input that is not handled as it must be, and why."""
    import xxhash

    folder = crashes / target.name
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", reason)[:60].strip("-")
    known = len(list(folder.glob(f"{name}-*.bin")))
    path = folder / f"{name}-{xxhash.xxh3_64_hexdigest(data)}.bin"
    if known < 20:
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(reason + "\n")
    return path
