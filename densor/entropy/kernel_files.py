"""Files of compiled kernels: those kept on this machine, and those that the package brings along.

What is compiled is kept beside its source, or where `NUMBA_CACHE_DIR` says. A package that was
built from its sources has kernels in its folder `kernels` (`setup.py`), for the processor that it
was built on or for any that has the instructions of a level, such as "x86-64-v3"; they are taken
where nothing was compiled here.

A file is used only if all that it was made from is unchanged: the sources of the kernel's module
and of those that it imports, and the processor; of those kept here, also the versions of Python,
numba and llvmlite. Nor is one used or written by a process that may have imported these sources
before they changed, as by an upgrade: its code is of another version than the files.
"""

import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from densor.entropy.linking import Image

_MAGIC = b"densor kernel 2\n"
_STARTED = time.time()  # when sources were imported, or will be
PACKAGED = "kernels"  # folder in that of the package


class Objects(NamedTuple):
    """Object files of a kernel, and the symbols that they need.

    All are empty where it is known that the kernel needs numba, which then has it in its cache.
    """

    kernel: bytes
    entry: bytes
    needed: list[str]


NEEDS_NUMBA = Objects(b"", b"", [])
Kept = Objects | Image


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


@functools.cache
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
    for path in (*_own_files(source, name), *_packaged_files(source, name)):
        try:
            return _read(path, source)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _own_files(source: Path, name: str) -> list[Path]:
    wanted = _name(source, name)
    return [folder / wanted for folder in _folders(source)]


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
    for path in _own_files(source, name):
        if _write(path, content):
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


# Files that the package brings along


class Level(NamedTuple):
    """Instructions that many processors have: as LLVM names them, and as Linux does."""

    cpu: str
    features: str
    flags: frozenset[str]


def _level(cpu: str, words: str) -> Level:
    """From words such as "avx2" or, where Linux has another name, "bmi/bmi1"."""
    pairs = [word.partition("/") for word in words.split()]
    features = ",".join(f"+{ours}" for ours, _, _ in pairs)
    return Level(cpu, features, frozenset(theirs or ours for ours, _, theirs in pairs))


_V3 = (
    "cx8 cmov mmx sse sse2 fxsr sse3/pni ssse3 sse4.1/sse4_1 sse4.2/sse4_2 cx16 sahf/lahf_lm "
    "popcnt avx avx2 bmi/bmi1 bmi2 f16c fma lzcnt/abm movbe xsave"
)
_V4 = "avx512f avx512bw avx512cd avx512dq avx512vl"
_ICE_LAKE = (  # and Zen 4, and later ones of both
    "avx512vbmi avx512vbmi2/avx512_vbmi2 avx512vnni/avx512_vnni avx512bitalg/avx512_bitalg "
    "avx512vpopcntdq/avx512_vpopcntdq"
)
LEVELS = {  # the best first
    "x86-64-v4-vbmi2": _level("x86-64-v4", f"{_V3} {_V4} {_ICE_LAKE}"),
    "x86-64-v3": _level("x86-64-v3", _V3),
}
HERE = "here"  # in place of a level: the processor that the package is built on, and its like


@functools.cache
def fitting() -> tuple[str, ...]:
    """Levels whose kernels run here, `HERE` and then the best first."""
    facts = _processor()
    lines = facts if isinstance(facts, list) else []
    listed = [line for line in lines if line.startswith(b"flags")]
    flags = set(listed[0].decode().partition(":")[2].split()) if listed else set()
    return HERE, *(name for name, level in LEVELS.items() if level.flags <= flags)


def _packaged_name(source: Path, name: str, level: str) -> str:
    module = ".".join(source.relative_to(_root(source)).with_suffix("").parts)
    if level == HERE:
        level = xxhash.xxh3_64_hexdigest(repr(_processor()).encode())
    return f"{module}.{name}.{level}.kernel"


def _packaged_files(source: Path, name: str) -> Iterator[Path]:
    """What was made for other settings than those of this process is not taken."""
    if any(os.environ.get(f"NUMBA_{name}") for name in _SETTINGS):
        return
    for level in fitting():
        yield _root(source) / PACKAGED / _packaged_name(source, name, level)


def package(source: Path, name: str, level: str, folder: Path) -> Path | None:
    """Puts a kernel that is kept here among those that a package brings along; None if it is not.

    `level`: of which it was made, by the settings of this process. OSError if it cannot be written.
    """
    target = folder / _packaged_name(source, name, level)
    for path in (*_own_files(source, name), target):
        try:
            if not isinstance(_read(path, source), Image):
                return None
            content = path.read_bytes()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target
    return None
