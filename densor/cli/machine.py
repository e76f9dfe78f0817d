"""What the machine and its Python have, in words, for `densor doctor`."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import densor
from densor.entropy.kernel_files import PACKAGED
from densor.version import __version__

NEEDED = (
    "numpy",
    "numba",
    "llvmlite",
    "zstandard",
    "constriction",
    "xxhash",
    "safetensors",
    "tqdm",
)
OPTIONAL = {
    "torch": "torch",
    "transformers": "hf",
    "tokenizers": "llm-light",
    "gguf": "llm-light",
    "numcodecs": "numcodecs",
    "zarr": "zarr",
    "fsspec": "fsspec",
    "ray": "ray",
    "matplotlib": "plot",
    "zfec": "recovery",
}
_GPU = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
# Of the instruction sets those that kernels have a way of their own for.
_FEATURES = (
    "ssse3",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vbmi",
    "avx512vbmi2",
    "avx512vnni",
    "neon",
)


def facts() -> Iterator[tuple[str, str]]:
    """Names and values, a line each."""
    yield "densor", f"{__version__}, {Path(densor.__file__).parent}"
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    yield "processor", processor()
    free = free_memory()
    yield "free memory", f"{free / 1e9:.1f} GB" if free else "unknown"
    yield "kernels", kernels()
    yield "packages", ", ".join(f"{name} {version(name) or 'MISSING'}" for name in NEEDED)
    found = [f"{name} {version(name)}" for name in OPTIONAL if version(name)]
    yield "optional", ", ".join(found) or "none"
    missing = [f"{name} ([{extra}])" for name, extra in OPTIONAL.items() if not version(name)]
    yield "not installed", ", ".join(missing) or "none"
    yield "GPU", gpu()


def version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Its name, cores that may be used, and the instruction sets that kernels profit from."""
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    features = " ".join(name for name in _FEATURES if has.get(name)) or "generic code"
    return f"{binding.get_host_cpu_name()}, {cores()} cores; {features}"


def cores() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that programs may still take; 0 where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def kernels() -> str:
    """How many compiled kernels the package brings along, how many are kept, and whether more can
    be."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    package = Path(densor.__file__).parent
    root = Path(chosen) if chosen else package
    brought = set((package / PACKAGED).glob("*.kernel"))
    kept = {path for ending in ("kernel", "nbi") for path in root.rglob(f"*.{ending}")} - brought
    state = (
        "writable" if os.access(root, os.W_OK) else "not writable, so kept elsewhere or not at all"
    )
    return f"{len(brought)} brought along, {len(kept)} compiled and kept below {root} ({state})"


def gpu() -> str:
    """What decodes there, in words."""
    name = next((name for name in _GPU if version(name)), None)
    if name is None:
        return "none that densor could use: CuPy is not installed"
    from densor.errors import DensorError
    from densor.gpu import backend

    try:
        backend("cuda")
    except (DensorError, OSError, ImportError) as error:
        return f"{name} {version(name)}, but {error}"
    return f"{name} {version(name)}; densor gpu-check tries it"
