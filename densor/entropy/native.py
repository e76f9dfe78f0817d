"""Compiled kernels as machine code on disk, loaded without the compiler.

Importing numba takes longer than packing a small file. What it makes of a kernel are object files:
the kernel's own, and that of an entry point which takes its arguments from Python, with the calling
convention of CPython's builtin functions (`METH_FASTCALL`). `entry_point.py` makes the latter. Both
are kept as one image that is just copied to memory (`linking.py`), or else as they are, to be
loaded by LLVM's binding.

A file is used only if all that it was made from is unchanged: the sources of the kernel's module
and of those that it imports, the processor, and the versions of Python, numba and llvmlite. Nor is
one used or written by a process that may have imported these sources before they changed, as by an
upgrade: its code is of another version than the files.
"""

import ctypes
import functools
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from densor.entropy import linking
from densor.entropy.linking import Image

ENTRY = "densor_entry"  # symbol of the entry point
_MAGIC = b"densor kernel 2\n"
_STARTED = time.time()  # when sources were imported, or will be
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


class Objects(NamedTuple):
    """Object files of a kernel, and the symbols that they need.

    All are empty where it is known that the kernel needs numba, which then has it in its cache.
    """

    kernel: bytes
    entry: bytes
    needed: list[str]


NEEDS_NUMBA = Objects(b"", b"", [])
Kept = Objects | Image


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


# Files


def _folders(source: Path) -> Iterable[Path]:
    """Where files may be, the first that can be written to first."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        yield Path(chosen)
        return
    yield source.parent / "__pycache__"
    general = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(general):
        yield Path(general) / "densor"


def _name(source: Path, name: str) -> str:
    """The name of a kernel's file, for this processor and Python."""
    settings = (os.environ.get(f"NUMBA_{name}") for name in _SETTINGS)
    about = (*_here(), str(source.parent), *settings)
    digest = xxhash.xxh3_64_hexdigest(repr(about).encode())
    return f"{source.stem}.{name}.{digest}.kernel"


_SETTINGS = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")


@functools.cache
def _here() -> tuple[object, ...]:
    """What tells this processor and this Python, with its libraries, from others."""
    python = sys.implementation.cache_tag, np.__version__.split(".")[0]
    return *python, _installed("numba"), _installed("llvmlite"), _processor()


def _installed(package: str) -> object:
    """What tells one installed package from another, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    try:
        status = os.stat(Path(found.origin).with_name("_version.py"))
    except OSError:
        return found.origin
    return found.origin, status.st_size, status.st_mtime_ns


def _processor() -> object:
    """Name and abilities of the processor, as Linux lists those of the first one, or else LLVM."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            lines = file.read(1 << 13).partition(b"\n\n")[0].split(b"\n")
    except OSError:
        lines = []
    facts = [line for line in lines if line.startswith(_FACTS)]
    if any(line.startswith(_ABILITIES) for line in facts):
        return facts
    from llvmlite import binding

    return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


_ABILITIES = (b"flags", b"Features")  # of x86-64, of ARM
_FACTS = (
    *_ABILITIES,
    *(b"vendor_id", b"cpu family", b"model", b"stepping"),
    *(b"CPU implementer", b"CPU variant", b"CPU part", b"CPU revision"),
)


def _changed(sources: Iterable[Path]) -> bool:
    """Whether one of these files was written since this process began."""
    now = time.time()
    return any(_STARTED < path.stat().st_ctime <= now for path in sources)


def _digest(paths: Iterable[Path]) -> str:
    """Of the content of files."""
    hasher = xxhash.xxh3_128()
    for path in paths:
        content = path.read_bytes()
        hasher.update(len(content).to_bytes(8, "little"))
        hasher.update(content)
    return hasher.hexdigest()


def lock_files(source: Path, name: str) -> Iterable[Path]:
    """Files for `compile_lock`, by which processes tell each other that they compile a kernel."""
    wanted = f"{_name(source, name)}.lock"
    return (folder / wanted for folder in _folders(source))


def find(source: Path, name: str) -> Kept | None:
    """What is kept of a kernel of the module whose source that is; None if nothing fits."""
    wanted = _name(source, name)
    for folder in _folders(source):
        try:
            return _read(folder / wanted, source)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _read(path: Path, source: Path) -> Kept:
    content = path.read_bytes()
    head, _, rest = content[len(_MAGIC) :].partition(b"\n")
    about = json.loads(head)
    if not content.startswith(_MAGIC) or about.pop("check") != _check(about, rest):
        raise ValueError
    sources = [_root(source) / part for part in about["sources"]]
    if _changed(sources) or _digest(sources) != about["digest"]:
        raise ValueError
    if "entry" in about:
        return Image(rest, about["entry"], about["addresses"])
    return Objects(rest[: about["size"]], rest[about["size"] :], about["needed"])


def _check(about: dict[str, Any], rest: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(about).encode() + rest)


def keep(source: Path, name: str, sources: list[Path], kept: Kept) -> None:
    """Keeps what was made of a kernel, from these sources, where that is possible."""
    if _changed(sources):
        return
    root = _root(source)
    about: dict[str, Any] = {
        "sources": [str(path.relative_to(root)) for path in sources],
        "digest": _digest(sources),
    }
    if isinstance(kept, Image):
        rest = kept.code
        about |= {"entry": kept.entry, "addresses": kept.addresses}
    else:
        rest = kept.kernel + kept.entry
        about |= {"size": len(kept.kernel), "needed": kept.needed}
    about["check"] = _check(about, rest)
    content = _MAGIC + json.dumps(about).encode() + b"\n" + rest
    wanted = _name(source, name)
    for folder in _folders(source):
        if _write(folder / wanted, content):
            return


def _write(path: Path, content: bytes) -> bool:
    temporary = path.with_name(f"{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _root(source: Path) -> Path:
    """The folder of the package."""
    return next(parent for parent in source.parents if parent.name == "densor")


# Machine code


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
