"""The one decorator behind all compiled kernels: explicit signatures, no GIL, cached on disk."""

import ast
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import codegen, event, ir
from numba.core.compiler_lock import global_compiler_lock

from densor.entropy import deferred, kernel_files, native
from densor.entropy.compile_lock import compile_lock
from densor.runtime.gc_pause import collection_paused
from densor.runtime.locks import Lock

BOUNDSCHECK = bool(getattr(numba.config, "BOUNDSCHECK", None))
log = logging.getLogger("densor")

# Read-only parameters accept writable arrays too.
R8 = types.Array(types.uint8, 1, "C", readonly=True)
R16 = types.Array(types.uint16, 1, "C", readonly=True)
R32 = types.Array(types.uint32, 1, "C", readonly=True)
W8 = types.uint8[::1]
W16 = types.uint16[::1]
W32 = types.uint32[::1]
W64 = types.uint64[::1]
I32 = types.int32[::1]
I64 = types.int64[::1]

index = numba.uintp  # of an array, known not to be negative: none counted from its end


class _CompileNotice(event.Listener):
    """Says once per process that kernels are being compiled, which happens on a first run."""

    def __init__(self) -> None:
        self._said = False
        self._lock = Lock()

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        with self._lock:
            module = getattr(dispatcher, "__module__", None) or ""
            if not self._said and module.startswith("densor."):
                self._said = True
                log.info(
                    "first run on this processor: compiling kernels, cached for later runs ..."
                )

    def on_end(self, event: Any) -> None:
        pass


_register: Any = event.register
_register("numba:compile", _CompileNotice())


class Kernel:
    """A function that is compiled, or loaded from disk, when it is first called.

    What is called from compiled code must be a plain `numba.njit` function instead.
    """

    def __init__(
        self, function: Callable[..., Any], signature: Any, counted: bool, name: str | None
    ) -> None:
        functools.update_wrapper(self, function)
        self._python = function
        self._signature = signature
        self._counted = counted
        self._name = name or function.__name__
        self._function: Callable[..., Any] | None = None
        deferred.register(function.__module__, self._name, self.compiled)

    def __call__(self, *arguments: Any) -> Any:
        function = self._function
        if function is None:
            function = self._function = deferred.ready(self._python.__module__, self._name)
        return function(*arguments)

    def compiled(self) -> Callable[..., Any]:
        """Compiles the kernel; what comes of it is kept on disk."""
        return self._native() or self._kept_by_numba()

    def _kept_by_numba(self) -> Any:
        """As numba has it in its cache; by itself where that cannot be read or written."""
        if not BOUNDSCHECK:
            try:
                return self._dispatcher(cache=True)
            except Exception as error:  # of any kind: a full disk, no folder, a file that was cut
                log.debug("kernel %s is not cached: %s", self._name, error)
        return self._dispatcher(cache=False)

    def _native(self) -> Callable[..., Any] | None:
        """As `native.py` loads it; None where that cannot be."""
        from densor.entropy import entry_point

        arguments, result = self._signature.args, self._signature.return_type
        module = self._python.__module__
        possible = deferred.is_own(module) and entry_point.is_possible(arguments, result)
        if BOUNDSCHECK or not possible or not native.usable():
            return None
        source = deferred.source_of(module)
        if kernel_files.find(source, self._name) == kernel_files.NEEDS_NUMBA:
            return None
        with compile_lock(kernel_files.lock_files(source, self._name)):
            kept = kernel_files.find(source, self._name)  # what another process has made meanwhile
            if kept is None:
                kept = self._kept(source)
        return None if kept == kernel_files.NEEDS_NUMBA else native.load(kept, self._name)

    def _kept(self, source: Path) -> kernel_files.Kept:
        """Compiles the kernel and keeps what comes of it, if only that it needs numba."""
        from densor.entropy import entry_point

        dispatcher = self._dispatcher(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
        (compiled,) = dispatcher.overloads.values()
        code = entry_point.machine_code(compiled) or kernel_files.NEEDS_NUMBA
        kernel_files.keep(source, self._name, sources(self._python.__module__), code)
        return code

    def _dispatcher(self, **settings: Any) -> Any:
        """The compiled function, as numba has it."""
        jit: Any = numba.njit
        with _compiled_once(self._python.__qualname__), collection_paused():
            return jit(
                [self._signature],
                nogil=True,
                error_model="numpy",
                _nrt=self._counted,
                **settings,
            )(self._python)


@contextlib.contextmanager
def _compiled_once(name: str) -> Iterator[None]:
    """Compiles a kernel without doing for each function that it calls what is done for all of it.

    They become part of the kernel, and are optimised with it; by themselves too, it takes half as
    long again. Where one is put into its caller before, numba copies all that it knows of every
    variable for every stretch of code. numba compiles in one thread at a time, which holds its
    lock.
    """
    library: Any = codegen.CPUCodeLibrary
    scope: Any = ir.Scope
    optimise = getattr(library, "_optimize_final_module", None)
    if optimise is None or hasattr(scope, "__deepcopy__"):
        yield
        return

    def only_once(self: Any) -> None:
        if self.name == name:
            optimise(self)

    with global_compiler_lock:
        library._optimize_final_module = only_once
        scope.__deepcopy__ = lambda self, memo: self
        try:
            yield
        finally:
            library._optimize_final_module = optimise
            del scope.__deepcopy__


def sources(module: str) -> list[Path]:
    """The files of a module of this package, and of those that it imports, in turn."""
    found: dict[str, Path] = {}
    names = [module]
    while names:
        name = names.pop()
        path = deferred.source_of(name)
        if name in found or not path.is_file():
            continue
        found[name] = path
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("densor."):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
                names.append(str(node.module))
            elif isinstance(node, ast.Import):
                names += [a.name for a in node.names if a.name.startswith("densor.")]
    return [found[name] for name in sorted(found)]


def inlined(function: Callable[..., Any]) -> Any:
    """For what kernels call in inner loops: part of their code, and without reference counts.

    Counting is an atomic operation whenever an array is taken out of a tuple, sliced or handed
    over.
    """
    jit: Any = numba.njit
    return jit(forceinline=True, error_model="numpy", _nrt=False)(function)


def kernel(
    signature: Any, counted: bool = True, name: str | None = None
) -> Callable[[Callable[..., Any]], Kernel]:
    """Makes a kernel of a function, for arguments of one numba signature.

    `counted`: whether arrays have reference counts, see `inlined`. `name`: where a module has
    several of one function. Kernels do no bounds checks: whoever calls one has proven its
    arguments. With `NUMBA_BOUNDSCHECK=1` in the environment they do check, and are not cached.
    """
    return lambda function: Kernel(function, signature, counted, name)
