"""Kernels by name, ready when they are first called: from disk, or compiled.

Who calls kernels takes them from here, so that numba and the modules of the kernels are imported
only where there is something to compile.
"""

import contextlib
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Function = Callable[..., Any]

COMPILING = threading.RLock()
if hasattr(os, "register_at_fork"):  # a fork waits until nothing is being compiled
    os.register_at_fork(
        before=COMPILING.acquire,
        after_in_parent=COMPILING.release,
        after_in_child=COMPILING.release,
    )
_ready: dict[tuple[str, str], Function] = {}
_apart = 0  # how many have asked that other processes compile
_compilers: dict[tuple[str, str], Callable[[], Function]] = {}  # of modules that are imported


def is_checked() -> bool:
    """Whether kernels check bounds, which those on disk do not."""
    return os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")


def source_of(module: str) -> Path:
    """The file that a module of this package is in."""
    return Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")


def is_own(module: str) -> bool:
    """Whether a module is one of this package."""
    return module.startswith("densor.")


def on_disk(module: str, name: str) -> Function | None:
    """A kernel that was compiled before; None if it was not, or cannot be loaded here."""
    from densor.entropy import kernel_files, native

    if is_checked() or not is_own(module) or not native.usable():
        return None
    kept = kernel_files.find(source_of(module), name)
    if kept is None or kept == kernel_files.NEEDS_NUMBA:
        return None
    return native.load(kept, name)


@contextlib.contextmanager
def compiled_apart() -> Iterator[None]:
    """A context in which kernels that are not on disk are compiled by processes of their own.

    For hosts that must not come to have numba imported. Where that fails, it is all the same.
    """
    global _apart
    with COMPILING:
        _apart += 1
    try:
        yield
    finally:
        with COMPILING:
            _apart -= 1


def environment() -> dict[str, str]:
    """Of a process that is to import this very package, and what this one can import."""
    root = str(Path(__file__).parents[2])
    paths = [*filter(None, sys.path)]
    if root not in paths:  # it was found in the current folder
        paths.insert(0, root)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _made_apart(module: str, name: str) -> Function | None:
    """A kernel that another process compiles; None where it cannot be had so."""
    from densor.entropy import kernel_files, native

    if is_checked() or not is_own(module) or not native.usable() or "numba" in sys.modules:
        return None
    if kernel_files.find(source_of(module), name) == kernel_files.NEEDS_NUMBA:
        return None
    code = f"from densor.entropy import deferred; deferred.ready({module!r}, {name!r})"
    command = [sys.executable, "-P", "-c", code]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, check=True)
    return on_disk(module, name)


def register(module: str, name: str, compiled: Callable[[], Function]) -> None:
    """Says how the kernel of that name in a module is compiled; ValueError if that is known."""
    if _compilers.setdefault((module, name), compiled) is not compiled:
        raise ValueError(f"there is a kernel {name} in {module} already")


def ready(module: str, name: str) -> Function:
    """The kernel of that name in a module, as a function."""
    with COMPILING:
        function = _ready.get((module, name))
        if function is None:
            function = on_disk(module, name)
            if function is None and _apart:
                function = _made_apart(module, name)
            if function is None:
                importlib.import_module(module)
                function = _compilers[module, name]()
            _ready[module, name] = function
    return function


def names() -> list[tuple[str, str]]:
    """Modules and names of the kernels that this process has needed, in order."""
    with COMPILING:
        return sorted(_ready)


class Deferred:
    """A kernel of a module that is not imported."""

    __slots__ = ("_function", "_module", "_name")

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._function: Function | None = None

    def __call__(self, *arguments: Any) -> Any:
        function = self._function
        if function is None:
            function = self._function = ready(self._module, self._name)
        return function(*arguments)


class Kernels:
    """All kernels of a module that is not imported, as its attributes."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Deferred:
        found = Deferred(self._module, name)
        setattr(self, name, found)
        return found


def deferred(module: str, *names: str) -> Any:
    """Kernels of a module, by their names; one is not in a list."""
    found = [Deferred(module, name) for name in names]
    return found if len(found) > 1 else found[0]
