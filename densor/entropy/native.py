"""Compiled kernels as machine code on disk, loaded without the compiler.

Importing numba takes longer than packing a small file. What it makes of a kernel are object files:
the kernel's own, and that of an entry point which takes its arguments from Python, with the calling
convention of CPython's builtin functions (`METH_FASTCALL`). `entry_point.py` makes the latter. Both
are kept as one image that is just copied to memory (`linking.py`), or else as they are, to be
loaded by LLVM's binding.

`kernel_files.py` says where they are and when one is used.
"""

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from densor.entropy import linking
from densor.entropy.kernel_files import Kept, Objects
from densor.entropy.linking import Image

ENTRY = "densor_entry"  # symbol of the entry point
_PYTHON = (
    "PyBool_FromLong",
    "PyErr_Occurred",
    "PyErr_SetString",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyFloat_AsDouble",
    "PyFloat_FromDouble",
    "PyLong_AsLongLong",
    "PyLong_AsUnsignedLongLong",
    "PyLong_FromLongLong",
    "PyLong_FromUnsignedLongLong",
    "PyNumber_Index",
    "PyObject_IsTrue",
    "PyTuple_GetItem",
    "PyTuple_New",
    "PyTuple_SetItem",
    "PyTuple_Size",
    "PyType_IsSubtype",
    "Py_DecRef",
    "Py_IncRef",
)
_LIBRARY = "libm.so.6"  # and the C library, which it needs
_SYSTEM = (
    "exp2",
    "fma",
    "ldexp",
    "log",
    "log2",
    "memcpy",
    "memmove",
    "memset",
    "pow",
    "sched_yield",
)
_RUNTIME = {  # of numba: memory of kernels, and the end of arrays with counts, which none has here
    "NRT_Allocate": "malloc",
    "NRT_Free": "free",
    "NRT_MemInfo_call_dtor": "abort",
}
_OBJECTS = {"ndarray": np.ndarray, "tuple": tuple, "Py_None": None, "PyExc_TypeError": TypeError}
KNOWN = frozenset({*_PYTHON, *_SYSTEM, *_RUNTIME, *_OBJECTS})
PREFIX = "densor_"  # of the symbols of `_PYTHON` and `_OBJECTS`, as entry points know them

# Offsets of fields, in bytes, as CPython and numpy have them on 64-bit systems.
TYPE = 8
DATA, NDIM, DIMENSIONS, DESCRIPTION, FLAGS = 16, 24, 32, 56, 64
BYTE_ORDER, TYPE_NUMBER = 26, 28  # of a description
C_CONTIGUOUS, ALIGNED, WRITEABLE = 1, 0x100, 0x400


@functools.cache
def usable() -> bool:
    """Whether kernels can be kept and loaded here; elsewhere numba does both."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return False
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return _layout_is_known()


def _layout_is_known() -> bool:
    """Whether objects have their fields where entry points look for them."""
    if object.__basicsize__ != DATA:
        return False
    array = np.zeros((3, 5), ">i4")

    def read(kind: Any, at: int) -> Any:
        return kind.from_address(at).value

    base = id(array)
    shape = read(ctypes.c_void_p, base + DIMENSIONS)
    about = read(ctypes.c_void_p, base + DESCRIPTION)
    flags = read(ctypes.c_int, base + FLAGS)
    return (
        read(ctypes.c_void_p, base + TYPE) == id(np.ndarray)
        and read(ctypes.c_void_p, base + DATA) == array.__array_interface__["data"][0]
        and read(ctypes.c_int, base + NDIM) == 2
        and [read(ctypes.c_ssize_t, shape + 8 * i) for i in range(2)] == [3, 5]
        and about == id(array.dtype)
        and read(ctypes.c_char, about + BYTE_ORDER) == b">"
        and read(ctypes.c_int, about + TYPE_NUMBER) == array.dtype.num
        and flags & (C_CONTIGUOUS | ALIGNED | WRITEABLE) == C_CONTIGUOUS | ALIGNED | WRITEABLE
    )


class _Definition(ctypes.Structure):
    """CPython's `PyMethodDef`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_FASTCALL = 0x80
_lock = threading.Lock()


def target_machine() -> Any:
    """Any processor of this kind, for code that is placed anywhere in memory."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    relocation = "static" if os.uname().machine == "x86_64" else "default"
    return binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        reloc=relocation, codemodel="jitdefault", jit=True
    )


def _address(name: str) -> int:
    """Of a symbol that entry points and kernels may use."""
    if name in _OBJECTS:
        return id(_OBJECTS[name])
    library = ctypes.pythonapi if name in _PYTHON else ctypes.CDLL(_LIBRARY)
    found = ctypes.cast(getattr(library, _RUNTIME.get(name, name)), ctypes.c_void_p).value
    assert found is not None
    return found


def load(kept: Kept, name: str) -> Callable[..., Any] | None:
    """The kernel as a builtin function; None if it needs what cannot be had here."""
    needed = kept.needed if isinstance(kept, Objects) else [*kept.addresses]
    symbols = {symbol for symbol in needed if symbol != linking.OWN}
    known = {symbol: symbol.removeprefix(PREFIX) for symbol in symbols}
    if not KNOWN.issuperset(known.values()):
        return None
    try:
        addresses = {symbol: _address(name) for symbol, name in known.items()}
    except (AttributeError, OSError):  # not of this system
        return None
    with _lock:
        if isinstance(kept, Image):
            address = linking.load(kept, addresses)
        else:
            address = _load_objects(kept, addresses)
        if not address:
            return None
        definition = _Definition(name.encode(), address, _FASTCALL, None)
        linking.keep(definition)
    create = ctypes.pythonapi.PyCFunction_NewEx
    create.restype = ctypes.py_object
    create.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function: Callable[..., Any] = create(ctypes.addressof(definition), None, None)
    return function


def _load_objects(objects: Objects, addresses: Mapping[str, int]) -> int:
    """The address of the entry point, 0 if there is none."""
    from llvmlite import binding

    for symbol, place in addresses.items():
        own = symbol.startswith(PREFIX)
        if own or not binding.address_of_symbol(symbol):  # which numba may have set
            binding.add_symbol(symbol, place)
    engine = binding.create_mcjit_compiler(
        binding.parse_assembly(""), target_machine(), use_lmm=os.uname().machine == "aarch64"
    )
    for data in (objects.kernel, objects.entry):
        engine.add_object_file(binding.ObjectFileRef.from_data(data))
    engine.finalize_object()
    linking.keep(engine)
    address: int = engine.get_function_address(ENTRY)
    return address
