"""Kernels compiled before they are needed, by several processes; also for packages to bring along.

numba compiles in one thread of a process. So samples go through the codecs in several processes, in
another order in each; `compile_lock` sees to it that a kernel is compiled by one of them.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from densor.cli import samples
from densor.cli.samples import Trip
from densor.entropy import deferred, kernel_files
from densor.errors import DensorError

_PROCESSES = 4  # at most: each has a compiler in memory, some 300 MB


def processes() -> int:
    """How many compile at once."""
    from densor.cli.machine import cores

    return max(1, min(_PROCESSES, cores()))


def warm(levels: Sequence[int], said: Callable[[Trip], object]) -> None:
    """Sends all samples through these levels; `said` gets each that came back."""
    count = processes()
    with contextlib.ExitStack() as helpers:
        for number in range(1, count):
            order = json.dumps([list(levels), number, count])
            helpers.enter_context(_helper("samples", order))
        for trip in samples.trips(_order(levels, 0, count), samples.WARM_BYTES):
            said(trip)


def _order(levels: Sequence[int], number: int, count: int) -> list[tuple[str, int]]:
    """Samples and levels in the order of one of `count` processes."""
    whole = samples.all_at(levels)
    if number % 2:
        whole.reverse()
    begin = (number // 2) * len(whole) // ((count + 1) // 2)
    return whole[begin:] + whole[:begin]


def package(levels: Sequence[str], folder: Path) -> int:
    """Puts the kernels that this process has needed into a folder, for a package to bring along.

    `levels`: of processors, each a key of `kernel_files.LEVELS`, or `HERE`. What else is in the
    folder is removed. Returns how many files there are. DensorError if a kernel cannot be compiled
    for a level. Kernels that need numba are left out.
    """
    kernels = deferred.names()
    made = {path for level in levels for path in _made(kernels, level, folder)}
    for path in folder.glob("*.kernel"):
        if path not in made:
            path.unlink()
    return len(made)


def _made(kernels: Sequence[tuple[str, str]], level: str, folder: Path) -> list[Path]:
    if level == kernel_files.HERE:
        return _put(kernels, level, folder)
    chosen = kernel_files.LEVELS[level]
    settings = {"NUMBA_CPU_NAME": chosen.cpu, "NUMBA_CPU_FEATURES": chosen.features}
    made, count = [], processes()
    parts = [json.dumps([kernels[number::count], level, str(folder)]) for number in range(count)]
    with contextlib.ExitStack() as helpers:
        running = [helpers.enter_context(_helper("kernels", part, **settings)) for part in parts]
        for process in running:
            assert process.stdout is not None
            made += [Path(line) for line in process.stdout.read().splitlines()]
            if process.wait():
                raise DensorError(f"kernels for {level} could not be compiled")
    return made


def _put(kernels: Sequence[tuple[str, str]], level: str, folder: Path) -> list[Path]:
    found = []
    for module, name in kernels:
        deferred.ready(module, name)
        path = kernel_files.package(deferred.source_of(module), name, level, folder)
        if path is not None:
            found.append(path)
    return found


@contextlib.contextmanager
def _helper(task: str, about: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that does a part of it, with this program's modules; killed if it still runs when
    an error ends the block."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "densor.cli.compiling", task, about],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**deferred.environment(), **settings},
    )
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _main(task: str, about: str) -> None:
    if task == "samples":
        levels, number, count = json.loads(about)
        for _ in samples.trips(_order(levels, number, count), samples.WARM_BYTES):
            pass
    else:
        kernels, level, folder = json.loads(about)
        for path in _put(kernels, level, Path(folder)):
            print(path)


if __name__ == "__main__":
    _main(*sys.argv[1:])
