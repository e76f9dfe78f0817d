"""The one decorator behind all compiled kernels: explicit signatures, no GIL, cached on disk."""

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core import event

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
        self._lock = threading.Lock()

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
    """A function that is compiled, or loaded from the cache on disk, when it is first called.

    What is called from compiled code must be a plain `numba.njit` function instead.
    """

    def __init__(self, function: Callable[..., Any], signature: Any, counted: bool) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = signature
        self._counted = counted
        self._dispatcher: Any = None

    def __call__(self, *args: Any) -> Any:
        dispatcher = self._dispatcher
        if dispatcher is None:
            dispatcher = self.dispatcher()
        return dispatcher(*args)

    def dispatcher(self) -> Any:
        """The compiled function, as numba has it."""
        with _COMPILING:
            if self._dispatcher is None:
                jit: Any = numba.njit
                self._dispatcher = jit(
                    [self._signature],
                    nogil=True,
                    error_model="numpy",
                    cache=not BOUNDSCHECK,
                    _nrt=self._counted,
                )(self._function)
        return self._dispatcher


_COMPILING = threading.RLock()
if hasattr(os, "register_at_fork"):  # a fork waits until nothing is being compiled
    os.register_at_fork(
        before=_COMPILING.acquire,
        after_in_parent=_COMPILING.release,
        after_in_child=_COMPILING.release,
    )


def inlined(function: Callable[..., Any]) -> Any:
    """For what kernels call in inner loops: part of their code, and without reference counts.

    Counting is an atomic operation whenever an array is taken out of a tuple, sliced or handed
    over.
    """
    jit: Any = numba.njit
    return jit(forceinline=True, error_model="numpy", _nrt=False)(function)


def kernel(signature: Any, counted: bool = True) -> Callable[[Callable[..., Any]], Kernel]:
    """Makes a kernel of a function, for arguments of one numba signature.

    `counted`: whether arrays have reference counts, see `inlined`. Kernels do no bounds checks:
    whoever calls one has proven its arguments. With `NUMBA_BOUNDSCHECK=1` in the environment they
    do check, and are not cached.
    """
    return lambda function: Kernel(function, signature, counted)
