"""How functions are compiled that the kernels of spans are made of."""

from collections.abc import Callable
from typing import Any

import numba


def part(function: Callable[..., Any]) -> Any:
    """A part of a kernel: no reference counts, no checks for divisions by 0.

    Both would take longer to compile than the rest.
    """
    jit: Any = numba.njit
    without = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # is not called from Python
    return jit(error_model="numpy", _nrt=False, **without)(function)


def once(function: Callable[..., Any]) -> Any:
    """A part that is called in one place only: put there before anything is compiled.

    A function of its own would be optimised twice, by itself and within its caller.
    """
    jit: Any = numba.njit
    return jit(inline="always", error_model="numpy", _nrt=False)(function)
