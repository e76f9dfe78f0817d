"""Kernels by name, ready when they are first called: from disk, or compiled.

Who calls kernels takes them from here, so that numba and the modules of the kernels are imported
only where there is something to compile.
"""

import importlib
import os
import threading
from collections.abc import Callable
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
    from densor.entropy import native

    if is_checked() or not is_own(module) or not native.usable():
        return None
    kept = native.find(source_of(module), name)
    return native.load(kept, name) if kept is not None and kept != native.NEEDS_NUMBA else None


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
            if function is None:
                importlib.import_module(module)
                function = _compilers[module, name]()
            _ready[module, name] = function
    return function


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
